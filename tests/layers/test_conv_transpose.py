"""The transposed convolution layer: its kernels, sizes and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def shapes(x, **settings):
    model = fn.Model(fn.conv_transpose, **settings)
    params, _ = model.shapes(x)
    output = jax.eval_shape(model, params, x)
    return {name: leaf.shape for name, leaf in params.items()}, output.shape


def test_kernel_and_bias_shapes():
    x = images(2, 5, 4, 6)
    found = shapes(x, features=4, kernel_size=(3, 2), groups=2)
    assert found == ({"kernel": (3, 2, 3, 4), "bias": (4,)}, (2, 5, 4, 4))
    assert shapes(x, features=4, kernel_size=3, bias=False)[0] == {"kernel": (3, 3, 6, 4)}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_rank_of_x_gives_the_axes(axes):
    params, output = shapes(images(2, *(3,) * axes, 3), features=4, kernel_size=3, stride=2)
    assert params["kernel"] == (*(3,) * axes, 3, 4)
    assert output == (2, *(6,) * axes, 4)


# padding, window, stride, dilation -> sizes from images of 4 by 5
SIZES = [
    ("same", 3, 1, 1, (4, 5)),
    ("same", 3, 2, 1, (8, 10)),
    ("same", 4, (2, 3), 1, (8, 15)),
    ("same", 1, 3, 1, (12, 15)),
    ("same", 2, 3, 2, (12, 15)),
    ("valid", 3, 1, 1, (6, 7)),
    ("valid", 3, 2, 2, (11, 13)),
    (1, 4, 2, 1, (8, 10)),
    ((1, 0), 3, 2, 1, (7, 11)),
    (((1, 0), (0, 2)), 3, 2, 1, (8, 9)),
    (((1, 0), (0, -1)), 3, 2, 1, (8, 12)),
]


@pytest.mark.parametrize(("padding", "window", "stride", "dilation", "sizes"), SIZES)
def test_sizes(padding, window, stride, dilation, sizes):
    settings = {"padding": padding, "stride": stride, "dilation": dilation}
    output = shapes(images(2, 4, 5, 3), features=4, kernel_size=window, **settings)[1]
    assert output == (2, *sizes, 4)


@pytest.mark.parametrize("padding", ["same", 1])
@pytest.mark.parametrize(("window", "stride"), [(3, 1), (3, 2), (4, 2), (2, 3), (5, 4), (1, 2)])
def test_it_is_the_transpose_of_conv_on_the_larger_image(padding, window, stride):
    if padding == 1 and window == 1:
        padding = "valid"
    small, kernel = images(2, 4, 3), images(window, 3, 5)
    settings = {"kernel_size": window, "stride": stride, "padding": padding, "bias": False}
    up = fn.Model(fn.conv_transpose, features=5, **settings)({"kernel": kernel}, small)
    down = fn.Model(fn.conv, features=3, **settings)
    expected = jax.linear_transpose(lambda y: down({"kernel": kernel.swapaxes(1, 2)}, y), up)(small)
    np.testing.assert_allclose(up, expected[0], rtol=1e-4, atol=1e-5)


def test_the_bias_is_added_where_no_window_reaches():
    params = {"kernel": np.ones((1, 1, 2), np.float32), "bias": np.array([3, 4], np.float32)}
    model = fn.Model(fn.conv_transpose, features=2, kernel_size=1, stride=2)
    np.testing.assert_array_equal(model(params, np.ones((1, 1, 1), np.float32)), [[[4, 5], [3, 4]]])


def test_a_kernel_begins_with_the_variance_of_one_over_its_inputs():
    model = fn.Model(fn.conv_transpose, features=128, kernel_size=3, groups=2)
    params, _ = model.init(KEY, images(1, 5, 5, 32))
    np.testing.assert_allclose(params["kernel"].std(), 1 / np.sqrt(9 * 16), rtol=0.05)
    assert not params["bias"].any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_it_keeps_the_dtype_of_its_input(dtype):
    model = fn.Model(fn.conv_transpose, features=4, kernel_size=3, stride=2)
    params, _ = model.init(KEY, images(1, 5, 5, 3))
    assert model(params, jnp.ones((1, 5, 5, 3), dtype)).dtype == dtype


@pytest.mark.parametrize("groups", [1, 3])
def test_an_empty_batch_gives_an_empty_result(groups):
    model = fn.Model(fn.conv_transpose, features=3, kernel_size=3, stride=2, groups=groups)
    params, _ = model.init(KEY, images(1, 5, 5, 3))
    assert model(params, images(0, 5, 5, 3)).shape == (0, 10, 10, 3)
    gradients = jax.grad(lambda params: model(params, images(0, 5, 5, 3)).sum())(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))


WRONG = {
    "nothing left": (
        {"kernel_size": 3, "padding": 6},
        r"crops \(6, 6\) from the 10 that spatial axis 0 of size 8.*leaves nothing",
    ),
    "nothing left of one": ({"kernel_size": 1, "padding": ((0, 0), (7, 1))}, r"\(7, 1\).*axis 1"),
    "groups of x": ({"kernel_size": 3, "groups": 4}, r"groups=4 for 6 channels"),
    "groups of features": ({"kernel_size": 3, "groups": 3}, r"groups=3.*features=4"),
    "axes": ({"kernel_size": (3,)}, r"kernel_size.*2 of them"),
    "stride": ({"kernel_size": 3, "stride": 0}, r"stride"),
    "features": ({"kernel_size": 3, "features": 0}, r"features is 0"),
    "padding": ({"kernel_size": 3, "padding": "SAME"}, r'"same".*SAME'),
    "a negative int": ({"kernel_size": 3, "padding": -1}, r"got -1"),
    "a negative before": ({"kernel_size": 3, "padding": ((-1, 0), (0, 0))}, r"got \(\(-1, 0\)"),
    "half a pixel": ({"kernel_size": 3, "padding": ((0.5, 0), (0, 0))}, r"got \(\(0.5, 0\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused(wrong):
    settings, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        fn.Model(fn.conv_transpose, **{"features": 4, **settings}).shapes(images(2, 8, 8, 6))


@pytest.mark.parametrize("padding", [((0, -1), (0, 0)), -1, (1, -1), ((0.5, 1), 1), (1, 1, 1)])
def test_conv_has_no_negative_padding(padding):
    with pytest.raises(ValueError, match=r"padding must be .*, got"):
        fn.Model(fn.conv, features=4, kernel_size=3, padding=padding).shapes(images(2, 8, 8, 6))


def test_bytes_and_another_rank_are_refused():
    model = fn.Model(fn.conv_transpose, features=4, kernel_size=1)
    with pytest.raises(TypeError, match=r"x must be floating point, got uint8.*astype"):
        model.shapes(np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"conv_transpose takes x of shape \(N, \*spatial, C\)"):
        model.shapes(images(4, 3))


@pytest.mark.parametrize("features", [1, 3])
def test_few_features_have_a_gradient_that_is_the_one_by_finite_differences(features):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, 8, 8, 5))
        model = fn.Model(fn.conv_transpose, features=features, kernel_size=3)
        params = {"kernel": rng.normal(size=(3, 3, 5, features)), "bias": rng.normal(size=features)}
        along = jax.tree.map(np.cos, params)

        @jax.jit
        def loss(t):
            return jnp.sin(model(jax.tree.map(lambda a, d: a + t * d, params, along), x)).sum()

        difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.0), difference, rtol=1e-6)
