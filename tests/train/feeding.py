"""What the tests of feeding share: a source that tells what it was asked for."""

import threading

import jax.numpy as jnp
import numpy as np

PATIENT = 20.0  # seconds after which what should come at once is taken to never come


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "funnet-prefetch"]


class Numbers:
    """One number a step, in shapes that change as `widths` say, and every step that was asked."""

    def __init__(self, widths=(1,), fails=()):
        self.widths, self.fails, self.asked = widths, dict(fails), []

    def width(self, step):
        return self.widths[step % len(self.widths)]

    def __getitem__(self, step):
        self.asked.append(step)
        if step in self.fails:
            raise self.fails[step]
        return {"x": np.full(self.width(step), step, np.int32)}


def given(feed, taken):
    """The batches that a dispatch would see."""
    source, rows, steps = taken
    return [feed.fetch(source, rows, jnp.int32(i)) for i in range(steps)]


def idle(feed):
    """Waits until the thread of a feed reads nothing more."""
    reader = feed._reader
    with reader._changed:
        assert reader._changed.wait_for(
            lambda: reader.read == reader.stop or reader.failure or not reader._fits(), PATIENT
        )
