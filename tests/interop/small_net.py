"""A small network, and the tensors that PyTorch would have for it."""

import numpy as np

import funnet as fn


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@fn.layer
def net(p, x):
    x = fn.batch_norm(p["norm"], fn.conv(p["conv"], x, 4, 3))
    return fn.dense(p["head"], fn.global_avg_pool(x), 2)


MODEL, X = fn.Model(net), draws(2, 5, 5, 3)
TENSORS = {
    "conv.weight": draws(4, 3, 3, 3),
    "conv.bias": draws(4),
    "norm.weight": draws(4),
    "norm.bias": draws(4),
    "norm.running_mean": draws(4),
    "norm.running_var": draws(4) ** 2,
    "norm.num_batches_tracked": np.array(7),
    "head.weight": draws(2, 4),
    "head.bias": draws(2),
}


def but(**changes):
    """The tensors with some replaced, or left out where `None`."""
    changed = {**TENSORS, **{name.replace("_", ".", 1): x for name, x in changes.items()}}
    return {name: x for name, x in changed.items() if x is not None}
