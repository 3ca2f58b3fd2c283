"""Initializers: moments and bounds by formula and by PyTorch's own, orthogonality, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import funnet as fn
from funnet import initializers

DENSE = (300, 200)
CONV = (3, 3, 40, 80)  # of two groups: 80 channels in
SLOPE = 5**0.5


def fans(shape):
    window = int(np.prod(shape[:-2]))
    return window * shape[-2], window * shape[-1]


def kaiming(mode, gain):
    return lambda shape: gain / np.sqrt(fans(shape)[mode == "fan_out"])


def xavier(gain):
    return lambda shape: gain * np.sqrt(2 / sum(fans(shape)))


# Each with the standard deviation it should have and its distribution at deviation 1.
TRUNCATED = scipy.stats.truncnorm(-2, 2)
UNIFORM, NORMAL = scipy.stats.uniform(-(3**0.5), 2 * 3**0.5), scipy.stats.norm()
DRAWN = {
    "xavier_uniform": (initializers.xavier_uniform(), xavier(1.0), UNIFORM),
    "xavier_uniform gain": (initializers.xavier_uniform(5 / 3), xavier(5 / 3), UNIFORM),
    "xavier_normal": (initializers.xavier_normal(2.0), xavier(2.0), NORMAL),
    "kaiming_uniform": (initializers.kaiming_uniform(), kaiming("fan_in", 2**0.5), UNIFORM),
    "kaiming_uniform linear": (
        initializers.kaiming_uniform(negative_slope=SLOPE),
        kaiming("fan_in", 3**-0.5),
        UNIFORM,
    ),
    "kaiming_normal": (
        initializers.kaiming_normal(mode="fan_out"),
        kaiming("fan_out", 2**0.5),
        NORMAL,
    ),
    "kaiming_normal tanh": (
        initializers.kaiming_normal(nonlinearity="tanh"),
        kaiming("fan_in", 5 / 3),
        NORMAL,
    ),
    "he_normal": (initializers.he_normal(), kaiming("fan_in", 2**0.5 / TRUNCATED.std()), TRUNCATED),
    "lecun_normal": (
        initializers.lecun_normal(),
        kaiming("fan_in", 1 / TRUNCATED.std()),
        TRUNCATED,
    ),
    "glorot_uniform": (initializers.glorot_uniform(), xavier(1.0), UNIFORM),
    "truncated_normal": (initializers.truncated_normal(0.02), lambda shape: 0.02, TRUNCATED),
    "truncated_normal bounds": (
        initializers.truncated_normal(0.5, -1.0, 3.0),
        lambda shape: 0.5,
        scipy.stats.truncnorm(-1, 3),
    ),
    "normal": (initializers.normal(0.3), lambda shape: 0.3, NORMAL),
}


@pytest.mark.parametrize("name", DRAWN)
def test_follows_its_distribution(name, key):
    shape = DENSE if name.startswith("glorot") else CONV
    init, deviation, distribution = DRAWN[name]
    x = init(key, shape, jnp.float32)
    assert x.shape == shape
    assert x.dtype == jnp.float32
    scaled = np.asarray(x, np.float64).ravel() / deviation(shape)
    error = 5 / np.sqrt(scaled.size)  # five standard errors
    assert abs(scaled.mean() - distribution.mean()) < error * distribution.std()
    # The standard error of a variance is at most sqrt(2 / n) of it, the normal's.
    assert abs(scaled.var() / distribution.var() - 1) < error * 2**0.5
    low, high = distribution.support()
    assert low * (1 + 1e-5) <= scaled.min() <= scaled.max() <= high * (1 + 1e-5)
    if np.isfinite(high):
        assert scaled.max() > 0.99 * high
        assert scaled.min() < 0.99 * low
    assert scipy.stats.kstest(scaled, distribution.cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    "init",
    [
        initializers.kaiming_uniform(),
        initializers.xavier_normal(),
        initializers.truncated_normal(),
        initializers.orthogonal(),
    ],
    ids=["uniform", "normal", "truncated", "orthogonal"],
)
def test_half_precision_and_randomness(init, key):
    dtype = jnp.bfloat16
    first, second = jax.random.split(key)
    again = jax.random.split(jax.random.key(0))[0]
    x = init(first, (6, 4), dtype)
    assert x.dtype == dtype
    np.testing.assert_array_equal(x, init(again, (6, 4), dtype))
    assert (x != init(second, (6, 4), dtype)).any()


def test_float64(key):
    with jax.enable_x64(True):
        x = initializers.orthogonal(2.0)(key, (5, 5), jnp.float64)
        assert x.dtype == jnp.float64
        np.testing.assert_allclose(x.T @ x, 4 * np.eye(5), atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (3, 3, 2, 5)], ids=str)
def test_orthogonal(shape, key):
    x = np.asarray(initializers.orthogonal(1.5)(key, shape, jnp.float32), np.float64)
    assert x.shape == shape
    matrix = x.reshape(-1, shape[-1])
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    np.testing.assert_allclose(short @ short.T, 1.5**2 * np.eye(len(short)), atol=1e-5)


def test_constants(key):
    np.testing.assert_array_equal(initializers.zeros(key, (2, 3), jnp.float32), np.zeros((2, 3)))
    ones = initializers.ones(key, (2, 3), jnp.bfloat16)
    assert ones.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ones.astype(jnp.float32), np.ones((2, 3)))
    half = initializers.constant(0.5)(key, (2,), jnp.float32)
    np.testing.assert_array_equal(half, [0.5, 0.5])


def test_gains():
    expected = {"linear": 1, "sigmoid": 1, "tanh": 5 / 3, "relu": 2**0.5, "selu": 0.75}
    assert {name: initializers.gain(name) for name in expected} == expected
    assert initializers.gain("leaky_relu") == (2 / (1 + 0.01**2)) ** 0.5
    assert initializers.gain("leaky_relu", 0.2) == (2 / (1 + 0.2**2)) ** 0.5


def test_refusals(key):
    with pytest.raises(ValueError, match=r"nonlinearity is 'swish', expected leaky_relu or one of"):
        initializers.gain("swish")
    with pytest.raises(ValueError, match=r"param is 0.1, but only leaky_relu takes one, not tanh"):
        initializers.gain("tanh", 0.1)
    with pytest.raises(ValueError, match=r"negative_slope is 0.1, but tanh has none"):
        initializers.kaiming_uniform(nonlinearity="tanh", negative_slope=0.1)
    with pytest.raises(ValueError, match=r"mode is 'fan', expected 'fan_in' or 'fan_out'"):
        initializers.kaiming_normal(mode="fan")
    with pytest.raises(ValueError, match=r"lower is 2 and upper is 1, expected lower < upper"):
        initializers.truncated_normal(lower=2, upper=1)
    with pytest.raises(ValueError, match="at least a 2D shape"):
        initializers.orthogonal()(key, (3,), jnp.float32)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


class TestTorch:
    @pytest.mark.parametrize(
        ("name", "param"),
        [(n, None) for n in ("linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu")]
        + [("leaky_relu", 0.3), ("leaky_relu", 0)],
    )
    def test_gain(self, torch, name, param):
        expected = torch.nn.init.calculate_gain(name, param)
        np.testing.assert_allclose(initializers.gain(name, param), expected, rtol=1e-15)

    @pytest.mark.parametrize("name", ["uniform", "normal"])
    @pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
    @pytest.mark.parametrize("slope", [0.0, SLOPE])
    def test_kaiming(self, torch, name, mode, slope, key):
        theirs = torch.empty(80, 40, 3, 3, dtype=torch.float64)
        fill = getattr(torch.nn.init, f"kaiming_{name}_")
        fill(theirs, a=slope, mode=mode, generator=torch.Generator().manual_seed(0))
        make = getattr(initializers, f"kaiming_{name}")
        same_spread(make(mode=mode, negative_slope=slope)(key, CONV, jnp.float32), theirs)

    @pytest.mark.parametrize("name", ["uniform", "normal"])
    def test_xavier(self, torch, name, key):
        theirs = torch.empty(80, 40, 3, 3, dtype=torch.float64)
        fill = getattr(torch.nn.init, f"xavier_{name}_")
        fill(theirs, gain=1.7, generator=torch.Generator().manual_seed(0))
        same_spread(getattr(initializers, f"xavier_{name}")(1.7)(key, CONV, jnp.float32), theirs)


def same_spread(ours, theirs):
    """Two samples of one distribution, by Kolmogorov and Smirnov and by their deviation."""
    ours, theirs = np.asarray(ours, np.float64).ravel(), theirs.numpy().ravel()
    assert scipy.stats.ks_2samp(ours, theirs).pvalue > 1e-4
    assert abs(ours.std() / theirs.std() - 1) < 5 / np.sqrt(ours.size)


# Whitening


def noise(window=(2, 2), channels=3, seed=0):
    """Correlated images of as many axes as the window has."""
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(60, *[14] * len(window), channels)).cumsum(axis=1)
    return (smooth @ rng.normal(size=(channels, channels)) + 1).astype(np.float32)


@pytest.mark.parametrize("window", [(2, 2), (3, 2), (4,), (2, 2, 2)])
def test_whitened_patches_have_the_identity_as_covariance(window):
    images, size = noise(window), 3 * int(np.prod(window))
    kernel = initializers.whitening(images, eps=0.0)(jax.random.key(0), (*window, 3, 2 * size))
    layer = fn.Model(fn.conv, features=2 * size, kernel_size=window, padding="valid", bias=False)
    y = np.asarray(layer({"kernel": kernel}, images), np.float64).reshape(-1, 2 * size)
    np.testing.assert_allclose(np.cov(y[:, :size].T), np.eye(size), atol=2e-3)
    np.testing.assert_array_equal(kernel[..., size:], -kernel[..., :size])


def test_the_greatest_variance_comes_first_and_small_ones_are_damped():
    images = noise()
    init = initializers.whitening(images, eps=0.5)
    kernel = np.asarray(init(None, (2, 2, 3, 8)), np.float64)[..., :4].reshape(12, 4)
    patches = np.stack(
        [images[:, i : i + 13, j : j + 13] for i in range(2) for j in range(2)], axis=3
    ).reshape(-1, 12)
    own = np.linalg.svd(patches - patches.mean(0), full_matrices=False)[1][:4] ** 2
    own /= len(patches) - 1
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), (own + 0.5) ** -0.5, rtol=1e-4)
    np.testing.assert_allclose(np.var(patches @ kernel, axis=0), own / (own + 0.5), rtol=1e-3)
    assert init(None, (2, 2, 3, 8), jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 2, 3, 7), "features is 7, expected an even number up to 24"),
        ((2, 2, 3, 26), "features is 26, expected an even number up to 24"),
        ((2, 2, 1, 2), r"\(2, 2, 1, 2\) does not fit the images of shape \(60, 14, 14, 3\)"),
        ((15, 2, 3, 2), "does not fit the images"),
        ((2, 3, 2), "does not fit the images"),
    ],
)
def test_whitening_refuses_what_does_not_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        initializers.whitening(noise())(None, shape)


def test_whitening_refuses_bytes():
    with pytest.raises(TypeError, match=r"floating dtype, got uint8; give what"):
        initializers.whitening(np.zeros((2, 4, 4, 3), np.uint8))


def test_whitening_refuses_what_is_not_finite_and_a_negative_eps():
    images = noise()
    with pytest.raises(ValueError, match=r"eps is -0\.1, expected 0 <= eps"):
        initializers.whitening(images, eps=-0.1)
    images[3, 2, 1, 0] = np.nan
    with pytest.raises(ValueError, match="images holds NaN or infinity"):
        initializers.whitening(images)
