"""Standardised vectors against their plain form, a float64 formula and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from uses import USES, assert_near

from funnet.ops.standardise import plain_standardised, standardised

EPS = 1e-5


def arrays(seed=0, dtype=np.float32, mean=0.0):
    rng = np.random.default_rng(seed)
    x, *more = (rng.normal(size=(2, 3, 7)) for _ in range(3))
    return [a.astype(dtype) for a in (x + mean, *more)]


def scaled(form):
    """A function of two operands, for `USES`."""
    return lambda x, kernel: form(x, EPS) * kernel


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("use", USES)
def test_it_may_be_transformed_as_the_plain_form_may(use):
    pair = [scaled(form) for form in (standardised, plain_standardised)]
    assert_near(*jax.jit(lambda *a: [USES[use](f, *a) for f in pair])(*arrays()))


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_values_and_gradients_are_those_of_a_float64_formula(mean):
    x, _, g = arrays(mean=mean)
    y, pull = jax.vjp(lambda x: standardised(x, EPS), x)
    wide, g64 = np.float64(x), np.float64(g)
    centred = wide - wide.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
    normal = centred / spread
    expected = g64 - g64.mean(-1, keepdims=True) - normal * (normal * g64).mean(-1, keepdims=True)
    tolerance = 1e-5 if mean == 0 else 3e-4  # the mean itself is rounded to 6e-5
    assert_near((y, *pull(g)), (normal, expected / spread), tolerance)


def test_finite_differences_in_float64():
    with jax.enable_x64(True):
        x, dx, g = arrays(dtype=np.float64)
        loss = jax.jit(lambda t: (jnp.sin(standardised(x + t * dx, EPS)) * g).sum())
        difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(loss)(0.0), difference, rtol=1e-7)
        np.testing.assert_allclose(jax.jvp(loss, (0.0,), (1.0,))[1], difference, rtol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_reaches_its_own_vector_only(value):
    x, _, g = arrays()
    x[1, 2, 3] = value
    y, pull = jax.vjp(lambda x: standardised(x, EPS), jnp.asarray(x))
    hit = np.zeros((2, 3), bool)
    hit[1, 2] = True
    for found in (y, *pull(g)):
        np.testing.assert_array_equal(~np.isfinite(found).all(-1), hit)
