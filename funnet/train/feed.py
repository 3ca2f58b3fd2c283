"""What feeds the loop: data that lives on the device, or batches that a thread reads ahead."""

import contextlib
import math
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

from funnet.data.batches import Batches
from funnet.train.prefetch import ROWS, Block, Reader

MOST, PLACES = 2048, 2**19  # steps in one dispatch, and row numbers, of data on the device
RESIDENT = 4 * 2**30  # bytes of data that are kept on a device that does not tell its memory


class Source(Protocol):
    """Anything that gives the batch of a step: `source[step]`, a dict of arrays.

    A thread asks it, for one step after another. Besides, a source may have

    - `position(step)`: where it stands before batch `step`, which is the next one, as a value that
      JSON can hold; and `seek(step, position)`, to go there. For what cannot reach any step.
    - `run_length`: about how many steps of the same shapes follow each other, where shapes differ.
    """

    def __getitem__(self, step: int, /) -> dict[str, Any]:
        """The batch of a step."""
        ...


class Nothing:
    """The batches of a step that makes its own data: empty dicts."""

    size = 0

    def __getitem__(self, step: int) -> dict[str, Any]:
        return {}

    def rows(self, step: int, steps: int) -> np.ndarray:
        """No examples of any step: (steps, 0) int32."""
        return np.zeros((steps, 0), np.int32)


def planned(
    batches: Batches | Source | None, epochs: float | None, steps: int | None
) -> tuple[Batches | Source, int]:
    """What gives batches, and the step to stop before: of `steps`, or of so many `epochs`."""
    if isinstance(batches, Mapping):
        raise TypeError(
            "batches is a dict: write fn.data.batches(data, size) to cut it into batches"
        )
    if (epochs is None) == (steps is None):
        raise ValueError(f"give either epochs or steps, got epochs={epochs!r}, steps={steps!r}")
    if steps is None and not hasattr(batches, "steps"):
        raise ValueError(
            "epochs needs batches of fn.data.batches or fn.data.bucketed; "
            "give steps for another source"
        )
    if steps is not None and not isinstance(steps, int | np.integer):
        raise TypeError(f"steps must be an integer, got {steps!r}; write int(steps)")
    if epochs is not None and not epochs < math.inf:
        raise ValueError(f"epochs must be a finite number, got {epochs}")
    if (steps or epochs or 0) < 0:
        raise ValueError(f"steps and epochs must not be negative, got {steps or epochs} steps")
    source = Nothing() if batches is None else batches
    return source, int(steps or 0) if epochs is None else source.steps(epochs)  # type: ignore[union-attr]


