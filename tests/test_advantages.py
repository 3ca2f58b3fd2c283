"""Advantages against sums written out in float64, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn


def drawn(seed, shape):
    rng = np.random.default_rng(seed)
    over = rng.random(shape) < 0.3
    following = np.where(rng.random(shape) < 0.5, 0.0, rng.normal(size=shape))
    return rng.normal(size=shape), rng.normal(size=shape), following, over


def reference(rewards, values, following, over, discount, trace):
    """`sum_k (discount trace)^k d_{t+k}` up to the episode's end, each sum for itself."""
    gain = np.zeros_like(rewards)
    for at in np.ndindex(*rewards.shape):
        for k in range(len(rewards) - at[0]):
            now = (at[0] + k, *at[1:])
            surprise = rewards[now] + discount * following[now] - values[now]
            gain[at] += (discount * trace) ** k * surprise
            if over[now]:
                break
    return gain


@pytest.mark.parametrize("shape", [(1,), (7,), (9, 4), (5, 2, 3)])
@pytest.mark.parametrize(("discount", "trace"), [(0.9, 0.8), (1.0, 1.0), (0.5, 0.0), (0.0, 1.0)])
def test_they_are_the_sums_of_the_formula(shape, discount, trace):
    arrays = drawn(len(shape), shape)
    expected = reference(*arrays, discount, trace)
    given = [jnp.asarray(x, None if x.dtype == bool else jnp.float32) for x in arrays]
    found = jax.jit(lambda *x: fn.advantages(*x, discount=discount, trace=trace))(*given)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_with_full_trust_in_rewards_they_are_returns_less_values():
    rewards, values = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.25, 3.0])
    following, over = np.array([0.25, 3.0, 8.0]), np.zeros(3, bool)
    found = fn.advantages(rewards, values, following, over, discount=0.5, trace=1.0)
    returns = np.array([1 + 2 / 2 + 4 / 4 + 8 / 8, 2 + 4 / 2 + 8 / 4, 4 + 8 / 2])
    np.testing.assert_allclose(found, returns - values, rtol=1e-6)


def test_half_precision_is_computed_in_float32():
    arrays = [jnp.asarray(x) for x in drawn(3, (6, 2))]
    half = [x if x.dtype == bool else x.astype(jnp.bfloat16) for x in arrays]
    wide = [x if x.dtype == bool else x.astype(jnp.float32) for x in half]
    found = fn.advantages(*half)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, fn.advantages(*wide))


def test_no_turns_have_no_advantages():
    none = jnp.zeros((0, 4))
    assert fn.advantages(none, none, none, none > 0).shape == (0, 4)


ONES, NO = np.ones((3, 2)), np.zeros((3, 2), bool)


@pytest.mark.parametrize(
    ("arrays", "settings", "error", "words"),
    [
        ((ONES, ONES, ONES, ONES), {}, TypeError, "over must be boolean.*float32"),
        ((ONES, ONES, ONES, NO[:2]), {}, ValueError, r"over has shape \(2, 2\)"),
        ((ONES, ONES[:, :1], ONES, NO), {}, ValueError, r"values has shape \(3, 1\)"),
        ((NO, ONES, ONES, NO), {}, TypeError, "rewards must be floating point"),
        ((np.ones(()),) * 3 + (np.zeros((), bool),), {}, ValueError, r"write rewards\[None\]"),
        ((ONES, ONES, ONES, NO), {"discount": 1.5}, ValueError, "discount is 1.5"),
        ((ONES, ONES, ONES, NO), {"trace": -0.5}, ValueError, "trace is -0.5"),
    ],
)
def test_what_does_not_fit_is_refused(arrays, settings, error, words):
    with pytest.raises(error, match=words):
        fn.advantages(*arrays, **settings)
