"""The GAN's recipe: both networks learn of one step, its samples are judged, its claim is kept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funnet as fn
from recipes import gan as recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checked run: its settings, and what it returned."""
    settings = recipe.Settings(check=True, folder=tmp_path_factory.mktemp("runs") / "gan")
    return settings, recipe.main(settings)


def test_it_checks_its_claim_and_leaves_its_files(trained):
    settings, (sure, rarest) = trained
    assert 0 < sure <= 1
    assert 0 < rarest <= 0.1
    names = {path.name for path in settings.folder.iterdir()}
    assert {"checkpoints", "judge", "metrics.jsonl", "samples.png"} <= names


def test_a_second_run_over_the_first_is_finished(trained):
    settings, found = trained
    before = (settings.folder / "metrics.jsonl").read_bytes()
    assert recipe.main(settings) == found
    assert (settings.folder / "metrics.jsonl").read_bytes() == before


@pytest.fixture
def begun():
    """A tiny model, its step and run under plain gradient descent, and a batch."""
    model = fn.Model(recipe.gan, width=4)
    optimizer = fn.optim.groups({"generator.*": optax.sgd(0.5), "*": optax.sgd(0.25)})
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
    kinds, noise = np.zeros((6, 3), np.float32), np.zeros((6, 5), np.float32)
    run = fn.Run.start(model, optimizer, np.float32(images), kinds, noise, seed=7)
    # At first the generator's kernels are so small that hardly any gradient comes through.
    larger = jax.tree.map(lambda x: 10 * x, run.params["generator"])
    run = dataclasses.replace(run, params={**run.params, "generator": larger})
    step = recipe.step_of(model, optimizer, recipe.Settings(kinds=3, latents=5))
    return model, step, run, {"image": jnp.asarray(images), "kind": jnp.arange(6) % 3}


def test_each_network_goes_down_its_own_loss(begun, quick_compilation):
    model, step, run, batch = begun
    assert set(run.params) == {"generator", "discriminator"}
    new, found = jax.jit(step)(run, batch)
    images = jnp.asarray(np.float32(batch["image"]) / 127.5 - 1)
    kinds, noise = jnp.eye(3)[batch["kind"]], jax.random.normal(run.key(), (6, 5))

    def loss(own, name):
        params = {**run.params, name: own}
        (real, fake), _ = model.apply(params, run.state, images, kinds, noise, train=True)
        if name == "generator":
            return -jnp.log(jax.nn.sigmoid(fake)).mean()
        return -(jnp.log(jax.nn.sigmoid(real)) + jnp.log(1 - jax.nn.sigmoid(fake))).mean()

    for name, rate in (("generator", 0.5), ("discriminator", 0.25)):
        grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
        value, gradients = grad(run.params[name], name)
        assert found[name] == pytest.approx(float(value), rel=1e-5)
        expected = jax.tree.map(lambda w, g, r=rate: w - r * g, run.params[name], gradients)
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), expected, run.params[name])
        assert max(jax.tree.leaves(moved)) > 1e-3
        for a, b in zip(*map(jax.tree.leaves, (new.params[name], expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert int(new.step) == 1


def test_a_step_that_is_not_finite_is_refused(begun, quick_compilation):
    _, step, run, batch = begun
    broken = jax.tree.map(lambda x: x, run.params)
    broken["discriminator"]["out"]["bias"] *= np.float32(np.nan)
    run = dataclasses.replace(run, params=broken)
    new, found = jax.jit(step)(run, batch)
    assert np.isnan(found["discriminator"])
    jax.tree.map(np.testing.assert_array_equal, new, run)


def test_each_image_is_judged_for_its_kind():
    images = jnp.asarray(np.random.default_rng(0).random((4, 8, 8, 1)), jnp.float32)
    judge = fn.Model(recipe.discriminator, width=4)
    params, _ = judge.init(jax.random.key(0), images, jnp.eye(3)[:1])
    each = [judge(params, images, jnp.tile(kind, (4, 1))) for kind in jnp.eye(3)]
    mixed = judge(params, images, jnp.eye(3)[jnp.array([2, 0, 1, 2])])
    expected = [each[2][0], each[0][1], each[1][2], each[2][3]]
    np.testing.assert_allclose(mixed, jnp.stack(expected), rtol=1e-5)
    assert len(set(np.ravel(each))) == 12
