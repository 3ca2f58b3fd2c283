"""The loop: many steps in one dispatch, with the run left whole whatever happens.

One compiled program takes up to `most` steps; how many is an argument, so there is one compilation
however a training is cut, and the same machine code runs each step: results do not depend on the
fusing. The program stops before the first step after one that was refused, so the run that comes
back is the run before the trouble.
"""

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

SECONDS = 0.25  # that it should take: long enough to cost nothing, short enough to watch


class Chunk(NamedTuple):
    """Some steps taken in one dispatch: their metrics, with a leading axis of steps."""

    start: int
    steps: int
    metrics: dict[str, Any]
    refused: bool  # the last of the steps was not taken


@quick_jit(STEP, static_argnums=(0, 1, 2), donate_argnums=3)
def _advance(
    step: Step, fetch: Callable, most: int, run: Run, source: Any, rows: Any, stop: jax.Array
) -> tuple[Run, Any, jax.Array]:
    """Steps from `run.step` on, until `stop` of them (at most `most`) are tried, or one is refused.

    Gives the run, the metrics of each step tried, and three numbers: the first step, how many were
    tried, and the step reached.
    """
    start, step = run.step, jax.jit(step)  # jitted, so that it is traced once for both uses below
    given = jax.eval_shape(lambda run: step(run, fetch(source, rows, jnp.int32(0))), run)
    if not isinstance(given, tuple) or len(given) != 2:
        raise TypeError(f"a step must return (run, metrics), it returned {type(given).__name__}")
    shapes = given[1]
    blank = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), shapes)

    def going(carry: tuple) -> jax.Array:
        run, _, tried = carry
        return (tried < stop) & (run.step == start + tried)

    def body(carry: tuple) -> tuple:
        run, metrics, tried = carry
        run, found = step(run, fetch(source, rows, tried))
        metrics = jax.tree.map(lambda all, one: all.at[tried].set(one), metrics, found)
        return run, metrics, tried + 1

    run, metrics, tried = jax.lax.while_loop(going, body, (run, blank, jnp.int32(0)))
    return run, metrics, jnp.stack([start, tried, run.step])


def copied(run: Run) -> Run:
    """The run in buffers of its own; a transfer, where `jnp.copy` would compile for each shape."""
    return jax.device_put(run, may_alias=False)


def with_run(error: BaseException, run: Run) -> BaseException:
    """The error, with the run as it stands as its attribute `run`, so that no training is lost."""
    if not hasattr(error, "run"):
        error.run = run  # type: ignore[attr-defined]
        error.add_note("the run as it was before this is the attribute run of this exception")
    return error


def advance(step: Step, run: Run, feed: Feed, stop: int, fuse: int | None) -> Iterator[tuple]:
    """Takes steps until `run.step` is `stop`; yields `(run, chunk)` after each dispatch.

    The run that is yielded is lent until the next one is asked for, which donates its buffers.
    """
    at, steps, rate = int(run.step), 1, 0.0
    while at < stop:
        steps = fuse or max(min(steps * 4, int(rate * SECONDS)), 1)
        source, rows, steps = feed.take(at, min(steps, stop - at))
        begun, many = time.perf_counter(), np.int32(steps)
        try:
            run, metrics, where = _advance(step, feed.fetch, feed.most, run, source, rows, many)
            start, tried, reached = np.asarray(where).tolist()
        except KeyboardInterrupt as interrupt:
            raise with_run(interrupt, run) from None
        rate, at = steps / max(time.perf_counter() - begun, 1e-9), reached
        taken = jax.tree.map(lambda x, n=tried: np.asarray(x)[:n], metrics)
        yield run, Chunk(start, tried, taken, refused := reached != start + tried)
        if refused:
            return
