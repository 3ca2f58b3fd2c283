"""Pixels to channels and back, and images of other sizes, beside PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from against_torch import agree

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("seed", range(40))
def test_pixel_shuffle_is_that_of_pytorch(seed):
    torch = pytest.importorskip("torch")
    n, height, width, channels, factor = np.random.default_rng(seed).integers(1, 4, 5).tolist()

    def theirs(a):
        return torch.nn.functional.pixel_shuffle(a["x"].movedim(-1, 1), factor).movedim(1, -1)

    x = images(n, height, width, channels * factor**2, seed=seed)
    agree(lambda a: fn.pixel_shuffle(a["x"], factor), theirs, {"x": x})


def test_pixel_shuffle_by_hand():
    x = np.arange(8).reshape(1, 1, 1, 8)
    np.testing.assert_array_equal(fn.pixel_shuffle(x, 2)[0], [[[0, 4], [1, 5]], [[2, 6], [3, 7]]])


def test_pixel_shuffle_undoes_space_to_depth_of_one_channel():
    x = images(2, 4, 6, 1)
    np.testing.assert_array_equal(fn.pixel_shuffle(fn.space_to_depth(x, 2), 2), x)


# What PyTorch calls the methods, by the number of axes; smoothing it has for two.
NAMES = {
    "nearest": ("nearest-exact",) * 3,
    "linear": ("linear", "bilinear", "trilinear"),
    "cubic": (None, "bicubic", None),
}
KINDS = [
    ("nearest", 1, False),
    ("nearest", 2, True),
    ("nearest", 3, False),
    ("linear", 1, False),
    ("linear", 2, False),
    ("linear", 2, True),
    ("linear", 3, False),
    ("cubic", 2, True),
]


@pytest.mark.parametrize(("method", "axes", "antialias"), KINDS)
@pytest.mark.parametrize("seed", range(40))
def test_resize_is_that_of_pytorch(method, axes, antialias, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    old, new = rng.integers(1, 9, (2, axes)).tolist()
    new = [n if seed % 4 else 2 * m for m, n in zip(old, new, strict=True)]
    smooth = {"antialias": antialias} if method != "nearest" else {}
    name = NAMES[method][axes - 1]

    def theirs(a):
        y = torch.nn.functional.interpolate(a["x"].movedim(-1, 1), new, mode=name, **smooth)
        return y.movedim(1, -1)

    # Two channels at least: of one, smoothed to a width of one, PyTorch 2.13 repeats the first row.
    x = images(int(rng.integers(1, 3)), *old, int(rng.integers(2, 4)), seed=seed)
    agree(lambda a: fn.resize(a["x"], new, method=method, antialias=antialias), theirs, {"x": x})


def test_smoothing_is_the_default_and_matters_where_an_image_shrinks():
    x = np.tile(np.array([0.0, 1.0], np.float32), 8).reshape(1, 16, 1)
    np.testing.assert_allclose(fn.resize(x, 4).ravel()[1:3], 0.5)
    np.testing.assert_allclose(fn.resize(x[:, 1:], 5, antialias=False).ravel(), [0, 1, 0, 1, 0])
    np.testing.assert_allclose(fn.resize(x, 32), fn.resize(x, 32, antialias=False), atol=1e-6)


def test_an_image_of_its_size_is_itself():
    x = images(2, 5, 4, 3)
    for method in ("nearest", "linear", "cubic"):
        np.testing.assert_array_equal(fn.resize(x, (5, 4), method=method), x)


@pytest.mark.parametrize("method", ["linear", "cubic"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_loses_only_the_rounding_of_in_and_output(method, dtype):
    x = jnp.asarray(images(2, 40, 1), dtype)
    y = fn.resize(x, 13, method=method)
    wide = fn.resize(x.astype(jnp.float32), 13, method=method)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, wide.astype(dtype))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, jnp.bfloat16])
def test_nearest_takes_any_dtype_and_lets_nothing_through_but_what_was_there(dtype):
    x = jnp.arange(4).astype(dtype).reshape(1, 4, 1)
    y = fn.resize(x, 6, method="nearest")
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.ravel().astype(int), [0, 1, 1, 2, 3, 3])


def test_nan_stays_where_it_is_nearest():
    x = images(1, 4, 4, 1)
    x[0, 1, 1] = np.nan
    assert np.isnan(fn.resize(x, 8, method="nearest")).sum() == 4
    assert np.isnan(fn.resize(x, 8)).any()


@pytest.mark.parametrize("method", ["nearest", "linear", "cubic"])
def test_finite_differences_in_float64(method):
    with jax.enable_x64(True):
        x, dx = np.random.default_rng(0).normal(size=(2, 2, 5, 4, 3))

        def along(t):
            return jnp.sin(fn.resize(x + t * dx, (3, 6), method=method)).sum()

        slopes = jax.grad(along)(0.0), jax.jvp(along, (0.0,), (1.0,))[1]
        difference = (along(1e-6) - along(-1e-6)) / 2e-6
        np.testing.assert_allclose(slopes, difference, rtol=1e-6)


def test_resize_under_vmap_and_of_an_empty_batch():
    x = images(3, 2, 5, 4, 3)
    found = jax.vmap(lambda x: fn.resize(x, 3))(x)
    np.testing.assert_allclose(found[1], fn.resize(x[1], 3), rtol=1e-5, atol=1e-6)
    assert fn.resize(x[0, :0], 3).shape == (0, 3, 3, 3)
    assert fn.pixel_shuffle(np.zeros((0, 2, 2, 4)), 2).shape == (0, 4, 4, 1)


X = images(2, 4, 4, 3)
REFUSALS = {
    "a method": (lambda: fn.resize(X, 2, method="bilinear"), "nearest, linear, cubic, got 'bil"),
    "a size": (lambda: fn.resize(X, (2, 2, 2)), r"size must be .* 2 of them, got \(2, 2, 2\)"),
    "no size": (lambda: fn.resize(X, 0), "size must be a positive int"),
    "a rank": (lambda: fn.resize(X[0, 0], 2), r"resize takes x of shape \(N, \*spatial, C\)"),
    "no pixel": (lambda: fn.resize(X[:, :0], 2), r"at least one pixel.*\(2, 0, 4, 3\)"),
    "channels": (lambda: fn.pixel_shuffle(X, 2), r"factor=2 for x of \(2, 4, 4, 3\)"),
    "a shuffled rank": (lambda: fn.pixel_shuffle(X[0], 1), r"\(N, H, W, C\), got \(4, 4, 3\)"),
    "no factor": (lambda: fn.pixel_shuffle(X, 0), "factor is 0, expected factor >= 1"),
    "no block": (lambda: fn.space_to_depth(X, 0), "block is 0"),
    "a block": (lambda: fn.space_to_depth(X, 3), r"got 3 for x of \(2, 4, 4, 3\)"),
    "a blocked rank": (lambda: fn.space_to_depth(X[0], 2), r"space_to_depth takes .*\(4, 4, 3\)"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_fit_is_refused(name):
    call, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_bytes_are_refused_but_for_nearest():
    with pytest.raises(TypeError, match=r"x must be floating point, got uint8.*astype"):
        fn.resize(np.zeros((1, 4, 1), np.uint8), 2)
    with pytest.raises(TypeError, match=r"factor must be an integer, got 2\.0"):
        fn.pixel_shuffle(images(1, 2, 2, 4), 2.0)
