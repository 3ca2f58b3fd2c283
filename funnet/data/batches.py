"""Batches as a pure, seekable function of seed and step.

The order of the data is an endless stream: a fresh permutation of all examples for every epoch,
one after another. Batch `step` is the stretch of that stream from `step * size` on, so every batch
is full, every example comes exactly once an epoch, and any step costs the same to reach.

Arrays in memory are checked once, as a whole. A memory-mapped one may be larger than the memory:
it stays on the disk, and each batch of it is checked as it is read.
"""

import functools
import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from funnet.checks import count
from funnet.checks import seed as check_seed
from funnet.store.tensors import digest

LOOKED_AT = 2**26  # bytes of an array that tell it from another
TOGETHER = 1024  # examples, of small data sets, drawn in order at once: a generator costs 12 us


class Batches:
    """Batches of a data set in memory or on disk, drawn without replacement; see `batches`."""

    def __init__(self, data: Mapping[str, Any], size: int, *, seed: int = 0):
        self.data = checked(data, mapped=True)
        self.mapped = any(isinstance(array, np.memmap) for array in self.data.values())
        self.examples = len(next(iter(self.data.values())))
        count("size", size, self.examples)
        check_seed(seed)
        self.size, self.seed = size, seed
        self._together = max(TOGETHER // self.examples, 1)
        self._orders = functools.lru_cache(maxsize=2)(self._permutations)

    def __repr__(self) -> str:
        return f"Batches({self.examples} examples, size={self.size}, seed={self.seed})"

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Batch `step`: a row of each array, and `"id"`, the examples' numbers in the data."""
        (ids,) = self.rows(step, 1)
        return {
            "id": ids,
            **{name: gathered(name, array, ids) for name, array in self.data.items()},
        }

    def rows(self, step: int, steps: int) -> np.ndarray:
        """The examples of some steps from `step` on: (steps, size) int32."""
        step = operator.index(step)
        if step < 0:
            raise IndexError(f"a step is counted from 0, got {step}")
        if self.size == self.examples:  # in whatever order, it is the same batch
            return np.tile(np.arange(self.size, dtype=np.int32), (steps, 1))
        first, last = step * self.size, (step + steps) * self.size
        epochs = range(first // self.examples, (last - 1) // self.examples + 1)
        stream = np.concatenate([self._epoch(epoch) for epoch in epochs])
        start = first - epochs.start * self.examples
        return stream[start : start + last - first].reshape(steps, self.size)

    def steps(self, epochs: float) -> int:
        """The steps that show every example at least `epochs` times."""
        return math.ceil(round(epochs * self.examples / self.size, 6))

    def identity(self) -> dict[str, Any]:
        """What tells these batches from others, as JSON can hold it.

        Of a large array every so many rows are looked at.
        """
        rows = {name: array[:: 1 + array.nbytes // LOOKED_AT] for name, array in self.data.items()}
        own = {"examples": self.examples, "size": self.size, "seed": self.seed}
        return {**own, "arrays": digest(rows)}

    def _epoch(self, epoch: int) -> np.ndarray:
        """The order of the examples in an epoch."""
        block, place = divmod(epoch, self._together)
        return self._orders(block)[place]

    def _permutations(self, block: int) -> np.ndarray:
        """The orders of some epochs, which are drawn together: (epochs, examples) int32."""
        # A counter-based generator on the host: fifty times faster than a device's permutation.
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, block])))
        if self._together == 1:
            return random.permutation(self.examples).astype(np.int32)[None]
        rows = np.tile(np.arange(self.examples, dtype=np.int32), (self._together, 1))
        return random.permuted(rows, axis=1)


