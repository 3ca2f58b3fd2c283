"""Images at a model's door: from bytes to normalised floats, and from space to channels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

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
    n, height, width, channels = x.shape
    if height % block or width % block:
        raise ValueError(f"block must divide height and width, got {block} for x of {x.shape}")
    x = x.reshape(n, height // block, block, width // block, block, channels)
    return x.swapaxes(2, 3).reshape(n, height // block, width // block, -1)
