"""Pooling: functions of arrays alone, without parameters."""

import math
from collections.abc import Sequence

import jax

from funnet.checks import floating
from funnet.ops import pooling
from funnet.ops.window import Padding, pads, per_axis, spatial


def max_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "valid",
) -> jax.Array:
    """The largest element of each window; the gradient goes to the first of equal ones.

    Args:
        x: (N, *spatial, C) with 1, 2 or 3 spatial axes.
        window: size of the window, one int or one for each spatial axis.
        stride: step of the window, by default its size.
        padding: as in `conv`; what is padded is never the largest, but of a window that is -inf
            all over it may take the gradient.

    Returns:
        (N, *spatial', C).

    Raises:
        ValueError: if axes, padding or window do not fit `x`.
    """
    return pooling.max_pool(x, *_geometry("max_pool", x, window, stride, padding))


def avg_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "valid",
) -> jax.Array:
    """The mean of each window; padding counts as zeros, as by default in PyTorch.

    Args:
        x: (N, *spatial, C) with 1, 2 or 3 spatial axes, of a floating dtype.
        window: size of the window, one int or one for each spatial axis.
        stride: step of the window, by default its size.
        padding: as in `conv`.

    Returns:
        (N, *spatial', C).

    Raises:
        TypeError: if `x` is not of a floating dtype.
        ValueError: if axes, padding or window do not fit `x`.
    """
    floating("x", x)
    return pooling.avg_pool(x, *_geometry("avg_pool", x, window, stride, padding))


def global_avg_pool(x: jax.Array) -> jax.Array:
    """The mean over all spatial axes: (N, *spatial, C) gives (N, C)."""
    floating("x", x)
    return x.mean(axis=tuple(range(1, 1 + spatial(x, "global_avg_pool"))))


def flatten(x: jax.Array) -> jax.Array:
    """All axes but the first as one: (N, ...) gives (N, features)."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _geometry(what: str, x: jax.Array, window: int | Sequence[int], stride, padding: Padding):
    axes = spatial(x, what)
    size = per_axis("window", window, axes)
    step = size if stride is None else per_axis("stride", stride, axes)
    return size, step, pads(padding, x.shape[1:-1], size, step)