def batches(data: Mapping[str, Any], size: int, *, seed: int = 0) -> Batches:
    """Batches of `size` examples in an order drawn anew every epoch; `batches[step]` is one.

    A batch of all examples has them as they lie.

    Args:
        data: arrays by name, with one row for each example. Entries called `"label"` hold classes.
            What `np.load(path, mmap_mode="r")` gives is never read as a whole: its batches are
            read, and checked, one by one.
        size: examples a batch, at most as many as there are.
        seed: of the order, a non-negative integer.

    Raises:
        TypeError: if an entry is no array of numbers, or labels are not integers.
        ValueError: if the data is empty or its arrays differ in length, `size` is more than all
            of it, a floating entry holds NaN or infinity, or an integer does not fit int32.

    >>> data = {"image": np.zeros((10, 4), np.uint8), "label": np.arange(10) % 3}
    >>> stream = batches(data, 4)
    >>> sorted(np.concatenate([stream[i]["id"] for i in range(5)]).tolist()) == [*range(10)] * 2
    False
    >>> stream.rows(0, 5).reshape(2, 10).sum(axis=1).tolist()
    [45, 45]
    """
    return Batches(data, size, seed=seed)


def checked(data: Mapping[str, Any], *, mapped: bool = False) -> dict[str, np.ndarray]:
    """The data as NumPy arrays that a device takes as they are, or an error that says why not.

    Args:
        data: arrays by name, with one row for each example.
        mapped: whether memory-mapped arrays stay as they are, for `gathered` to check what is read.
    """
    if not isinstance(data, Mapping) or not data:
        raise TypeError(f"data must be a dict of arrays by name, got {type(data).__name__}")
    arrays = {name: _entry(name, value, mapped) for name, value in data.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"data must have one row for each example in every entry, got {lengths}")
    if not next(iter(lengths.values())):
        raise ValueError(f"data is empty: {', '.join(arrays)} have no rows")
    return arrays


def gathered(name: str, array: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The rows `ids` of an entry of checked data; those of a memory-mapped one are checked here."""
    found = array[ids]
    return narrow(name, found, ids) if isinstance(array, np.memmap) else found


def _entry(name: str, value: Any, mapped: bool) -> np.ndarray:
    if mapped and isinstance(value, np.memmap):
        narrow(name, value[:0] if value.ndim else value)  # dtype and rank, without reading it
        return value
    return narrow(name, _array(name, value))


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"data[{name!r}] is no array: {error}") from error


def narrow(name: str, array: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
    """Floats as float32 (half precision stays), wide integers as int32; `ids` number the rows."""
    if array.ndim == 0 or (array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16"):
        raise TypeError(
            f"data[{name!r}] must be an array of numbers with one row for each example, "
            f"got {array.dtype} of shape {array.shape}"
        )
    if array.dtype.kind in "iub":
        return _integers(name, array, ids)
    if name == "label":
        raise TypeError(
            f"data['label'] must be integers, got {array.dtype} (row 0 is {array[:1].tolist()}): "
            "write label.astype('int32'), or call the entry 'target' if it is a quantity"
        )
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argwhere(~finite)[0][0])
        value = array[row][~finite[row]].flat[0]
        raise ValueError(
            f"data[{name!r}] must be finite, but row {_number(row, ids)} holds {value}"
        )
    if array.dtype.itemsize <= 4:
        return array
    beyond = np.abs(array) > np.finfo(np.float32).max
    if beyond.any():
        row = int(np.argwhere(beyond)[0][0])
        raise ValueError(f"data[{name!r}] must fit float32, but row {_number(row, ids)} does not")
    return array.astype(np.float32)


def _integers(name: str, array: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    if array.dtype.itemsize < 4 and name != "label":
        return array
    limits = np.iinfo(np.int32)
    beyond = (array > limits.max) | (array < limits.min)
    if beyond.any():
        row = int(np.argwhere(beyond)[0][0])
        value = array[row][beyond[row]].flat[0]
        raise ValueError(
            f"data[{name!r}] must fit int32, but row {_number(row, ids)} holds {value}"
        )
    return array.astype(np.int32, copy=False)


def _number(row: int, ids: np.ndarray | None) -> int:
    """The example that a row is of."""
    return row if ids is None else int(ids[row])
