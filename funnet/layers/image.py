"""Images: from bytes to normalised floats, from space to channels and back, and other sizes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from funnet.checks import array, count, floating, images
from funnet.ops.precision import widened
from funnet.ops.window import per_axis, spatial

METHODS = ("nearest", "linear", "cubic")
Channels = float | Sequence[float]


def normalise(x: jax.Array, mean: Channels = 0.0, std: Channels = 1.0) -> jax.Array:
    """`(x - mean) / std` of images, bytes first divided by 255.

    Args:
        x: (..., C), uint8 in 0..255, or of a floating dtype and then taken as it is.
        mean: one number or one a channel, on the scale 0..1.
        std: likewise, not zero.

    Returns:
        As `x`, float32 where `x` was bytes.

    >>> normalise(jnp.asarray([[0, 255]], jnp.uint8), mean=0.5, std=0.5)
    Array([[-1.,  1.]], dtype=float32)
    """
    if x.dtype == jnp.uint8:
        x = x.astype(jnp.float32) / 255
    elif not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must be uint8 or floating point images, got {x.dtype}")
    return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """Each `block` × `block` square of pixels as channels of one.

    Args:
        x: (N, H, W, C), `block` dividing H and W.
        block: the side of a square, in pixels.

    Returns:
        (N, H / block, W / block, block · block · C).

    Raises:
        ValueError: if `block` does not divide the image.
    """
    images("space_to_depth", x, "x")
    n, height, width, channels = x.shape
    count("block", block)
    if height % block or width % block:
        raise ValueError(f"block must divide height and width, got {block} for x of {x.shape}")
    x = x.reshape(n, height // block, block, width // block, block, channels)
    return x.swapaxes(2, 3).reshape(n, height // block, width // block, block**2 * channels)


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """The channels of one pixel as a `factor` × `factor` square of pixels.

    Channel `(c * factor + i) * factor + j` goes to row `i` and column `j` of the square, channel
    `c`: the order of PyTorch. (`space_to_depth` has another, in which pixels stay whole.)

    Args:
        x: (N, H, W, C · factor · factor).
        factor: the side of a square, in pixels.

    Returns:
        (N, H · factor, W · factor, C).

    Raises:
        ValueError: if `factor * factor` does not divide the channels.

    Reference: Shi et al. 2016, https://arxiv.org/abs/1609.05158

    >>> pixel_shuffle(jnp.arange(4.0).reshape(1, 1, 1, 4), 2)[0, :, :, 0]
    Array([[0., 1.],
           [2., 3.]], dtype=float32)
    """
    images("pixel_shuffle", x, "x")
    count("factor", factor)
    n, height, width, channels = x.shape
    if channels % factor**2:
        raise ValueError(
            f"factor * factor must divide the channels, got factor={factor} for x of {x.shape}"
        )
    features = channels // factor**2
    x = x.reshape(n, height, width, features, factor, factor).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, height * factor, width * factor, features)


def resize(
    x: jax.Array, size: int | Sequence[int], *, method: str = "linear", antialias: bool = True
) -> jax.Array:
    """Images of another size, their pixels being little squares whose borders stay aligned.

    As PyTorch's `interpolate` with `align_corners=False`: `"nearest"` is its `nearest-exact`,
    `"linear"` its `linear`, `bilinear` or `trilinear`, `"cubic"` with antialiasing its `bicubic`.
    PyTorch does not smooth by default, and its `bicubic` without antialiasing is another kernel
    (`a = -0.75`, with the edge repeated; here it is Keys' `a = -0.5` throughout).

    Args:
        x: (N, *spatial, C) with 1, 2 or 3 spatial axes; of a floating dtype, but for `"nearest"`.
        size: the new size, one int or one for each spatial axis.
        method: `"nearest"`, `"linear"` or `"cubic"`.
        antialias: whether to smooth where the image shrinks; `"nearest"` never does.

    Returns:
        (N, *size, C) of the dtype of `x`, computed in float32 at least. Each axis is multiplied by
        a matrix, so but for `"nearest"` one NaN fills all rows and columns through it.

    Raises:
        TypeError: if `x` is not of a floating dtype and the method is not `"nearest"`.
        ValueError: if the method is none of these, the axes do not fit, or one of `x` is empty.

    Reference: Keys 1981, https://doi.org/10.1109/TASSP.1981.1163711

    >>> resize(jnp.array([0.0, 1.0]).reshape(1, 2, 1), 4).ravel()
    Array([0.  , 0.25, 0.75, 1.  ], dtype=float32)
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    (array if method == "nearest" else floating)("x", x)
    sizes = per_axis("size", size, spatial(x, "resize"))
    if 0 in x.shape[1:-1]:
        raise ValueError(f"resize needs at least one pixel, got x of shape {x.shape}")
    shape = (x.shape[0], *sizes, x.shape[-1])
    wide = x if method == "nearest" else widened(x)
    return jax.image.resize(wide, shape, method, antialias).astype(x.dtype)
