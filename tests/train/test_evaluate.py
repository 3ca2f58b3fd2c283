"""`evaluate` and `predict`: exact over all rows, whatever their number and the batch size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import (
    DATA,
    LINEAR,
    LINEAR_OBJECTIVE,
    MODEL,
    OBJECTIVE,
    SGD,
    assert_close,
    assert_same,
    compilations,
    examples,
    host,
    linear_start,
    start,
)

import funnet as fn
from funnet.metrics import Mean, Sum, mean


def used():
    """A run whose running statistics are not those it began with."""
    state = {"norm": {"mean": np.linspace(-1, 1, 8), "var": np.linspace(0.5, 2, 8)}}
    return dataclasses.replace(start(), state=jax.tree.map(jnp.float32, state))


def logits_of(run, images):
    """`net`'s evaluation pass, in float64."""
    params, state = (jax.tree.map(np.float64, tree) for tree in (run.params, run.state))
    x = np.asarray(images, np.float64) @ params["hidden"]["kernel"]
    x = (x - state["norm"]["mean"]) / np.sqrt(state["norm"]["var"] + 1e-5)
    x = np.maximum(x * params["norm"]["scale"] + params["norm"]["bias"], 0)
    return x @ params["out"]["kernel"] + params["out"]["bias"]


def expected(run, data):
    logits, label = logits_of(run, data["image"]), data["label"]
    rows = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(label)), label]
    return {"loss": rows.mean(), "accuracy": (logits.argmax(axis=1) == label).mean()}


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 32, 33, 50])
def test_metrics_are_those_of_all_rows(count):
    run, data = used(), examples(count)
    found = fn.evaluate(OBJECTIVE, run, data, batch_size=16)
    assert found.keys() == {"loss", "accuracy"}
    assert all(type(value) is float for value in found.values())
    np.testing.assert_allclose(found["loss"], expected(run, data)["loss"], rtol=1e-5)
    assert found["accuracy"] == expected(run, data)["accuracy"]


@pytest.mark.parametrize("size", [1, 7, 25, 49, 50, 51, 1000])
def test_metrics_do_not_depend_on_the_batch_size(size):
    run = linear_start()
    found = fn.evaluate(LINEAR_OBJECTIVE, run, DATA, batch_size=size)
    reference = fn.evaluate(LINEAR_OBJECTIVE, run, DATA, batch_size=16)
    np.testing.assert_allclose(found["loss"], reference["loss"], rtol=1e-6)
    assert found["accuracy"] == reference["accuracy"]


def test_evaluating_changes_nothing():
    run = used()
    before = host(run)
    fn.evaluate(OBJECTIVE, run, DATA, batch_size=16)
    assert_same(run, before)


def counting(params, state, batch, *, train, key):
    """Everything an exact count can get wrong, as sums of integers."""
    weight = batch["weight"]
    found = {
        "rows": Sum(weight.sum()),
        "ids": Sum((weight * batch["id"]).sum()),
        "labels": Sum(jnp.zeros(3, jnp.int32).at[batch["label"]].add(weight)),
        "large": Sum(jnp.int32(2**30)),
        "share": Mean((weight * batch["label"]).sum(), weight.sum()),
    }
    return jnp.float32(0), (state, found)


