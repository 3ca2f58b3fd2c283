"""What saving costs a training: one of 20 MB saved every 2 seconds, and one not saved, interleaved.

python -m benchmarks.saving

Both have a folder, with a checkpoint at the first and at the last step. On a machine that does
other things besides, the training gets less of it, and the share is greater.
"""

import os
import statistics
import tempfile
import time
from datetime import timedelta
from typing import Any

import jax
import numpy as np
import optax

import funnet as fn

ROUNDS, SECONDS, EVERY, BATCH = 7, 10.0, timedelta(seconds=2), 64
WIDTH = 1300  # with Adam's moments 20 MB


@fn.layer
def mlp(p: fn.Scope, x: jax.Array) -> jax.Array:
    """Three dense layers."""
    x = fn.relu(fn.dense(p["hidden1"], x, WIDTH))
    return fn.dense(p["out"], fn.relu(fn.dense(p["hidden2"], x, 256)), 10)


def spent(train: Any, steps: int) -> dict[str, float]:
    """Seconds on the clock, and of all cores, for each step."""
    wall, cpu = time.perf_counter(), time.process_time()
    train(steps)
    return {
        "wall": (time.perf_counter() - wall) / steps,
        "cpu": (time.process_time() - cpu) / steps,
    }


def main() -> None:
    """Prints the median ratios of a saved to an unsaved training, and the range of the rounds."""
    rng = np.random.default_rng(0)
    data = {"image": rng.normal(size=(4096, 1024)), "label": rng.integers(0, 10, 4096)}
    batches, model, optimizer = fn.data.batches(data, BATCH), fn.Model(mlp), optax.adam(1e-3)
    step = fn.train_step(fn.classification(model), optimizer)
    run = fn.Run.start(model, optimizer, batches.data["image"][:1])
    size = sum(x.nbytes for x in jax.tree.leaves(run)) / 1e6

    def fitted(steps: int, every: timedelta) -> Any:
        with tempfile.TemporaryDirectory(dir=os.environ.get("FUNNET_BENCHMARK_FOLDER")) as folder:
            how = {"folder": folder, "save_every": every, "progress": False}
            return fn.fit(step, run, batches, steps=steps, **how)

    def plain(steps: int) -> Any:
        return fitted(steps, timedelta(hours=1))

    def saved(steps: int) -> Any:
        return fitted(steps, EVERY)

    plain(100)  # which compiles
    steps = int(SECONDS / spent(plain, 200)["wall"])
    saved(10)
    rounds: dict[str, list[float]] = {"wall": [], "cpu": []}
    for turn in range(ROUNDS):
        order = (saved, plain) if turn % 2 else (plain, saved)
        found = {train: spent(train, steps) for train in order}
        for clock, ratios in rounds.items():
            ratios.append(found[saved][clock] / found[plain][clock])
    print(f"a run of {size:.0f} MB, {steps} steps in about {SECONDS:.0f} s, saved every {EVERY}")
    for clock, ratios in rounds.items():
        print(
            f"saved / not saved, {clock}: median {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f} over {ROUNDS} rounds)"
        )


if __name__ == "__main__":
    main()
