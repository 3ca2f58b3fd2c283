"""A trunk, a head and examples, for the tests of optimizers that a step knows more of."""

import jax
import jax.numpy as jnp
import numpy as np

import funnet as fn

X = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
DATA = {"image": X, "label": (X[:, 0] > 0).astype(np.int32) + (X[:, 1] > 1)}
BATCHES = fn.data.batches(DATA, 16)


@fn.layer
def net(p, x):
    trunk = p["trunk"]
    x = fn.relu(fn.batch_norm(trunk["norm"], fn.dense(trunk["dense"], x, 8)))
    return fn.dense(p["head"], x, 3)


@fn.layer
def whole(p, x):
    """Without state: a trunk of two dense layers, and a head."""
    trunk = p["trunk"]
    x = fn.relu(fn.dense(trunk["two"], fn.relu(fn.dense(trunk["one"], x, 8)), 8))
    return fn.dense(p["head"], x, 3)


MODEL = fn.Model(whole)
OBJECTIVE = fn.classification(MODEL)


def start(optimizer, model=MODEL):
    return fn.Run.start(model, optimizer, X)


def stepped(optimizer, steps=3, objective=OBJECTIVE, model=MODEL):
    """The run after some steps, and the metrics of each."""
    run, step, told = start(optimizer, model), jax.jit(fn.train_step(objective, optimizer)), []
    for i in range(steps):
        run, metrics = step(run, BATCHES[i])
        told.append(metrics)
    return run, told


def close(found, expected, **how):
    how = {"rtol": 1e-5, "atol": 1e-7, **how}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **how), found, expected)


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def gradient(params, batch):
    """The gradient of the mean loss, by JAX over all parameters."""

    def loss(params):
        return fn.losses.cross_entropy(
            MODEL(params, batch["image"]), jnp.asarray(batch["label"])
        ).mean()

    return jax.jit(jax.grad(loss))(params)