@pytest.mark.parametrize("size", [1, 7, 16, 50])
def test_every_row_counts_exactly_once(size):
    found = fn.evaluate(counting, linear_start(), DATA, batch_size=size)
    assert found["rows"] == 50
    assert found["ids"] == 50 * 49 // 2
    assert found["labels"] == np.bincount(DATA["label"]).tolist()
    assert found["share"] == DATA["label"].sum() / 50
    assert found["large"] == 2**30 * -(-50 // size)  # beyond int32


def test_a_matrix_comes_as_nested_lists():
    def objective(params, state, batch, *, train, key):
        logits = LINEAR(params, batch["image"])
        matrix = fn.metrics.confusion_matrix(logits, batch["label"], batch["weight"])
        return jnp.float32(0), (state, {"confusion": matrix})

    matrix = fn.evaluate(objective, linear_start(), DATA, batch_size=16)["confusion"]
    assert isinstance(matrix, list)
    assert np.sum(matrix, axis=1).tolist() == np.bincount(DATA["label"]).tolist()


def test_the_loss_is_reported_where_the_objective_does_not():
    def objective(params, state, batch, *, train, key):
        loss = mean(batch["image"][:, 0], batch["weight"])
        return loss.value, (state, {})

    found = fn.evaluate(objective, linear_start(), DATA, batch_size=16)
    np.testing.assert_allclose(found["loss"], DATA["image"][:, 0].mean(), rtol=1e-5, atol=1e-7)


def test_the_objective_is_traced_and_compiled_once_though_the_last_batch_is_odd():
    told = []

    def objective(*args, **how):
        told.append(how)
        return LINEAR_OBJECTIVE(*args, **how)

    with compilations() as compiled:
        for count in (50, 33, 50):
            fn.evaluate(objective, linear_start(), examples(count), batch_size=16)
    assert told == [{"train": False, "key": None}]
    assert len(compiled) == 1


# What does not add up, or would count padding, is refused.

IMAGES, TARGETS = DATA["image"], DATA["image"][:, :3]


def careless(image, target):
    """Mean squared error that does not look at the weight."""

    def objective(params, state, batch, *, train, key):
        loss = mean(fn.losses.mse(LINEAR(params, batch[image]), batch[target]))
        return loss.value, (state, {"loss": loss})

    return objective


NAMES = [("a", "b"), ("x", "y"), ("input", "z"), ("weight_of", "Weight"), ("x", "a")]


@pytest.mark.parametrize("names", NAMES)
def test_an_objective_that_ignores_the_weight_is_refused_where_padding_would_count(names):
    data, run = dict(zip(names, (IMAGES, TARGETS), strict=True)), linear_start()
    with pytest.raises(ValueError, match=r"ignores batch\['weight'\].*fn.metrics.mean\(values"):
        fn.evaluate(careless(*names), run, data, batch_size=16)
    found = fn.evaluate(careless(*names), run, data, batch_size=25)
    error = np.asarray(LINEAR(run.params, IMAGES), np.float64) - TARGETS
    np.testing.assert_allclose(found["loss"], (error**2).mean(), rtol=1e-6)


@pytest.mark.parametrize("names", [*NAMES, ("x", "weights"), ("~", "y")])
def test_an_objective_that_uses_the_weight_is_taken_whatever_the_entries_are_called(names):
    data = {**dict(zip(names, (IMAGES, TARGETS), strict=True)), "zzz_unused": IMAGES}
    run, objective = linear_start(), fn.regression(LINEAR, input=names[0], target=names[1])
    error = np.asarray(LINEAR(run.params, IMAGES), np.float64) - TARGETS
    found = fn.evaluate(objective, run, data, batch_size=16)
    np.testing.assert_allclose(found["loss"], (error**2).mean(), rtol=1e-6)


def test_a_jitted_objective_that_ignores_the_weight_is_refused_too():
    objective = jax.jit(careless("a", "b"), static_argnames="train")
    with pytest.raises(ValueError, match="weight"):
        fn.evaluate(objective, linear_start(), {"a": IMAGES, "b": TARGETS}, batch_size=16)


def test_weights_of_the_data_count():
    weight = (np.arange(50) % 3 > 0).astype(np.float32)
    part = {name: array[weight > 0] for name, array in DATA.items()}
    run = linear_start()
    found = fn.evaluate(LINEAR_OBJECTIVE, run, {**DATA, "weight": weight}, batch_size=16)
    reference = fn.evaluate(LINEAR_OBJECTIVE, run, part, batch_size=16)
    np.testing.assert_allclose(found["loss"], reference["loss"], rtol=1e-6)
    np.testing.assert_allclose(found["accuracy"], reference["accuracy"], rtol=1e-6)


@pytest.mark.parametrize("size", [16, 50])
def test_a_metric_that_is_a_plain_number_is_refused(size):
    def objective(params, state, batch, *, train, key):
        loss = mean(batch["image"][:, 0], batch["weight"])
        return loss.value, (state, {"loss": loss, "score": loss.value})

    with pytest.raises(TypeError, match=r"metrics\['score'\] is a plain number: return fn.metrics"):
        fn.evaluate(objective, linear_start(), DATA, batch_size=size)


def test_a_label_that_is_no_class_is_not_overlooked():
    label = DATA["label"].copy()
    label[40] = 3
    found = fn.evaluate(LINEAR_OBJECTIVE, linear_start(), {**DATA, "label": label}, batch_size=16)
    assert np.isnan(found["loss"])


BAD = {
    "empty": ({"image": IMAGES[:0], "label": DATA["label"][:0]}, ValueError, "empty"),
    "NaN": ({**DATA, "image": np.where(IMAGES > 2, np.nan, IMAGES)}, ValueError, "finite, but row"),
    "lengths": ({**DATA, "label": DATA["label"][:9]}, ValueError, "one row for each example"),
    "float labels": ({**DATA, "label": DATA["label"] / 2}, TypeError, "'label'.* must be integers"),
    "no dict": (IMAGES, TypeError, "dict of arrays"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused(case):
    data, error, words = BAD[case]
    with pytest.raises(error, match=words):
        fn.evaluate(LINEAR_OBJECTIVE, linear_start(), data)


@pytest.mark.parametrize("size", [0, -3, 2.5, "16", None])
def test_bad_batch_sizes_are_refused(size):
    run = linear_start()
    with pytest.raises((ValueError, TypeError), match="batch_size"):
        fn.evaluate(LINEAR_OBJECTIVE, run, DATA, batch_size=size)
    with pytest.raises((ValueError, TypeError), match="batch_size"):
        fn.predict(LINEAR, run, IMAGES, batch_size=size)


# predict


@pytest.mark.parametrize("count", [1, 15, 16, 17, 50])
def test_predictions_are_one_row_for_each_input_in_their_order(count):
    run, images = used(), examples(count)["image"]
    found = fn.predict(MODEL, run, images, batch_size=16)
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == ((count, 3), np.float32)
    np.testing.assert_allclose(found, logits_of(run, images), rtol=1e-4, atol=1e-5)


@fn.layer
def two(p, inputs):
    total = fn.dense(p["left"], inputs["left"], 2) + inputs["right"][0][:, None]
    return {"total": total, "parts": (inputs["left"][:, 0], inputs["right"][1] + 1)}


def test_inputs_and_outputs_may_be_trees():
    left, offset, whole = IMAGES, np.arange(50, dtype=np.float32), np.arange(50, dtype=np.int32)
    inputs, model = {"left": left, "right": [offset, whole]}, fn.Model(two)
    run = fn.Run.start(model, SGD, inputs)
    found = fn.predict(model, run, inputs, batch_size=16)
    assert_close(found, model(run.params, inputs), rtol=1e-5, atol=1e-6)
    assert found["parts"][1].dtype == np.int32
    np.testing.assert_array_equal(found["parts"][1], whole + 1)


def test_predicting_compiles_once_and_changes_nothing():
    run, model = used(), fn.Model(MODEL.layer)
    before = host(run)
    with compilations() as compiled:
        for count in (50, 33):
            fn.predict(model, run, examples(count)["image"], batch_size=16)
    assert len(compiled) == 1
    assert_same(run, before)


@pytest.mark.parametrize(
    "inputs",
    [IMAGES[:0], [], {}, (IMAGES, IMAGES[:3]), np.float32(3)],
    ids=["no rows", "no arrays", "nothing", "unequal rows", "a number"],
)
def test_bad_inputs_are_refused(inputs):
    with pytest.raises((ValueError, TypeError), match="inputs must be arrays"):
        fn.predict(LINEAR, linear_start(), inputs)


def test_a_batch_without_weight_adds_nothing_to_the_loss():
    def objective(params, state, batch, *, train, key):
        return mean(batch["image"][:, 0], batch["weight"]).value, (state, {})

    weight = (np.arange(50) >= 16).astype(np.float32)  # none in the first of the batches
    found = fn.evaluate(objective, linear_start(), {**DATA, "weight": weight}, batch_size=16)
    np.testing.assert_allclose(found["loss"], DATA["image"][16:, 0].mean(), rtol=1e-5)
