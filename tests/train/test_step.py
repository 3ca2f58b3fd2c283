"""The step: equal to an update by hand, and refused whole where loss or gradient is unsound."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import (
    ADAM,
    BATCHES,
    DATA,
    LINEAR,
    LINEAR_OBJECTIVE,
    LINEAR_STEP,
    MODEL,
    STEP,
    assert_close,
    assert_same,
    linear_start,
    start,
)

import funnet as fn

JITTED, LINEAR_JITTED = jax.jit(STEP), jax.jit(LINEAR_STEP)


def with_label(label, row=5):
    labels = BATCHES[0]["label"].copy()
    labels[row] = label
    return {**BATCHES[0], "label": labels}


def softmax_gradient(params, batch):
    """Loss and gradient of a linear classifier, by the textbook and in float64."""
    x, label = batch["image"].astype(np.float64), batch["label"]
    kernel, bias = (np.asarray(params["out"][name], np.float64) for name in ("kernel", "bias"))
    logits = x @ kernel + bias
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = -np.log(probability[np.arange(len(label)), label]).mean()
    error = (probability - np.eye(3)[label]) / len(label)
    return loss, {"out": {"bias": error.sum(axis=0), "kernel": x.T @ error}}


def test_a_step_of_sgd_is_the_textbook_s():
    run = linear_start()
    params = jax.tree.map(np.float64, run.params)
    for i in range(3):
        loss, gradient = softmax_gradient(params, BATCHES[i])
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, gradient)
        run, metrics = LINEAR_JITTED(run, BATCHES[i])
        np.testing.assert_allclose(metrics["loss"].value, loss, rtol=1e-6)
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
        np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
        assert_close(run.params, params, rtol=1e-5, atol=1e-7)
    assert int(run.step) == 3


def adam(params, gradients, moments, t, rate=1e-2, b1=0.9, b2=0.999, eps=1e-8):
    """Kingma and Ba 2015, Algorithm 1."""
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, moments[0], gradients)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, moments[1], gradients)

    def update(w, m, v):
        return w - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)

    return jax.tree.map(update, params, m, v), (m, v)


def test_a_step_of_adam_is_the_paper_s():
    run, step = fn.Run.start(LINEAR, ADAM, DATA["image"]), fn.train_step(LINEAR_OBJECTIVE, ADAM)
    params, jitted = jax.tree.map(np.float64, run.params), jax.jit(step)
    zeros = jax.tree.map(np.zeros_like, params)
    moments = (zeros, zeros)
    for i in range(4):
        params, moments = adam(params, softmax_gradient(params, BATCHES[i])[1], moments, i + 1)
        run, _ = jitted(run, BATCHES[i])
    assert_close(run.params, params, rtol=1e-4, atol=1e-6)


def test_a_step_with_state_and_dropout_is_an_optax_update_by_hand():
    run, batch = start(), BATCHES[0]
    images, labels = jnp.asarray(batch["image"]), jnp.asarray(batch["label"])

    def loss(params):
        logits, state = MODEL.apply(params, run.state, images, train=True, key=run.key())
        return fn.losses.cross_entropy(logits, labels).mean(), state

    (value, state), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(run.params)
    with jax.numpy_dtype_promotion("standard"):
        updates, kept = ADAM.update(gradients, run.optimizer_state, run.params)
    new, metrics = JITTED(run, batch)
    assert_close(new.params, optax.apply_updates(run.params, updates), rtol=1e-5, atol=1e-5)
    assert_close((new.state, metrics["loss"].value), (state, value), rtol=1e-5)
    assert_close(new.optimizer_state, kept, rtol=1e-4, atol=1e-7)


def test_a_step_is_pure():
    run = start()
    first, second = JITTED(run, BATCHES[0]), JITTED(run, BATCHES[0])
    assert_same(first, second)
    assert_same(run, start())
    assert int(first[0].step) == 1
    assert int(first[0].seed) == 0


def test_metrics_are_the_objective_s_and_the_gradient_s_norm():
    _, metrics = JITTED(start(), BATCHES[0])
    assert metrics.keys() == {"loss", "accuracy", "gradient_norm"}
    assert isinstance(metrics["loss"], fn.metrics.Mean)
    assert metrics["gradient_norm"].shape == ()
    assert int(metrics["accuracy"].count) == 16


def told_by(objective, run):
    return jax.device_get(jax.jit(fn.train_step(objective, ADAM))(run, {})[1])


def test_the_loss_is_reported_where_the_objective_does_not_report_it():
    def objective(params, state, batch, *, train, key):
        return 3 * params["w"], (state, {"size": jnp.float32(7)})

    assert told_by(objective, scalar_run(2.0)) == {"loss": 6, "size": 7, "gradient_norm": 3}


def test_the_objective_is_told_that_it_trains_and_given_the_step_s_key():
    told = []

    def objective(params, state, batch, *, train, key):
        told.append(train)
        return params["w"], (state, {"key": jax.random.key_data(key)})

    run = dataclasses.replace(scalar_run(1.0), step=jnp.int32(12))
    found = told_by(objective, run)["key"]
    np.testing.assert_array_equal(found[:2], jax.random.key_data(run.key()))
    assert set(told) == {True}


def test_dropout_and_augmentation_draw_anew_each_step_and_alike_in_the_same():
    run = dataclasses.replace(start(), step=jnp.int32(8))
    later = dataclasses.replace(run, step=jnp.int32(9))
    gradients = [JITTED(at, BATCHES[0])[1]["gradient_norm"].item() for at in (run, later, run)]
    assert gradients[0] == gradients[2] != gradients[1]


# The guard


@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1, -(2**31)])
def test_a_label_that_is_no_class_is_refused_and_changes_nothing(label):
    run, _ = JITTED(start(), BATCHES[1])
    new, metrics = JITTED(run, with_label(label))
    assert_same(new, run)
    assert np.isnan(metrics["loss"].value)
    assert np.isnan(metrics["gradient_norm"])


@pytest.mark.parametrize("pixel", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_no_number_is_refused_and_changes_nothing(pixel):
    run, batch = start(), {**BATCHES[0], "image": BATCHES[0]["image"].copy()}
    batch["image"][3, 1] = pixel
    new, metrics = JITTED(run, batch)
    assert_same(new, run)
    assert not np.isfinite(metrics["loss"].value)


def scalar_run(w):
    """A run of one number, with model state, Adam and momentum that a step would change."""
    params = {"w": jnp.float32(w)}
    return fn.Run(params, {"n": jnp.int32(0)}, ADAM.init(params), jnp.int32(4), jnp.uint32(1))


def scalar_step(function):
    def objective(params, state, batch, *, train, key):
        return function(params["w"], batch["x"]), ({"n": state["n"] + 1}, {})

    return jax.jit(fn.train_step(objective, ADAM))


@pytest.mark.parametrize(
    ("function", "w", "loss", "norm"),
    [
        (lambda w, x: w / x, 1.0, np.inf, np.inf),
        (lambda w, x: -jnp.abs(w) / x, 1.0, -np.inf, np.inf),
        (lambda w, x: jnp.log(x) + w, 1.0, -np.inf, 1.0),  # a sound gradient, an infinite loss
        (lambda w, x: jnp.sqrt(w * x), 1.0, 0.0, np.nan),  # sqrt'(0) * 0
        (lambda w, x: jnp.sqrt(w) + x, 0.0, 0.0, np.inf),
    ],
    ids=["inf", "-inf", "inf with a sound gradient", "NaN gradient", "infinite gradient"],
)
def test_unsound_numbers_are_refused_and_told(function, w, loss, norm):
    run, step = scalar_run(w), scalar_step(function)
    new, metrics = step(run, {"x": jnp.float32(0)})
    assert_same(new, run)
    np.testing.assert_equal(float(metrics["loss"]), loss)
    np.testing.assert_equal(float(metrics["gradient_norm"]), norm)


def test_the_step_after_a_refused_one_may_be_sound():
    step = scalar_step(lambda w, x: w / x)
    refused, _ = step(scalar_run(1.0), {"x": jnp.float32(0)})
    new, _ = step(refused, {"x": jnp.float32(2)})
    assert (int(new.step), int(new.state["n"])) == (5, 1)
    assert_same(new, step(scalar_run(1.0), {"x": jnp.float32(2)})[0])


def test_a_member_of_an_ensemble_is_refused_alone(quick_compilation):
    runs = jax.vmap(start)(jnp.arange(3))
    batches = [BATCHES[0], with_label(3), BATCHES[2]]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    new, metrics = jax.jit(jax.vmap(STEP))(runs, stacked)
    assert new.step.tolist() == [1, 0, 1]
    assert np.isfinite(metrics["gradient_norm"]).tolist() == [True, False, True]
    old, member = (jax.tree.map(lambda x: x[1], run) for run in (runs, new))
    assert_same(member, old)
    for i in (0, 2):
        alone, _ = JITTED(jax.tree.map(lambda x, i=i: x[i], runs), batches[i])
        member = jax.tree.map(lambda x, i=i: x[i], new)
        assert_close(member, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("watched", "sound"),
    [
        ([1.0], True),
        ([1.0, 2.0], True),
        ([1.0, np.nan], False),
        ([np.inf, 1.0], False),
        ([np.ones(3), 1.0], True),
        ([np.array([1, -np.inf, 1]), 1.0], False),
        ([True, 3], True),
    ],
)
def test_guarded_takes_the_new_run_where_all_that_is_watched_is_finite(watched, sound):
    old = scalar_run(1.0)
    new = old.next(params={"w": jnp.float32(np.nan)})
    kept = jax.jit(fn.guarded)(old, new, *map(jnp.asarray, watched))
    assert_same(kept, new if sound else old)