class Feed:
    """Hands the device what some steps need: row numbers where the data lives there, else rows.

    Args:
        batches: `fn.data.batches(...)` or another `Source`.
        stop: the step to stop before: nothing from there on is read.
        resident: whether the data is to live on the device; by default if it fits and is in memory.

    Attributes:
        fetch: a function `(source, rows, i)` of what `take` gives, the batch of the `i`th step.
        most: the number of steps that what `take` gave last is padded to.
    """

    def __init__(self, batches: Batches | Source, stop: int, *, resident: bool | None = None):
        if not hasattr(batches, "__getitem__"):
            raise TypeError(
                f"batches must give the batch of a step, batches[step], and "
                f"{type(batches).__name__} does not: write fn.data.batches(data, size), or "
                "fn.data.from_grain(loader) for a loader of grain"
            )
        self.batches, self.stop, self.most, self.data = batches, stop, ROWS, None
        self.fetch, self._reader, self._block = _streamed, None, None
        self._shapes: set[tuple] = set()
        if isinstance(batches, Nothing):
            self.data, self.fetch, self.most = {}, _nothing, MOST
        elif isinstance(batches, Batches) and (_fits(batches) if resident is None else resident):
            self.data, self.fetch = jax.device_put(batches.data), _resident
            self.most = min(max(PLACES // batches.size, ROWS), MOST)

    @property
    def programs(self) -> int:
        """How many programs the steps taken so far are compiled to: one for each of the shapes."""
        return len(self._shapes)

    def epoch(self, step: int) -> float | None:
        """How often each example has been seen before a step, of batches that know their number."""
        examples = getattr(self.batches, "examples", None)
        return None if examples is None else step * self.batches.size / examples  # type: ignore[union-attr]

    def take(self, step: int, steps: int) -> tuple[Any, Any, int]:
        """Source and rows of some steps from `step` on, and how many they are: 1 to `steps`.

        They are fewer where shapes change, where a dispatch can take no more, or where the batches
        are slow to come. An error of the source is raised when its step is the first of them.
        """
        if not step < self.stop:
            raise ValueError(f"step is {step}, expected step < {self.stop}, where the feed stops")
        steps = min(steps, self.stop - step, ROWS if self.data is None else self.most)
        if self.data is not None and isinstance(self.batches, Batches | Nothing):
            self._shapes.add(())
            rows = np.zeros((self.most, self.batches.size), np.int32)
            rows[:steps] = self.batches.rows(step, steps)
            return self.data, rows, steps
        block, steps = self._reading(step).take(steps)
        self._block, self.most = block, block.most
        self._shapes.add(block.shapes)
        return block.arrays(), np.int32(step - block.start), steps

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of a step that was taken last, without asking the source again."""
        block: Block | None = self._block
        if block is None or not block.start <= step < block.end:
            return self.batches[step]
        return {name: np.asarray(x)[step - block.start] for name, x in block.arrays().items()}

    def position(self, step: int) -> Any:
        """Where the source stands before batch `step`: one of the steps taken last, or the next.

        None for a source that can reach any step. What was read ahead makes no difference.
        """
        where = getattr(self.batches, "position", None)
        if where is None or self._reader is None:
            return where(step) if where is not None else None
        if step not in self._reader.positions:
            known = sorted(self._reader.positions)
            raise ValueError(f"step is {step}, expected one of the steps taken last, {known}")
        return self._reader.positions[step]

    def seek(self, step: int, position: Any) -> None:
        """Takes the source to where it stood before batch `step`, which `position` told.

        Raises:
            ValueError: if the source keeps no position.
        """
        if position is None:
            return
        if not hasattr(self.batches, "seek"):
            raise ValueError(
                f"position is {position!r}, of batches that keep one, but these batches have no "
                "seek: give those that the training began with"
            )
        self._stop()
        self._reader = None
        self.batches.seek(step, position)  # type: ignore[union-attr]

    def close(self) -> None:
        """Ends the thread. A source that was read ahead goes back to the first step not taken."""
        if self._reader is not None and self._reader.read > self._reader.next:
            self._stop(back=self._reader.next)
        self._stop()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.close()
        elif self._reader is not None:  # the device may not have come to the end of the last steps
            with contextlib.suppress(Exception):  # no trouble here may hide what went wrong
                self._stop(back=self._reader.taken)

    def _reading(self, step: int) -> Reader:
        """The reader whose next step is `step`."""
        if self._reader is None or self._reader.next != step:
            self._stop(back=step)
            self._reader = Reader(self.batches, step, self.stop)
        return self._reader

    def _stop(self, back: int | None = None) -> None:
        """Ends the thread and takes the source to where it stood before step `back`."""
        reader = self._reader
        if reader is None or reader.closed or not reader.close():
            return
        if hasattr(self.batches, "seek") and back in reader.positions:
            self.batches.seek(back, reader.positions[back])  # type: ignore[union-attr]


def _resident(source: dict[str, jax.Array], rows: jax.Array, i: jax.Array) -> dict[str, jax.Array]:
    return {"id": rows[i], **{name: array[rows[i]] for name, array in source.items()}}


def _nothing(source: dict[str, jax.Array], rows: jax.Array, i: jax.Array) -> dict[str, jax.Array]:
    return {}


def _streamed(source: dict[str, jax.Array], rows: jax.Array, i: jax.Array) -> dict[str, jax.Array]:
    return {name: array[rows + i] for name, array in source.items()}


def _fits(batches: Batches) -> bool:
    """Whether the data is in memory and takes at most a quarter of the device's."""
    size = sum(array.nbytes for array in batches.data.values())
    stats = jax.local_devices()[0].memory_stats() or {}
    return not batches.mapped and size <= stats.get("bytes_limit", 4 * RESIDENT) / 4
