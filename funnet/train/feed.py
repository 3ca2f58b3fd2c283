"""Stub."""
from typing import Any, Protocol

import jax
import numpy as np

from funnet.data.batches import Batches

ROWS = 512
STREAMED = 64 * 2**20
RESIDENT = 4 * 2**30


class Source(Protocol):
    def __getitem__(self, step: int, /) -> dict[str, Any]: ...


def _resident(source: dict[str, jax.Array], rows: jax.Array, i: jax.Array) -> dict[str, jax.Array]:
    return {"id": rows[i], **{name: array[rows[i]] for name, array in source.items()}}


def _streamed(source: dict[str, jax.Array], rows: None, i: jax.Array) -> dict[str, jax.Array]:
    return {name: array[i] for name, array in source.items()}


class Feed:
    """Hands the device what some steps need: row numbers where the data lives there, else rows."""

    def __init__(self, batches: Batches | Source, stop=None, resident: bool | None = None):
        self.batches, self.data = batches, None
        if isinstance(batches, Batches) and (_fits(batches) if resident is None else resident):
            self.data, self.fetch, self.most = jax.device_put(batches.data), _resident, ROWS
        else:
            size = sum(np.asarray(x).nbytes for x in batches[0].values())
            self.fetch, self.most = _streamed, min(max(STREAMED // max(size, 1), 1), ROWS)

    def position(self, at): return None
    def seek(self, at, position): pass
    def batch(self, at): return self.batches[at]
    def epoch(self, step):
        b = self.batches
        return step * b.size / b.examples if isinstance(b, Batches) else None
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def take(self, step: int, steps: int) -> tuple[Any, Any]:
        """Source and rows of some steps, padded to the number that the program is compiled for."""
        pad = self.most - steps
        if self.data is not None and isinstance(self.batches, Batches):
            return self.data, np.pad(self.batches.rows(step, steps), ((0, pad), (0, 0)))
        each = [self.batches[i] for i in range(step, step + steps)]
        stacked = {name: np.stack([np.asarray(batch[name]) for batch in each]) for name in each[0]}
        return {
            n: np.pad(x, ((0, pad), *[(0, 0)] * (x.ndim - 1))) for n, x in stacked.items()
        }, None


def _fits(batches: Batches) -> bool:
    """Whether the data takes at most a quarter of the device's memory."""
    size = sum(array.nbytes for array in batches.data.values())
    stats = jax.local_devices()[0].memory_stats() or {}
    return size <= stats.get("bytes_limit", 4 * RESIDENT) / 4



