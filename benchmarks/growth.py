"""Whether cost grows as the work does: with examples in the data, turns of a repeat, and the batch.

python -m benchmarks.growth
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funnet as fn

ROUNDS, SECONDS = 5, 1.0
EXAMPLES = (10, 1_000, 100_000, 1_000_000)
DEPTHS = (8, 16, 32, 64)
BATCHES = (32, 128, 512, 1024)


@fn.layer
def deep(p: fn.Scope, ids: jax.Array, depth: int) -> jax.Array:
    """A decoder of so many blocks."""
    return fn.models.gpt(p, ids, 65, depth=depth, width=64, heads=2, context=32)


class Trained:
    """A training that can go on for so many steps."""

    def __init__(self, model: fn.Model, data: dict[str, Any], batch: int):
        def objective(params: Any, state: Any, given: Any, *, train: bool, key: Any) -> Any:
            y, state = model.apply(params, state, given["x"], train=train, key=key)
            return fn.losses.cross_entropy(y, given["y"]).mean(), (state, {})

        optimizer = optax.sgd(0.01)
        self.step = fn.train_step(objective, optimizer)
        self.run = fn.Run.start(model, optimizer, data["x"][:1])
        self.batches = fn.data.batches(data, batch)
        self.steps = 8
        self.each = self.seconds()  # which compiles
        while (each := self.seconds()) * self.steps < SECONDS / 4:
            self.steps *= 4
        self.each = each

    def seconds(self) -> float:
        """CPU seconds of a step, now."""
        begun = time.process_time()
        stop = int(self.run.step) + self.steps
        self.run = fn.fit(self.step, self.run, self.batches, steps=stop, progress=False)
        return (time.process_time() - begun) / self.steps


def compared(title: str, trained: dict[int, Trained], work: Any) -> None:
    """Prints the work done a second by each, over that of the first, interleaved."""
    rates: dict[int, list[float]] = {size: [] for size in trained}
    for _ in range(ROUNDS):
        for size, one in trained.items():
            one.steps = max(int(SECONDS / one.each), 1)
            rates[size].append(work(size) / one.seconds())
    medians = {size: statistics.median(found) for size, found in rates.items()}
    first = next(iter(medians.values()))
    shown = ", ".join(f"{size:,}: {rate / first:.3f}" for size, rate in medians.items())
    print(f"{title}: {shown} (rate over that of the first)", flush=True)


def images(examples: int) -> dict[str, Any]:
    """Small images, drawn."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (examples, 8, 8, 1), dtype=np.uint8)
    return {"x": x, "y": rng.integers(0, 10, examples)}


@fn.layer
def small(p: fn.Scope, x: jax.Array) -> jax.Array:
    """A small convolutional net."""
    return fn.models.convnet(p, fn.normalise(x), 10, widths=(16, 32), hidden=64)


def main() -> None:
    """Measures all three."""
    model = fn.Model(small)
    sets = {n: Trained(model, images(n), 8) for n in EXAMPLES}
    compared("images a second, by examples in the data set", sets, lambda n: 8)
    batches = {n: Trained(model, images(4096), n) for n in BATCHES}
    compared("images a second, by batch", batches, lambda n: n)
    ids = np.random.default_rng(0).integers(0, 65, (256, 33))
    text = {"x": jnp.asarray(ids[:, :-1], jnp.int32), "y": ids[:, 1:]}
    depths = {n: Trained(fn.Model(deep, depth=n), text, 16) for n in DEPTHS}
    compared("layers a second, by turns of a repeat", depths, lambda n: n)


if __name__ == "__main__":
    main()
