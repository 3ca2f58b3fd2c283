"""The CIFAR-10 recipe: it learns without CIFAR-10, from digits; its pieces do what they say."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from recipes import cifar10 as recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checked run: its settings and its accuracy."""
    settings = recipe.Settings(check=True, folder=tmp_path_factory.mktemp("runs") / "cifar10")
    return settings, recipe.main(settings)


def test_it_checks_its_claim_and_leaves_its_files(trained):
    settings, accuracy = trained
    assert 0.9 <= accuracy <= 1
    names = {path.name for path in settings.folder.iterdir()}
    assert names >= {"checkpoints", "metrics.jsonl", "predictions.png", "report.html"}


def test_a_second_run_over_the_first_is_finished(trained):
    settings, accuracy = trained
    before = (settings.folder / "metrics.jsonl").read_bytes()
    assert recipe.main(settings) == accuracy
    assert (settings.folder / "metrics.jsonl").read_bytes() == before
    assert json.loads(before.splitlines()[-1])["step"] == 120


def model_of(images, widths=(8, 16)):
    white = fn.initializers.whitening(recipe.scaled(images))
    return fn.Model(recipe.net, widths=widths, white=white)


def test_the_first_layer_is_computed_and_never_trained(key):
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), np.uint8)
    model, optimizer = model_of(images), recipe.optimizer(4, 0.1)
    run = fn.Run.start(model, optimizer, images)
    x, kernel = np.asarray(recipe.scaled(images)), np.asarray(run.params["white"]["kernel"])
    patches = np.stack([x[:, i : i + 11, j : j + 11] for i in (0, 1) for j in (0, 1)], 3)
    seen = patches.reshape(-1, 12) @ kernel.reshape(12, 24)
    np.testing.assert_allclose(np.cov(seen[:, :12].T), np.eye(12), atol=5e-3)
    trained, frozen = optimizer.split(run.params)
    assert [leaf.shape for leaf in jax.tree.leaves(frozen)] == [(2, 2, 3, 24)]
    assert all(leaf.size for leaf in jax.tree.leaves(trained))


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("preset", recipe.PRESETS)
def test_crops_and_whole_images_fit_the_same_parameters(size, preset):
    images = np.zeros((2, 32, 32, 3), np.uint8)
    images[0] = 255
    model = model_of(images, recipe.PRESETS[preset][0])
    given = [jax.ShapeDtypeStruct((2, side, side, 3), np.uint8) for side in (32, size)]
    whole, crop = (model.shapes(each)[0] for each in given)
    assert jax.tree.map(jnp.shape, whole) == jax.tree.map(jnp.shape, crop)


def test_a_step_says_in_which_epoch_it_is():
    seen = []
    step = recipe.by_epoch(lambda run, batch: (run, seen.append(batch["epoch"].tolist())), 3)
    model = fn.Model(fn.dense, features=1)
    run = fn.Run.start(model, recipe.optax.sgd(0.1), np.zeros((1, 2), np.float32))
    for _ in range(7):
        step(run, {"id": jnp.arange(2)})
        run = run.next()
    assert seen == [[n // 3] * 2 for n in range(7)]


def test_the_rates_climb_and_fall_to_nothing():
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), np.uint8)
    optimizer = recipe.optimizer(10, 0.5)
    model = model_of(images, widths=(8,))
    data = {"image": images, "label": np.arange(40) % 10}
    rates = []
    hook = lambda step, kind, numbers: rates.append(numbers)  # noqa: E731
    run = fn.Run.start(model, optimizer, images)
    step = fn.train_step(fn.classification(model), optimizer)
    fn.fit(
        step, run, fn.data.batches(data, 40), steps=10, log_every=1, hooks=[hook], progress=False
    )
    kernels = [numbers["learning_rate.group*.kernel"] for numbers in rates]
    rest = [numbers["learning_rate.*"] for numbers in rates if "learning_rate.*" in numbers]
    assert kernels[:3] == pytest.approx([0.1, 0.3, 0.5])
    assert kernels[-1] == pytest.approx(0.5 / 8)
    assert not rest
