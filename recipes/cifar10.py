"""Small colour photographs: a convolutional network on CIFAR-10, in minutes of one CPU core.

    python -m recipes.cifar10                        # about five minutes
    python -m recipes.cifar10 --preset minutes10     # wider and longer: about ten
    python -m recipes.cifar10 --check                # seconds, on scikit-learn's digits

Claims on CIFAR-10's test set, means of seeds 0 to 2, in CPU seconds of an x86 server core (imports,
decoding of the images, compilation and test included): 83.5 % (its pixels went through JPEG; least
83.1 %) in 330 s, and with minutes10 85.0 % (its pixels went through JPEG; least 84.9 %) in 576 s.
Settings were compared on 5,000 held-out training images; how many epochs is what fits the time.

Without CIFAR-10 (see the message for where it is looked for) it trains on scikit-learn's digits.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import funnet as fn
from funnet.picture import predictions

CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PRESETS = {"minutes5": ((32, 64, 128), 4.4), "minutes10": ((32, 96, 128), 6.5)}  # widths, epochs


@dataclasses.dataclass
class Settings:
    """What to train, on what, and for how long."""

    preset: Literal["minutes5", "minutes10"] = "minutes5"
    epochs: float | None = None  # by default the preset's, and 10 for digits
    learning_rate: float = 0.3
    seed: int = 0
    folder: Path | None = None  # by default runs/cifar10-minutes5, and so on
    holdout: int = 0  # measure on so many training images instead of on the test set
    check: bool = False  # briefly, on digits; fail unless they are learnt
    cache: Path | None = None  # keep compilations in this folder, for the next time


@fn.layer
def group(p: fn.Scope, x: jax.Array, width: int) -> jax.Array:
    """Two convolutions, on half the rows and columns from within the first on."""
    x = fn.max_pool(fn.conv(p["conv1"], x, width, 3, bias=False), 2)
    x = fn.gelu(fn.batch_norm(p["norm1"], x))
    return fn.gelu(fn.batch_norm(p["norm2"], fn.conv(p["conv2"], x, width, 3, bias=False)))


@fn.layer
def net(
    p: fn.Scope, images: jax.Array, widths: tuple[int, ...], white: fn.initializers.Initializer
) -> jax.Array:
    """A first layer that is computed, groups of convolutions, the largest of each channel.

    Images may be of any size: the net is trained on crops, and sees whole images when it is tested.
    """
    features = 8 * images.shape[-1]  # two for each number in a patch
    x = scaled(images)
    x = fn.conv(p["white"], x, features, 2, padding="valid", bias=False, kernel_init=white)
    x = fn.gelu(x)
    for i, width in enumerate(widths, 1):
        x = group(p[f"group{i}"], x, width)
    return fn.dense(p["head"], x.max((1, 2)), 10) / 5


def scaled(images: jax.Array) -> jax.Array:
    """Bytes as numbers of about mean 0 and variance 1."""
    return fn.normalise(images, mean=0.47, std=0.25)


def optimizer(steps: int, rate: float) -> fn.optim.Optimizer:
    """Muon for the kernels of convolutions, Adam for the rest; the first layer stays as it is.

    The rates climb for a fifth of the steps, then fall to nothing. What is tested is the
    exponential moving average of the parameters.
    """

    def triangle(peak: float) -> optax.Schedule:
        parts = [(peak / 5, peak, max(steps // 5, 1)), (peak, 0, steps - max(steps // 5, 1))]
        return optax.join_schedules([optax.linear_schedule(*p) for p in parts], [parts[0][2]])

    kernels = fn.optim.muon(triangle(rate), momentum=0.6, iterations=3, weight_decay=0.05)
    rest = optax.adam(triangle(0.01), b1=0.85, b2=0.95)
    parts = fn.optim.groups({"group*.kernel": kernels, "*": rest})
    return fn.optim.freeze(fn.optim.average(parts, 0.95), "white.*")


def by_epoch(step: Callable[..., Any], steps: int) -> Callable[..., Any]:
    """A training step whose batches also say in which epoch, of so many steps, they are seen."""

    def told(run: fn.Run, batch: dict[str, Any]) -> tuple[fn.Run, dict[str, Any]]:
        return step(run, {**batch, "epoch": jnp.full_like(batch["id"], run.step // steps)})

    return told


def main(settings: Settings) -> float:
    """Trains, tests, saves and draws; returns the accuracy."""
    if settings.cache is not None:
        fn.cache_compilations(settings.cache)
    folder = settings.folder or Path(f"runs/cifar10-{settings.preset}{'-check' * settings.check}")
    sets = ["digits"] if settings.check else ["cifar10", "digits"]
    name, (train, test) = fn.data.first_of(*sets)
    photos, caveat = name == "cifar10", fn.data.caveat(name)
    if settings.holdout:
        train, test = fn.data.hold_out(train, settings.holdout)
    widths, epochs = PRESETS[settings.preset] if photos else ((16, 32), 10.0)
    batches = fn.data.batches(train, 250 if photos else 120, seed=settings.seed)
    steps = batches.steps(epochs if settings.epochs is None else settings.epochs)

    fast = jax.default_backend() != "cpu"  # there, half precision is
    # Patches of 2 x 2 pixels made white: a trained first layer would take an epoch to find that.
    white = fn.initializers.whitening(scaled(train["image"][:5000]))
    model = fn.Model(fn.mixed(net) if fast else net, widths=widths, white=white)
    vary = fn.data.augment
    augment = vary.chain(vary.crop(28), vary.alternating_flip()) if photos else vary.shift(1)
    objective = fn.classification(model, augment=augment, label_smoothing=0.1)
    muon = optimizer(steps, settings.learning_rate)
    run = fn.Run.start(model, muon, train["image"][:1], seed=settings.seed)
    # In parts, activations stay in a CPU's caches: two thirds of the time.
    step = fn.train_step(objective, muon, accumulate=1 if fast or not photos else 2)
    step = by_epoch(step, batches.steps(1))
    run = fn.fit(step, run, batches, steps=steps, folder=folder, settings=settings)

    views = [test["image"], test["image"][:, 2:-2, 2:-2]] if photos else [test["image"]]
    views += [view[:, :, ::-1] for view in views] if photos else []
    mean = fn.optim.averaged(run)
    logits = [fn.predict(model, mean, view, batch_size=100) for view in views]
    guesses = np.sum(logits, axis=0).argmax(axis=-1)
    accuracy = float((guesses == test["label"]).mean())
    what = "held-out training" if settings.holdout else "test"
    print(f"{name} {what} accuracy: {accuracy:.2%}" + f" ({caveat})" * bool(caveat))
    names = CLASSES if photos else None
    predictions(folder / "predictions.png", test["image"], test["label"], guesses, names=names)
    print(f"{folder}/report.html shows how it went, predictions.png what it sees")
    if settings.check:
        fn.claim("accuracy on digits, %", 100 * accuracy, at_least=90)
    return accuracy


if __name__ == "__main__":
    main(tyro.cli(Settings))
