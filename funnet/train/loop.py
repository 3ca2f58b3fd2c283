"""The loop: many steps in one dispatch, with the run left whole whatever happens.

One compiled program takes up to `most` steps; how many is an argument, so there is one compilation
however a training is cut, and the same machine code runs each step: results do not depend on the
fusing. The program stops before the first step after one that was refused, so the run that comes
back is the run before the trouble.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funnet.compiling import STEP, quick_jit
from funnet.train.feed import Feed
from funnet.train.run import Run
from funnet.train.step import Step
from funnet.train.stops import wait

SECONDS = 0.25  # that it should take: long enough to cost nothing, short enough to watch


class Chunk(NamedTuple):
    """Some steps tried in one dispatch: their metrics, with a leading axis of steps."""

    start: int
    metrics: dict[str, Any]
    refused: np.ndarray  # (steps,) bool: which of them were not taken

    @property
    def end(self) -> int:
        """The step after the last one that was tried."""
        return self.start + len(self.refused)


@quick_jit(STEP, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _advance(
    step: Step,
    fetch: Callable,
    most: int,
    skip: bool,
    run: Run,
    source: Any,
    rows: Any,
    stop: jax.Array,
) -> tuple[Run, Any, tuple[jax.Array, jax.Array]]:
    """Steps from `run.step` on, until `stop` of them (at most `most`) are tried, or one is refused.

    With `skip` a refused step counts as taken, and the next one is tried. Gives the run, the
    metrics of each step tried, which were refused, and how many were tried.
    """
    step = jax.jit(step)  # so that it is traced once for both uses below
    given = jax.eval_shape(lambda run: step(run, fetch(source, rows, jnp.int32(0))), run)
    if not isinstance(given, tuple) or len(given) != 2:
        raise TypeError(f"a step must return (run, metrics), it returned {type(given).__name__}")
    blank = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), given[1])

    def going(carry: tuple) -> jax.Array:
        _, _, refused, tried = carry
        return (tried < stop) & (skip | ~refused[jnp.maximum(tried - 1, 0)])

    def body(carry: tuple) -> tuple:
        run, metrics, refused, tried = carry
        next_step = run.step + 1
        run, found = step(run, fetch(source, rows, tried))
        refused = refused.at[tried].set(run.step != next_step)
        run = dataclasses.replace(run, step=next_step) if skip else run
        metrics = jax.tree.map(lambda all, one: all.at[tried].set(one), metrics, found)
        return run, metrics, refused, tried + 1

    begin = (run, blank, jnp.zeros(most, bool), jnp.int32(0))
    run, metrics, refused, tried = jax.lax.while_loop(going, body, begin)
    return run, metrics, (refused, tried)


def copied(run: Run) -> Run:
    """The run in buffers of its own; a transfer, where `jnp.copy` would compile for each shape."""
    return jax.device_put(run, may_alias=False)


def with_run(error: BaseException, run: Run) -> BaseException:
    """The error, with the run as it stands as its attribute `run`, so that no training is lost."""
    if not hasattr(error, "run"):
        error.run = run  # type: ignore[attr-defined]
        error.add_note("the run as it was before this is the attribute run of this exception")
    return error


def advance(
    step: Step, run: Run, feed: Feed, stop: int, fuse: int | None, skip: bool = False
) -> Iterator[tuple[Run, Chunk]]:
    """Takes steps until `run.step` is `stop`; yields `(run, chunk)` after each dispatch.

    The run that is yielded is lent until the next one is asked for, which donates its buffers.
    With `skip` refused steps are passed over, else the first one is the last.
    """
    at, steps, rate = int(run.step), 1, 0.0
    while at < stop:
        steps = fuse or max(min(steps * 4, int(rate * SECONDS)), 1)
        source, rows, steps = feed.take(at, min(steps, stop - at))
        begun, many = time.perf_counter(), np.int32(steps)
        try:
            run, metrics, (refused, tried) = _advance(
                step, feed.fetch, feed.most, skip, run, source, rows, many
            )
            wait(tried)
        except KeyboardInterrupt as interrupt:
            raise with_run(interrupt, run) from None
        rate, count = steps / max(time.perf_counter() - begun, 1e-9), int(tried)
        taken = jax.tree.map(lambda x, n=count: np.asarray(x)[:n], metrics)
        yield run, (chunk := Chunk(at, taken, np.asarray(refused)[:count]))
        at = chunk.end
        if chunk.refused[-1] and not skip:
            return
