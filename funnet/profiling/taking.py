"""A training step compiled as `fit` compiles it, to be taken again and again and timed.

It is in a loop, its run donated, with the same options. The loop may turn any number of times in
a dispatch, so a step of microseconds is timed as it is taken in a training, without the cost of a
dispatch for each.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funnet.compiling import STEP, quick_jit

DISPATCH = 0.02  # seconds that a dispatch is to take: beside it, dispatching costs nothing
MOST = 10_000  # steps in a dispatch
MODULE = "jit_profiled"  # what the compiled program is called, after the function below
PRODUCT = (256, 8192)  # the least and the greatest size of the product that shows the peak


@dataclasses.dataclass
class Taken:
    """A step compiled as `fit` compiles it, and the run that it is taken from."""

    compiled: Any
    run: Any
    batch: Any
    seconds: float = 0.0  # of a step, roughly

    @classmethod
    def of(cls, step: Callable, run: Any, batch: Any) -> "Taken":
        """Compiles the step; each dispatch donates the run, this one to begin with."""
        taken = cls(None, run, batch)
        jitted = quick_jit(STEP, donate_argnums=0, **_kept(taken.run))(_steps(step)).quick
        taken.compiled = jitted.lower(taken.run, batch, np.int32(1)).compile()
        taken.take(1)  # the first may be slower
        taken.seconds = taken.take(1)
        taken.seconds = taken.take(taken.steps(DISPATCH)) / taken.steps(DISPATCH)
        return taken

    def steps(self, seconds: float) -> int:
        """How many steps take so long."""
        return int(min(max(seconds / max(self.seconds, 1e-9), 1), MOST))

    def take(self, steps: int) -> float:
        """Takes steps in one dispatch; gives the seconds of all."""
        begun = time.perf_counter()
        self.run, metrics = self.compiled(self.run, self.batch, np.int32(steps))
        jax.block_until_ready((self.run, metrics))
        return time.perf_counter() - begun

    def timed(self, repeats: int) -> list[float]:
        """Seconds of a step, from several dispatches."""
        steps = self.steps(DISPATCH)
        return [self.take(steps) / steps for _ in range(repeats)]


def _steps(step: Callable) -> Callable:
    """A function of run, batch and a number of steps, which takes them in a loop."""
    step = jax.jit(step)

    def profiled(run: Any, batch: Any, steps: jax.Array) -> tuple[Any, Any]:
        metrics = jax.eval_shape(step, run, batch)[1]
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)

        def body(carry: tuple) -> tuple:
            run, _, taken = carry
            # Else what depends on the batch alone might be computed but once, before the loop.
            here, taken = jax.lax.optimization_barrier((batch, taken))
            return *step(run, here), taken + 1

        carry = (run, blank, jnp.int32(0))
        return jax.lax.while_loop(lambda carry: carry[2] < steps, body, carry)[:2]

    return profiled


def _kept(run: Any) -> dict[str, Any]:
    """Settings of `jax.jit` that have the run come back spread over devices as it was."""
    shardings = jax.tree.map(lambda x: x.sharding, run)
    several = any(len(s.device_set) > 1 for s in jax.tree.leaves(shardings))
    return {"out_shardings": (shardings, None)} if several else {}


def peak(dtype: str, device: Any) -> float:
    """Operations a second of a large matrix product, measured.

    The best of a few, and of a product that is large enough for the device.
    """
    size, seconds = PRODUCT[0] // 2, 0.0
    while seconds < DISPATCH and size < PRODUCT[1]:
        size *= 2
        matrix = jax.device_put(jnp.ones((size, size), dtype), device)
        product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
        seconds = min(_seconds(product, matrix) for _ in range(6))
    return 2 * size**3 / seconds


def _seconds(product: Callable, matrix: Any) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(product(matrix, matrix))
    return time.perf_counter() - begun
