"""Pooling: functions of arrays alone, without parameters."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet.checks import array, floating
from funnet.layers.sequence import masked, steps_of
from funnet.ops import pooling
from funnet.ops.precision import widened
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
        padding: as in `conv`; what is padded is never the largest, and never has the gradient.

    Returns:
        (N, *spatial', C).

    Raises:
        ValueError: if axes, padding or window do not fit `x`.
    """
    array("x", x)
    return pooling.max_pool(x, *_geometry("max_pool", x, window, stride, padding))


def avg_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    count_include_pad: bool = True,
) -> jax.Array:
    """The mean of each window, computed in float32 at least.

    Args:
        x: (N, *spatial, C) with 1, 2 or 3 spatial axes, of a floating dtype.
        window: size of the window, one int or one for each spatial axis.
        stride: step of the window, by default its size.
        padding: as in `conv`.
        count_include_pad: whether the zeros of the padding count in the mean; else it is over
            what lies inside `x`. The name and the default are PyTorch's.

    Returns:
        (N, *spatial', C).

    Raises:
        TypeError: if `x` is not of a floating dtype.
        ValueError: if axes, padding or window do not fit `x`.
    """
    floating("x", x)
    geometry = _geometry("avg_pool", x, window, stride, padding)
    return pooling.avg_pool(x, *geometry, count_include_pad)


def global_avg_pool(x: jax.Array, *, lengths: ArrayLike | None = None) -> jax.Array:
    """The mean over all spatial axes, or over the steps that count.

    Args:
        x: (N, *spatial, C) with 1, 2 or 3 spatial axes, of a floating dtype.
        lengths: (N,) integers: of x (N, T, C), how many of the first steps count. Of none the
            mean is 0; what lies beyond changes nothing.

    Returns:
        (N, C).

    Raises:
        TypeError: if `x` is not of a floating dtype, or the lengths are no integers.
        ValueError: if the axes of `x`, or the lengths, do not fit.

    >>> import jax.numpy as jnp
    >>> global_avg_pool(jnp.array([[[1.0], [3.0], [99.0]]]), lengths=jnp.array([2]))
    Array([[2.]], dtype=float32)
    """
    floating("x", x)
    axes = spatial(x, "global_avg_pool")
    if lengths is None:
        return x.mean(axis=tuple(range(1, 1 + axes)))
    mask = _steps(x, lengths)
    total = masked(widened(x), mask).sum(1)
    count = jnp.maximum(mask.sum(1, keepdims=True), 1)
    return (total / count.astype(total.dtype)).astype(x.dtype)


def global_max_pool(x: jax.Array, *, lengths: ArrayLike | None = None) -> jax.Array:
    """The largest element over all spatial axes; the gradient goes to the first of equal ones.

    Args:
        x: (N, *spatial, C) with 1, 2 or 3 spatial axes.
        lengths: (N,) integers: of x (N, T, C), how many of the first steps count. Of none the
            result is 0; what lies beyond changes nothing.

    Returns:
        (N, C).

    Raises:
        TypeError: if the lengths are no integers.
        ValueError: if the axes of `x`, or the lengths, do not fit.
    """
    array("x", x)
    spatial(x, "global_max_pool")
    if lengths is None:
        return pooling.largest(x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]), 1)
    mask = _steps(x, lengths)
    y = pooling.largest(jnp.where(mask[..., None], x, pooling.lowest(x.dtype)), 1)
    return masked(y, mask.any(1))


def adaptive_avg_pool(x: jax.Array, size: int | Sequence[int]) -> jax.Array:
    """The means of windows as even as can be, so many that the result has the size asked for.

    Window `i` of an axis of `n` elements goes from `floor(i * n / size)` up to
    `ceil((i + 1) * n / size)`, as in PyTorch: neighbours share an element where `size` does not
    divide `n`.

    Args:
        x: (N, *spatial, C) with 1, 2 or 3 spatial axes, of a floating dtype.
        size: the size of the result, one int or one for each spatial axis.

    Returns:
        (N, *size, C).

    Raises:
        TypeError: if `x` is not of a floating dtype.
        ValueError: if the axes do not fit, or one of `x` is empty.
    """
    floating("x", x)
    return pooling.adaptive_avg_pool(x, _sizes("adaptive_avg_pool", x, size))


def adaptive_max_pool(x: jax.Array, size: int | Sequence[int]) -> jax.Array:
    """The largest elements of the windows of `adaptive_avg_pool`.

    Args:
        x: (N, *spatial, C) with 1, 2 or 3 spatial axes.
        size: the size of the result, one int or one for each spatial axis.

    Returns:
        (N, *size, C); the gradient goes to the first of equal elements.

    Raises:
        ValueError: if the axes do not fit, or one of `x` is empty.
    """
    array("x", x)
    return pooling.adaptive_max_pool(x, _sizes("adaptive_max_pool", x, size))


def flatten(x: jax.Array) -> jax.Array:
    """All axes but the first as one: (N, ...) gives (N, features)."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _geometry(what: str, x: jax.Array, window: int | Sequence[int], stride, padding: Padding):
    axes = spatial(x, what)
    size = per_axis("window", window, axes)
    step = size if stride is None else per_axis("stride", stride, axes)
    return size, step, pads(padding, x.shape[1:-1], size, step)


def _sizes(what: str, x: jax.Array, size: int | Sequence[int]) -> tuple[int, ...]:
    sizes = per_axis("size", size, spatial(x, what))
    if 0 in x.shape[1:-1]:
        raise ValueError(f"{what} has no elements to pool: x has shape {x.shape}")
    return sizes


def _steps(x: jax.Array, lengths: ArrayLike) -> jax.Array:
    if x.ndim != 3:
        raise ValueError(f"lengths belong to x of shape (N, T, C), got x of shape {x.shape}")
    return steps_of(x, lengths)
