"""The recipe of the variational autoencoder: its bound is the ELBO, its pictures show digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributions

import funnet as fn
from funnet import picture
from recipes import vae as recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checked run: its settings and its ELBO."""
    settings = recipe.Settings(check=True, folder=tmp_path_factory.mktemp("runs") / "vae")
    return settings, recipe.main(settings)


def test_it_checks_its_claim_and_leaves_its_files(trained):
    settings, elbo = trained
    assert -64 * np.log(2) < elbo < 0
    names = {path.name for path in settings.folder.iterdir()}
    assert {"samples.png", "reconstructions.png", "interpolation.png", "metrics.jsonl"} <= names


def test_a_second_run_over_the_first_is_finished(trained):
    settings, elbo = trained
    before = (settings.folder / "metrics.jsonl").read_bytes()
    assert recipe.main(settings) == elbo
    assert (settings.folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(("name", "rows"), [("samples", 10), ("interpolation", 8)])
def test_pictures_have_their_tiles(trained, name, rows):
    side = picture.TILE + picture.GAP
    with Image.open(trained[0].folder / f"{name}.png") as image:
        assert image.size == (12 * side + picture.GAP, rows * side + 2 * picture.CAPTION)


@pytest.fixture
def tiny():
    """A model of one latent that is far from the prior, and an image of black and white."""
    model = fn.Model(recipe.vae, latents=1, hidden=(8,))
    image = np.array([[0, 255], [255, 255]], np.uint8).reshape(1, 2, 2, 1)
    params, _ = model.init(jax.random.key(3), np.float32(image))
    return model, jax.tree.map(lambda x: 2 * x, params), image


def test_the_bound_is_the_chance_less_the_divergence_from_the_posterior(tiny):
    model, params, image = tiny
    many = np.repeat(image, 50_000, axis=0)
    terms = jax.jit(lambda *given: recipe.bound(model, *given))(params, many, jax.random.key(0))
    found = -float(sum(terms).mean())

    latents = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    pixels = np.float32(image) / 255
    decode = fn.Model(recipe.decoder, shape=(2, 2, 1), hidden=(8,))
    logits = decode(params["decoder"], jnp.asarray(latents.numpy()[:, None], jnp.float32))
    logits = torch.from_numpy(np.array(logits, np.float64))
    given = distributions.Bernoulli(logits=logits).log_prob(torch.from_numpy(pixels).double())
    joint = given.sum((1, 2, 3)) + distributions.Normal(0.0, 1.0).log_prob(latents)
    encode = fn.Model(recipe.encoder, latents=1, hidden=(8,))
    mean, log_var = (float(x[0, 0]) for x in encode(params["encoder"], pixels))
    guess = distributions.Normal(mean, np.exp(log_var / 2)).log_prob(latents)
    step = float(latents[1] - latents[0])
    evidence = float(torch.logsumexp(joint, 0)) + np.log(step)
    away = float((guess.exp() * (guess - (joint - evidence))).sum()) * step
    assert away > 0.01
    assert found == pytest.approx(evidence - away, abs=0.02)


@fn.layer
def tell(p, images):
    """Gives the pixels that were drawn as the latents' mean, so that the divergence tells them."""
    pixels = fn.flatten(images)
    return jnp.zeros_like(images), pixels, jnp.zeros_like(pixels)


def test_pixels_are_drawn_by_their_grey():
    grey = np.full((20_000, 1, 1, 1), 51, np.uint8)
    _, divergence = recipe.bound(fn.Model(tell), {}, grey, jax.random.key(1))
    assert np.isin(np.asarray(divergence), [0, 0.5]).all()
    assert (np.asarray(divergence) > 0).mean() == pytest.approx(0.2, abs=0.01)
