"""The convolution layer: its kernels, paddings, and PyTorch's numbers."""

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
    model = fn.Model(fn.conv, **settings)
    params, _ = model.shapes(x)
    output = jax.eval_shape(model, params, x)
    return {name: leaf.shape for name, leaf in params.items()}, output.shape


def test_kernel_and_bias_shapes():
    x = images(2, 9, 7, 6)
    assert shapes(x, features=4, kernel_size=3) == (
        {"kernel": (3, 3, 6, 4), "bias": (4,)},
        (2, 9, 7, 4),
    )
    assert shapes(x, features=4, kernel_size=(3, 5), groups=2)[0]["kernel"] == (3, 5, 3, 4)
    assert shapes(x, features=6, kernel_size=1, groups=6)[0]["kernel"] == (1, 1, 1, 6)
    assert shapes(x, features=4, kernel_size=3, bias=False)[0] == {"kernel": (3, 3, 6, 4)}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_rank_of_x_gives_the_axes(axes):
    x = images(2, *(5,) * axes, 3)
    params, output = shapes(x, features=4, kernel_size=3)
    assert params["kernel"] == (*(3,) * axes, 3, 4)
    assert output == (2, *(5,) * axes, 4)


# padding, stride, dilation -> sizes of images of 9 by 7, window 3 by 3
SIZES = [
    ("same", 1, 1, (9, 7)),
    ("same", 2, 1, (5, 4)),
    ("same", 3, 2, (3, 3)),
    ("same", (1, 4), 1, (9, 2)),
    ("valid", 1, 1, (7, 5)),
    ("valid", 2, 1, (4, 3)),
    ("valid", 1, 2, (5, 3)),
    (1, 1, 1, (9, 7)),
    (0, 2, 1, (4, 3)),
    ((2, 0), 1, 1, (11, 5)),
    (((2, 0), (0, 1)), 1, 1, (9, 6)),
    ([(1, 1), 2], 1, 1, (9, 9)),
]


@pytest.mark.parametrize(("padding", "stride", "dilation", "sizes"), SIZES)
def test_sizes(padding, stride, dilation, sizes):
    settings = {"padding": padding, "stride": stride, "dilation": dilation}
    output = shapes(images(2, 9, 7, 3), features=4, kernel_size=3, **settings)[1]
    assert output == (2, *sizes, 4)


def test_same_puts_the_odd_pixel_after():
    x = np.zeros((1, 4, 1), np.float32)
    x[0, :, 0] = [1, 2, 3, 4]
    params = {"kernel": np.asarray([1, 10], np.float32).reshape(2, 1, 1), "bias": np.zeros(1)}
    params["bias"] = params["bias"].astype(np.float32)
    model = fn.Model(fn.conv, features=1, kernel_size=2)
    np.testing.assert_array_equal(model(params, x)[0, :, 0], [21, 32, 43, 4])
    strided = fn.Model(fn.conv, features=1, kernel_size=2, stride=3)
    np.testing.assert_array_equal(strided(params, x)[0, :, 0], [21, 4])


def by_torch(params, x, stride, padding, dilation, groups):
    torch = pytest.importorskip("torch")
    axes = x.ndim - 2
    kernel = torch.tensor(np.asarray(params["kernel"])).movedim((-1, -2), (0, 1))
    function = getattr(torch.nn.functional, f"conv{axes}d")
    bias = torch.tensor(np.asarray(params["bias"]))
    y = function(torch.tensor(x).movedim(-1, 1), kernel, bias, stride, padding, dilation, groups)
    return y.movedim(1, -1).numpy()


# stride, padding, dilation, groups, and how PyTorch calls the padding
SETTINGS = [
    (1, "same", 1, 1, "same"),
    (1, "same", 2, 1, "same"),
    (2, "valid", 1, 1, 0),
    (2, 1, 1, 1, 1),
    ((1, 2), (2, 1), 1, 1, (2, 1)),
    (1, "same", 1, 2, "same"),
    (2, 1, 1, 6, 1),
]


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups", "theirs"), SETTINGS)
def test_values_are_those_of_pytorch(stride, padding, dilation, groups, theirs):
    x = images(2, 8, 7, 6)
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    model = fn.Model(fn.conv, features=6, kernel_size=3, **settings)
    params, _ = model.init(KEY, x)
    params["bias"] = images(6)
    expected = by_torch(params, x, stride, theirs, dilation, groups)
    np.testing.assert_allclose(model(params, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [1, 3, (5, 1)])
def test_a_convolution_keeps_the_dtype_of_its_input(kernel_size):
    model = fn.Model(fn.conv, features=4, kernel_size=kernel_size)
    params, _ = model.init(KEY, images(1, 5, 5, 3))
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        x = jax.ShapeDtypeStruct((1, 5, 5, 3), dtype)
        assert jax.eval_shape(model, params, x).dtype == dtype


def test_a_kernel_begins_with_the_variance_of_one_over_fan_in():
    model = fn.Model(fn.conv, features=128, kernel_size=3, groups=2)
    params, _ = model.init(KEY, images(1, 5, 5, 32))
    np.testing.assert_allclose(params["kernel"].std(), 1 / np.sqrt(9 * 16), rtol=0.05)
    assert not params["bias"].any()


def test_an_empty_batch_gives_an_empty_result():
    model = fn.Model(fn.conv, features=4, kernel_size=3)
    params, _ = model.init(KEY, images(1, 5, 5, 3))
    assert model(params, images(0, 5, 5, 3)).shape == (0, 5, 5, 4)


WRONG = {
    "window": ({"kernel_size": 9, "padding": "valid"}, r"window of 9.*axis 0 of size 8"),
    "dilated window": ({"kernel_size": 3, "dilation": 4, "padding": 0}, r"window of 9.*size 8"),
    "groups of x": ({"kernel_size": 3, "groups": 4}, r"groups=4 for 6 channels"),
    "groups of features": ({"kernel_size": 3, "groups": 3}, r"groups=3.*features=4"),
    "no groups": ({"kernel_size": 3, "groups": 0}, r"groups=0"),
    "axes": ({"kernel_size": (3,)}, r"kernel_size.*2 of them"),
    "padding": ({"kernel_size": 3, "padding": "SAME"}, r'"same".*SAME'),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused(wrong):
    settings, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        fn.Model(fn.conv, features=4, **settings).shapes(images(2, 8, 8, 6))


@pytest.mark.parametrize("shape", [(3,), (8, 3), (1, 2, 2, 2, 2, 3)])
def test_another_rank_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(N, \*spatial, C\)"):
        fn.Model(fn.conv, features=4, kernel_size=1).shapes(images(*shape))
