"""The recipe of two tasks: both are learnt, the weighting is Kendall's, files are left."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

import funnet as fn
from recipes import multitask as recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checked run: its settings and its accuracies."""
    settings = recipe.Settings(check=True, folder=tmp_path_factory.mktemp("runs") / "multitask")
    return settings, recipe.main(settings)


def test_it_checks_its_claim_and_leaves_its_files(trained):
    settings, accuracies = trained
    assert list(accuracies) == ["digit", "odd"]
    assert all(0.9 <= both <= 1 and both >= alone - 0.03 for both, alone in accuracies.values())
    names = ["both", "digit", "odd", "predictions.png", "weights.png"]
    assert sorted(path.name for path in settings.folder.iterdir()) == names


def test_a_second_run_over_the_first_is_finished(trained):
    settings, accuracies = trained
    files = [settings.folder / which / "metrics.jsonl" for which in ("both", "digit", "odd")]
    before = [file.read_bytes() for file in files]
    assert recipe.main(settings) == accuracies
    assert [file.read_bytes() for file in files] == before


def test_the_weights_of_the_losses_are_learnt(trained):
    settings, _ = trained
    model = fn.Model(recipe.net, heads=recipe.HEADS)
    like = fn.Run.start(model, optax.adam(lambda _: 0.0), jnp.zeros((1, 8, 8, 1)))
    log_variance = fn.restore(settings.folder / "both", like=like).params["log_variance"]
    assert log_variance.shape == (2,)
    assert log_variance[1] < log_variance[0], "parity has two classes, so the smaller loss"


def test_the_best_variances_are_twice_the_losses():
    losses = jnp.array([0.3, 2.0])
    loss = jax.jit(jax.value_and_grad(lambda s: recipe.weighted(losses, s)))
    found = minimize(lambda s: tuple(map(np.float64, loss(np.float32(s)))), [0, 0], jac=True)
    np.testing.assert_allclose(np.exp(found.x), 2 * losses, rtol=0.01)
    expected = np.sum(0.5 + 0.5 * np.log(2 * np.asarray(losses, np.float64)))
    assert found.fun == pytest.approx(expected, abs=1e-5)


def test_one_task_is_not_weighted():
    assert recipe.weighted(jnp.array([0.7]), jnp.array([3.0])) == jnp.float32(0.7)


def test_the_objective_is_the_formula(quick_compilation):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    batch = {"image": images, "digit": jnp.array([3, 1, 4]), "odd": jnp.array([1, 1, 0])}
    model = fn.Model(recipe.net, heads=recipe.HEADS)
    params, state = model.init(jax.random.key(0), images)
    params = {**params, "log_variance": jnp.array([0.5, -1.0])}
    objective = functools.partial(recipe.objective_of(model), train=False, key=None)
    loss, (_, found) = jax.jit(objective)(params, state, batch)

    (logits, _), _ = jax.jit(model.apply)(params, state, images)
    expected = 0.0
    for (task, y), s in zip(jax.tree.map(np.float64, logits).items(), (0.5, -1.0), strict=True):
        labels = np.asarray(batch[task])
        spread = 0.9 * np.eye(y.shape[-1])[labels] + 0.1 / y.shape[-1]
        losses = np.log(np.exp(y).sum(-1)) - (spread * y).sum(-1)
        expected += losses.mean() * np.exp(-s) + s / 2
        assert found[task].value == pytest.approx((y.argmax(-1) == labels).mean())
        assert found[f"{task} weight"] == pytest.approx(np.exp(-s), rel=1e-6)
    assert loss == pytest.approx(expected, rel=1e-4)
