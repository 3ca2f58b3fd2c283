"""Sequences of many lengths: as a list of arrays, or as padded arrays and their lengths."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from funnet.checks import count
from funnet.data.batches import checked, gathered, narrow


class Ragged:
    """Sequences (T, ...) one after another in one array, for no memory goes to padding."""

    def __init__(self, name: str, arrays: Sequence[Any]):
        parts = [np.asarray(array) for array in arrays]
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) > 1 or not all(part.ndim for part in parts):
            row = next(i for i, x in enumerate(parts) if x.shape[1:] != parts[0].shape[1:])
            raise ValueError(
                f"data[{name!r}] must be sequences (T, ...) that differ in T alone, but element 0 "
                f"has shape {parts[0].shape} and element {row} {parts[row].shape}"
            )
        self.lengths = np.array([len(part) for part in parts], np.int32)
        numbers = np.repeat(np.arange(len(parts), dtype=np.int32), self.lengths)
        self.flat = narrow(name, np.concatenate(parts), numbers)
        self.starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths

    def rows(self, ids: np.ndarray, lengths: np.ndarray, long: int) -> np.ndarray:
        """The sequences `ids`, each padded to `long`: (len(ids), long, ...)."""
        places = self.starts[ids][:, None] + np.arange(long)
        return _ended(self.flat[np.minimum(places, len(self.flat) - 1)], lengths)


class Padded:
    """Sequences as the rows of an array (N, T, ...), which may be memory-mapped."""

    def __init__(self, name: str, array: np.ndarray):
        self.name, self.array = name, array

    def rows(self, ids: np.ndarray, lengths: np.ndarray, long: int) -> np.ndarray:
        """The sequences `ids`, each cut or padded to `long`: (len(ids), long, ...)."""
        found = gathered(self.name, self.array[:, :long], ids)
        missing = ((0, 0), (0, long - found.shape[1]), *[(0, 0)] * (found.ndim - 2))
        return _ended(np.pad(found, missing), lengths)


def padded(rows: Sequence[Any], size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of whole numbers as the rows of one array, zeros behind each, and their lengths.

    Args:
        rows: N sequences of integers, such as lists of tokens, or `bytes`.
        size: how long to make them, by default as the longest.

    Returns:
        (N, size) int32 and (N,) int32.

    Raises:
        TypeError: if there are other things than integers in them.
        ValueError: if there are none, or one is longer than `size`.

    >>> padded([[3, 1, 4], [1]])
    (array([[3, 1, 4],
           [1, 0, 0]], dtype=int32), array([3, 1], dtype=int32))
    """
    lengths = np.array([len(row) for row in rows], np.int32)
    if not len(lengths):
        raise ValueError("rows must be sequences, at least one, got none")
    size = int(lengths.max()) if size is None else count("size", size)
    if lengths.max() > size:
        at = int(lengths.argmax())
        raise ValueError(f"rows[{at}] has {lengths[at]} elements, expected at most size={size}")
    flat = np.array([number for row in rows for number in row])
    if flat.size and flat.dtype.kind not in "iu":
        raise TypeError(f"rows must be sequences of integers, got {flat.dtype}")
    whole = np.zeros((len(lengths), size), np.int32)
    whole[np.arange(size) < lengths[:, None]] = flat
    return whole, lengths


def _ended(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The rows (N, T, ...) with zeros from their lengths on."""
    rows[np.arange(rows.shape[1]) >= lengths[:, None]] = 0
    return rows


def sequences_of(
    data: Mapping[str, Any], names: Sequence[str]
) -> tuple[dict[str, Ragged | Padded], np.ndarray]:
    """The entries that are sequences, and the examples' lengths (N,) int32."""
    if not isinstance(data, Mapping) or not data:
        raise TypeError(f"data must be a dict of entries by name, got {type(data).__name__}")
    found = _padded(data, names) if "lengths" in data else _ragged(data, names)
    lengths = found[1]
    if not lengths.min(initial=1) > 0:
        row = int(np.argmin(lengths))
        raise ValueError(f"the sequence of example {row} has {lengths[row]} elements: leave it out")
    return found


def _ragged(data: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, Any], np.ndarray]:
    lists = {n: x for n, x in data.items() if isinstance(x, list | tuple) and x and np.ndim(x[0])}
    if not lists or names:
        raise ValueError(
            "data has no sequences whose lengths are known: give a list of arrays, or padded "
            'arrays and data["lengths"], and name them, as in sequences="token"'
        )
    found = {name: Ragged(name, arrays) for name, arrays in lists.items()}
    (first, one), *others = found.items()
    for name, other in others:
        if not np.array_equal(one.lengths, other.lengths):
            raise ValueError(
                f"data[{first!r}] and data[{name!r}] must have sequences of the same lengths; pad "
                "the shorter ones, or give an entry that is no sequence as one array"
            )
    return found, one.lengths


def _padded(data: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, Any], np.ndarray]:
    missing = [name for name in names if name not in data]
    if missing or not names:
        raise ValueError(
            f"sequences is {tuple(names)}, expected the names of the entries that "
            f'data["lengths"] is of, out of {", ".join(name for name in data if name != "lengths")}'
        )
    known = np.array(data["lengths"])  # in memory, wherever the sequences are
    arrays = checked({"lengths": known, **{name: data[name] for name in names}}, mapped=True)
    lengths = arrays.pop("lengths")
    shortest = min(array.shape[1] if array.ndim > 1 else 0 for array in arrays.values())
    if lengths.ndim != 1 or lengths.dtype != np.int32 or lengths.max(initial=0) > shortest:
        raise ValueError(
            f'data["lengths"] must be integers (N,) up to {shortest}, the length of the padded '
            f"arrays, got {lengths.dtype} of shape {lengths.shape} up to {lengths.max(initial=0)}"
        )
    return {name: Padded(name, array) for name, array in arrays.items()}, lengths
