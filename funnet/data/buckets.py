"""Batches of sequences of like lengths, each padded to the boundary of its bucket.

Examples are put into buckets by length, and every bucket is a stream of batches of its own (see
`batches`): a fresh permutation for each epoch, one after another, so that every batch is full. A
bucket of `n` examples has had `ceil(epoch * n / size)` batches when epoch `epoch` begins, and the
batches of all buckets that fall into an epoch come in an order drawn anew for it. So what is left
over from a bucket's epoch begins its next batch, any step costs the same to reach, and after so
many epochs every example has been seen so many times, or, at a seam, once more.
"""

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from funnet.checks import count
from funnet.checks import seed as check_seed
from funnet.data.batches import Batches, checked, gathered
from funnet.data.ragged import Padded, Ragged, sequences_of

MOST = 8  # buckets that are chosen, each of which is a program to compile
SHARE = 0.1  # of padding that is small enough
CANDIDATES = 256  # lengths that are looked at as boundaries


class Bucketed:
    """Batches of sequences of like lengths; see `bucketed`.

    Attributes:
        boundaries: the lengths that batches are padded to, in rising order.
        padding: the share of padding in all that the batches hold, 0 to 1.
        examples: how many examples there are.
        size: examples a batch.
        run_length: how many batches of one shape rarely follow each other.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        size: int,
        *,
        boundaries: Sequence[int] | None = None,
        sequences: str | Sequence[str] = (),
        seed: int = 0,
    ):
        self._sequences, self._rest, self.lengths = _parts(data, sequences)
        self.examples = len(self.lengths)
        count("size", size, self.examples)
        check_seed(seed)
        self.size, self.seed = size, seed
        ends = chosen(self.lengths, size) if boundaries is None else _given(boundaries)
        _check_longest(self.lengths, ends)
        self.boundaries = _merged(self.lengths, ends, size)
        buckets = np.searchsorted(self.boundaries, self.lengths)
        self._counts = np.bincount(buckets, minlength=len(self.boundaries)).tolist()
        self._streams = [
            Batches({"member": np.flatnonzero(buckets == i)}, size, seed=_seed_of(seed, i))
            for i in range(len(self.boundaries))
        ]
        self._order = functools.lru_cache(maxsize=2)(self._drawn)

    def __repr__(self) -> str:
        return (
            f"Bucketed({self.examples} examples, size={self.size}, boundaries={self.boundaries}, "
            f"padding={self.padding:.0%}, seed={self.seed})"
        )

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Batch `step`: its sequences padded alike, `"lengths"`, `"id"`, and the other entries."""
        bucket, batch = self._place(step)
        ids = self._streams[bucket][batch]["member"]
        long, lengths = self.boundaries[bucket], self.lengths[ids]
        padded = {name: x.rows(ids, lengths, long) for name, x in self._sequences.items()}
        rest = {name: gathered(name, array, ids) for name, array in self._rest.items()}
        return {"id": ids, "lengths": lengths, **padded, **rest}

    @property
    def padding(self) -> float:
        """The share of padding in all that the batches hold, 0 to 1."""
        held = sum(n * end for n, end in zip(self._counts, self.boundaries, strict=True))
        return 1 - int(self.lengths.sum(dtype=np.int64)) / held

    @property
    def run_length(self) -> int:
        """Rarely do more batches of one shape follow each other: about one time in fifty."""
        rest = 1 - max(self._counts) / self.examples
        return math.ceil(min(4 / rest, 2**20)) if rest else 2**20

    def steps(self, epochs: float) -> int:
        """The steps that show every example at least `epochs` times."""
        whole = math.floor(epochs)
        first, last = self._begin(whole), self._begin(whole + 1)
        return first + math.ceil(round((epochs - whole) * (last - first), 6))

    def _begin(self, epoch: int) -> int:
        """The step at which an epoch begins."""
        return sum(self._taken(bucket, epoch) for bucket in range(len(self._counts)))

    def _taken(self, bucket: int, epoch: int) -> int:
        """The batches of a bucket before an epoch."""
        return -(-epoch * self._counts[bucket] // self.size)

    def _place(self, step: int) -> tuple[int, int]:
        """The bucket that batch `step` is of, and which of its batches that is."""
        step = operator.index(step)
        if step < 0:
            raise IndexError(f"a step is counted from 0, got {step}")
        epoch = step * self.size // self.examples  # it or one of the few before: seams round up
        while self._begin(epoch) > step:
            epoch -= 1
        bucket, before = self._order(epoch)[step - self._begin(epoch)].tolist()
        return bucket, self._taken(bucket, epoch) + before

    def _drawn(self, epoch: int) -> np.ndarray:
        """For each step of an epoch its bucket, and how many of that the epoch had before it."""
        many = [self._taken(b, epoch + 1) - self._taken(b, epoch) for b in range(len(self._counts))]
        words = np.random.SeedSequence([self.seed, epoch, len(many)])
        order = np.random.Generator(np.random.Philox(words)).permutation(
            np.repeat(np.arange(len(many)), many)
        )
        before = np.empty_like(order)
        for bucket, times in enumerate(many):
            before[order == bucket] = np.arange(times)
        return np.stack([order, before], axis=1)


def bucketed(
    data: Mapping[str, Any],
    size: int,
    *,
    boundaries: Sequence[int] | None = None,
    sequences: str | Sequence[str] = (),
    seed: int = 0,
) -> Bucketed:
    """Batches of sequences of like lengths, so that little is padding; `source[step]` is one.

    A batch has the sequences as (size, boundary, ...), zero past their ends, `"lengths"` (size,)
    int32, the examples' numbers as `"id"`, and the rows of the other entries. Every batch is full
    and every example comes once an epoch; what is left over of a bucket begins its next batch.
    A training compiles one program for each of the boundaries that it meets.

    Args:
        data: entries by name, with one element for each example. A list of arrays (T, ...) is of
            sequences; or `data["lengths"]` tells how long the rows of padded arrays (N, T, ...)
            are. Memory-mapped arrays are read batch by batch.
        size: examples a batch. A bucket with fewer is joined to the next longer one.
        boundaries: the lengths to pad to, rising. By default the lengths that make padding least:
            as few as keep it under a tenth, at most eight. `.padding` tells what came of it.
        sequences: which entries are padded sequences, where there are `data["lengths"]`.
        seed: of the order, a non-negative integer.

    Raises:
        TypeError: if an entry is no array of numbers, or boundaries are no integers.
        ValueError: if entries differ in length, a sequence is empty or longer than the last
            boundary, or `size` is more than there are examples.

    Source: batching by length, with boundaries that minimise padding found by dynamic programming.

    >>> words = [np.arange(1, 1 + n) for n in (3, 9, 2, 8, 3, 9)]
    >>> source = bucketed({"token": words, "label": np.arange(6) % 2}, 3)
    >>> source
    Bucketed(6 examples, size=3, boundaries=(3, 9), padding=6%, seed=0)
    >>> batch = next(source[i] for i in range(2) if source[i]["token"].shape == (3, 3))
    >>> rows = np.argsort(batch["id"])
    >>> batch["id"][rows].tolist(), batch["lengths"][rows].tolist()
    ([0, 2, 4], [3, 2, 3])
    >>> batch["token"][rows].tolist()
    [[1, 2, 3], [1, 2, 0], [1, 2, 3]]
    """
    return Bucketed(data, size, boundaries=boundaries, sequences=sequences, seed=seed)


def chosen(lengths: np.ndarray, size: int) -> tuple[int, ...]:
    """Boundaries for lengths: as few as keep padding under `SHARE`, or the best `MOST`.

    `cost[i, j]` is what a bucket of the lengths after candidate `i` up to candidate `j` holds,
    padded; the best way to reach `j` with one bucket more is over the best `i`.
    """
    ranked = np.sort(lengths)
    ends = np.unique(np.quantile(ranked, np.linspace(0, 1, CANDIDATES), method="higher"))
    upto = np.concatenate([[0], np.searchsorted(ranked, ends, "right")])
    many = upto[None] - upto[:, None]
    cost = np.where(many >= size, many * np.concatenate([[0], ends]), np.inf)
    best, cuts = np.where(upto == 0, 0.0, np.inf), []
    found: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(min(MOST, len(lengths) // size)):
        ways = best[:, None] + cost
        best = ways.min(axis=0)
        cuts.append(ways.argmin(axis=0))
        found.append((float(best[-1]), _ends(cuts, ends)))
        if best[-1] * (1 - SHARE) <= ranked.sum(dtype=np.int64):
            break
    return min(found)[1]


def _ends(cuts: list[np.ndarray], ends: np.ndarray) -> tuple[int, ...]:
    """The boundaries of the way that leads to the last candidate."""
    at, way = len(ends), []
    for cut in reversed(cuts):
        way.append(int(ends[at - 1]))
        at = int(cut[at])
    return tuple(reversed(way))


def _given(boundaries: Sequence[int]) -> tuple[int, ...]:
    ends = tuple(count("boundaries", end) for end in boundaries)
    if not ends or list(ends) != sorted(set(ends)):
        raise ValueError(f"boundaries is {ends}, expected rising lengths, such as (16, 32, 64)")
    return ends


def _check_longest(lengths: np.ndarray, ends: tuple[int, ...]) -> None:
    row = int(np.argmax(lengths))
    if lengths[row] > ends[-1]:
        raise ValueError(
            f"boundaries end at {ends[-1]}, but the sequence of example {row} has "
            f"{lengths[row]} elements: add a boundary, or cut the sequence"
        )


def _merged(lengths: np.ndarray, ends: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The boundaries without those of buckets that cannot fill a batch."""
    kept, below = [], 0
    for end in ends:
        upto = int((lengths <= end).sum())
        if upto - below >= size:
            kept.append(end)
            below = upto
    if below < len(lengths):  # the longest are too few: they take the next shorter ones along
        last = next(end for end in ends if end >= lengths.max())
        kept = [*kept[:-1], last]
    return tuple(kept)


def _seed_of(seed: int, bucket: int) -> int:
    return int(np.random.SeedSequence([seed, bucket]).generate_state(1)[0])


def _parts(
    data: Mapping[str, Any], sequences: str | Sequence[str]
) -> tuple[dict[str, Ragged | Padded], dict[str, np.ndarray], np.ndarray]:
    """Sequences, other entries, and how long each example is."""
    found, lengths = sequences_of(data, (sequences,) if isinstance(sequences, str) else sequences)
    rest = {name: x for name, x in data.items() if name not in found and name != "lengths"}
    return found, _rest(rest, len(lengths)), lengths


def _rest(data: Mapping[str, Any], examples: int) -> dict[str, np.ndarray]:
    rest = checked(data, mapped=True) if data else {}
    for name, array in rest.items():
        if len(array) != examples:
            raise ValueError(
                f"data must have one row for each example in every entry, got {examples} sequences "
                f"and {len(array)} rows of {name!r}"
            )
    return rest
