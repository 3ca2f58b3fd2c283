"""`fit`: takes steps until a run has taken enough, and tells what happens."""

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funnet.checks import count
from funnet.data.batches import Batches
from funnet.train.checkpoint import save
from funnet.train.log import Log, summed, values
from funnet.train.loop import Chunk, Feed, Source, advance, copied, with_run
from funnet.train.run import Run
from funnet.train.step import Step


def fit(
    step: Step,
    run: Run,
    batches: Batches | Source,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    validate: Callable[[Run], Mapping[str, Any]] | None = None,
    validate_every: int | None = None,
    folder: str | Path | None = None,
    log_every: int = 100,
    progress: bool | None = None,
    fuse: int | None = None,
) -> Run:
    """Takes steps until the run has taken `steps` in all, and returns the run.

    Step `i` gets `batches[i]`. Many steps go out in one dispatch, data that fits stays on the
    device, and the result is the same to the last bit however steps are fused or a training is
    cut: `fit(..., steps=100)` and then `fit(..., steps=200)` is `fit(..., steps=200)`. The `run`
    given stays valid.

    Args:
        step: a pure function `(run, batch) -> (run, metrics)` that adds one to `run.step`, such as
            `train_step` makes; `run.next(...)` does it. It is jitted here.
        run: where to begin.
        batches: `fn.data.batches(...)`, or anything whose `[step]` is a dict of arrays.
        epochs: how often each example is to be seen in all, with `fn.data.batches`.
        steps: how many steps the run is to have taken in all; give this or `epochs`.
        validate: a function of the run that gives numbers to print and log.
        validate_every: steps between validations, by default an epoch; the last step has one too.
        folder: the run's folder, made if missing; `metrics.jsonl` in it grows, and a training that
            ends in an exception leaves its run there as `interrupted.safetensors`.
        log_every: steps behind one line of `metrics.jsonl`.
        progress: whether to print progress to stderr; by default yes, unless under pytest.
        fuse: steps in one dispatch; by default as many as take about a quarter of a second.

    Raises:
        ValueError: if a step is refused (loss or gradient not finite, label out of range); the
            error names step and value.
        BaseException: whatever else goes wrong, Ctrl-C included. Every exception has the run as it
            then stood as its attribute `run`: before the step that was refused, or after the last.
    """
    count("log_every", log_every)
    count("fuse", 1 if fuse is None else fuse)
    stop, at = _last_step(batches, epochs, steps), int(run.step)
    run = copied(run)  # the caller's stays valid; this one is donated step by step
    if at >= stop:
        return run
    feed = Feed(batches)
    place = Path(folder) if folder is not None else None
    targets = _targets(at, stop, _interval(batches, stop, validate, validate_every))
    with Log(place, at, stop, every=log_every, progress=progress) as log:
        try:
            for target in targets:
                for run, chunk in advance(step, run, feed, target, fuse):  # noqa: B020
                    taken = chunk.steps - chunk.refused
                    log.steps_taken(
                        chunk.start, taken, chunk.metrics, _epoch(batches, chunk.start + taken)
                    )
                    if chunk.refused:
                        raise _refusal(step, run, batches, chunk)
                if validate is not None:  # of a copy, which may be kept
                    log.entry(target, "validation", validate(copied(run)))
        except BaseException as error:
            raise _kept(with_run(error, run), place) from error.__cause__
    return run


def _kept(error: BaseException, folder: Path | None) -> BaseException:
    """The error, its run saved where the training has a folder, and a note that says so."""
    if folder is not None:
        path = folder / "interrupted.safetensors"
        with contextlib.suppress(OSError, RuntimeError, TypeError, ValueError):
            save(path, error.run)  # type: ignore[attr-defined]
            error.add_note(f"and is saved: fit goes on from fn.load({str(path)!r}, like=run)")
    return error


def _last_step(batches: Batches | Source, epochs: float | None, steps: int | None) -> int:
    if isinstance(batches, Mapping):
        raise TypeError(
            "batches is a dict: write fn.data.batches(data, size) to cut it into batches"
        )
    if (epochs is None) == (steps is None):
        raise ValueError(f"give fit either epochs or steps, got epochs={epochs!r}, steps={steps!r}")
    if steps is None and not isinstance(batches, Batches):
        raise ValueError("epochs needs batches of fn.data.batches; give steps for another source")
    if steps is not None and not isinstance(steps, int | np.integer):
        raise TypeError(f"steps must be an integer, got {steps!r}; write int(steps)")
    if epochs is not None and not epochs < math.inf:
        raise ValueError(f"epochs must be a finite number, got {epochs}")
    if (steps or epochs or 0) < 0:
        raise ValueError(f"steps and epochs must not be negative, got {steps or epochs} steps")
    return (
        batches.steps(epochs) if isinstance(batches, Batches) and epochs is not None else steps or 0
    )


def _interval(batches: Batches | Source, stop: int, validate: Any, every: int | None) -> int:
    """The steps between validations: an epoch unless said otherwise."""
    if every is not None:
        count("validate_every", every)
    if validate is None:
        return stop
    return every or (batches.steps(1) if isinstance(batches, Batches) else stop)


def _targets(at: int, stop: int, every: int) -> list[int]:
    """The steps to pause at: each multiple of `every`, and the last."""
    return [*range((at // every + 1) * every, stop, every), stop]


def _epoch(batches: Batches | Source, step: int) -> float | None:
    return step * batches.size / batches.examples if isinstance(batches, Batches) else None


def _refusal(step: Step, run: Run, batches: Batches | Source, chunk: Chunk) -> ValueError:
    """The error of a refused step, which is taken once more without jit to see what is wrong."""
    at = chunk.start + chunk.steps - 1
    numbers = values(summed(jax.tree.map(lambda x: x[-1:], chunk.metrics)))
    bad = [f"{name} is {value}" for name, value in numbers.items() if not np.isfinite(value).all()]
    what = ", ".join(bad) or "it returned a run whose step is no later (return run.next(...))"
    cause = _replayed(step, run, batches[at])
    because = f", because {cause}" if cause else ""
    error = ValueError(f"step {at} was refused: {what}{because}")
    error.__cause__ = cause
    return error


def _replayed(step: Step, run: Run, batch: Mapping[str, Any]) -> Exception | None:
    """What an eager step raises, where labels and ids are checked by value."""
    try:
        step(run, jax.tree.map(jnp.asarray, dict(batch)))
    except Exception as error:  # whatever it is, it must not hide the refusal
        return error if isinstance(error, ValueError | TypeError) else None
    return None
