"""What to say of a step that was refused, once it is known which and in what."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funnet.train.feed import Feed
from funnet.train.log import summed, values
from funnet.train.loop import Chunk
from funnet.train.run import Run
from funnet.train.step import Step


def refusal(step: Step, run: Run, feed: Feed, chunk: Chunk, why: bool) -> ValueError:
    """The error of a chunk's last step, which is taken once more without jit to see what is wrong.

    Whatever goes wrong on the way, it is the refusal that is told.

    Args:
        step: the training's step.
        run: the run as it was before that step.
        feed: gives the step's batch, which the error carries as its attribute `batch`.
        chunk: the steps that were tried, the last of which was refused.
        why: whether to find out which layer's output was the first that is not finite.
    """
    bad, batch, cause, found = unsound(chunk, -1), None, None, ""
    what = ", ".join(bad) or "it returned a run whose step is no later (return run.next(...))"
    with contextlib.suppress(Exception):
        batch = feed.batch(chunk.end - 1)
        cause = _replayed(step, run, batch)
        found = f". {_explained(step, run, batch)}" if why and bad else ""
    because = f", because {cause}" if cause else ""
    error = ValueError(f"step {chunk.end - 1} was refused: {what}{because}{found}")
    error.__cause__ = cause
    error.batch = batch  # type: ignore[attr-defined]
    if bad and not why:
        error.add_note("fit(..., on_nonfinite='explain') names the layer where it began")
    return error


def _explained(step: Step, run: Run, batch: Mapping[str, Any]) -> str:
    from funnet.train.explain import explain  # seldom needed, and not small

    try:
        return str(explain(step, run, batch))
    except Exception as error:
        return f"Where it began could not be found ({type(error).__name__}: {error})"


def unsound(chunk: Chunk, i: int) -> list[str]:
    """The metrics of one step that are not finite, as text."""
    numbers = values(summed(jax.tree.map(lambda x: x[i][None], chunk.metrics)))
    return [f"{name} is {value}" for name, value in numbers.items() if not np.isfinite(value).all()]


def _replayed(step: Step, run: Run, batch: Mapping[str, Any]) -> Exception | None:
    """What an eager step raises, where labels and ids are checked by value."""
    try:
        step(run, jax.tree.map(jnp.asarray, dict(batch)))
    except Exception as error:  # whatever it is, it must not hide the refusal
        return error if isinstance(error, ValueError | TypeError) else None
    return None
