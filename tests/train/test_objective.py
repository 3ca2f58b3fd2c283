"""Objectives: the formulas by hand, and what happens in training only."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import BATCHES, DATA, LINEAR, MODEL, assert_same, linear_start, start

import funnet as fn
from funnet.data import augment

BATCH = jax.tree.map(jnp.asarray, BATCHES[0])
WEIGHT = jnp.asarray([1] * 10 + [0] * 6, jnp.int32)


def measured(objective, run, batch, *, train=False, key=None):
    """Loss, next state and metrics as numbers."""
    call = jax.jit(lambda p, s, batch: objective(p, s, batch, train=train, key=key))
    loss, (state, metrics) = call(run.params, run.state, batch)
    return float(loss), state, {name: float(metric.value) for name, metric in metrics.items()}


def scores(params, images):
    """Logits of the linear model, in float64."""
    out = jax.tree.map(np.float64, params["out"])
    return np.asarray(images, np.float64) @ out["kernel"] + out["bias"]


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_classification_is_mean_cross_entropy_and_accuracy():
    run = linear_start()
    logits, label = scores(run.params, BATCH["image"]), np.asarray(BATCH["label"])
    expected = -log_softmax(logits)[np.arange(16), label].mean()
    loss, state, metrics = measured(fn.classification(LINEAR), run, BATCH)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert metrics["loss"] == loss
    assert metrics["accuracy"] == (logits.argmax(axis=1) == label).mean()
    assert state == {}


def test_rows_of_no_weight_do_not_count():
    run, few = linear_start(), jax.tree.map(lambda x: x[:10], BATCH)
    padded = {**BATCH, "weight": WEIGHT, "image": BATCH["image"].at[10:].set(1e3)}
    objective = fn.classification(LINEAR)
    loss, _, metrics = measured(objective, run, padded)
    expected, _, exactly = measured(objective, run, few)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert metrics["accuracy"] == exactly["accuracy"]


def test_metrics_are_sums_that_add_up():
    _, (_, metrics) = fn.classification(LINEAR)(
        linear_start().params, {}, {**BATCH, "weight": WEIGHT}, train=False, key=None
    )
    assert {name: int(metric.count) for name, metric in metrics.items()} == {
        "loss": 10,
        "accuracy": 10,
    }


def test_label_smoothing_is_for_training_only():
    run, smooth = linear_start(), 0.3
    plain, objective = fn.classification(LINEAR), fn.classification(LINEAR, label_smoothing=smooth)
    assert measured(objective, run, BATCH) == measured(plain, run, BATCH)
    target = (1 - smooth) * np.eye(3)[np.asarray(BATCH["label"])] + smooth / 3
    expected = -(target * log_softmax(scores(run.params, BATCH["image"]))).sum(axis=1).mean()
    loss, _, metrics = measured(objective, run, BATCH, train=True)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert metrics["accuracy"] == measured(plain, run, BATCH)[2]["accuracy"]


def test_augmentation_is_for_training_only_and_has_a_key_of_its_own(key):
    seen = []

    def zeros(key, batch):
        seen.append(key)
        return {**batch, "image": jnp.zeros_like(batch["image"])}

    run, objective = linear_start(), fn.classification(LINEAR, augment=zeros)
    assert measured(objective, run, BATCH) == measured(fn.classification(LINEAR), run, BATCH)
    assert not seen
    loss, _ = objective(run.params, run.state, BATCH, train=True, key=key)
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-6)
    (given,) = seen
    assert (jax.random.key_data(given) != jax.random.key_data(key)).any()


def pictures():
    draw = np.random.default_rng(0)
    image = draw.normal(size=(6, 4, 4, 1)).astype(np.float32)
    label = draw.integers(0, 3, 6).astype(np.int32)
    return jax.tree.map(
        jnp.asarray, {"image": image, "label": label, "id": np.arange(6, dtype=np.int32)}
    )


@fn.layer
def flat(p, images):
    return fn.dense(p["out"], fn.flatten(images), 3)


def test_mixup_s_labels_are_probabilities(key):
    batch = pictures()
    model, mix = fn.Model(flat), augment.mixup(0.5, classes=3)
    run = fn.Run(*model.init(key, batch["image"]), (), 0, 0)
    seen = []

    def spied(key, batch):
        seen.append(mix(key, batch))
        return seen[-1]

    objective = fn.classification(model, augment=spied)
    loss, (_, metrics) = objective(run.params, {}, batch, train=True, key=key)
    (mixed,) = seen
    logits = scores(run.params, mixed["image"].reshape(6, -1))
    expected = -(np.asarray(mixed["label"]) * log_softmax(logits)).sum(axis=1).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert metrics.keys() == {"loss"}
    assert measured(objective, run, batch)[2].keys() == {"loss", "accuracy"}


def test_the_input_may_have_another_name():
    named = {"pixels" if name == "image" else name: x for name, x in BATCH.items()}
    found = measured(fn.classification(LINEAR, input="pixels"), linear_start(), named)
    assert found == measured(fn.classification(LINEAR), linear_start(), BATCH)


def test_training_uses_the_batch_and_evaluation_the_running_statistics(key):
    run, objective = start(), fn.classification(MODEL)
    _, state, _ = measured(objective, run, BATCH, train=True, key=key)
    assert (state["norm"]["mean"] != run.state["norm"]["mean"]).any()
    assert_same(measured(objective, run, BATCH)[1], run.state)
    logits, _ = MODEL.apply(run.params, run.state, BATCH["image"])
    expected = fn.losses.cross_entropy(logits, BATCH["label"]).mean()
    np.testing.assert_allclose(measured(objective, run, BATCH)[0], expected, rtol=1e-5)


TARGETS = {"input": DATA["image"], "target": DATA["image"][:, :3] ** 2}
LOSSES = {
    "mse": (fn.losses.mse, lambda error: error**2),
    "l1": (fn.losses.l1, np.abs),
}


@pytest.mark.parametrize("name", LOSSES)
def test_regression_is_the_mean_loss_of_the_weighted_rows(name):
    loss, formula = LOSSES[name]
    run, batch = linear_start(), jax.tree.map(jnp.asarray, TARGETS)
    objective = fn.regression(LINEAR, loss=loss)
    error = scores(run.params, batch["input"]) - np.asarray(batch["target"], np.float64)
    for rows in (50, 20):
        weight = (jnp.arange(50) < rows).astype(jnp.int32)
        value, _, metrics = measured(objective, run, {**batch, "weight": weight})
        np.testing.assert_allclose(value, formula(error)[:rows].mean(), rtol=1e-6)
        assert metrics == {"loss": value}


def test_regression_is_of_mse_and_other_names_unless_said_otherwise():
    run, batch = linear_start(), jax.tree.map(jnp.asarray, TARGETS)
    other = {"x": batch["input"], "y": batch["target"]}
    expected = measured(fn.regression(LINEAR, loss=fn.losses.mse), run, batch)
    assert measured(fn.regression(LINEAR), run, batch) == expected
    assert measured(fn.regression(LINEAR, input="x", target="y"), run, other) == expected


def test_targets_of_another_shape_are_refused():
    batch = {"input": jnp.ones((8, 4)), "target": jnp.ones(8)}
    with pytest.raises(ValueError, match=r"\(8, 3\).*\(8,\)"):
        fn.regression(LINEAR)(linear_start().params, {}, batch, train=False, key=None)


def test_further_entries_reach_the_model_by_name():
    @fn.layer
    def tagger(p, x, lengths, scale=None):
        y = fn.dense(p["out"], x, 3)
        y = jnp.where(fn.sequence_mask(lengths, x.shape[1])[..., None], y, 0)
        return y if scale is None else y * scale[:, None, None]

    rng = np.random.default_rng(0)
    batch = {
        "token": rng.normal(size=(4, 5, 2)).astype(np.float32),
        "lengths": np.array([5, 1, 3, 2], np.int32),
        "times": np.array([1, 2, 3, 4], np.float32),
        "label": rng.integers(0, 3, (4, 5)).astype(np.int32),
    }
    model = fn.Model(tagger)
    run = fn.Run.start(model, optax.sgd(0.1), batch["token"], batch["lengths"])
    entries = {"lengths": "lengths", "scale": "times"}
    objective = fn.classification(model, input="token", **entries)
    loss, _, metrics = measured(objective, run, batch)
    logits = model(run.params, batch["token"], batch["lengths"], scale=batch["times"])
    logits = np.asarray(logits, np.float64).reshape(20, 3)
    label = batch["label"].ravel()
    np.testing.assert_allclose(loss, -log_softmax(logits)[np.arange(20), label].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], (logits.argmax(1) == label).mean(), rtol=1e-6)


def test_a_setting_that_is_no_entry_is_refused():
    with pytest.raises(TypeError, match=r"smoothing must be the name .* fn.Model\(..., smoothing="):
        fn.classification(LINEAR, smoothing=0.1)
