"""What the guard of `train_step` costs: CPU time of a CNN's steps with it and without, interleaved.

python -m benchmarks.guard
"""

import statistics
import time
from typing import Any

import jax
import numpy as np
import optax

import funnet as fn

ROUNDS, STEPS, BATCH = 15, 20, 64


@fn.layer
def cnn(p: fn.Scope, x: jax.Array) -> jax.Array:
    """Two convolutions, two pools, two dense layers."""
    x = fn.max_pool(fn.relu(fn.conv(p["conv1"], fn.normalise(x), 32, 3)), 2)
    x = fn.max_pool(fn.relu(fn.conv(p["conv2"], x, 64, 3)), 2)
    x = fn.relu(fn.dense(p["dense"], fn.flatten(x), 128))
    return fn.dense(p["out"], x, 10)


def unguarded(objective: Any, optimizer: optax.GradientTransformation) -> Any:
    """The step of `fn.train_step` without its guard."""

    def step(run: fn.Run, batch: Any) -> tuple[fn.Run, dict[str, Any]]:
        def loss_of(params: Any) -> Any:
            return objective(params, run.state, batch, train=True, key=run.key())

        (loss, (state, metrics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(run.params)
        updates, kept = optimizer.update(gradients, run.optimizer_state, run.params)
        params = optax.apply_updates(run.params, updates)
        new = run.next(params=params, state=state, optimizer_state=kept)
        return new, {"loss": loss, **metrics}

    return step


def main() -> None:
    """Prints the median ratio of a guarded to an unguarded step, and the range of the rounds."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1024, 28, 28, 1), dtype=np.uint8)
    batches = fn.data.batches({"image": images, "label": rng.integers(0, 10, 1024)}, BATCH)
    model, optimizer = fn.Model(cnn), optax.adam(1e-3)
    objective = fn.classification(model)
    steps = {
        "guarded": fn.train_step(objective, optimizer),
        "unguarded": unguarded(objective, optimizer),
    }
    run, ratios = fn.Run.start(model, optimizer, images[:1]), []
    for turn in range(ROUNDS + 1):
        seconds = {}
        for name, step in steps.items():
            begun = time.process_time()
            fn.fit(step, run, batches, steps=STEPS, fuse=STEPS, progress=False)
            seconds[name] = time.process_time() - begun
        if turn:  # the first compiles
            ratios.append(seconds["guarded"] / seconds["unguarded"])
    print(
        f"guarded / unguarded: median {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f} over {ROUNDS} rounds of {STEPS} steps)"
    )


if __name__ == "__main__":
    main()
