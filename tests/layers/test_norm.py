"""Norms: what each normalises over, statistics in float32 at least, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
NORMS = {
    "batch_norm": (fn.batch_norm, {}),
    "layer_norm": (fn.layer_norm, {}),
    "rms_norm": (fn.rms_norm, {}),
    "group_norm": (fn.group_norm, {"groups": 2}),
    "instance_norm": (fn.instance_norm, {}),
}
EACH = pytest.mark.parametrize("norm", NORMS)


def drawn(*shape, seed=0):
    return (3 + 2 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def made(norm, x):
    layer, settings = NORMS[norm]
    model = fn.Model(layer, **settings)
    return model, *model.init(KEY, x)


def normalised(norm, x, **settings):
    """By a norm of one example at a time, as it begins."""
    layer, more = NORMS[norm]
    model = fn.Model(layer, **more | settings)
    return model(model.init(KEY, x)[0], x)


# What each normalises over.


def standardised(x, axes):
    wide = np.asarray(x, np.float64)
    return (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + 1e-5)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (3, 2, 4, 6)])
def test_layer_norm_is_over_the_last_axis(shape):
    x = drawn(*shape)
    np.testing.assert_allclose(normalised("layer_norm", x), standardised(x, (-1,)), atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (3, 2, 4, 6)])
def test_rms_norm_divides_by_the_root_mean_square(shape):
    x = drawn(*shape)
    root = np.sqrt(np.square(x.astype(np.float64)).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normalised("rms_norm", x), x / root, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 2, 6), (3, 2, 4, 6), (3, 2, 1, 2, 6)])
def test_instance_norm_is_over_the_spatial_axes(shape):
    x, axes = drawn(*shape), tuple(range(1, len(shape) - 1))
    np.testing.assert_allclose(normalised("instance_norm", x), standardised(x, axes), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 6), (3, 2, 6), (3, 1, 1, 6), (3, 2, 4, 6)])
def test_group_norm_is_over_space_and_neighbouring_channels(shape):
    x = drawn(*shape)
    groups = [x[..., :2], x[..., 2:4], x[..., 4:]]
    expected = [standardised(group, tuple(range(1, x.ndim))) for group in groups]
    found = normalised("group_norm", x, groups=3)
    np.testing.assert_allclose(found, np.concatenate(expected, -1), atol=1e-5)


def test_group_norm_of_one_group_normalises_the_example_and_of_single_channels_each_channel():
    x = drawn(3, 4, 2, 6)
    whole, single = (normalised("group_norm", x, groups=n) for n in (1, 6))
    np.testing.assert_allclose(whole, standardised(x, (1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(single, normalised("instance_norm", x), atol=1e-6)


@EACH
def test_a_norm_begins_at_scale_one_and_bias_zero(norm):
    _, params, state = made(norm, drawn(4, 3, 6))
    assert (params["scale"] == 1).all()
    assert params["scale"].shape == (6,)
    assert not params.get("bias", np.zeros(6)).any()
    assert all((leaf == float(name == "var")).all() for name, leaf in state.items())


# Numbers that are hard to normalise.


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@EACH
def test_half_precision_has_statistics_in_float32(norm, dtype):
    x = jnp.asarray(drawn(64, 8, 8) + 200, dtype)  # in float16 the sum of squares would overflow
    model, params, state = made(norm, x)
    y, after = model.apply(params, state, x, train=True)
    wide, expected = model.apply(params, state, x.astype(jnp.float32), train=True)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(jnp.float32), wide, rtol=0.02, atol=0.02)
    for name in after:
        assert after[name].dtype == jnp.float32
        np.testing.assert_allclose(after[name], expected[name], rtol=1e-5)


@EACH
def test_float64_stays_float64(norm):
    with jax.enable_x64(True):
        x = jnp.asarray(drawn(4, 3, 6), jnp.float64)
        model, params, state = made(norm, x)
        y, after = model.apply(params, state, x, train=True)
        assert y.dtype == jnp.float64
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize("norm", ["layer_norm", "group_norm", "instance_norm", "batch_norm"])
def test_a_large_mean_does_not_drown_the_variance(norm):
    x = drawn(4, 6, 4)
    model, params, state = made(norm, x)
    small, large = (model.apply(params, state, x + m, train=True)[0] for m in (0, 4096))
    np.testing.assert_allclose(large, small, atol=2e-3)


@EACH
def test_what_does_not_vary_has_no_nan_in_output_or_gradient(norm):
    x = jnp.zeros((4, 3, 6))
    model, params, state = made(norm, x)

    def loss(params, x):
        return jnp.sin(model.apply(params, state, x, train=True)[0]).sum()

    for leaf in jax.tree.leaves((loss(params, x), jax.grad(loss, (0, 1))(params, x))):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "group_norm", "instance_norm"])
def test_nan_in_one_example_stays_there(norm):
    x = drawn(3, 2, 6)
    x[1, 0, 0] = np.nan
    y = np.asarray(normalised(norm, x))
    assert np.isnan(y[1]).any()
    assert np.isfinite(y[[0, 2]]).all()


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "group_norm", "instance_norm"])
def test_an_empty_batch_gives_an_empty_result(norm):
    assert normalised(norm, drawn(0, 2, 6)).shape == (0, 2, 6)


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "group_norm", "instance_norm"])
def test_examples_mapped_one_by_one_are_those_of_a_batch(norm):
    x = drawn(4, 3, 6)
    model, params, _ = made(norm, x)
    mapped = jax.vmap(lambda x: model(params, x[None])[0])(x)
    np.testing.assert_allclose(mapped, model(params, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "group_norm", "instance_norm"])
def test_forward_and_reverse_mode_agree(norm):
    x, way = drawn(3, 4, 6), drawn(3, 4, 6, seed=1)
    model, params, _ = made(norm, x)

    def loss(x):
        return jnp.sin(model(params, x)).sum()

    _, forward = jax.jvp(loss, (x,), (way,))
    np.testing.assert_allclose(forward, (jax.grad(loss)(x) * way).sum(), rtol=1e-4)


# What is refused.

WRONG = {
    "groups that do not divide": (fn.group_norm, {"groups": 4}, (2, 3, 6), "groups=4 for 6 chan"),
    "no groups": (fn.group_norm, {"groups": 0}, (2, 3, 6), "groups is 0"),
    "a group of one value": (fn.group_norm, {"groups": 6}, (2, 6), "2 values a group.*got 1"),
    "an empty image": (fn.group_norm, {"groups": 2}, (2, 0, 6), "2 values a group.*got 0"),
    "one pixel": (fn.instance_norm, {}, (2, 1, 1, 6), "2 values a channel.*larger image"),
    "no pixels": (fn.instance_norm, {}, (2, 6), "2 values a channel.*layer_norm"),
    "no batch": (fn.instance_norm, {}, (6,), r"\(N, \*spatial, C\).*x\[None\]"),
    "no batch of groups": (fn.group_norm, {"groups": 2}, (6,), r"\(N, \*spatial, C\).*x\[None\]"),
    "a number": (fn.rms_norm, {}, (), r"x has shape \(\).*x\[None\]"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_normalised_is_refused(wrong):
    layer, settings, shape, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        fn.Model(layer, **settings).shapes(jnp.zeros(shape))


@EACH
def test_integers_are_refused(norm):
    layer, settings = NORMS[norm]
    with pytest.raises(TypeError, match=r"int32.*astype"):
        fn.Model(layer, **settings).shapes(jnp.zeros((2, 3, 6), jnp.int32))
