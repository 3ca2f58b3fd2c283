"""`sweep`: many small trainings at once, over seeds and settings, in one program.

The runs go side by side (`jax.vmap`), or one after another (`jax.lax.map`) within each dispatch.
Which is faster depends on the device and on the size of the models, so both are timed.
"""

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from funnet.checks import count
from funnet.compiling import DRAW, STEP, quick_jit
from funnet.data.batches import Batches
from funnet.train.endings import closing
from funnet.train.feed import Feed, Source, planned
from funnet.train.loop import SECONDS
from funnet.train.progress import Progress
from funnet.train.run import Run
from funnet.train.step import Step
from funnet.train.stops import wait
from funnet.train.swept import Swept, stacked
from funnet.train.totals import summed

Start = Callable[..., tuple[Step, Run]]
WAYS = ("vmap", "map")
TRIAL, MOST, ROUNDS = 0.03, 64, 3  # seconds and steps of one timing, and how many there are
PART = 50  # of all steps, how small a part one timing should at most be


def sweep(
    start: Start,
    batches: Batches | Source | None,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    validate: Callable[[Run], Mapping[str, Any]] | None = None,
    how: Literal["measure", "vmap", "map"] = "measure",
    log_every: int = 100,
    progress: bool | None = None,
    fuse: int | None = None,
    **settings: Any,
) -> Swept:
    """Trains a run for each combination of the settings, all of them in one program.

    Every run gets the same batches in the same order, that of `batches`; the data is on the device
    once. A step that is refused (loss or gradient not finite) leaves its run as it was and counts
    in `refused`; that run tries the next batch, and the others never notice.

    Args:
        start: a function of the settings, by name, that gives `(step, run)`: the training that
            `fit` would be given. It is traced: a setting is an array () and can be a seed or a
            number, not a width or a choice that `if` makes.
        batches: `fn.data.batches(...)`, or anything whose `[step]` is a dict of arrays; None for a
            step that makes its own data.
        epochs: how often each example is to be seen, with `fn.data.batches`.
        steps: how many steps each run takes; give this or `epochs`.
        validate: a function of a run that gives numbers, as for `fit`; it is called at the end
            with one run after another.
        how: `"vmap"` takes each step of all runs together; `"map"` takes a dispatch's steps of one
            run after another, in less memory; `"measure"` times both on the first steps and takes
            the faster, unless the sweep is over sooner than a second program is compiled.
        log_every: steps behind one line of the metrics.
        progress: whether to print progress to stderr; by default, but not under pytest.
        fuse: steps in one dispatch; by default as many as take about a quarter of a second.
        **settings: for each argument of `start` its values, a sequence of numbers, or one number
            for all runs. The runs are all combinations, the last setting changing fastest.

    Returns:
        A `Swept`: `runs`, `settings`, `metrics`, `refused`, `validation`, `how`; `run(i)` is one of
        the runs, the one that `fit` gives but for rounding. Printed, it is a table.

    Raises:
        TypeError: if `start` does not give `(step, run)`, or a setting is no number.
        ValueError: if there are no settings, or no values of one.

    >>> import funnet as fn, numpy as np, optax
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> model = fn.Model(fn.dense, features=1)
    >>> def start(seed, learning_rate):
    ...     optimizer = optax.sgd(learning_rate)
    ...     run = fn.Run.start(model, optimizer, x, seed=seed)
    ...     return fn.train_step(fn.regression(model), optimizer), run
    >>> batches = fn.data.batches({"input": x, "target": 2 * x}, 32)
    >>> found = fn.sweep(start, batches, steps=50, seed=range(2), learning_rate=[1e-3, 0.5])
    >>> found.settings["learning_rate"].tolist() == [np.float32(1e-3), 0.5] * 2
    True
    >>> best = found.run(found.order(fn.lowest("loss"))[0])
    >>> bool(abs(best.params["kernel"] - 2) < 1e-3)
    True
    """
    batches, stop = planned(batches, epochs, steps)
    count("steps", stop)
    if how not in ("measure", *WAYS):
        raise ValueError(f"how must be one of measure, vmap, map, got {how!r}")
    count("log_every", log_every)
    count("fuse", 1 if fuse is None else fuse)
    grid = _grid(settings)
    runs = _runs(start, grid)
    bar = Progress(stop, progress)
    with contextlib.ExitStack() as stack:
        stack.callback(bar.close)
        feed = stack.enter_context(closing(Feed(batches, stop)))
        job = _Job(start, grid, feed, bar, fuse, how, Lines(log_every))
        runs = job.run_through(runs)
    lines = job.lines.ended()
    found = Swept(runs, grid, *lines, job.refused, {}, job.how, job.why)
    if validate is None:
        return found
    numbers = [validate(found.run(i)) for i in range(len(found))]
    return dataclasses.replace(found, validation=stacked(numbers))


