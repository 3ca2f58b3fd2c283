"""Norms and their gradients beside PyTorch's, over drawn shapes.

A statistic is of three values at least. Of two, it makes 1 and -1 whatever they are, so that the
gradient for `x` is next to nothing, what is left of numbers that cancel: against float64, PyTorch
itself is off by more than the tolerance there.
"""

import numpy as np
import pytest
from against_torch import agree

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

SEEDS = pytest.mark.parametrize("seed", range(40))


def drawn(seed, least=1, groups=1):
    """A generator, and arrays: `x` of `least` to 4 axes but the last, odd sizes and ones among
    them, `scale` and `bias`."""
    rng = np.random.default_rng(seed)
    shape = (*rng.integers(1, 6, rng.integers(least, 5)), groups * rng.integers(3, 6))
    arrays = {name: rng.normal(size=shape[-1]) for name in ("scale", "bias")}
    arrays["x"] = rng.normal(size=shape) * rng.uniform(0.5, 3) + rng.normal()
    return rng, {name: value.astype(np.float32) for name, value in arrays.items()}


def tripled(x, axis):
    return np.concatenate([x, 1 - 2 * x, 4 - x], axis)


def layer(function, **settings):
    def call(a):
        params = {name: a[name] for name in ("scale", "bias") if name in a}
        return fn.Model(function, **settings)(params, a["x"])

    return call


@SEEDS
def test_layer_norm_is_that_of_pytorch(seed):
    torch = pytest.importorskip("torch")
    _, arrays = drawn(seed, least=0)

    def theirs(a):
        size = a["x"].shape[-1:]
        return torch.nn.functional.layer_norm(a["x"], size, a["scale"], a["bias"], 1e-3)

    agree(layer(fn.layer_norm, eps=1e-3), theirs, arrays)


@SEEDS
def test_rms_norm_is_that_of_pytorch(seed):
    torch = pytest.importorskip("torch")
    _, arrays = drawn(seed, least=0)
    del arrays["bias"]

    def theirs(a):
        return torch.nn.functional.rms_norm(a["x"], a["x"].shape[-1:], a["scale"], 1e-3)

    agree(layer(fn.rms_norm, eps=1e-3), theirs, arrays)


@SEEDS
def test_group_norm_is_that_of_pytorch(seed):
    torch = pytest.importorskip("torch")
    groups = seed % 4 + 1
    _, arrays = drawn(seed, groups=groups)

    def theirs(a):
        x = a["x"].movedim(-1, 1)
        y = torch.nn.functional.group_norm(x, groups, a["scale"], a["bias"], 1e-3)
        return y.movedim(1, -1)

    agree(layer(fn.group_norm, groups=groups, eps=1e-3), theirs, arrays)


@SEEDS
def test_instance_norm_is_that_of_pytorch(seed):
    torch = pytest.importorskip("torch")
    _, arrays = drawn(seed, least=2)
    if np.prod(arrays["x"].shape[1:-1]) < 3:
        arrays["x"] = tripled(arrays["x"], 1)

    def theirs(a):
        x = a["x"].movedim(-1, 1)
        y = torch.nn.functional.instance_norm(x, weight=a["scale"], bias=a["bias"], eps=1e-3)
        # PyTorch 2.13 gives wrong gradients for a single example where the one that comes in is
        # laid out with channels last, even that of the bias; flattened, it arrives contiguous.
        return y.flatten().reshape(y.shape).movedim(1, -1)

    agree(layer(fn.instance_norm, eps=1e-3), theirs, arrays)


def spread(mask, x):
    """A mask of leading axes as one of all."""
    return mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)).expand(x.shape)


def batch_norms(rng, size, train, momentum, mask=None):
    """Ours and PyTorch's, each a function of the arrays, from the same running statistics.

    PyTorch's has no mask: it is given what counts, and its results are put back.
    """
    torch = pytest.importorskip("torch")
    state = {"mean": rng.normal(size=size), "var": rng.uniform(0.5, 2, size)}
    state = {name: value.astype(np.float32) for name, value in state.items()}
    running = [torch.tensor(state[name]) for name in ("mean", "var")]
    model = fn.Model(fn.batch_norm, momentum=momentum, eps=1e-3)

    def ours(a):
        params = {name: a[name] for name in ("scale", "bias")}
        return model.apply(params, state, a["x"], train=train, mask=mask)

    def theirs(a):
        x = a["x"].flatten(0, -2) if mask is None else a["x"][torch.tensor(mask)]
        y = torch.nn.functional.batch_norm(
            x.flatten(0, -2), *running, a["scale"], a["bias"], train, 1 - momentum, 1e-3
        )
        if mask is None:
            return y.reshape(a["x"].shape)
        return torch.zeros(a["x"].shape).masked_scatter(spread(torch.tensor(mask), a["x"]), y)

    return ours, theirs, dict(zip(("mean", "var"), running, strict=True))


def compare(ours, theirs, arrays, running):
    """Outputs and gradients, then the running statistics, which PyTorch has moved in place."""
    agree(lambda a: ours(a)[0], theirs, arrays)
    _, state = ours(arrays)
    for name, value in running.items():
        np.testing.assert_allclose(state[name], value.numpy(), rtol=1e-5, atol=1e-6)


@SEEDS
def test_batch_norm_and_its_state_are_those_of_pytorch(seed):
    rng, arrays = drawn(seed)
    if arrays["x"][..., 0].size < 3:
        arrays["x"] = tripled(arrays["x"], 0)
    train, momentum = seed % 4 > 0, (0.9, 0.6, 0.0)[seed % 3]
    ours, theirs, running = batch_norms(rng, arrays["x"].shape[-1], train, momentum)
    compare(ours, theirs, arrays, running)


@SEEDS
def test_a_mask_leaves_the_batch_norm_of_what_counts(seed):
    rng, arrays = drawn(seed)
    arrays["x"] = tripled(arrays["x"], 0)
    lead = arrays["x"].shape[: seed % (arrays["x"].ndim - 1) + 1]
    mask = rng.uniform(size=lead) < 0.6
    mask[:3] = True
    ours, theirs, running = batch_norms(rng, arrays["x"].shape[-1], seed % 4 > 0, 0.9, mask)
    compare(ours, theirs, arrays, running)
