"""Hinge, ranking, densities and their divergence: by hand, at their edges, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from pulls import value_and_gradient

from funnet import losses

pytestmark = pytest.mark.usefixtures("quick_compilation")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Hinge and ranking.


def test_the_hinge_by_hand():
    predictions, targets = np.array([[0.25, -3.0], [1.0, -1.0]]), np.array([[1, 1], [1, -1]])
    np.testing.assert_allclose(losses.hinge(predictions, targets), [(0.75 + 4) / 2, 0])


def test_what_just_reaches_the_hinge_is_left_alone():
    loss, gradient = value_and_gradient(losses.hinge, jnp.array([1.0, -1.0]), np.array([1, -1]))
    assert not loss.any()
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.float32, jnp.bfloat16])
def test_signs_come_in_any_dtype(dtype):
    signs = np.array([1, -1]).astype(dtype)
    np.testing.assert_array_equal(losses.hinge(np.zeros(2), signs), [1, 1])
    found = losses.margin_ranking(np.ones(2), np.zeros(2), signs)
    np.testing.assert_array_equal(found, [0, 1])


@pytest.mark.parametrize("wrong", [0, 2, -128])
def test_signs_are_signs(wrong):
    signs = np.array([[1, -1], [wrong, 1]], np.int8)
    with pytest.raises(ValueError, match=rf"targets\[1, 0\] is {wrong}, .*2 \* targets - 1"):
        losses.hinge(np.zeros((2, 2)), signs)
    with pytest.raises(ValueError, match=rf"order\[1, 0\] is {wrong}, .*2 \* order - 1"):
        losses.margin_ranking(np.zeros((2, 2)), np.zeros((2, 2)), signs)


def test_a_nan_is_no_sign():
    with pytest.raises(ValueError, match=r"targets\[0\] is nan, expected -1 or \+1"):
        losses.hinge(np.zeros(1), np.array([np.nan]))


def test_equal_scores_are_pulled_apart():
    zero = jnp.zeros(2)
    loss, slope_a = value_and_gradient(losses.margin_ranking, zero, zero, np.array([1, -1]))
    np.testing.assert_array_equal(loss, [0, 0])
    np.testing.assert_array_equal(slope_a, [-1, 1])


# Densities.


def test_the_gaussian_likelihood_is_that_of_scipy():
    mean, targets, var = draw(5, 3), draw(5, 3, seed=1), draw(5, 3, seed=2) ** 2 + 0.1
    expected = -scipy.stats.norm.logpdf(targets, mean, np.sqrt(var)) - np.log(2 * np.pi) / 2
    np.testing.assert_allclose(losses.gaussian_nll(mean, targets, var), expected.mean(1), 1e-5)


def test_a_variance_below_eps_counts_as_eps_and_can_grow_again():
    zero, one = jnp.zeros(3), jnp.ones(3)
    var = jnp.array([0.0, 1e-9, 1e-6])
    loss, gradient = value_and_gradient(lambda v: losses.gaussian_nll(zero, one, v), var)
    np.testing.assert_allclose(loss, [(np.log(1e-6) + 1e6) / 2] * 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, [(1e6 - 1e12) / 2] * 3, rtol=1e-6)


def test_a_negative_variance_is_refused_and_under_jit_nan():
    zero, var = jnp.zeros(2), jnp.array([1.0, -1.0])
    with pytest.raises(ValueError, match=r"var\[1\] is -1.0, expected 0 <= var"):
        losses.gaussian_nll(zero, zero, var)
    loss, gradient = value_and_gradient(lambda v: losses.gaussian_nll(zero, zero, v), var)
    np.testing.assert_array_equal(np.isnan(loss), [False, True])
    np.testing.assert_array_equal(np.isnan(gradient), [False, True])


def test_the_poisson_likelihood_is_that_of_scipy():
    log_rate, counts = draw(5, 3), np.random.default_rng(1).poisson(2.0, (5, 3))
    expected = -scipy.stats.poisson.logpmf(counts, np.exp(log_rate))
    expected -= scipy.special.gammaln(counts + 1)
    np.testing.assert_allclose(losses.poisson_nll(log_rate, counts), expected.mean(1), rtol=1e-5)


def test_nothing_counted_where_nothing_is_expected_costs_nothing():
    loss, gradient = value_and_gradient(
        losses.poisson_nll, jnp.full(2, -jnp.inf), np.array([0.0, 1.0])
    )
    np.testing.assert_array_equal(loss, [0, np.inf])
    np.testing.assert_array_equal(gradient, [0, -1])


def test_counts_are_not_negative():
    with pytest.raises(ValueError, match=r"targets\[1\] is -1, expected 0 <= targets"):
        losses.poisson_nll(np.zeros(2), np.array([0, -1]))


def test_the_divergence_of_the_standard_normal_from_itself_is_nothing():
    zero = jnp.zeros((2, 3))
    loss, gradient = value_and_gradient(losses.gaussian_kl, zero, zero)
    np.testing.assert_array_equal(loss, [0, 0])
    np.testing.assert_array_equal(gradient, zero)


def test_the_divergence_is_never_negative():
    log_var = jnp.asarray(10.0 ** np.arange(-9, 1))
    for sign in (1, -1):
        loss = losses.gaussian_kl(jnp.zeros_like(log_var), sign * log_var)
        expected = (np.expm1(sign * np.float64(log_var)) - sign * np.float64(log_var)) / 2
        assert (loss >= 0).all()
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-9)


def test_the_divergence_is_summed_over_every_latent():
    mean, log_var = draw(2, 3, 4), draw(2, 3, 4, seed=1)
    flat = losses.gaussian_kl(mean.reshape(2, -1), log_var.reshape(2, -1))
    np.testing.assert_allclose(losses.gaussian_kl(mean, log_var), flat, rtol=1e-6)
    one = losses.gaussian_kl(mean[:, 0, 0], log_var[:, 0, 0])
    np.testing.assert_allclose(losses.gaussian_kl(mean[:, :1, 0], log_var[:, :1, 0]), one)


# Refusals.

ARGUMENTS = {
    "hinge": ("predictions", "targets"),
    "margin_ranking": ("a", "b", "order"),
    "binary_focal": ("logits", "targets"),
    "gaussian_nll": ("mean", "targets", "var"),
    "poisson_nll": ("log_rate", "targets"),
    "gaussian_kl": ("mean", "log_var"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_shapes_and_dtypes(name):
    loss, names = getattr(losses, name), ARGUMENTS[name]
    for odd in range(len(names)):
        arrays = [np.ones((4, 1) if i == odd else 4) for i in range(len(names))]
        message = rf"{names[odd]} has shape \(4, 1\)|shape \(4,\) but {names[odd]} has shape"
        with pytest.raises(ValueError, match=message):
            loss(*arrays)
        with pytest.raises(ValueError, match=message):
            jax.jit(loss)(*arrays)
    with pytest.raises(ValueError, match=rf"{names[0]} has shape \(\), expected a first axis"):
        loss(*[np.float32(1)] * len(names))
    with pytest.raises(TypeError, match=rf"{names[0]} must be floating point, got int32"):
        loss(np.ones(4, np.int32), *[np.ones(4)] * (len(names) - 1))
    with pytest.raises(TypeError, match=rf"{names[-1]} must be a JAX or NumPy array, got list"):
        loss(*[np.ones(1)] * (len(names) - 1), [1.0])
