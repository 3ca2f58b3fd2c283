"""The recipe of contrastive learning: digits' features are learnt, files are left, probes judge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import funnet as fn
from recipes import contrastive


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "contrastive"


@pytest.fixture(scope="module")
def trained(folder):
    settings = contrastive.Settings(check=True, folder=folder)
    return settings, contrastive.main(settings)


def test_the_features_tell_digits_apart(trained):
    assert trained[1] > 0.8  # from 100 labels


def test_the_folder_has_a_picture_of_neighbours(trained, folder):
    names = {"checkpoints", "metrics.jsonl", "neighbours.png", "run.json"}
    assert names <= {path.name for path in folder.iterdir()}
    with Image.open(folder / "neighbours.png") as image:
        assert image.size[0] == 12 * 62 + 6


def test_a_second_run_is_finished_with_the_same_result(trained, folder):
    before = (folder / "metrics.jsonl").read_bytes()
    assert contrastive.main(trained[0]) == trained[1]
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_the_loss_is_of_two_views_and_knows_no_label():
    @fn.layer
    def same(p, images):
        return None, fn.flatten(images)

    model, rng = fn.Model(same), np.random.default_rng(0)
    batch = {"image": rng.normal(size=(5, 2, 2, 1)).astype(np.float32), "id": jnp.arange(5)}

    def louder(key, batch):
        return {**batch, "image": batch["image"] + jax.random.normal(key, (5, 2, 2, 1))}

    objective = contrastive.simclr(model, louder, 0.5)
    loss, _ = objective({}, {}, batch, train=True, key=jax.random.key(3))
    keys = jax.random.split(jax.random.key(3))
    a, b = (louder(own, batch)["image"].reshape(5, 4) for own in keys)
    views = np.concatenate([a, b]).astype(np.float64)
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    odds = np.exp(views @ views.T / 0.5) * (1 - np.eye(10))
    own = odds[np.arange(10), (np.arange(10) + 5) % 10]
    np.testing.assert_allclose(loss, -np.log(own / odds.sum(1)).mean(), rtol=1e-5)


def test_the_probe_is_a_logistic_regression():
    reference = pytest.importorskip("sklearn.linear_model")
    train, test = fn.data.digits()
    x, y = (data["image"].reshape(-1, 64) / np.float32(255) for data in (train, test))
    found = contrastive.probe(x, train, y, test)
    judge = reference.LogisticRegression(C=1e3, max_iter=5000).fit(x, train["label"])
    assert found == pytest.approx(judge.score(y, test["label"]), abs=0.03)
