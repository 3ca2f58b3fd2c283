"""Nll, focal, multi-class margin and Dice: by hand, far out, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pulls import value_and_gradient

from funnet import losses

pytestmark = pytest.mark.usefixtures("quick_compilation")

OF_LABELS = {
    "cross_entropy": losses.cross_entropy,
    "nll": losses.nll,
    "focal": losses.focal,
    "multi_margin": losses.multi_margin,
    "dice": lambda logits, labels: losses.dice(logits[:, None], labels[:, None]),
}
each = pytest.mark.parametrize("name", OF_LABELS)


def draw(*shape, scale=3.0):
    return (scale * np.random.default_rng(0).normal(size=shape)).astype(np.float32)


@each
def test_a_label_that_is_no_class_is_refused(name):
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=rf"labels.* is {wrong}, expected 0 <= labels <= 2"):
            OF_LABELS[name](draw(2, 3), np.array([0, wrong]))


@each
def test_under_jit_such_a_label_makes_its_loss_and_gradient_nan(name):
    @jax.jit
    def loss_and_gradient(labels):
        return value_and_gradient(OF_LABELS[name], jnp.asarray(draw(3, 4)), labels)

    for wrong in (-1, 4):
        loss, gradient = loss_and_gradient(jnp.array([0, wrong, 3]))
        np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
        np.testing.assert_array_equal(np.isnan(gradient).any(1), [False, True, False])


@each
def test_labels_and_logits_have_dtypes_and_shapes(name):
    loss = OF_LABELS[name]
    with pytest.raises(TypeError, match="labels must be integers"):
        loss(draw(2, 3), np.zeros(2, np.float32))
    with pytest.raises(TypeError, match=r"(logits|log_probabilities) must be floating point"):
        loss(np.zeros((2, 3), np.int32), np.zeros(2, np.int32))
    with pytest.raises(ValueError, match=r"labels has shape .*one label for each row"):
        loss(draw(2, 3), np.zeros(3, np.int32))


@each
def test_a_nan_is_not_hidden(name):
    # An infinite score has its margin, but there is no softmax with it.
    for spoilt in (np.nan,) if name == "multi_margin" else (np.nan, np.inf):
        logits = draw(3, 3)
        logits[1, 1] = spoilt
        loss = OF_LABELS[name](logits, np.array([0, 1, 2]))
        assert not np.isfinite(loss[1])
        assert np.isfinite(loss[jnp.array([0, 2])]).all()


@each
def test_one_class_costs_nothing(name):
    if name == "nll":
        return
    loss, gradient = value_and_gradient(OF_LABELS[name], draw(2, 1), np.zeros(2, int))
    np.testing.assert_array_equal(loss, [0, 0])
    np.testing.assert_array_equal(gradient, np.zeros((2, 1)))


# Nll.


def test_nll_of_log_softmax_is_the_cross_entropy():
    logits, labels = draw(5, 4), np.array([0, 3, 1, 2, 2])
    found = losses.nll(jax.nn.log_softmax(logits), labels)
    np.testing.assert_allclose(found, losses.cross_entropy(logits, labels), rtol=1e-5, atol=1e-6)


def test_nll_of_what_is_ruled_out_is_infinite():
    loss = losses.nll(jnp.array([[0.0, -jnp.inf]] * 2), np.array([0, 1]))
    np.testing.assert_array_equal(loss, [0, np.inf])


# Focal.

GAMMAS = [0.0, 0.3, 0.5, 1.0, 2.0, 5.0]
# Far out: the label's log-odds.
FAR = [-np.inf, -1e4, -100.0, -15.0, 15.0, 40.0, 80.0, 100.0, 1e4, np.inf]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_keeps_its_digits_far_out(gamma):
    odds = np.array(FAR)
    logits = np.stack([np.zeros_like(odds), np.minimum(odds, 1e5)], -1).astype(np.float32)
    logits[-1] = [-np.inf, 0]
    labels = np.ones(len(odds), np.int32)
    loss, gradient = value_and_gradient(
        lambda x: losses.focal(x, labels, gamma=gamma), jnp.asarray(logits)
    )
    rest = 1 / (1 + np.exp(np.minimum(odds, 700)))  # 1 - p, of which no digit is lost
    cost = np.logaddexp(0, -odds)
    expected = rest**gamma * cost
    slope = -(rest**gamma) * (rest + gamma * (1 - rest) * np.where(odds < -1e3, 0, cost))
    seen = expected > 1e-36  # below, float32 has no normal numbers
    np.testing.assert_allclose(loss[seen], expected[seen], rtol=2e-5)
    np.testing.assert_allclose(gradient[seen, 1], slope[seen], rtol=2e-5)
    assert not np.asarray(loss[~seen]).any() or loss[~seen].max() < 1e-35
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[:, 0], -gradient[:, 1], rtol=1e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_binary_focal_is_the_focal_loss_of_two_classes(gamma):
    odds, targets = draw(7, scale=8.0), np.array([1, 0, 1, 1, 0, 0, 1])
    two = np.stack([np.zeros_like(odds), odds], -1)
    found = losses.binary_focal(odds, targets, gamma=gamma)
    np.testing.assert_allclose(found, losses.focal(two, targets, gamma=gamma), rtol=1e-5)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("size", [200.0, 1e5, np.inf])
def test_binary_focal_far_out(gamma, size):
    odds, targets = jnp.array([size, -size, -size, size]), np.array([True, False, True, False])
    loss, gradient = value_and_gradient(
        lambda x: losses.binary_focal(x, targets, gamma=gamma), odds
    )
    np.testing.assert_array_equal(loss, [0, 0, size, size])
    np.testing.assert_array_equal(gradient, [0, 0, -1, 1])


def test_gamma_zero_is_the_cross_entropy():
    logits, labels = draw(5, 4), np.array([0, 3, 1, 2, 2])
    found = losses.focal(logits, labels, gamma=0.0)
    np.testing.assert_allclose(found, losses.cross_entropy(logits, labels), rtol=1e-5)
    targets = np.random.default_rng(1).random((5, 4)).astype(np.float32)
    found = losses.binary_focal(logits, targets, gamma=0.0)
    np.testing.assert_allclose(found, losses.binary_cross_entropy(logits, targets), rtol=1e-6)


def test_gamma_can_be_swept():
    logits, labels = draw(5, 4), np.array([0, 3, 1, 2, 2])
    swept = jax.vmap(lambda gamma: losses.focal(logits, labels, gamma=gamma))(jnp.array([0.0, 2]))
    for gamma, found in zip([0.0, 2.0], swept, strict=True):
        np.testing.assert_allclose(found, losses.focal(logits, labels, gamma=gamma), rtol=1e-6)


def test_gamma_is_not_negative():
    with pytest.raises(ValueError, match="gamma is -1, expected 0 <= gamma"):
        losses.focal(draw(2, 3), np.zeros(2, int), gamma=-1)
    with pytest.raises(ValueError, match="gamma is -1, expected 0 <= gamma"):
        losses.binary_focal(draw(2), np.zeros(2, int), gamma=-1)


def test_binary_focal_has_probabilities_for_targets():
    with pytest.raises(ValueError, match=r"targets\[1\] is 2, expected 0 <= targets <= 1"):
        losses.binary_focal(draw(2), np.array([0, 2]))


# Multi-class margin.


def test_the_margin_by_hand():
    logits = np.array([[2.0, 1.5, -4.0], [0.0, 0.0, 0.0]])
    loss = losses.multi_margin(logits, np.array([0, 1]), margin=1.0)
    np.testing.assert_allclose(loss, [0.5 / 3, 2 / 3], rtol=1e-6)


def test_a_label_that_just_has_its_margin_is_left_alone():
    logits = np.array([[3.0, 2.0, 2.0]], np.float32)
    loss, gradient = value_and_gradient(losses.multi_margin, logits, np.array([0]))
    assert loss == 0
    assert not gradient.any()


def test_margins_are_above_zero():
    with pytest.raises(ValueError, match="margin is 0, expected margin > 0"):
        losses.multi_margin(draw(2, 3), np.zeros(2, int), margin=0)


# Dice.


def one_place(*classes):
    """Logits that are certain of a class at each place, of three."""
    return np.where(np.eye(3, dtype=bool)[list(classes)], 0, -np.inf)[None].astype(np.float32)


def test_dice_by_hand():
    # Class 0: 1 hit of 2 and 1 places; class 1: none of 0 and 1; class 2: 1 of 1 and 1.
    loss = losses.dice(one_place(0, 0, 2), np.array([[0, 1, 2]]), smoothing=0.5)
    overlaps = [(2 * 1 + 0.5) / (2 + 1 + 0.5), 0.5 / 1.5, 2.5 / 2.5]
    np.testing.assert_allclose(loss, [1 - np.mean(overlaps)], rtol=1e-6)


def test_the_true_regions_cost_nothing_though_a_class_is_absent():
    for smoothing in (1.0, 1e-6):
        loss, gradient = value_and_gradient(
            lambda x, s=smoothing: losses.dice(x, np.array([[0, 2, 2]]), smoothing=s),
            jnp.asarray(one_place(0, 2, 2)),
        )
        np.testing.assert_allclose(loss, [0], atol=1e-6)
        assert np.isfinite(gradient).all()


def test_dice_counts_regions_and_not_places():
    def loss(places):
        labels = np.zeros((1, places), int)
        labels[0, 0] = 1
        return losses.dice(one_place(*[0] * places), labels, smoothing=1e-6)

    np.testing.assert_allclose(loss(100), loss(1000), rtol=0.02)


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4), (2, 2, 3, 2)])
def test_dice_takes_any_number_of_spatial_axes(shape):
    logits, labels = draw(*shape, 3), np.random.default_rng(1).integers(0, 3, shape)
    flat = losses.dice(logits.reshape(2, -1, 3), labels.reshape(2, -1))
    found = losses.dice(logits, labels)
    assert found.shape == (2,)
    np.testing.assert_allclose(found, flat, rtol=1e-6)


def test_one_bad_place_makes_its_example_nan_under_jit():
    labels = jnp.zeros((3, 4), int).at[1, 2].set(3)
    loss, gradient = jax.jit(lambda y: value_and_gradient(losses.dice, draw(3, 4, 3), y))(labels)
    np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
    np.testing.assert_array_equal(np.isnan(gradient).all((1, 2)), [False, True, False])


def test_dice_smooths_and_has_examples():
    with pytest.raises(ValueError, match="smoothing is 0, expected smoothing > 0"):
        losses.dice(draw(2, 4, 3), np.zeros((2, 4), int), smoothing=0)
    with pytest.raises(ValueError, match=r"labels has shape .*first axis of examples"):
        losses.dice(draw(3), np.int32(0))
