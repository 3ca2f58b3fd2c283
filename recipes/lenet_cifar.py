"""LeNet on CIFAR-10, four images a step: where PyTorch's beginners' tutorial begins.

    python -m recipes.lenet_cifar

The network (6 and 16 maps of 5 by 5; 120, 84, 10), the two epochs, the learning rate of 0.001 and
the momentum of 0.9 are those of https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.
With so few images a step the last parameters are noisy: their moving average is tested as well.

Claims on CIFAR-10's test set, mean of 3 seeds: 57.8 % (least 57.1 %; its pixels went through JPEG)
with the averaged parameters, 54.0 % (least 53.5 %; its pixels went through JPEG) with the last
ones, which the tutorial tests. The whole process, imports and compilation included, takes 25 CPU
seconds of one x86 server core. There `fn.fit` takes 1,740 steps a second: 5.5 times as many as the
tutorial's loop with its two loader workers, and 3.1 times as many as without workers
(`python -m benchmarks.lenet`).

Without CIFAR-10 (see the message for where it is looked for) it trains on scikit-learn's digits.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import optax
import tyro

import funnet as fn
from funnet.picture import grid, predictions

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclasses.dataclass
class Settings:
    """How long to train, and on what."""

    epochs: float | None = None  # by default 2, of the few digits 10
    batch: int = 4
    learning_rate: float = 0.001
    momentum: float = 0.9
    average: float = 0.999  # how much of their moving average a step keeps of the parameters
    seed: int = 0
    holdout: int = 0  # measure on so many training images instead of on the test set
    folder: Path | None = None  # by default runs/lenet_cifar
    check: bool = False  # train on scikit-learn's digits for seconds, and verify what is learnt
    cache: Path | None = None  # keep compilations in this folder, for the next time


@fn.layer
def net(p: fn.Scope, images: jax.Array) -> jax.Array:
    """LeNet on pixels from -1 to 1, in images of 32 by 32."""
    x = fn.normalise(images, mean=0.5, std=0.5)
    x = x if x.shape[1] == 32 else fn.resize(x, 32)  # of digits, which are 8 by 8
    return fn.models.lenet(p["lenet"], x, classes=10)


def draw_filters(path: Path, kernel: jax.Array) -> None:
    """A picture of the first layer's filters, each stretched to all of the bytes' range."""
    filters = np.moveaxis(np.asarray(kernel), -1, 0)  # (6, 5, 5, C)
    low, high = (f(filters, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    pixels = np.round(255 * (filters - low) / (high - low)).astype(np.uint8)
    names = [f"filter {i}" for i in range(len(pixels))]
    marked = [False] * len(pixels)
    grid(path, pixels, names, marked, title="What the first layer looks for", columns=6)


def main(settings: Settings) -> float:
    """Trains, tests and draws; returns the accuracy."""
    if settings.cache is not None:
        fn.cache_compilations(settings.cache)
    folder = settings.folder or Path("runs/lenet_cifar" + "-check" * settings.check)
    sets = ("digits",) if settings.check else ("cifar10", "digits")
    name, (train, test) = fn.data.first_of(*sets)
    if settings.holdout:
        train, test = fn.data.hold_out(train, settings.holdout)
    usual = {"cifar10": 2.0, "digits": 10.0}[name]
    epochs = usual if settings.epochs is None else settings.epochs
    batches = fn.data.batches(train, settings.batch, seed=settings.seed)
    model = fn.Model(net)
    sgd = optax.sgd(settings.learning_rate, momentum=settings.momentum)
    optimizer = fn.optim.average(sgd, settings.average)
    objective = fn.classification(model)

    run = fn.Run.start(model, optimizer, train["image"][:1], seed=settings.seed)
    step = fn.train_step(objective, optimizer)
    run = fn.fit(step, run, batches, epochs=epochs, folder=folder, settings=settings)

    mean = fn.optim.averaged(run)
    guesses = fn.predict(model, mean, test["image"]).argmax(axis=-1)
    accuracy = float((guesses == test["label"]).mean())
    last = fn.evaluate(objective, run, test)["accuracy"]
    what = "held-out training" if settings.holdout else "test"
    note = f" ({fn.data.caveat(name)})" if fn.data.caveat(name) else ""
    print(f"{name} {what} accuracy{note}: {accuracy:.2%}, of the last step's parameters {last:.2%}")
    draw_filters(folder / "filters.png", mean.params["lenet"]["conv1"]["kernel"])
    names = CLASSES if name == "cifar10" else None
    predictions(folder / "predictions.png", test["image"], test["label"], guesses, names=names)
    if settings.check:
        fn.claim("test accuracy", accuracy, at_least=0.85)
    return accuracy


if __name__ == "__main__":
    main(tyro.cli(Settings))
