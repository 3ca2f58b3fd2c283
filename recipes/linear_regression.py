"""Linear regression, the whole of funnet in one page: layer, model, objective, step, run, loop.

    python -m recipes.linear_regression
    python -m recipes.linear_regression --check

Claim: it recovers the line y = 2x + 3 from 100 noiseless points to 1e-3, from any seed, in 500
steps, which take 1.5 s of one x86 server core, imports and compilation included.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import optax
import tyro

import funnet as fn


@dataclasses.dataclass
class Settings:
    """How to fit the line."""

    steps: int = 500
    learning_rate: float = 0.1
    seed: int = 0
    folder: Path | None = None  # keep the run here, and go on from what is here
    check: bool = False  # fail unless the line is recovered
    cache: Path | None = None  # keep compilations in this folder, for the next time


@fn.layer
def line(p: fn.Scope, x: jax.Array) -> jax.Array:
    """The line `y = kernel x + bias`."""
    return fn.dense(p["line"], x, 1)


def main(settings: Settings) -> tuple[float, float]:
    """Fits the line; returns its slope and intercept."""
    if settings.cache is not None:
        fn.cache_compilations(settings.cache)
    x = np.linspace(-1, 1, 100, dtype=np.float32)[:, None]
    data = {"input": x, "target": 2 * x + 3}

    model = fn.Model(line)
    objective = fn.regression(model)
    optimizer = optax.sgd(settings.learning_rate)
    run = fn.Run.start(model, optimizer, x, seed=settings.seed)
    step = fn.train_step(objective, optimizer)
    batches = fn.data.batches(data, len(x), seed=settings.seed)
    run = fn.fit(step, run, batches, steps=settings.steps, folder=settings.folder)

    slope, intercept = run.params["line"]["kernel"].item(), run.params["line"]["bias"].item()
    print(
        f"y = {slope:.4f} x + {intercept:.4f}, loss {fn.evaluate(objective, run, data)['loss']:.2e}"
    )
    if settings.check:
        fn.claim(
            "slope's and intercept's error", max(abs(slope - 2), abs(intercept - 3)), at_most=1e-3
        )
    return slope, intercept


if __name__ == "__main__":
    main(tyro.cli(Settings))
