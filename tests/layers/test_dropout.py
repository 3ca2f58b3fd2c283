"""The dropout family: what is dropped together, how often, and when nothing happens at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

# A layer, and the axes along which one decision holds for all of (N, H, W, C).
DROPS = {
    "dropout": (fn.dropout, ()),
    "spatial_dropout": (fn.spatial_dropout, (1, 2)),
    "stochastic_depth": (fn.stochastic_depth, (1, 2, 3)),
}
EACH = pytest.mark.parametrize("layer", [drop for drop, _ in DROPS.values()], ids=DROPS)
SETTINGS = {layer: {"rate": 0.5} for layer, _ in DROPS.values()} | {fn.gaussian_noise: {"std": 1.0}}
ALL = pytest.mark.parametrize("layer", SETTINGS, ids=lambda layer: layer.__name__)


def trained(layer, x, seed=0, **settings):
    model = fn.Model(layer, **SETTINGS[layer] | settings)
    return model({}, x, train=True, key=jax.random.key(seed))


def ones(*shape, dtype=jnp.float32):
    return jnp.ones(shape, dtype)


# What is dropped.


@pytest.mark.parametrize("drop", DROPS)
def test_what_belongs_together_is_dropped_together(drop):
    layer, axes = DROPS[drop]
    mask = np.asarray(trained(layer, ones(64, 3, 2, 8)))
    assert set(np.unique(mask)) == {0, 2}
    one = mask[tuple(slice(1) if axis in axes else slice(None) for axis in range(4))]
    np.testing.assert_array_equal(mask, np.broadcast_to(one, mask.shape))


@pytest.mark.parametrize("shape", [(64, 3, 8), (64, 3, 2, 8), (64, 3, 2, 2, 8)])
def test_spatial_dropout_has_one_two_or_three_spatial_axes(shape):
    mask = np.asarray(trained(fn.spatial_dropout, ones(*shape)))
    flat = mask.reshape(64, -1, 8)
    assert (flat == flat[:, :1]).all()
    assert len(np.unique(flat[:, 0], axis=0)) > 32


@pytest.mark.parametrize("shape", [(64,), (64, 3), (64, 3, 2, 8)])
def test_stochastic_depth_takes_examples_of_any_shape(shape):
    mask = np.asarray(trained(fn.stochastic_depth, ones(*shape))).reshape(64, -1)
    assert (mask == mask[:, :1]).all()
    assert set(np.unique(mask)) == {0, 2}


# How often: frequencies within 4.5 standard deviations of a binomial, some 1e-5 of all seeds.


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("drop", DROPS)
def test_the_rate_is_how_often_something_is_dropped(drop, rate):
    layer, axes = DROPS[drop]
    shape = tuple(1 if axis in axes else n for axis, n in enumerate((4000, 1, 1, 10)))
    mask = np.asarray(trained(layer, ones(*shape), rate=rate))
    dropped, count = (mask == 0).sum(), mask.size
    assert abs(dropped - rate * count) < 4.5 * np.sqrt(count * rate * (1 - rate))
    np.testing.assert_allclose(mask[mask > 0], 1 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize("drop", ["dropout", "spatial_dropout"])
def test_neighbouring_decisions_are_independent(drop):
    kept = np.asarray(trained(DROPS[drop][0], ones(4000, 1, 2))) > 0
    for pair in ((kept[:, 0, 0], kept[:, 0, 1]), (kept[:-1, 0, 0], kept[1:, 0, 0])):
        both, count = (pair[0] & pair[1]).sum(), len(pair[0])
        assert abs(both - count / 4) < 4.5 * np.sqrt(count * 3 / 16)


def test_examples_skip_independently():
    kept = np.asarray(trained(fn.stochastic_depth, ones(4001, 2)))[:, 0] > 0
    both = (kept[:-1] & kept[1:]).sum()
    assert abs(both - 1000) < 4.5 * np.sqrt(4000 * 3 / 16)


def test_noise_is_normal_and_of_its_own_for_each_element():
    stats = pytest.importorskip("scipy.stats")
    noise = np.asarray(trained(fn.gaussian_noise, jnp.zeros((400, 10)), std=3.0))
    assert stats.kstest(noise.ravel(), "norm", (0, 3)).pvalue > 1e-3
    assert len(np.unique(noise)) > 3990
    assert abs(np.corrcoef(noise[:, :2].T)[0, 1]) < 4.5 / 20


def test_noise_is_added_at_its_deviation():
    x = jnp.arange(12.0).reshape(3, 4)
    small, large = (trained(fn.gaussian_noise, x, std=std) - x for std in (0.5, 2.0))
    np.testing.assert_allclose(4 * small, large, rtol=1e-4, atol=1e-5)


# The gradient is the mask; noise has none.


@EACH
def test_the_gradient_is_the_mask(layer):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3, 4)), jnp.float32)
    slope = jax.grad(lambda x: trained(layer, x).sum())(x)
    np.testing.assert_array_equal(slope, trained(layer, jnp.ones_like(x)))
    np.testing.assert_allclose(trained(layer, x), slope * x, rtol=1e-6)
    _, along = jax.jvp(lambda x: trained(layer, x), (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(along, slope)


def test_noise_does_not_touch_the_gradient():
    slope = jax.grad(lambda x: trained(fn.gaussian_noise, x).sum())(jnp.zeros((3, 4)))
    assert (slope == 1).all()


@EACH
def test_what_is_dropped_is_zero_whatever_it_was(layer):
    x = jnp.full((64, 2, 3), jnp.nan)
    y = np.asarray(trained(layer, x))
    expected = np.asarray(trained(layer, jnp.ones_like(x))) == 0
    np.testing.assert_array_equal(y == 0, expected)
    np.testing.assert_array_equal(np.isnan(y), ~expected)


# When nothing happens.


@ALL
def test_an_evaluation_gives_x_itself_and_needs_no_key(layer):
    x = ones(4, 3, 2)
    model = fn.Model(layer, **SETTINGS[layer])
    assert model({}, x) is x
    assert model({}, x, key=jax.random.key(0)) is x


@ALL
def test_training_without_a_key_says_so(layer):
    model = fn.Model(layer, **SETTINGS[layer])
    with pytest.raises(ValueError, match=rf"{layer.__name__}.*no key was given"):
        model({}, ones(4, 3, 2), train=True)


@ALL
def test_nothing_dropped_or_added_needs_no_key(layer):
    x = ones(4, 3, 2)
    model = fn.Model(layer, **dict.fromkeys(SETTINGS[layer], 0))
    assert model({}, x, train=True) is x


@EACH
def test_everything_dropped_is_zero_with_a_gradient_of_zero(layer):
    y, pull = jax.vjp(lambda x: trained(layer, x, rate=1), ones(4, 3, 2))
    assert not y.any()
    assert not pull(jnp.ones_like(y))[0].any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64])
@ALL
def test_the_dtype_is_kept(layer, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        y = trained(layer, ones(8, 3, 4, dtype=dtype), **dict.fromkeys(SETTINGS[layer], 0.25))
        assert y.dtype == dtype
        assert np.isfinite(np.asarray(y, np.float32)).all()
        if layer is not fn.gaussian_noise:
            kept = np.unique(np.asarray(y, np.float32))[-1]
            np.testing.assert_allclose(kept, 4 / 3, rtol=0.005)


@ALL
def test_an_empty_batch_gives_an_empty_result(layer):
    assert trained(layer, ones(0, 3, 2)).shape == (0, 3, 2)


@ALL
def test_a_member_of_a_sweep_draws_by_its_own_key(layer):
    x, keys = ones(16, 3, 4), jax.random.split(jax.random.key(3), 2)
    model = fn.Model(layer, **SETTINGS[layer])
    first, second = jax.vmap(lambda key: model({}, x, train=True, key=key))(keys)
    np.testing.assert_allclose(first, model({}, x, train=True, key=keys[0]), rtol=1e-6)
    assert not np.array_equal(first, second)


# What is refused.

WRONG = {
    "rate": (fn.spatial_dropout, {"rate": 1.5}, (2, 3, 4), "rate is 1.5, expected 0 <= rate <= 1"),
    "a negative rate": (fn.stochastic_depth, {"rate": -1}, (2, 3), "rate is -1"),
    "std": (fn.gaussian_noise, {"std": -0.5}, (2, 3), "std is -0.5, expected 0 <= std"),
    "vectors": (fn.spatial_dropout, {"rate": 0.5}, (2, 3), r"spatial_dropout.*\(2, 3\)"),
    "a number": (fn.stochastic_depth, {"rate": 0.5}, (), r"x has shape \(\).*x\[None\]"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused_in_evaluation_too(wrong):
    layer, settings, shape, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        fn.Model(layer, **settings)({}, jnp.zeros(shape))


@ALL
def test_integers_are_refused(layer):
    with pytest.raises(TypeError, match=r"int32.*astype"):
        fn.Model(layer, **SETTINGS[layer])({}, jnp.zeros((2, 3, 4), jnp.int32))
