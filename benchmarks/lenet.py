"""LeNet at four images a step: `fn.fit` beside PyTorch's tutorial, in turn on the same core.

    taskset -c 0 python -m benchmarks.lenet

`workers` is the tutorial as it is printed: a loader with two workers, which scale image by image
and, on one core, share it; `images` is the same without workers, `tensors` a loader over tensors
that were made before, and `indexed` no loader at all. Bytes that are drawn stand in for CIFAR-10:
how long a step takes does not depend on what is in an image.
"""

import dataclasses
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import tyro

import funnet as fn
from recipes.lenet_cifar import net

FORMS = ("workers", "images", "tensors", "indexed")


@dataclasses.dataclass
class Settings:
    """What to measure."""

    batch: int = 4
    rounds: int = 5
    seconds: float = 3.0  # of each contender in a round, about


def funnet(data: dict[str, np.ndarray], batch: int) -> Callable[[int], Any]:
    """A function that takes so many steps by `fit`, with its guard, metrics and log."""
    model, optimizer = fn.Model(net), optax.sgd(0.001, momentum=0.9)
    step = fn.train_step(fn.classification(model), optimizer)
    batches, held = fn.data.batches(data, batch), [fn.Run.start(model, optimizer, data["image"])]

    def run(steps: int) -> None:
        held[0] = fn.fit(step, held[0], batches, steps=int(held[0].step) + steps, progress=False)

    return run


def torch(data: dict[str, np.ndarray], batch: int) -> dict[str, Callable[[int], Any]]:
    """The same of PyTorch, in three forms; none where it is not installed."""
    try:
        import torch

        from benchmarks.peers import tutorial
    except ImportError as error:
        print(f"without PyTorch: {error}")
        return {}
    warnings.filterwarnings("ignore", "This DataLoader will create 2 worker processes")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    made = {form: tutorial.Trained(data["image"], data["label"], batch, form) for form in FORMS}
    made["workers"].run(1)  # which forks, and so comes before JAX has threads
    return {form: trained.run for form, trained in made.items()}


def rates(contenders: dict[str, Callable[[int], Any]], settings: Settings) -> dict[str, list]:
    """Steps a second of each contender in each round."""
    steps, found = {}, {name: [] for name in contenders}
    for name, run in contenders.items():
        run(300)  # compiled, and warm
        steps[name] = max(int(300 * settings.seconds / timed(run, 300)), 1)
    for _ in range(settings.rounds):
        for name, run in contenders.items():
            found[name].append(steps[name] / timed(run, steps[name]))
    return found


def timed(run: Callable[[int], Any], steps: int) -> float:
    """Seconds by the clock."""
    begun = time.perf_counter()
    run(steps)
    return time.perf_counter() - begun


def main(settings: Settings) -> None:
    """Prints the median rate of each, and how many times as fast funnet is."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50_000, 32, 32, 3), np.uint8)
    data = {"image": images, "label": rng.integers(0, 10, 50_000).astype(np.int32)}
    peers = torch(data, settings.batch)
    contenders = {"funnet": funnet(data, settings.batch), **peers}
    found = rates(contenders, settings)
    print(f"jax {jax.__version__}, {len(os.sched_getaffinity(0))} cores, batch {settings.batch}")
    for name, each in found.items():
        ratios = [ours / theirs for ours, theirs in zip(found["funnet"], each, strict=True)]
        print(
            f"{name}: {statistics.median(each):.0f} steps a second; funnet's is "
            f"{statistics.median(ratios):.2f} times that ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main(tyro.cli(Settings))
