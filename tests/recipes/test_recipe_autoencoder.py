"""The autoencoder's recipe: it keeps its claim, leaves its picture, and PCA is PCA."""

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

import funnet as fn
from funnet import picture
from recipes import autoencoder as recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checked run: its settings and its error."""
    settings = recipe.Settings(check=True, folder=tmp_path_factory.mktemp("runs") / "autoencoder")
    return settings, recipe.main(settings)


def test_it_checks_its_claim_and_leaves_its_files(trained):
    settings, error = trained
    assert 0 < error <= 0.01
    names = {path.name for path in settings.folder.iterdir()}
    assert {"checkpoints", "metrics.jsonl", "reconstructions.png", "run.json"} <= names


def test_a_second_run_over_the_first_is_finished(trained):
    settings, error = trained
    before = (settings.folder / "metrics.jsonl").read_bytes()
    assert recipe.main(settings) == error
    assert (settings.folder / "metrics.jsonl").read_bytes() == before


def test_the_picture_shows_originals_above_reconstructions(trained):
    settings, _ = trained
    _, (_, test) = fn.data.first_of("digits")
    with Image.open(settings.folder / "reconstructions.png") as image:
        pixels = np.asarray(image.convert("L"), np.float32)
    row, side = picture.TILE + picture.CAPTION + picture.GAP, picture.TILE + picture.GAP
    top = 2 * picture.CAPTION

    def tile(line, column):
        y, x = top + line * row, picture.GAP + column * side
        return pixels[y : y + picture.TILE : 7, x : x + picture.TILE : 7]

    for i in (0, 11, 13):
        line, column = 2 * (i // 12), i % 12
        np.testing.assert_array_equal(tile(line, column), test["image"][i, :, :, 0])
        away = tile(line + 1, column) / 255 - test["image"][i, :, :, 0] / 255
        assert 0 < np.square(away).mean() < 0.04


@pytest.mark.parametrize("components", [1, 8, 32])
def test_components_are_those_of_scikit_learn(components):
    train, test = fn.data.digits()
    rows, others = (x["image"].reshape(len(x["image"]), -1) / 255 for x in (train, test))
    pca = PCA(components, svd_solver="full").fit(rows)
    again = pca.inverse_transform(pca.transform(others))
    expected = np.square(again - others).mean()
    found = recipe.by_components(train["image"], test["image"], components)
    assert found == pytest.approx(expected, rel=1e-3)


def test_images_go_through_as_many_numbers_as_are_asked_for():
    image = jax.ShapeDtypeStruct((1, 28, 28, 1), np.uint8)
    params, _ = fn.Model(recipe.autoencoder, latents=5, hidden=(30, 20)).shapes(image)
    kernels = [params[half][name]["kernel"].shape for half in params for name in params[half]]
    assert sorted(kernels) == [(5, 20), (20, 5), (20, 30), (30, 20), (30, 784), (784, 30)]
