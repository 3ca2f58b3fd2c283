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
from funnet.train.endings import with_run
from funnet.train.feed import Feed
from funnet.train.run import Run
from funnet.train.step import Step
from funnet.train.stops import wait

SECONDS = 0.25  # that it should take: long enough to cost nothing, short enough to watch
SLOW, PATIENCE = 4, 3.0  # of slow steps so many, if they take no more seconds: their buffers are
# got from the system, page by page, at every dispatch (a third of the time of a small decoder)


class Chunk(NamedTuple):
    """Some steps tried in one dispatch: their metrics, with a leading axis of steps."""

    start: int
    metrics: dict[str, Any]
    refused: np.ndarray  # (steps,) bool: which of them were refused
    row: int = 0  # how many were refused in a row, up to the last

    @property
    def end(self) -> int:
        """The step after the last one that was tried."""
        return self.start + len(self.refused)


def _advance(
    step: Step,
    fetch: Callable,
    most: int,
    refusals: int,
    run: Run,
    source: Any,
    rows: Any,
    stop: jax.Array,
    row: jax.Array,
) -> tuple[Run, Any, tuple[jax.Array, jax.Array, jax.Array]]:
    """Steps from `run.step` on, until `stop` of them (at most `most`) are tried.

    Or until `refusals` in a row were refused, of which `row` were before; where that is more than
    one, a refused step counts as taken, and the next one is tried. Gives the run, the metrics of
    each step tried, which were refused, how many were tried, and how many of the last refused.
    """
    step = jax.jit(step)  # so that it is traced once for both uses below
    given = jax.eval_shape(lambda run: step(run, fetch(source, rows, jnp.int32(0))), run)
    if not isinstance(given, tuple) or len(given) != 2:
        raise TypeError(f"a step must return (run, metrics), it returned {type(given).__name__}")
    blank = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), given[1])

    def going(carry: tuple) -> jax.Array:
        *_, tried, row = carry
        return (tried < stop) & (row < refusals)

    def body(carry: tuple) -> tuple:
        run, metrics, refused, tried, row = carry
        last, next_step = run.step, run.step + 1
        run, found = step(run, fetch(source, rows, tried))
        taken, stayed = run.step == next_step, run.step == last
        row = jnp.where(taken, 0, jnp.where(stayed, row + 1, refusals))  # none that jumps is passed
        run = dataclasses.replace(run, step=next_step) if refusals > 1 else run
        metrics = jax.tree.map(lambda all, one: all.at[tried].set(one), metrics, found)
        return run, metrics, refused.at[tried].set(~taken), tried + 1, row

    begin = (run, blank, jnp.zeros(most, bool), jnp.int32(0), row)
    run, metrics, *counts = jax.lax.while_loop(going, body, begin)
    return run, metrics, (counts[0], counts[1], counts[2])


HOW: dict[str, Any] = {"static_argnums": (0, 1, 2, 3), "donate_argnums": 4}
QUICK, THOROUGH = (quick_jit(options, **HOW)(_advance) for options in (STEP, {}))


def _fusing(rate: float) -> int:
    """How many steps to fuse at so many steps a second."""
    return max(int(rate * SECONDS), min(SLOW, int(rate * PATIENCE)))


def copied(run: Run) -> Run:
    """The run in buffers of its own; a transfer, where `jnp.copy` would compile for each shape."""
    return jax.device_put(run, may_alias=False)


def advance(
    step: Step,
    run: Run,
    feed: Feed,
    stop: int,
    fuse: int | None,
    refusals: int = 1,
    row: int = 0,
    thorough: bool = False,
) -> Iterator[tuple[Run, Chunk]]:
    """Takes steps until `run.step` is `stop`; yields `(run, chunk)` after each dispatch.

    The run that is yielded is lent until the next one is asked for, which donates its buffers.
    The first step that is refused is the last; where `refusals` is more than one, it is passed over
    unless that many are refused in a row, the `row` before included. `thorough` is as in `fit`.
    """
    at, steps, rate = int(run.step), 1, 0.0
    program = THOROUGH if thorough else QUICK
    while at < stop:
        steps = fuse or max(min(steps * 4, _fusing(rate)), 1)
        source, rows, steps = feed.take(at, min(steps, stop - at))
        begun, how = time.perf_counter(), (np.int32(steps), np.int32(row))
        try:
            run, metrics, counts = program(
                step, feed.fetch, feed.most, refusals, run, source, rows, *how
            )
            wait(counts[1])
            rate = steps / max(time.perf_counter() - begun, 1e-9)
            refused, tried, row = np.asarray(counts[0]), int(counts[1]), int(counts[2])
            taken = jax.tree.map(lambda x, n=tried: np.asarray(x)[:n], metrics)
        except BaseException as error:
            with_run(error, run)  # as it comes out of the dispatch, if that has begun
            raise
        yield run, (chunk := Chunk(at, taken, refused[:tried], row))
        at = chunk.end
        if row >= refusals:
            return
