"""`fit`: takes steps until a run has taken enough, keeps it safe, and tells what happens."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta as Time
from pathlib import Path
from typing import Any, Literal, NamedTuple

from funnet.checks import count
from funnet.data.batches import Batches
from funnet.train.archive import Archive, restored
from funnet.train.best import Best, Progress
from funnet.train.endings import closing, with_run
from funnet.train.environment import environment
from funnet.train.feed import Feed, Source, planned
from funnet.train.hooks import marked
from funnet.train.identity import beginning, identity
from funnet.train.log import Hook, Log
from funnet.train.loop import copied
from funnet.train.run import Run
from funnet.train.settings import plain_settings
from funnet.train.step import Step
from funnet.train.stops import Stops
from funnet.train.training import Plan, Training

OFTEN = Time(minutes=5)


def fit(
    step: Step,
    run: Run,
    batches: Batches | Source | None,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    validate: Callable[[Run], Mapping[str, Any]] | None = None,
    validate_every: int | None = None,
    best: Best | None = None,
    patience: int | None = None,
    folder: str | Path | None = None,
    save_every: int | Time = OFTEN,
    keep: int = 3,
    settings: Any = None,
    on_nonfinite: Literal["stop", "skip", "explain"] = "stop",
    on_save_error: Literal["stop", "continue"] = "stop",
    hooks: Iterable[Hook] = (),
    log_every: int = 100,
    progress: bool | None = None,
    fuse: int | None = None,
    thorough: bool = False,
) -> Run:
    """Takes steps until the run has taken `steps` in all, and returns the run.

    Step `i` gets `batches[i]`. Many steps go out in one dispatch, data that fits stays on the
    device, and the result is the same to the last bit however steps are fused or a training is
    cut: `fit(..., steps=100)` and then `fit(..., steps=200)` is `fit(..., steps=200)`. The `run`
    given stays valid.

    With a `folder` nothing is lost but the time since the last save. The same call made again, in
    another process after a crash too, goes on from the newest whole checkpoint there, bit for bit,
    or says that the training is finished. Ctrl-C and SIGTERM let the dispatch under way end, save,
    and then end the training as they usually would; a second Ctrl-C does not wait.

    Args:
        step: a pure function `(run, batch) -> (run, metrics)` that adds one to `run.step`, such as
            `train_step` makes; `run.next(...)` does it. It is jitted here.
        run: where to begin.
        batches: `fn.data.batches(...)`, or anything whose `[step]` is a dict of arrays; None for a
            step that makes its own data, of `run.key()`, and gets an empty dict.
        epochs: how often each example is to be seen in all, with `fn.data.batches`.
        steps: how many steps the run is to have taken in all; give this or `epochs`.
        validate: a function of the run that gives numbers to print and log.
        validate_every: steps between validations, by default an epoch; the last step has one too.
        best: `fn.highest(name)` or `fn.lowest(name)` of a validation's numbers. The checkpoint of
            the best one is kept; `fn.restore(folder, like=run, step="best")` reads it.
        patience: validations in a row without a better one that end the training early.
        folder: the run's folder, made if missing, for one process at a time: checkpoints, and
            `metrics.jsonl`, which grows by a line every `log_every` steps.
        save_every: steps, or a time, between checkpoints. The first and last step have one too.
        keep: how many checkpoints to keep beside the best one.
        settings: a dict or dataclass that the folder is to tell of.
        on_nonfinite: what a refused step (loss or gradient not finite) does: `"stop"` the training,
            be passed over (`"skip"`; the line in `metrics.jsonl` counts them), or stop it and
            `"explain"` which layer's output was the first that is not finite.
        on_save_error: whether a full disk, or a folder that is gone, is to `"stop"` the training or
            to let it `"continue"` with a warning.
        hooks: functions `(step, kind, numbers)` that are called with every line of the metrics.
        log_every: steps behind one line of `metrics.jsonl`.
        progress: whether to print progress to stderr; by default, but not under pytest.
        fuse: steps in one dispatch; by default as many as take a quarter of a second, and of slow
            ones up to four in up to three seconds.
        thorough: whether to compile with all that XLA:CPU does by itself, some of which seldom
            pays: it took a second more, and made the steps of a small transformer 5 % faster, those
            of a convolutional net no faster. Results differ by rounding.

    Raises:
        ValueError: if a step is refused (loss or gradient not finite, label out of range); the
            error names step and value. If the folder holds another training; the error lists what
            differs.
        BlockingIOError: if another process is writing into the folder.
        OSError: if the folder cannot be written.
        BaseException: whatever else goes wrong, Ctrl-C included. Every exception has the run as it
            then stood as its attribute `run`, and the folder has it as a checkpoint.
    """
    _check(on_nonfinite, on_save_error, validate, best, patience)
    _counts(log_every=log_every, fuse=1 if fuse is None else fuse, keep=keep)
    batches, stop = planned(batches, epochs, steps)
    every = _interval(batches, stop, validate, validate_every), _often(save_every)
    plan = Plan(stop, validate, *every, best, patience, on_nonfinite, fuse, thorough)
    run = copied(run)  # the caller's stays valid; this one is donated step by step
    if int(run.step) >= stop and (folder is None or not Path(folder).exists()):
        return run
    how = {"every": log_every, "progress": progress, "hooks": [marked(hook) for hook in hooks]}
    try:
        with contextlib.ExitStack() as stack:
            archive = None
            if folder is not None:
                facts = _facts(step, run, batches, settings)
                archive = Archive(Path(folder), facts, keep, on_save_error == "continue")
                stack.enter_context(archive)
            feed = stack.enter_context(closing(Feed(batches, stop)))
            begin = _taken_up(run, archive, feed)
            if archive is not None and begin.at < stop:
                _describe(archive, stop, batches, stack)
            stops = stack.enter_context(Stops())
            log = stack.enter_context(closing(_log(archive, begin, stop, how)))
            run = Training(step, *begin[:2], plan, feed, log, stops, archive).run_through()
    except BaseException as error:
        with_run(error, run)
        raise
    return run


def _facts(step: Step, run: Run, batches: Batches | Source, settings: Any) -> dict[str, Any]:
    """What this training is, for its folder."""
    return {
        "start": int(run.step),
        "begin": beginning(run),
        "identity": identity(step, run, batches),
        "settings": plain_settings(settings),
    }


class Begin(NamedTuple):
    """Where a training begins, or goes on."""

    run: Run
    progress: Progress
    log: dict[str, Any] | None  # the state of the log

    @property
    def at(self) -> int:
        """The steps that are behind it."""
        return int(self.run.step)


def _taken_up(run: Run, archive: Archive | None, feed: Feed) -> Begin:
    """The run as it was given, or as its folder has it."""
    at = int(run.step)
    found = None if archive is None else archive.last(at)
    if archive is None or found is None:
        return Begin(run, Progress(validated=at), None)
    if at < found.step or at == found.facts["start"]:
        run, at = restored(found, run), found.step
    if at > found.step:
        return Begin(run, Progress(validated=at), None)
    feed.seek(at, found.facts["position"])
    begin = Begin(run, Progress(**found.facts["progress"]), found.facts["log"])
    if begin.progress.validated < at:
        archive.writes(lambda: archive.forget_validation(at))
    return begin


def _describe(
    archive: Archive, stop: int, batches: Batches | Source, stack: contextlib.ExitStack
) -> None:
    """Writes down what is asked for, and where it runs; in the end, the report."""
    own = {name: archive.facts[name] for name in ("settings", "start")}
    facts = {
        **own,
        "steps": stop,
        "steps_per_epoch": _epoch(batches),
        "step": archive.facts["identity"]["step"],
    }
    archive.writes(lambda: archive.describe({**facts, "environment": environment()}))
    stack.callback(archive.show)  # when the log has written its last line


def _log(archive: Archive | None, begin: Begin, stop: int, how: dict[str, Any]) -> Log:
    """The log, without a file where none can be written and that is to be no matter."""
    log = functools.partial(Log, start=begin.at, steps=stop, resumed=begin.log, **how)
    if archive is None:
        return log(None)
    return archive.writes(lambda: log(archive.folder)) or log(None)


def _often(save_every: int | Time) -> int | Time:
    """The steps, or the time, between checkpoints."""
    if isinstance(save_every, Time):
        if save_every <= Time():
            raise ValueError(f"save_every must be a time above zero, got {save_every}")
        return save_every
    if isinstance(save_every, float):
        raise TypeError(
            f"save_every must be a number of steps or a datetime.timedelta, got {save_every}: "
            f"write timedelta(seconds={save_every})"
        )
    count("save_every", save_every)
    return save_every


def _check(on_nonfinite: str, on_save_error: str, validate: Any, best: Any, patience: Any) -> None:
    choices = {"on_nonfinite": ("stop", "skip", "explain"), "on_save_error": ("stop", "continue")}
    given = {"on_nonfinite": on_nonfinite, "on_save_error": on_save_error}
    for name, value in given.items():
        if value not in choices[name]:
            raise ValueError(f"{name} must be one of {', '.join(choices[name])}, got {value!r}")
    if best is not None and (not isinstance(best, Best) or validate is None):
        raise ValueError(
            f"best needs validate, and to be fn.highest(name) or fn.lowest(name), got {best!r}"
        )
    if patience is not None:
        count("patience", patience)
        if best is None:
            raise ValueError("patience needs best, to know which validation is better")


def _counts(**numbers: int) -> None:
    for name, number in numbers.items():
        count(name, number)


def _interval(batches: Batches | Source, stop: int, validate: Any, every: int | None) -> int:
    """The steps between validations: an epoch unless said otherwise."""
    if every is not None:
        count("validate_every", every)
    if validate is None:
        return max(stop, 1)
    return every or _epoch(batches) or max(stop, 1)


def _epoch(batches: Batches | Source) -> int | None:
    """The steps of an epoch, of batches that know."""
    return batches.steps(1) if hasattr(batches, "steps") else None  # type: ignore[union-attr]
