"""What the tests of explanations share: a small net, and ways to poison it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from toys import SGD

import funnet as fn
from funnet.select import replaced
from funnet.train.explain import explain

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
BATCH = {"image": X, "label": np.array([0, 1, 2, 0], np.int32)}


def poisoned(run, path, index=(), value=np.nan):
    """The run with one number of a parameter replaced."""
    names, leaf = tuple(path.split(".")), run.params
    for name in names:
        leaf = leaf[name]
    index = (*index, *[0] * (leaf.ndim - len(index)))
    return dataclasses.replace(run, params=replaced(run.params, {names: leaf.at[index].set(value)}))


def made(layer, x=X, **settings):
    """A step of a model, and a run before it."""
    model = fn.Model(layer, **settings)
    return fn.train_step(fn.classification(model), SGD), fn.Run.start(model, SGD, x)


def explained(layer, batch=BATCH, **settings):
    step, run = made(layer, batch["image"], **settings)
    return explain(step, run, batch)


@jax.custom_vjp
def steep(x):
    """The identity, with a derivative that is infinite."""
    return x


steep.defvjp(lambda x: (x, None), lambda _, g: (g / 0,))


@jax.custom_jvp
def steeper(x):
    """The same, by its rule for tangents."""
    return x


@steeper.defjvp
def _steeper_jvp(primals, tangents):
    return primals[0], tangents[0] * jnp.exp(1e4 + 0 * primals[0])


@fn.layer
def block(p, x, function=lambda x: x):
    return x + function(fn.dense(p["dense"], jnp.tanh(x), x.shape[-1]))


@fn.layer
def deep(p, x, function=lambda x: x):
    """Once, rematerialised, repeated, and both: `function` is in the block called `odd`."""
    x = block(p["first"], x)
    x = fn.remat(block)(p["again"], x)
    x = fn.repeat(fn.remat(block), 3)(p["blocks"], x)
    x = block(p["odd"], x, function)
    x = fn.conv(p["conv"], x[:, :, None], 3, 3)
    return fn.dense(p["head"], fn.relu(x).reshape(len(x), -1), 3)


def zero_norm(x):
    return x + jnp.linalg.norm(0 * x, axis=-1, keepdims=True)
