"""What a training tells while it runs: progress, hooks, and `metrics.jsonl` in its folder.

A line of training metrics is the mean over its steps, to the last bit the same however steps are
fused or a training is cut: what an unfinished line has summed so far travels with the checkpoint.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from funnet.store.lines import Lines
from funnet.train.progress import Progress, text
from funnet.train.totals import folded, restored, spelt, stored, terms_of
from funnet.train.totals import is_metric as is_metric
from funnet.train.totals import joined as joined
from funnet.train.totals import summed as summed
from funnet.train.totals import values as values

Hook = Callable[[int, str, dict[str, Any]], Any]


def plain(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, arrays and lists by name as Python's own.

    Raises:
        TypeError: if they are not given by name.
    """
    if not isinstance(numbers, Mapping):
        raise TypeError(f"validate must return numbers by name, a dict, got {numbers!r}")
    arrays = jax.Array | np.ndarray | np.generic
    return {n: np.asarray(v).tolist() if isinstance(v, arrays) else v for n, v in numbers.items()}


class Log:
    """Writes a training's numbers where they belong, as they come.

    Args:
        folder: where `metrics.jsonl` grows by a line an entry; `None` writes no file.
        start: the step at which the training begins. A new one, at 0, puts an earlier file aside;
            later the file goes on after its lines up to that step, and loses what comes after them.
        steps: the step at which the training ends, for the time that is left.
        every: the steps behind one line of training metrics.
        progress: whether to print at all; None means yes, unless under pytest.
        hooks: functions `hook(step, kind, numbers)`, called with every line once it is written. An
            exception in one ends the training like any other.
        resumed: what `state()` gave when the run to go on with was saved. Without it the first line
            has the steps from `start` on.
        stream: where to print, by default stderr.

    Raises:
        ValueError: if `resumed` is the state at another step.
        OSError: if the file cannot be read or written.
    """

    def __init__(
        self,
        folder: Path | None,
        start: int,
        steps: int,
        *,
        every: int = 100,
        progress: bool | None = None,
        hooks: Sequence[Hook] = (),
        resumed: Mapping[str, Any] | None = None,
        stream: TextIO | None = None,
    ):
        kept = resumed or {"step": start, "since": start, "skipped": 0, "sums": None}
        if kept["step"] != start:
            raise ValueError(f"resumed is the state at step {kept['step']}, expected step {start}")
        self.steps, self.every, self.hooks = steps, every, tuple(hooks)
        self.at, self.since = start, kept["since"]  # the steps of the line that is not yet full
        self.skipped = kept["skipped"]
        self.sums = None if kept["sums"] is None else restored(kept["sums"])
        # the step of the last train line; where no steps are left an unfinished one stays
        self.told = start if start >= steps else self.since
        self.progress = Progress(steps, progress, stream)
        self.begun, self.lines = time.monotonic(), None
        if folder is not None:
            fresh = resumed is None and start == 0
            self.lines = Lines(folder / "metrics.jsonl", start, self.told, fresh=fresh)
            self.begun -= self.lines.seconds

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: Any = None, *_: Any) -> None:
        self.progress.close()
        hidden = OSError if kind is None else Exception  # must not hide what ended the training
        try:
            with contextlib.suppress(hidden):
                if self.at > self.told:  # cut short: what is no full line is one all the same
                    self.entry(self.at, "train", self._means())
        finally:
            if self.lines is not None:
                self.lines.close()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of the line that is not yet full, as JSON has it.

        `Log(..., start=step, resumed=state)` goes on as if the training had never stopped.
        """
        sums = None if self.sums is None else stored(self.sums)
        return {"step": self.at, "since": self.since, "skipped": self.skipped, "sums": sums}

    def flush(self) -> None:
        """Waits until the disk has all lines: to be called before a checkpoint is committed."""
        if self.lines is not None:
            self.lines.flush()

    def entry(self, step: int, kind: str, numbers: Mapping[str, Any]) -> None:
        """One line of `metrics.jsonl`, there at once, and handed to the hooks.

        Validation is printed too.

        Raises:
            OSError: if the line cannot be written; the file then ends with the line before.
        """
        numbers = plain(numbers)
        if self.lines is not None:
            seconds = round(time.monotonic() - self.begun, 3)
            own = {"step": step, "kind": kind, "seconds": seconds}
            self.lines.write({**own, **spelt(numbers), **own})
        if self.progress.on and kind == "validation":
            self.progress.line(f"step {step:,}: validation {text(numbers)}")
        for hook in self.hooks:
            hook(step, kind, dict(numbers))

    def steps_taken(
        self,
        start: int,
        steps: int,
        metrics: Any,
        epoch: float | None,
        skipped: np.ndarray | None = None,
    ) -> None:
        """The metrics of some steps from `start` on, with a leading axis of steps.

        Args:
            start: the first of the steps.
            steps: how many; more rows of metrics are not looked at.
            metrics: a tree of metrics.
            epoch: the epochs behind the last of the steps, where there are any.
            skipped: for each step whether it was skipped; its numbers then count nowhere, and the
                line says how many there were. None means that no step was.
        """
        taken = np.ones(steps, bool) if skipped is None else ~np.asarray(skipped, bool)[:steps]
        rows = np.flatnonzero(taken)
        terms = terms_of(_rows(metrics, rows))
        full = []  # lines, written when all steps are counted: a write may fail
        self.at, end = start, start + steps
        while self.at < end:
            cut = min((self.at // self.every + 1) * self.every, end)
            begin, stop = np.searchsorted(rows, (self.at - start, cut - start)).tolist()
            self.skipped += cut - self.at - (stop - begin)
            if begin < stop:
                self.sums = folded(terms, slice(begin, stop), self.sums)
            self.at = cut
            if cut % self.every == 0 or cut == self.steps:
                full.append((cut, self._means()))
                self.told = cut
            if cut % self.every == 0:  # else a longer training goes on with this line
                self.since, self.skipped, self.sums = cut, 0, None
        for cut, means in full:
            self.entry(cut, "train", means)
        self.progress.steps_taken(end, epoch, lambda: _means(_rows(metrics, rows), rows))

    def _means(self) -> dict[str, Any]:
        means = {} if self.sums is None else values(self.sums)
        return {**means, "skipped": self.skipped} if self.skipped else means


def _rows(metrics: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[rows], metrics)


def _means(metrics: Any, rows: np.ndarray) -> dict[str, Any]:
    return values(summed(metrics)) if len(rows) else {}
