"""Loaders of grain as a source for `fit`, which goes on in a resumed run where it stood."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from funnet.data.batches import checked


class GrainMap:
    """Batches of a `grain.MapDataset`: any step is reached at once."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __repr__(self) -> str:
        return f"from_grain({self.dataset!r})"

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Batch `step`."""
        if step >= len(self.dataset):  # grain itself would begin anew
            raise IndexError(_ended(step, len(self.dataset)))
        return _batch(self.dataset[step], step)


class GrainIterator:
    """Batches of a loader of grain that gives one after another, and knows where it stands.

    Only the next batch is at hand: a later one is reached by reading what is in between, an earlier
    one by beginning anew; `seek` goes to a known position at once.
    """

    def __init__(self, loader: Any):
        self.loader, self._iterator, self._next = loader, iter(loader), 0
        self._begin = self.position(0)

    def __repr__(self) -> str:
        return f"from_grain({self.loader!r})"

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Batch `step`."""
        self._reach(step)
        return _batch(self._read(step), step)

    def position(self, step: int) -> Any:
        """The state of grain's iterator before batch `step`, as a value for JSON."""
        self._reach(step)
        state = self._iterator.get_state()
        if isinstance(state, bytes):
            return state.decode()
        return json.loads(json.dumps(state, default=_plain))  # which grain cannot change

    def seek(self, step: int, position: Any) -> None:
        """Goes to where `position(step)` was told."""
        self._iterator.set_state(position.encode() if isinstance(position, str) else position)
        self._next = step

    def _reach(self, step: int) -> None:
        """Makes `step` the next one."""
        if step < self._next:
            self.seek(0, self._begin)
        while self._next < step:
            self._read(step)

    def _read(self, wanted: int) -> Any:
        try:
            element = next(self._iterator)
        except StopIteration:
            raise IndexError(_ended(wanted, self._next)) from None
        self._next += 1
        return element


def from_grain(loader: Any) -> GrainMap | GrainIterator:
    """A pipeline of grain as batches for `fit`.

    A thread reads it while the device computes. A checkpoint holds where it stood, and a training
    that is resumed goes on with the batch that would have come, whatever was read ahead.

    Args:
        loader: a `grain.MapDataset`, `grain.IterDataset` or `grain.DataLoader` of dicts of arrays
            that are batches already: it ends in `.batch(size)`, or in `grain.transforms.Batch`.
            For more than an epoch it has `.repeat()`, or a sampler with `num_epochs=None`.

    Returns:
        A source: `source[step]` is a dict of arrays, floats as float32 and integers as int32.

    Raises:
        ImportError: if grain is not installed.
        TypeError: if it is no loader of grain; later, at the step, if it gives no batches.
        IndexError: later, at the step, if it has come to its end.

    Source: https://github.com/google/grain

    >>> import grain  # doctest: +SKIP
    >>> pipeline = grain.MapDataset.source(examples).shuffle(seed=0)  # doctest: +SKIP
    >>> batches = from_grain(pipeline.repeat().batch(64))  # doctest: +SKIP
    """
    try:
        import grain
    except ImportError as error:
        raise ImportError("from_grain needs grain: pip install 'funnet[grain]'") from error
    if isinstance(loader, grain.MapDataset):
        return GrainMap(loader)
    if isinstance(loader, grain.IterDataset | grain.DataLoader):
        return GrainIterator(loader)
    cure = "give what it is an iterator of" if isinstance(loader, Iterator) else "see grain.load"
    raise TypeError(
        "loader must be a grain.MapDataset, grain.IterDataset or grain.DataLoader, "
        f"got {type(loader).__name__}: {cure}"
    )


def _batch(element: Any, step: int) -> dict[str, np.ndarray]:
    """A batch as a device takes it, or an error that says what the pipeline lacks."""
    if not isinstance(element, Mapping):
        raise TypeError(
            f"the loader must give dicts of arrays, but element {step} is of {type(element)}: "
            "add .map(lambda x: {'image': ..., 'label': ...}) before .batch(size)"
        )
    single = [name for name, value in element.items() if np.ndim(value) == 0]
    if single:
        raise TypeError(
            f"the loader must give batches, but {single[0]!r} of element {step} is a single "
            "value: end the pipeline with .batch(size), or grain.transforms.Batch(size)"
        )
    return checked(element)


def _plain(x: Any) -> Any:
    if isinstance(x, np.ndarray | np.generic):
        return x.tolist()
    raise TypeError(f"grain's iterator has a state with {x!r} in it, which is not for JSON")


def _ended(step: int, batches: int) -> str:
    return (
        f"the loader ends before step {step}: it has {batches} batches; give it .repeat() before "
        f".batch(size), or a sampler with num_epochs=None, or give fit steps={batches}"
    )
