"""Sixteen small MLPs: a sweep beside a loop of jitted steps, and beside scans one after another.

python -m benchmarks.sweep

Each round trains the same sixteen runs in every way, compiled before; CPU seconds.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

import funnet as fn

STEPS, BATCH, ROUNDS = 200, 64, 3
WIDTHS = (32, 128, 256)


def training(width: int, images: np.ndarray) -> Callable[..., Any]:
    """The start of a training of a net with two hidden layers of a width."""
    model = fn.Model(fn.models.mlp, widths=(width, width, 10))
    objective = fn.classification(model)

    def start(seed: Any, learning_rate: Any) -> Any:
        optimizer = optax.adam(learning_rate)
        run = fn.Run.start(model, optimizer, images[:1], seed=seed)
        return fn.train_step(objective, optimizer), run

    return start


def loop(trainings: list[Any], batches: Any) -> None:
    """One jitted step after another, for one run after another."""
    for step, run in trainings:
        for i in range(STEPS):
            run, _ = step(run, batches[i])
        jax.block_until_ready(run)


def scans(trainings: list[Any], batches: Any) -> None:
    """One `fit` after another."""
    for step, run in trainings:
        fn.fit(step, run, batches, steps=STEPS, progress=False)


def ways(start: Callable[..., Any], batches: Any) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    seeds, rates = range(4), [1e-4, 3e-4, 1e-3, 3e-3]
    step, _ = start(0, 1e-3)  # one rate for the loop and the scans, so that they compile once
    runs = [start(seed, rate)[1] for seed in seeds for rate in rates]
    jitted = jax.jit(step)
    how = {"steps": STEPS, "seed": seeds, "learning_rate": rates, "progress": False}
    return {
        "loop": lambda: loop([(jitted, run) for run in runs], batches),
        "scans": lambda: scans([(step, run) for run in runs], batches),
        "vmap": lambda: fn.sweep(start, batches, how="vmap", **how),
        "map": lambda: fn.sweep(start, batches, how="map", **how),
        "sweep": lambda: fn.sweep(start, batches, **how),
    }


def timed(width: int, batches: Any) -> None:
    """Prints a line for a width: medians of the ratios to the loop and to the scans."""
    todo = ways(training(width, batches.data["image"]), batches)
    chosen = todo["sweep"]().how
    seconds: dict[str, list[float]] = {name: [] for name in todo}
    for turn in range(ROUNDS + 1):
        for name, do in todo.items():
            begun = time.process_time()
            do()
            if turn:  # the first compiles
                seconds[name].append(time.process_time() - begun)
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    print(
        f"width {width}, chosen {chosen}: "
        + ", ".join(
            f"{name} {x:.2f} s ({middle['loop'] / x:.2f} of the loop, "
            f"{middle['scans'] / x:.2f} of the scans)"
            for name, x in middle.items()
        ),
        flush=True,
    )


def main() -> None:
    """Times all widths."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4096, 64)).astype(np.float32)
    data = {"image": images, "label": rng.integers(0, 10, 4096).astype(np.int32)}
    for width in WIDTHS:
        timed(width, fn.data.batches(data, BATCH))


if __name__ == "__main__":
    main()
