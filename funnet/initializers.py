"""How parameters begin: functions `init(key, shape, dtype) -> array`, and makers of them.

What `jax.nn.initializers` has is passed on as it is, under its own names: `lecun_*`, `he_*`
and `glorot_*`, whose normal forms are truncated at two standard deviations. `kaiming_*` and
`xavier_*` here are PyTorch's, gain included, whose normal forms are not.

A kernel is `(*window, in / groups, out)`, and its fans are
`fan_in = prod(window) * in / groups` and `fan_out = prod(window) * out`.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer as Initializer
from jax.nn.initializers import constant as constant
from jax.nn.initializers import glorot_normal as glorot_normal
from jax.nn.initializers import glorot_uniform as glorot_uniform
from jax.nn.initializers import he_normal as he_normal
from jax.nn.initializers import he_uniform as he_uniform
from jax.nn.initializers import lecun_normal as lecun_normal
from jax.nn.initializers import lecun_uniform as lecun_uniform
from jax.nn.initializers import normal as normal
from jax.nn.initializers import ones as ones
from jax.nn.initializers import uniform as uniform
from jax.nn.initializers import variance_scaling as variance_scaling
from jax.nn.initializers import zeros as zeros

from funnet import checks

_GAINS = {
    "linear": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "selu": 3 / 4,
}


def gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that makes up for what a nonlinearity does to the variance.

    PyTorch's `calculate_gain`: 1 for linear and sigmoid, 5/3 for tanh, 3/4 for selu, `sqrt(2)`
    for relu and `sqrt(2 / (1 + slope^2))` for leaky_relu.

    Args:
        nonlinearity: linear, sigmoid, tanh, relu, leaky_relu or selu.
        param: The negative slope of leaky_relu, 0.01 if not given; no other takes one.

    Raises:
        ValueError: If the name is unknown, or `param` comes with a name that takes none.

    >>> gain("relu") == 2**0.5
    True
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        raise ValueError(
            f"nonlinearity is {nonlinearity!r}, expected leaky_relu or one of {', '.join(_GAINS)}; "
            "write 'linear' where none follows"
        )
    if param is not None:
        raise ValueError(f"param is {param}, but only leaky_relu takes one, not {nonlinearity}")
    return _GAINS[nonlinearity]


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Uniform in `gain * sqrt(6 / (fan_in + fan_out))` to either side.

    Args:
        gain: The standard deviation is `gain * sqrt(2 / (fan_in + fan_out))`.

    References:
        Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html

    >>> xavier_uniform()(jax.random.key(0), (5, 3)).shape
    (5, 3)
    """
    return variance_scaling(gain**2, "fan_avg", "uniform")


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Normal of standard deviation `gain * sqrt(2 / (fan_in + fan_out))`, not truncated.

    Args:
        gain: A factor on the standard deviation, as `gain("tanh")` gives.

    References:
        Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html

    >>> xavier_normal()(jax.random.key(0), (5, 3)).shape
    (5, 3)
    """
    return variance_scaling(gain**2, "fan_avg", "normal")


def kaiming_uniform(
    *,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "relu",
    negative_slope: float = 0.0,
) -> Initializer:
    """Uniform in `gain(nonlinearity) * sqrt(3 / fan)` to either side.

    `negative_slope=5**0.5` is how `torch.nn.Linear` and `Conv2d` begin: `1 / sqrt(fan_in)` to
    either side.

    Args:
        mode: fan_in keeps the variance of the activations, fan_out that of the gradients.
        nonlinearity: What follows the kernel, a name that `gain` knows.
        negative_slope: Of a relu or leaky_relu; PyTorch's `a`.

    Raises:
        ValueError: If `mode` or `nonlinearity` is unknown, or the latter has no negative slope.

    References:
        He et al. 2015, "Delving Deep into Rectifiers", https://arxiv.org/abs/1502.01852

    >>> kaiming_uniform()(jax.random.key(0), (3, 3, 16, 32)).shape
    (3, 3, 16, 32)
    """
    return variance_scaling(*_kaiming(mode, nonlinearity, negative_slope), "uniform")


def kaiming_normal(
    *,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "relu",
    negative_slope: float = 0.0,
) -> Initializer:
    """Normal of standard deviation `gain(nonlinearity) / sqrt(fan)`, not truncated.

    Args:
        mode: fan_in keeps the variance of the activations, fan_out that of the gradients.
        nonlinearity: What follows the kernel, a name that `gain` knows.
        negative_slope: Of a relu or leaky_relu; PyTorch's `a`.

    Raises:
        ValueError: If `mode` or `nonlinearity` is unknown, or the latter has no negative slope.

    References:
        He et al. 2015, "Delving Deep into Rectifiers", https://arxiv.org/abs/1502.01852

    >>> kaiming_normal(mode="fan_out")(jax.random.key(0), (3, 3, 16, 32)).shape
    (3, 3, 16, 32)
    """
    return variance_scaling(*_kaiming(mode, nonlinearity, negative_slope), "normal")


def orthogonal(gain: float = 1.0) -> Initializer:
    """A random matrix with orthonormal rows or columns, whichever are fewer, times `gain`.

    All axes but the last count as one: `(*window, in, out)` is a matrix
    `(prod(window) * in, out)`.

    Args:
        gain: A factor on the matrix: all its singular values.

    Raises:
        ValueError: When drawing, if the shape has fewer than two axes.

    References:
        Saxe et al. 2013, "Exact solutions to the nonlinear dynamics of learning in deep linear
        neural networks", https://arxiv.org/abs/1312.6120

    >>> kernel = orthogonal()(jax.random.key(0), (5, 3), jnp.float32)
    >>> bool(jnp.allclose(kernel.T @ kernel, jnp.eye(3), atol=1e-5))
    True
    """
    draw = jax.nn.initializers.orthogonal(gain)

    def init(key, shape, dtype=None, out_sharding=None):
        # Of the factorisation behind it there is no half-precision form.
        dtype = jnp.dtype(dtype or float)
        wide = jnp.float32 if dtype.itemsize < 4 else dtype
        return draw(key, shape, wide, out_sharding).astype(dtype)

    return init


def truncated_normal(stddev: float = 1.0, lower: float = -2.0, upper: float = 2.0) -> Initializer:
    """Normal of mean 0, redrawn until between `lower * stddev` and `upper * stddev`.

    The bounds are in standard deviations, as in JAX. PyTorch's `trunc_normal_` takes absolute
    ones, which its defaults of 2 make no bounds at all for a `std` of 0.02.

    Args:
        stddev: The standard deviation before truncation; bounds of two leave 0.88 of it.
        lower: Lower bound, in standard deviations.
        upper: Upper bound, in standard deviations.

    Raises:
        ValueError: If there is nothing between the bounds.

    >>> bool(jnp.abs(truncated_normal(0.02)(jax.random.key(0), (99,))).max() <= 0.04)
    True
    """
    if not lower < upper:
        raise ValueError(f"lower is {lower} and upper is {upper}, expected lower < upper")
    return jax.nn.initializers.truncated_normal(stddev, lower=lower, upper=upper)


def whitening(images: Any, *, eps: float = 5e-4) -> Initializer:
    """A convolution's kernel after which patches of images are white: uncorrelated, of variance 1.

    Its filters are the eigenvectors of the patches' covariance, the greatest variance first, each
    over the root of its variance; then, as the second half of the features, their negatives, which
    a ReLU or GELU would otherwise lose. Nothing is drawn: such a layer is usually left as it is,
    with `fn.optim.freeze`.

    Args:
        images: (N, *spatial, C), of a floating dtype and concrete: as the convolution will be given
            them. Some thousands of a training set are enough.
        eps: added to the variances, at least 0, for patches hardly vary in their highest
            frequencies.

    Returns:
        An initializer of kernels (*window, C, features), for up to `2 * prod(window) * C` features.

    Raises:
        TypeError: if the images are not of a floating dtype.
        ValueError: if `eps` is negative or an image not finite; when drawing, if the window or its
            channels do not fit the images, or the features are odd or too many.

    References:
        Page 2019, "How to train your ResNet 8: bag of tricks"; Jordan 2024,
        https://arxiv.org/abs/2404.00498

    >>> photos = np.random.default_rng(0).random((9, 8, 8, 3), np.float32)
    >>> whitening(photos)(jax.random.key(0), (2, 2, 3, 24)).shape
    (2, 2, 3, 24)
    """
    images = np.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images must be of a floating dtype, got {images.dtype}; give what the convolution "
            "will be given, such as fn.normalise(images)"
        )
    checks.within("eps", eps, 0, math.inf)
    if not np.isfinite(images.astype(float)).all():
        raise ValueError("images holds NaN or infinity, expected finite numbers")

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        patches = _patches(images, shape)
        half, odd = divmod(shape[-1], 2)
        if odd or not 1 <= half <= patches.shape[1]:
            raise ValueError(
                f"features is {shape[-1]}, expected an even number up to {2 * patches.shape[1]}, "
                f"two for each dimension of a patch {shape[:-1]}"
            )
        variances, vectors = np.linalg.eigh(
            np.cov(patches, rowvar=False).reshape([len(patches.T)] * 2)
        )
        filters = (vectors / np.sqrt(variances + eps))[:, : -half - 1 : -1]
        filters *= np.sign(filters[abs(filters).argmax(0), np.arange(half)])  # one of two signs
        return jnp.asarray(np.concatenate([filters, -filters], 1).reshape(shape), dtype)

    return init


def _patches(images: np.ndarray, shape: Any) -> np.ndarray:
    """All patches that a kernel of this shape sees in the images: (count, numbers in a patch)."""
    window, (channels, _) = tuple(shape[:-2]), shape[-2:]
    sizes = images.shape[1:-1]
    fits = len(window) == len(sizes) and images.shape[-1] == channels
    if not fits or any(w > size for w, size in zip(window, sizes, strict=True)):
        raise ValueError(
            f"a kernel of shape {tuple(shape)} does not fit the images of shape {images.shape} "
            "that it is to whiten: give images as the convolution will be given them"
        )
    axes = tuple(range(1, 1 + len(window)))
    found = np.lib.stride_tricks.sliding_window_view(images, window, axes)  # (N, *, C, *window)
    return np.moveaxis(found, len(window) + 1, -1).reshape(-1, math.prod(shape[:-1])).astype(float)


def _kaiming(mode, nonlinearity: str, negative_slope: float):
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is {mode!r}, expected 'fan_in' or 'fan_out'")
    if nonlinearity in ("relu", "leaky_relu"):
        return gain("leaky_relu", negative_slope) ** 2, mode
    if negative_slope != 0:
        raise ValueError(
            f"negative_slope is {negative_slope}, but {nonlinearity} has none; "
            "write nonlinearity='leaky_relu'"
        )
    return gain(nonlinearity) ** 2, mode
