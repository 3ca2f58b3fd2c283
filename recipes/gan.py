"""A deep convolutional GAN: two networks, two optimizers, one pure step; digits out of noise.

    python -m recipes.gan
    python -m recipes.gan --check                 # the claim's small form, in seconds

The generator makes images of noise, the discriminator tells them from real ones, and each learns
against the other (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661; Radford, Metz and
Chintala 2015, https://arxiv.org/abs/1511.06434). Both are layers of one model, so a step runs
both forward once, and takes each network's gradient of its own loss back through that. What is
kept for samples is the moving average of the generator's parameters.

Claim: CLAIM

Without MNIST (see the message for where it is looked for) it trains on scikit-learn's digits.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import funnet as fn
from funnet.picture import grid


@dataclasses.dataclass
class Settings:
    """How large the networks are, and how long and how fast they learn."""

    latents: int = 64  # numbers of noise that an image is made of
    width: int = 32  # channels of the generator's last hidden layer
    critic_width: int = 16  # channels of the discriminator's first layer
    epochs: float | None = None  # by default 5, of the few digits 60
    batch: int = 64
    learning_rate: float = 1e-3  # of the generator
    critic_rate: float = 1e-3  # of the discriminator
    average: float = 0.999  # how much of their moving average a step keeps of the parameters
    seed: int = 0
    folder: Path | None = None  # by default runs/gan
    check: bool = False  # train on scikit-learn's digits for seconds, and verify what is learnt
    cache: Path | None = None  # keep compilations in this folder, for the next time


@fn.layer
def gan(
    p: fn.Scope, images: jax.Array, noise: jax.Array, width: int, critic_width: int
) -> tuple[jax.Array, jax.Array]:
    """How real the discriminator holds real images, and what the generator makes of noise: (N,)."""
    fakes = fn.models.generator(p["generator"], noise, images.shape[1:], width=width)
    both = jnp.concatenate([images, fakes])
    logits = fn.models.discriminator(p["discriminator"], both, width=critic_width)
    return logits[: len(images)], logits[len(images) :]


def step_of(model: fn.Model, optimizer: optax.GradientTransformation, latents: int) -> Any:
    """A step of both networks: `step(run, batch) -> (run, metrics)`."""

    def step(run: fn.Run, batch: Any) -> tuple[fn.Run, dict[str, jax.Array]]:
        images = fn.normalise(batch["image"], mean=0.5, std=0.5)
        noise = jax.random.normal(run.key(), (len(images), latents))

        def losses(params: Any) -> tuple[dict[str, jax.Array], Any]:
            (real, fake), state = model.apply(params, run.state, images, noise, train=True)
            told = fn.softplus(-real).mean() + fn.softplus(fake).mean()
            return {"discriminator": told, "generator": fn.softplus(-fake).mean()}, state

        found, back, state = jax.vjp(losses, run.params, has_aux=True)
        zeros, gradients = jax.tree.map(jnp.zeros_like, found), {}
        for name, loss in found.items():  # each network's gradient is that of its own loss
            gradients[name] = back({**zeros, name: jnp.ones_like(loss)})[0][name]
        with jax.numpy_dtype_promotion("standard"):  # which optax counts on
            updates, kept = optimizer.update(gradients, run.optimizer_state, run.params)
        params = optax.apply_updates(run.params, updates)
        new = run.next(params=params, state=state, optimizer_state=kept)
        return fn.guarded(run, new, *found.values()), found

    return step


def trained_classifier(data: dict[str, Any], folder: Path, epochs: float, seed: int) -> Any:
    """A quick convolutional net that learns real digits; gives its model and its run."""
    model = fn.Model(fn.models.convnet, classes=10, widths=(16, 32), hidden=64)
    data = {**data, "image": data["image"] / np.float32(255)}
    batches = fn.data.batches(data, 128, seed=seed)
    optimizer = optax.adam(optax.cosine_onecycle_schedule(batches.steps(epochs), 0.005))
    run = fn.Run.start(model, optimizer, data["image"][:1], seed=seed)
    step = fn.train_step(fn.classification(model), optimizer)
    return model, fn.fit(step, run, batches, epochs=epochs, folder=folder)


def samples(run: fn.Run, shape: tuple[int, ...], count: int, settings: Settings) -> np.ndarray:
    """Images (count, *shape) in 0..1 that the averaged generator makes of noise."""
    noise = jax.random.normal(run.key("samples"), (count, settings.latents))
    model = fn.Model(fn.models.generator, shape=shape, width=settings.width)
    params = fn.optim.averaged(run).params["generator"]
    # Batch norm takes its statistics from these samples: its running ones are of other parameters.
    images, _ = jax.jit(model.apply, static_argnames="train")(
        params, run.state["generator"], noise, train=True
    )
    return (np.asarray(images) + 1) / 2


def main(settings: Settings) -> tuple[float, float]:
    """Trains, draws, and judges.

    Returns:
        How many of the samples a classifier is sure of, and the rarest digit's share of these.
    """
    if settings.cache is not None:
        fn.cache_compilations(settings.cache)
    folder = settings.folder or Path("runs/gan" + "-check" * settings.check)
    name, (train, test) = fn.data.first_of(*["mnist"] * (not settings.check), "digits")
    usual = {"mnist": 5.0, "digits": 60.0}[name]
    epochs = usual if settings.epochs is None else settings.epochs
    images, noise = train["image"][:2] / np.float32(255), np.zeros((2, settings.latents), "f")
    model = fn.Model(gan, width=settings.width, critic_width=settings.critic_width)
    adams = {
        "generator.*": optax.adam(settings.learning_rate, b1=0.5, b2=0.99),
        "discriminator.*": optax.adam(settings.critic_rate, b1=0.5, b2=0.99),
    }
    optimizer = fn.optim.average(fn.optim.groups(adams), settings.average)

    run = fn.Run.start(model, optimizer, images, noise, seed=settings.seed)
    step = step_of(model, optimizer, settings.latents)
    batches = fn.data.batches({"image": train["image"]}, settings.batch, seed=settings.seed)
    run = fn.fit(step, run, batches, epochs=epochs, folder=folder, settings=settings)

    made = samples(run, images.shape[1:], 2000, settings)
    judge = trained_classifier(train, folder / "classifier", usual / 5, settings.seed)
    chances = jax.nn.softmax(fn.predict(*judge, made))
    real = jax.nn.softmax(fn.predict(*judge, test["image"] / np.float32(255)))
    sure = chances.max(axis=-1) > 0.9
    confident = float(sure.mean())
    shares = np.bincount(chances.argmax(axis=-1)[sure], minlength=10) / max(sure.sum(), 1)
    print(f"a classifier is sure (above 0.9) of {confident:.1%} of 2,000 samples", end=" ")
    print(f"and of {(real.max(axis=-1) > 0.9).mean():.1%} of {name}'s test images")
    print("shares of the ten digits: " + ", ".join(f"{x:.1%}" for x in shares))
    grid(folder / "samples.png", made[:120], title="What the generator makes of noise")
    print(f"{folder / 'samples.png'} shows samples")
    if settings.check:
        fn.claim("samples that a classifier is sure of", confident, at_least=0.6)
        fn.claim("share of the rarest digit", shares.min(), at_least=0.01)
    return confident, float(shares.min())


if __name__ == "__main__":
    main(tyro.cli(Settings))
