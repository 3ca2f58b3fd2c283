"""A thread that reads batches ahead of the device, into blocks of steps with the same shapes.

The thread reads one step after another, lays the batches into the open block, and puts a block that
is complete on the device. Whoever takes steps gets a block and a place in it: a full block serves
several dispatches and travels once; one that is taken before it is full is complete from then on,
and the thread opens another. So nobody writes to what has been handed out. How many steps come at
once depends on who is faster; what they hold does not.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

ROWS = 512  # steps that one dispatch can take
STREAMED = 64 * 2**20  # bytes of batches that travel at once
AHEAD = 2 * STREAMED  # bytes of blocks that may wait, beside the one in use
PATIENCE = 0.25  # seconds to wait for all the steps that were asked for, once some are there
GLANCE = 1.0  # seconds between looks around, since a lock on Windows holds Ctrl-C back
GRACE = 2.0  # seconds for a read under way to end, before its thread is left to itself
ALIGNED = 64  # bytes; memory so aligned is used by the CPU device as it is, without a copy

Batch = dict[str, np.ndarray]


class Block:
    """Consecutive steps of the same shapes, in arrays with room for `most` of them."""

    def __init__(self, start: int, batch: Batch, longest: int):
        size = sum(array.nbytes for array in batch.values())
        self.most = min(max(STREAMED // max(size, 1), 1), longest)
        self.start, self.end, self.shapes = start, start, shapes_of(batch)
        self.bytes, self.complete = self.most * size, False
        self._host: Batch | None = {
            name: _blank((self.most, *x.shape), x.dtype) for name, x in batch.items()
        }
        self._device: dict[str, jax.Array] = {}
        self._moving = threading.Lock()

    def add(self, batch: Batch) -> None:
        """Lays the batch of step `end` into its place."""
        assert self._host is not None, "it is on its way"
        for name, array in batch.items():
            self._host[name][self.end - self.start] = array
        self.end += 1
        self.complete = self.end - self.start == self.most

    def arrays(self) -> dict[str, jax.Array]:
        """The arrays on the device, by name, each (most, ...); they travel the first time."""
        with self._moving:
            if self._host is not None:
                self._device, self._host = jax.device_put(self._host), None
            return self._device


class Reader:
    """Reads the batches of steps `start` to `stop` in a thread, not too far ahead of `take`.

    Steps up to `read` have been read, those up to `next` handed out, from `taken` on the last time.
    `positions` holds where the source stood before each step from `taken` on.
    """

    def __init__(self, source: Any, start: int, stop: int):
        self.source, self.stop = source, stop
        self.taken = self.next = self.read = start
        self.positions: dict[int, Any] = {}
        self.failure: BaseException | None = None
        self._longest = min(getattr(source, "run_length", ROWS), ROWS)
        self._blocks: deque[Block] = deque()
        self._changed, self.closed = threading.Condition(), False
        # These are settings of a thread: this one is to put things as whoever opened it would.
        self._device: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
        self._wide: bool = jax.config.jax_enable_x64  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._run, name="funnet-prefetch", daemon=True)
        self._thread.start()

    def take(self, steps: int) -> tuple[Block, int]:
        """The block that holds step `next`, and how many steps to take of it, at most `steps`."""
        patience = time.monotonic() + PATIENCE
        with self._changed:
            if self.closed:
                raise ValueError("the feed is closed: open another, with Feed(batches, stop)")
            self._forget()
            while not self._enough(steps):
                left = patience - time.monotonic()
                if left <= 0 and self._there():
                    break
                if self.failure is not None and not self._there():
                    raise self.failure
                self._changed.wait(left if left > 0 else GLANCE)
            block = self._blocks[0]
            steps, block.complete = min(steps, self._there()), True
            self.taken, self.next = self.next, self.next + steps
            self._changed.notify_all()
        return block, steps

    def close(self) -> bool:
        """Ends the thread; whether it has ended: one that hangs in a read ends with it."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        self._thread.join(GRACE)
        return not self._thread.is_alive()

    # What `take` does, under the lock

    def _forget(self) -> None:
        while self._blocks and self._blocks[0].complete and self._blocks[0].end <= self.next:
            self._blocks.popleft()
        self.positions = {step: x for step, x in self.positions.items() if step >= self.next}

    def _there(self) -> int:
        return self._blocks[0].end - self.next if self._blocks else 0

    def _enough(self, steps: int) -> bool:
        return self._there() >= steps or (self._there() > 0 and self._blocks[0].complete)

    # What the thread does

    def _run(self) -> None:
        try:
            with jax.default_device(self._device), jax.enable_x64(self._wide):
                self._read_all()
        except BaseException as error:  # whatever it is, it is raised where its step is needed
            error.add_note(f"while batch {self.read} was read")
            with self._changed:
                self.failure = error
                self._complete()

    def _read_all(self) -> None:
        where = getattr(self.source, "position", None)
        if where is not None:
            begin = where(self.read)
            with self._changed:  # `take` may be clearing them up
                self.positions[self.read] = begin
        while self.read < self.stop and self._room():
            batch = batch_of(self.source, self.read)
            self._lay(batch, where(self.read + 1) if where is not None else None)
        self._send()

    def _room(self) -> bool:
        """Waits until another batch may be read; false when no more is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._fits())
            return not self.closed

    def _fits(self) -> bool:
        waiting = [block for block in self._blocks if block.start >= self.next]
        if not waiting:
            return True
        size = sum(block.bytes for block in waiting) + waiting[-1].bytes * waiting[-1].complete
        return self.read - self.next < 2 * ROWS and size <= AHEAD

    def _lay(self, batch: Batch, position: Any) -> None:
        """Makes a batch that was read one that can be taken."""
        with self._changed:
            other = bool(self._blocks) and self._blocks[-1].shapes != shapes_of(batch)
        if other:
            self._send()
        with self._changed:
            if not self._blocks or self._blocks[-1].complete:
                self._blocks.append(Block(self.read, batch, self._longest))
            self._blocks[-1].add(batch)
            self.read += 1
            self.positions[self.read] = position
            full = self._blocks[-1].complete
            self._changed.notify_all()
        if full:
            self._send()

    def _send(self) -> None:
        """Puts the last block on the device, to which nothing is added any more."""
        with self._changed:
            block = self._complete()
        if block is not None and not self.closed:
            block.arrays()

    def _complete(self) -> Block | None:
        if not self._blocks:
            return None
        self._blocks[-1].complete = True
        self._changed.notify_all()
        return self._blocks[-1]


def batch_of(source: Any, step: int) -> Batch:
    """The batch of a step as NumPy arrays of the dtypes that they have on a device."""
    try:
        batch = source[step]
    except StopIteration as end:  # which a generator on its way would turn into something else
        raise IndexError(f"batches end before step {step}: give fit fewer steps") from end
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"batches[{step}] must be a dict of arrays by name, got {type(batch).__name__}"
        )
    return {name: _array(f"batches[{step}][{name!r}]", batch[name]) for name in sorted(batch)}


def _array(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind in "OSTUMm":
        raise TypeError(f"{name} must be an array of numbers, got {array.dtype}")
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def shapes_of(batch: Batch) -> tuple:
    """What a program is compiled for: names, shapes and dtypes."""
    return tuple((name, array.shape, array.dtype.name) for name, array in batch.items())


def _blank(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros in aligned memory, which the system gives only where it is written to."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.zeros(size + ALIGNED, np.uint8)
    skip = -raw.ctypes.data % ALIGNED
    return raw[skip : skip + size].view(dtype).reshape(shape)
