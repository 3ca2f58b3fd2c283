"""A training in a process of its own, to be killed: every kind of state, saved every few steps."""

import time

import jax
import numpy as np
from toys import BATCHES, STEP, start

import funnet as fn

SAVE, VALIDATE, LOG = 7, 10, 9  # so that what is due comes in every order


class Slow:
    """Batches that take their time."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __getitem__(self, step):
        time.sleep(self.seconds)
        return BATCHES[step]


def score(run):
    """Numbers that go up and down, without a program of their own."""
    return {"score": float(np.sin(1e3 * np.asarray(run.params["out"]["bias"])).sum())}


def train(folder, cache, tell, steps, *, fuse=None, seconds=0.0, save_every=SAVE):
    """Trains; tells the step behind each line of the metrics, and -1 when all is done."""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    fn.fit(
        STEP,
        start(),
        Slow(seconds),
        steps=steps,
        fuse=fuse,
        folder=folder,
        save_every=save_every,
        keep=2,
        validate=score,
        validate_every=VALIDATE,
        best=fn.highest("score"),
        log_every=LOG,
        hooks=[lambda step, kind, numbers: tell.send(step)],
        progress=False,
    )
    tell.send(-1)
