"""What the tests of training share: a small net, examples, and exact comparisons.

The steps are made once for all tests, so that each program is compiled once.
"""

import hashlib
from contextlib import contextmanager

import jax
import numpy as np
import optax

import funnet as fn

COUNT, SIZE, CLASSES = 50, 16, 3
QUIET = {"progress": False}


@fn.layer
def net(p, x):
    x = fn.relu(fn.batch_norm(p["norm"], fn.dense(p["hidden"], x, 8, bias=False)))
    return fn.dense(p["out"], fn.dropout(p["dropout"], x, 0.25), CLASSES)


@fn.layer
def linear(p, x):
    return fn.dense(p["out"], x, CLASSES)


def examples(count=COUNT, seed=0):
    draw = np.random.default_rng(seed)
    images, labels = draw.normal(size=(count, 4)), draw.integers(0, CLASSES, count)
    return {"image": images.astype(np.float32), "label": labels.astype(np.int32)}


DATA = examples()
BATCHES = fn.data.batches(DATA, SIZE)
MODEL, LINEAR = fn.Model(net), fn.Model(linear)
ADAM, SGD = optax.adam(1e-2), optax.sgd(0.1)
OBJECTIVE, LINEAR_OBJECTIVE = fn.classification(MODEL), fn.classification(LINEAR)
STEP = fn.train_step(OBJECTIVE, ADAM)
LINEAR_STEP = fn.train_step(LINEAR_OBJECTIVE, SGD)


def start(seed=0):
    """A fresh run for `STEP`: dropout, batch norm and Adam, so that every part of it changes."""
    return fn.Run.start(MODEL, ADAM, DATA["image"], seed=seed)


def linear_start(seed=0):
    """A fresh run for `LINEAR_STEP`."""
    return fn.Run.start(LINEAR, SGD, DATA["image"], seed=seed)


class Streamed:
    """Batches that stay on the host and travel step by step, as of a source of one's own."""

    def __init__(self, batches=BATCHES, without=()):
        self.batches, self.without, self.asked = batches, without, []

    def __getitem__(self, step):
        self.asked.append(step)
        batch = self.batches[step]
        return {name: array for name, array in batch.items() if name not in self.without}


def host(tree):
    """A copy of the leaves that nothing can change."""
    return jax.tree.map(lambda x: np.array(x), tree)


def assert_same(tree, other):
    """Equal to the last bit: structure, dtypes, shapes and bytes."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for (path, x), y in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(other), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape), path
        assert x.tobytes() == y.tobytes(), f"{jax.tree_util.keystr(path)}: {x} is not {y}"


def assert_close(tree, other, **tolerance):
    """Equal but for rounding."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), tree, other)


def sha256(tree):
    """A digest of all bits of a tree's leaves."""
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(tree)))


_COMPILED: list[str] = []


def _listen(event, seconds, fun_name="", **_):
    if "backend_compile" in event:
        _COMPILED.append(fun_name)


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextmanager
def compilations():
    """A list that holds, after the block, the names of the programs that XLA compiled in it."""
    found, before = [], len(_COMPILED)
    yield found
    found.extend(_COMPILED[before:])
