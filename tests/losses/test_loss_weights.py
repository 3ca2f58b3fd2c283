"""Weights within an example: of elements, where 0 is padding, and of classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from loss_table import normal, signs, simplex

from funnet import losses

pytestmark = pytest.mark.usefixtures("quick_compilation")

INSIDE = np.array([[True, True, False, False], [True, True, True, True], [False] * 4])


def positive(rng, shape):
    return rng.uniform(0.1, 3, shape)


# Each elementwise loss, and what draws its arguments.
ELEMENTWISE = {
    "mse": {"predictions": normal, "targets": normal},
    "l1": {"predictions": normal, "targets": normal},
    "huber": {"predictions": normal, "targets": normal},
    "binary_cross_entropy": {"logits": normal, "targets": simplex},
    "binary_focal": {"logits": normal, "targets": simplex},
    "hinge": {"predictions": normal, "targets": signs},
    "margin_ranking": {"a": normal, "b": normal, "order": signs},
    "gaussian_nll": {"mean": normal, "targets": normal, "var": positive},
    "poisson_nll": {"log_rate": normal, "targets": positive},
}
each = pytest.mark.parametrize("name", ELEMENTWISE)


def drawn(name, shape=(3, 4, 2)):
    rng = np.random.default_rng(0)
    arrays = {key: draw(rng, shape) for key, draw in ELEMENTWISE[name].items()}
    return {key: x.astype(np.float32) for key, x in arrays.items()}


def spoilt(arrays, inside, garbage):
    return {key: np.where(inside[..., None], x, np.float32(garbage)) for key, x in arrays.items()}


def padded(arrays, by):
    around = ((0, 0), (0, by), (0, 0))
    return {key: np.pad(x, around, constant_values=np.nan) for key, x in arrays.items()}


def value_and_gradients(name, arrays, weights):
    loss = lambda arrays: getattr(losses, name)(**arrays, weights=weights)  # noqa: E731
    value, pull = jax.vjp(jax.jit(loss), arrays)
    return value, pull(jnp.ones_like(value))[0]


@each
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e38, 0.0])
def test_garbage_of_weight_zero_changes_no_bit(name, garbage):
    clean = drawn(name)
    expected, slopes = value_and_gradients(name, clean, INSIDE)
    found, gradients = value_and_gradients(name, spoilt(clean, INSIDE, garbage), INSIDE)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).all()
    for key, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, slopes[key])
        assert not np.asarray(gradient)[~INSIDE].any()


@each
def test_more_padding_changes_nothing(name):
    arrays = drawn(name)
    expected, slopes = value_and_gradients(name, arrays, INSIDE)
    more = np.pad(INSIDE, ((0, 0), (0, 5)))
    found, gradients = value_and_gradients(name, padded(arrays, 5), more)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient[:, :4], slopes[key], rtol=1e-6)
        assert not np.asarray(gradient)[:, 4:].any()


@each
def test_a_mask_leaves_the_mean_of_what_it_keeps(name):
    arrays, loss = drawn(name), getattr(losses, name)
    weighted = loss(**arrays, weights=INSIDE)
    alone = loss(**{key: x[:1, :2] for key, x in arrays.items()})
    np.testing.assert_allclose(weighted[:1], alone, rtol=1e-6)
    np.testing.assert_allclose(weighted[1:2], loss(**arrays)[1:2], rtol=1e-6)


@each
def test_an_example_without_weight_costs_nothing(name):
    value, gradients = value_and_gradients(name, drawn(name), INSIDE)
    assert value[2] == 0
    assert all(not gradient[2].any() for gradient in gradients.values())


@each
def test_garbage_is_not_refused_as_a_value_either(name):
    arrays = spoilt(drawn(name), INSIDE, np.nan)  # outside jit, where values are looked at
    assert np.isfinite(getattr(losses, name)(**arrays, weights=INSIDE)).all()


@each
def test_what_has_weight_is_not_hidden(name):
    arrays, loss = drawn(name), getattr(losses, name)
    first = next(iter(arrays))
    arrays[first][0, 0, 0] = np.nan
    assert np.isnan(jax.jit(loss)(**arrays, weights=INSIDE)[0])


@each
def test_gradients_of_weights_are_finite_differences(name):
    with jax.enable_x64(True):
        arrays = {key: x.astype(np.float64) for key, x in drawn(name).items()}
        weights = positive(np.random.default_rng(1), (3, 4))
        loss = jax.jit(lambda w: getattr(losses, name)(**arrays, weights=w))
        check_grads(loss, (jnp.asarray(weights),), order=1, atol=1e-6, rtol=1e-6, eps=1e-6)


def test_a_weight_of_zero_is_a_constant():
    x, target = jnp.array([[1.0, 3.0]]), jnp.array([[0.0, jnp.nan]])
    slope = jax.grad(lambda w: losses.mse(x, target, weights=w).sum())(jnp.array([[2.0, 0.0]]))
    np.testing.assert_array_equal(slope, [[0, 0]])


def test_a_weighted_mean_by_hand():
    predictions, weights = np.array([[1.0, 2.0, 4.0]]), np.array([[1, 3, 0]])
    loss = losses.mse(predictions, np.zeros((1, 3)), weights=weights)
    np.testing.assert_allclose(loss, [(1 * 1 + 3 * 4) / 4], rtol=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, jnp.bfloat16, np.float64])
def test_weights_come_in_any_dtype(dtype):
    arrays = drawn("mse")
    found = losses.mse(**arrays, weights=INSIDE.astype(dtype))
    np.testing.assert_array_equal(found, losses.mse(**arrays, weights=INSIDE))
    assert found.dtype == jnp.float32


@pytest.mark.parametrize("shape", [(3,), (), (3, 1), (3, 4, 1), (3, 4, 2, 1), (4, 3), (1, 4)])
@each
def test_weights_are_not_broadcast(name, shape):
    first = next(iter(ELEMENTWISE[name]))
    message = rf"weights has shape .* but {first} has shape \(3, 4, 2\), .*loss\)\.sum\(\) / weigh"
    with pytest.raises(ValueError, match=message):
        getattr(losses, name)(**drawn(name), weights=np.ones(shape, np.float32))


def test_examples_are_not_weighed_here():
    with pytest.raises(ValueError, match=r"weights has shape \(4,\).*whole examples write"):
        losses.mse(np.zeros(4), np.zeros(4), weights=np.ones(4))


@pytest.mark.parametrize("wrong", [-1.0, np.nan])
def test_weights_are_not_negative(wrong):
    weights = np.array([[1.0, wrong]])
    with pytest.raises(ValueError, match=r"weights\[0, 1\] is .*expected 0 <= weights"):
        losses.mse(np.zeros((1, 2)), np.zeros((1, 2)), weights=weights)
    with pytest.raises(ValueError, match=r"weights\[1\] is .*expected 0 <= weights"):
        losses.nll(np.zeros((1, 2)), np.zeros(1, int), weights=weights[0])


def test_weights_are_arrays():
    with pytest.raises(TypeError, match=r"weights must be a JAX or NumPy array, got list"):
        losses.mse(np.zeros((1, 2)), np.zeros((1, 2)), weights=[[1.0, 0.0]])
    with pytest.raises(TypeError, match=r"weights must be a JAX or NumPy array, got list"):
        losses.focal(np.zeros((1, 2)), np.zeros(1, int), weights=[1.0, 0.0])


# Classes.

OF_CLASSES = {
    "cross_entropy": ("logits", "labels"),
    "focal": ("logits", "labels"),
    "nll": ("log_probabilities", "labels"),
    "soft_cross_entropy": ("logits", "targets"),
}
each_of_classes = pytest.mark.parametrize("name", OF_CLASSES)
LABELS = np.array([0, 2, 1, 2])


def of_classes(name):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    second = LABELS if OF_CLASSES[name][1] == "labels" else np.eye(3, dtype=np.float32)[LABELS]
    return dict(zip(OF_CLASSES[name], (x, second), strict=True))


@each_of_classes
def test_a_class_counts_as_often_as_it_weighs(name):
    arrays, loss = of_classes(name), getattr(losses, name)
    weights = np.array([0.5, 2.0, 3.0], np.float32)
    found = loss(**arrays, weights=weights)
    np.testing.assert_allclose(found, weights[LABELS] * loss(**arrays), rtol=1e-6)


@each_of_classes
@pytest.mark.parametrize("shape", [(1,), (4,), (), (4, 3), (4, 1)])
def test_there_is_one_weight_for_each_class(name, shape):
    first = OF_CLASSES[name][0]
    message = rf"weights has shape .* but {first} has shape \(4, 3\), expected one weight .*\(3,\)"
    with pytest.raises(ValueError, match=message):
        getattr(losses, name)(**of_classes(name), weights=np.ones(shape, np.float32))


@each_of_classes
def test_a_class_of_weight_zero_may_be_ruled_out(name):
    arrays = of_classes(name)
    first = OF_CLASSES[name][0]
    arrays[first][:, 2] = -np.inf
    loss = lambda x: getattr(losses, name)(  # noqa: E731
        **(arrays | {first: x}), weights=np.array([1.0, 1.0, 0.0], np.float32)
    )
    value, pull = jax.vjp(jax.jit(loss), arrays[first])
    np.testing.assert_array_equal(value[1::2], [0, 0])
    assert np.isfinite(value).all()
    assert np.isfinite(pull(jnp.ones(4))[0]).all()


def test_smoothing_goes_over_the_weighted_classes():
    weights = np.array([1.0, 0.0, 3.0], np.float32)
    loss = losses.cross_entropy(
        np.zeros((1, 3)), np.array([0]), label_smoothing=0.3, weights=weights
    )
    np.testing.assert_allclose(loss, [np.log(3) * (0.7 * 1 + 0.1 * 4)], rtol=1e-6)


def test_the_weighted_mean_of_pytorch():
    torch = pytest.importorskip("torch")
    x, weights = of_classes("nll")["log_probabilities"], np.array([0.5, 2.0, 3.0], np.float32)
    loss = losses.nll(x, LABELS, weights=weights)
    expected = torch.nn.functional.nll_loss(
        torch.tensor(x), torch.tensor(LABELS), torch.tensor(weights)
    )
    np.testing.assert_allclose(loss.sum() / weights[LABELS].sum(), expected, rtol=1e-6)
