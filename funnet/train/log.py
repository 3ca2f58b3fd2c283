"""What a training tells while it runs: a line of progress, and `metrics.jsonl` in its folder."""

import contextlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO, cast

import jax
import numpy as np

from funnet.metrics import Mean, Sum


def is_metric(x: Any) -> bool:
    """Whether `x` is a metric that adds up."""
    return isinstance(x, Mean | Sum)


def summed(metrics: Any) -> Any:
    """Metrics with a leading axis, added up along it in 64 bits; plain numbers as means."""
    return jax.tree.map(_summed, metrics, is_leaf=is_metric)


def _summed(metric: Any) -> Any:
    if is_metric(metric):
        return jax.tree.map(lambda x: _wide(x).sum(axis=0), metric)
    values = _wide(metric)
    return Mean(values.sum(axis=0), np.float64(len(values)))


def _wide(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.int64 if x.dtype.kind in "biu" else np.float64)


def plain(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, arrays and lists by name as Python's own.

    Raises:
        TypeError: if they are not given by name.
    """
    if not isinstance(numbers, Mapping):
        raise TypeError(f"validate must return numbers by name, a dict, got {numbers!r}")
    arrays = jax.Array | np.ndarray | np.generic
    return {n: np.asarray(v).tolist() if isinstance(v, arrays) else v for n, v in numbers.items()}


def _readable(numbers: Mapping[str, Any]) -> Any:
    """Numbers as JSON has them: those that are none as the words nan, inf and -inf."""

    def readable(x: Any) -> Any:
        return str(x) if isinstance(x, float) and not math.isfinite(x) else x

    return jax.tree.map(readable, dict(numbers))


def values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as plain numbers (or nested lists) by name."""
    return {name: np.asarray(m.value).tolist() for name, m in metrics.items()}


def joined(first: Any, second: Any) -> Any:
    """Two sets of metrics, added up."""
    return jax.tree.map(lambda x, y: x + y, first, second, is_leaf=is_metric)


class Log:
    """Writes a training's numbers where they belong, as they come.

    Args:
        folder: where `metrics.jsonl` grows by a line an entry; `None` writes no file.
        start: the step at which the training begins; at 0, a file of an earlier one is put aside.
        steps: the step at which the training ends, for the time that is left.
        every: the steps behind one line of training metrics.
        progress: whether to print at all.
        stream: where to print; a terminal gets one line that renews itself, else plain lines.
    """

    def __init__(
        self,
        folder: Path | None,
        start: int,
        steps: int,
        *,
        every: int = 100,
        progress: bool = True,
        stream: TextIO | None = None,
    ):
        self.stream = cast(TextIO, sys.stderr if stream is None else stream)
        self.steps, self.every = steps, every
        self.progress = progress and self.stream is not None  # as it is without a console
        self.live = self.progress and self.stream.isatty()
        self.begun = self.shown = time.monotonic()
        self.first: tuple[int, float] | None = None  # step and time after the first dispatch
        self.pending, self.at = cast(Any, None), start  # metrics without a line, up to a step
        self.file = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if start == 0:
                _put_aside(folder / "metrics.jsonl")
            self.file = open(folder / "metrics.jsonl", "a", encoding="utf8")  # noqa: SIM115

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live:
            self.stream.write("\n")
        if self.pending is not None:  # cut short: what was not yet a full line is one all the same
            with contextlib.suppress(OSError):  # a full disk must not hide what ended the training
                self.entry(self.at, "train", values(self.pending))
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.close()

    def entry(self, step: int, kind: str, numbers: Mapping[str, Any]) -> None:
        """One line of `metrics.jsonl`, flushed at once; validation is printed too."""
        numbers = plain(numbers)
        if self.file is not None:
            seconds = round(time.monotonic() - self.begun, 3)
            own = {"step": step, "kind": kind, "seconds": seconds}
            line = {**own, **_readable(numbers), **own}
            self.file.write(json.dumps(line, allow_nan=False) + "\n")
            self.file.flush()
        if self.progress and kind == "validation":
            self._line(f"step {step:,}: validation {_text(numbers)}")

    def steps_taken(self, start: int, steps: int, metrics: Any, epoch: float | None) -> None:
        """The metrics of some steps from `start` on, with a leading axis of steps."""
        at, end = start, start + steps
        while at < end:
            cut = min((at // self.every + 1) * self.every, end)
            part = summed(jax.tree.map(lambda x, a=at, c=cut: x[a - start : c - start], metrics))
            self.pending = part if self.pending is None else joined(self.pending, part)
            if cut % self.every == 0 or cut == self.steps:
                self.entry(cut, "train", values(self.pending))
                self.pending = None
            self.at = at = cut
        self._watch(end, metrics, epoch)

    def _watch(self, step: int, metrics: Any, epoch: float | None) -> None:
        """Renews the line of progress, or from time to time prints one."""
        now = time.monotonic()
        self.first = self.first or (step, now)
        patience = 0.1 if self.live else 10.0
        if not self.progress or (now - self.shown < patience and step < self.steps):
            return
        self.shown = now
        text = f"step {step:,}/{self.steps:,}"
        text += f" (epoch {epoch:.1f})" if epoch is not None else ""
        text += f"  {_text(values(summed(metrics)))}  {self._rate(step, now)}".rstrip()
        if self.live:
            width = _width(self.stream)
            self.stream.write(f"\r{text[: width - 1]}\x1b[K")
            self.stream.flush()
        else:
            self._line(text)

    def _rate(self, step: int, now: float) -> str:
        first, begun = self.first or (step, now)
        if step <= first or now <= begun:
            return ""
        rate = (step - first) / (now - begun)
        left = int((self.steps - step) / rate)
        return f"{rate:,.0f} steps/s  {left // 60}:{left % 60:02d} left"

    def _line(self, text: str) -> None:
        clear = "\r\x1b[K" if self.live else ""
        print(f"{clear}{text}", file=self.stream, flush=True)


def _width(stream: TextIO) -> int:
    """Columns of the terminal; 80 of a console that does not tell."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _put_aside(path: Path) -> None:
    """Renames what an earlier training wrote to the first free of `metrics.1.jsonl`, and so on."""
    if path.exists():
        names = (path.with_suffix(f".{n}.jsonl") for n in itertools.count(1))
        path.rename(next(name for name in names if not name.exists()))


def _text(numbers: Mapping[str, Any]) -> str:
    return "  ".join(f"{k} {v:.4g}" for k, v in numbers.items() if isinstance(v, float | int))
