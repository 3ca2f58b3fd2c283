"""The LeNet recipe: it learns without CIFAR-10, leaves its pictures, is the tutorial's network."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import funnet as fn
from funnet import picture
from recipes import lenet_cifar as recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checked run: its settings and its accuracy."""
    settings = recipe.Settings(check=True, folder=tmp_path_factory.mktemp("runs") / "lenet")
    return settings, recipe.main(settings)


def test_it_checks_its_claim_and_leaves_its_files(trained):
    settings, accuracy = trained
    assert 0.85 <= accuracy <= 1
    names = {path.name for path in settings.folder.iterdir()}
    assert names >= {"checkpoints", "metrics.jsonl", "filters.png", "predictions.png"}


def test_a_second_run_over_the_first_is_finished(trained):
    settings, accuracy = trained
    before = (settings.folder / "metrics.jsonl").read_bytes()
    assert recipe.main(settings) == accuracy
    assert (settings.folder / "metrics.jsonl").read_bytes() == before
    assert json.loads(before.splitlines()[-1])["step"] == 3593


def test_the_network_is_the_tutorials():
    params, state = fn.Model(recipe.net).shapes(jax.ShapeDtypeStruct((4, 32, 32, 3), np.uint8))
    shapes = {name: layer["kernel"].shape for name, layer in params["lenet"].items()}
    assert shapes == {
        "conv1": (5, 5, 3, 6),
        "conv2": (5, 5, 6, 16),
        "hidden1": (400, 120),
        "hidden2": (120, 84),
        "head": (84, 10),
    }
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 62_006
    assert not state


def test_pixels_go_from_minus_one_to_one():
    images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1) * np.ones((1, 32, 32, 3), np.uint8)
    model = fn.Model(recipe.net)
    params, state = model.init(jax.random.key(0), images)
    _, seen = model.capture(params, state, images, taps="lenet.conv1")
    (conv1,) = seen.values()
    kernel = np.asarray(params["lenet"]["conv1"]["kernel"], np.float64)
    expected = kernel.sum(axis=(0, 1, 2))  # every pixel is 1
    np.testing.assert_allclose(conv1[1, 3, 3], expected, atol=1e-5)
    np.testing.assert_allclose(conv1[0, 3, 3], -expected, atol=1e-5)


def test_a_filter_is_stretched_from_black_to_white(tmp_path):
    kernel = jnp.linspace(-3, 5, 150).reshape(1, 5, 5, 3, 2).squeeze(0)
    recipe.draw_filters(tmp_path / "filters.png", kernel)
    with Image.open(tmp_path / "filters.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    top, left = 2 * picture.CAPTION, picture.GAP
    tile = pixels[top : top + picture.TILE, left : left + picture.TILE]
    assert (tile[0, 0, 0], tile[-1, -1, -1]) == (0, 255)
