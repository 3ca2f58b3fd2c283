"""What a frozen trunk saves: time and memory of a CNN's steps with its trunk frozen and without.

python -m benchmarks.freeze
"""

import statistics
import time
from typing import Any

import jax
import numpy as np
import optax

import funnet as fn

ROUNDS, STEPS, BATCH = 9, 10, 64


@fn.layer
def trunk(p: fn.Scope, x: jax.Array) -> jax.Array:
    """Two convolutions, two pools."""
    x = fn.max_pool(fn.relu(fn.conv(p["conv1"], fn.normalise(x), 32, 3)), 2)
    return fn.max_pool(fn.relu(fn.conv(p["conv2"], x, 64, 3)), 2)


@fn.layer
def cnn(p: fn.Scope, x: jax.Array) -> jax.Array:
    """The trunk, and a head of two dense layers."""
    x = fn.flatten(trunk(p["trunk"], x))
    return fn.dense(p["out"], fn.relu(fn.dense(p["dense"], x, 128)), 10)


def temporary(step: Any, run: fn.Run, batch: Any) -> int:
    """Bytes that one compiled step needs beside its arguments and results."""
    analysis = jax.jit(step).lower(run, batch).compile().memory_analysis()
    return analysis.temp_size_in_bytes if analysis else 0


def main() -> None:
    """Prints the ratios, frozen / unfrozen, of CPU time, temporary memory, and optimizer slots."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1024, 28, 28, 1), dtype=np.uint8)
    batches = fn.data.batches({"image": images, "label": rng.integers(0, 10, 1024)}, BATCH)
    model = fn.Model(cnn)
    objective, adam = fn.classification(model), optax.adam(1e-3)
    optimizers = {"frozen": fn.optim.freeze(adam, "trunk.*"), "unfrozen": adam}
    steps = {name: fn.train_step(objective, each) for name, each in optimizers.items()}
    runs = {name: fn.Run.start(model, each, images[:1]) for name, each in optimizers.items()}
    ratios = []
    for turn in range(ROUNDS + 1):
        seconds = {}
        for name, step in steps.items():
            begun = time.process_time()
            fn.fit(step, runs[name], batches, steps=STEPS, fuse=STEPS, progress=False)
            seconds[name] = time.process_time() - begun
        if turn:  # the first compiles
            ratios.append(seconds["frozen"] / seconds["unfrozen"])
    memory = {name: temporary(steps[name], runs[name], batches[0]) for name in steps}
    slots = {
        name: sum(leaf.nbytes for leaf in jax.tree.leaves(run.optimizer_state))
        for name, run in runs.items()
    }
    print(
        f"frozen / unfrozen: time {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f} over {ROUNDS} rounds of {STEPS} steps), "
        f"temporary memory {memory['frozen'] / memory['unfrozen']:.3f}, "
        f"slots {slots['frozen'] / slots['unfrozen']:.3f}"
    )


if __name__ == "__main__":
    main()