def _grid(settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The settings of each run, all combinations, the last setting changing fastest."""
    if not settings:
        raise ValueError(
            "a sweep needs settings, the arguments of start: write fn.sweep(start, batches, "
            "steps=100, seed=range(4), learning_rate=[1e-3, 1e-2])"
        )
    values = [_values(name, given) for name, given in settings.items()]
    rows = list(itertools.product(*(range(len(column)) for column in values)))
    picked = np.array(rows).reshape(len(rows), len(values)).T
    return {name: x[i] for name, x, i in zip(settings, values, picked, strict=True)}


def _values(name: str, given: Any) -> np.ndarray:
    try:
        array = np.atleast_1d(np.asarray(given if hasattr(given, "shape") else _listed(given)))
    except ValueError:  # lists of different lengths
        array = np.array(["ragged"])
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} is {given!r}, expected a number or a flat sequence of numbers: what is no "
            "number, such as a width or an optimizer's name, takes a sweep for each value"
        )
    if not array.size:
        raise ValueError(f"{name} has no values, expected at least one, such as {name}=[0.1]")
    kinds = {"f": np.float32, "b": np.bool_}
    wide = array.dtype.kind in "iu" and array.max() > np.iinfo(np.int32).max
    return array.astype(kinds.get(array.dtype.kind, np.uint32 if wide else np.int32))


def _listed(given: Any) -> Any:
    """A range or another iterable as a list; what is none stays."""
    return given if isinstance(given, str | bytes) or not hasattr(given, "__iter__") else [*given]


def _started(start: Start, settings: Mapping[str, Any]) -> tuple[Step, Run]:
    """What `start` gives, if that is a training."""
    try:
        found = start(**settings)
    except jax.errors.ConcretizationTypeError as error:
        error.add_note(
            "fn.sweep traces start: its settings are arrays without a value, so what decides a "
            "shape or a branch takes a sweep for each value"
        )
        raise
    pair = isinstance(found, tuple) and len(found) == 2
    if not pair or not callable(found[0]) or not dataclasses.is_dataclass(found[1]):
        raise TypeError(
            f"start must return (step, run), it returned {type(found).__name__}: write "
            "return fn.train_step(objective, optimizer), fn.Run.start(model, optimizer, x)"
        )
    return found


@quick_jit(DRAW, static_argnums=0)
def _runs(start: Start, grid: dict[str, Any]) -> Run:
    """The runs before their first step."""
    return jax.lax.map(lambda settings: _started(start, settings)[1], grid)


@quick_jit(STEP, static_argnums=(0, 1, 2, 3))
def _advance(
    way: str,
    start: Start,
    fetch: Callable,
    most: int,
    grid: dict[str, Any],
    runs: Run,
    source: Any,
    rows: Any,
    steps: Any,
) -> tuple[Run, Any, jax.Array]:
    """Some steps of every run: the runs, the metrics (R, most, ...), and which were taken."""

    def one(pair: tuple[dict[str, Any], Run]) -> tuple[Run, Any, jax.Array]:
        settings, run = pair
        step = jax.jit(_started(start, settings)[0])  # so that it is traced once for both uses
        given = jax.eval_shape(lambda run: step(run, fetch(source, rows, jnp.int32(0))), run)
        if not isinstance(given, tuple) or len(given) != 2:
            raise TypeError(f"a step must return (run, metrics), not {type(given).__name__}")
        blank = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), given[1])

        def body(i: jax.Array, carry: tuple) -> tuple:
            old, metrics, taken = carry
            run, found = step(old, fetch(source, rows, i))
            metrics = jax.tree.map(lambda all, one: all.at[i].set(one), metrics, found)
            return run, metrics, taken.at[i].set(run.step == old.step + 1)

        return jax.lax.fori_loop(0, steps, body, (run, blank, jnp.zeros(most, bool)))

    return (jax.vmap(one) if way == "vmap" else functools.partial(jax.lax.map, one))((grid, runs))


class Lines:
    """The metrics of all runs, added up to a line every so many steps."""

    def __init__(self, every: int):
        self.every, self.at = every, 0
        self.total: Any = None
        self.steps: list[int] = []
        self.lines: list[dict[str, np.ndarray]] = []

    def add(self, metrics: Any, steps: int) -> None:
        """Takes in metrics with leading axes of steps and runs."""
        done = 0
        while done < steps:
            take = min(steps - done, self.every - self.at % self.every)
            part = jax.tree.map(lambda x, a=done, n=take: x[a : a + n], metrics)
            self.total = summed(part, self.total)
            self.at, done = self.at + take, done + take
            if self.at % self.every == 0:
                self._close()

    def _close(self) -> None:
        with np.errstate(all="ignore"):  # of a run that diverged
            self.lines.append({name: np.asarray(m.value) for name, m in self.total.items()})
        self.steps.append(self.at)
        self.total = None

    def ended(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The steps behind each line, (L,), and the numbers by name, (R, L, ...)."""
        if self.total is not None:
            self._close()
        names = self.lines[0] if self.lines else {}
        numbers = {name: np.stack([line[name] for line in self.lines], 1) for name in names}
        return np.array(self.steps), numbers


class _Job:
    """A sweep under way."""

    def __init__(
        self,
        start: Start,
        grid: dict[str, np.ndarray],
        feed: Feed,
        bar: Progress,
        fuse: int | None,
        how: str,
        lines: Lines,
    ):
        self.start, self.grid, self.feed, self.bar = start, grid, feed, bar
        self.fuse, self.how, self.why, self.lines = fuse, how, "as asked for", lines
        self.refused = np.zeros(len(next(iter(grid.values()))), np.int64)

    def run_through(self, runs: Run) -> Run:
        """Takes all steps; the runs at the end."""
        at, steps, rate = 0, 1, 0.0
        while at < self.feed.stop:
            wanted = self.fuse or max(min(steps * 4, int(rate * SECONDS)), 1)
            first = self.how == "measure"
            wanted = MOST if first and not self.fuse else wanted
            given = self.feed.take(at, min(wanted, self.feed.stop - at))
            if first:
                self._choose(runs, given)
                rate = 1 / max(self.second, 1e-9)
            steps = given[2]
            begun = time.perf_counter()
            runs, metrics, taken = self._dispatch(self.how, runs, given, steps)
            rate = steps / max(time.perf_counter() - begun, 1e-9)
            at += steps
            self._told(metrics, np.asarray(taken)[:, :steps], at, steps)
        return runs

    def _dispatch(self, way: str, runs: Run, given: tuple, steps: int) -> tuple[Run, Any, Any]:
        source, rows, _ = given
        call = (way, self.start, self.feed.fetch, self.feed.most, self.grid, runs, source, rows)
        found = _advance(*call, np.int32(steps))
        wait(found[2])
        return found

    def _told(self, metrics: Any, taken: np.ndarray, at: int, steps: int) -> None:
        """Takes in what a dispatch gave."""
        self.refused = self.refused + (~taken).sum(1)
        swapped = jax.tree.map(lambda x: np.moveaxis(np.asarray(x)[:, :steps], 1, 0), metrics)
        with np.errstate(all="ignore"):
            self.lines.add(swapped, steps)
        self.bar.steps_taken(at, self.feed.epoch(at), lambda: {"runs": len(self.refused)})

    def _choose(self, runs: Run, given: tuple) -> None:
        """Times both ways on the first steps, whose results are thrown away."""
        seconds = functools.partial(self._seconds, runs=runs, given=given)
        compiling = seconds("vmap", steps=1)
        self.second = seconds("vmap", steps=1)
        left = self.second * self.feed.stop
        if len(self.refused) == 1 or left < compiling:
            self.how = "map" if len(self.refused) == 1 else "vmap"
            self.why = "there is one run" if len(self.refused) == 1 else "too short to time both"
        else:
            seconds("map", steps=1)
            most = min(given[2], self.feed.stop // PART)
            steps = max(min(most, int(TRIAL / max(self.second, 1e-9))), 1)
            turns = [[seconds(way, steps=steps) / steps for way in WAYS] for _ in range(ROUNDS)]
            vmap, mapped = np.min(turns, 0)
            self.how, self.second = ("vmap", vmap) if vmap <= mapped else ("map", mapped)
            self.why = f"a step of all runs takes {vmap:.2g} s by vmap, {mapped:.2g} s by map"
        if self.bar.on:
            self.bar.line(f"{len(self.refused)} runs by {self.how}: {self.why}")

    def _seconds(self, way: str, *, runs: Run, given: tuple, steps: int) -> float:
        begun = time.perf_counter()
        self._dispatch(way, runs, given, steps)
        return time.perf_counter() - begun
