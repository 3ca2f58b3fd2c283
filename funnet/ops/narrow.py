"""Convolutions of few channels and their gradients, which XLA:CPU has nothing fast for.

XLA:CPU lays every window out before it multiplies, which costs as much for a pixel of three
channels as for one of twelve. So `fold` pixels of a row are taken as one of so many times the
channels, a free reshape, and so are as many outputs. Measured: 5x5, 3 to 6 channels, 3.8 times as
fast forward and 4 times for the kernel's gradient, a product of the windows and the output's. The
images' gradient is a product, too, whose parts are put back in place.

A folded kernel has zeros where an output does not reach, and zero times infinity is not a number:
images that are not finite are convolved as they come.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funnet.ops.window import Pads, padded, strided

MOST_TAPS = 64  # elements of a window whose parts are put back one by one
FEW = 4  # input channels up to which a narrow kernel's gradient is columns times a matrix


def fold_of(kernel: tuple[int, ...], out: int, stride: Any, dilation: Any) -> int:
    """How many pixels to fold, for a kernel (*window, in, out) and rows of `out` outputs."""
    window, channels, features = kernel[-3], *kernel[-2:]
    if window == 1 or stride[-1] != 1 or dilation[-1] != 1 or channels > 8 or features > 16:
        return 1
    fold = 4 if features <= 8 and channels <= FEW else 2
    return fold if out >= 2 * fold else 1


def fold_of_columns(kernel: tuple[int, ...], out: int, stride: Any, dilation: Any) -> int:
    """The same for the kernel's gradient: it divides the outputs of a row.

    A row filled up with zeros would have them meet pixels that are not finite.
    """
    largest = fold_of(kernel, out, stride, dilation)
    return next(fold for fold in (4, 2, 1) if fold <= largest and out % fold == 0)


def folded_convolution(
    convolution: Callable, x: jax.Array, kernel: jax.Array, pads: Pads, fold: int
) -> jax.Array:
    """`convolution(x, kernel, pads)`, of a stride and dilation of 1 along the last spatial axis.

    Of finite images only.
    """
    *window, channels, features = kernel.shape
    out = x.shape[-2] + sum(pads[-1]) - window[-1] + 1
    reach, last = _reach(window[-1], fold), [(0, 0, 0)] * kernel.ndim
    shifts = []
    for u in range(fold):
        last[-3] = (u, reach * fold - window[-1] - u, 0)
        shifts.append(lax.pad(kernel, jnp.zeros((), kernel.dtype), last))
    spread = jnp.stack(shifts, -2)
    spread = spread.reshape(*window[:-1], reach, fold * channels, fold * features)
    y = convolution(_folded(x, window[-1], pads, out, fold), spread, (*pads[:-1], (0, 0)))
    return y.reshape(*y.shape[:-2], -1, features)[..., :out, :]


def columns_gradient(
    x: jax.Array, g: jax.Array, kernel: Any, stride: Any, pads: Pads, dilation: Any, fold: int = 1
) -> jax.Array:
    """The gradient of a kernel of that shape, the windows laid out flat times the output's `g`.

    `fold` divides the outputs of a row. Folded, each pair of a pixel and an output that no element
    of the kernel joins is left out.
    """
    *window, channels, features = kernel
    if fold > 1:
        x = _folded(x, window[-1], pads, g.shape[-2], fold)
        g = g.reshape(*g.shape[:-2], -1, fold * features)
        window, pads = [*window[:-1], _reach(window[-1], fold)], (*pads[:-1], (0, 0))
    x = padded(x, pads)
    offsets = itertools.product(*map(range, window))
    taps = [strided(x, o, stride, dilation, g.shape[1:-1]) for o in offsets]
    columns = jnp.concatenate(taps, -1).reshape(-1, math.prod(window) * x.shape[-1])
    flat = columns.T @ g.reshape(-1, g.shape[-1])
    if fold == 1:
        return flat.reshape(kernel)
    spread = flat.reshape(*kernel[:-3], -1, channels, fold, features)
    parts = [lax.slice_in_dim(spread[..., u, :], u, u + kernel[-3], axis=-3) for u in range(fold)]
    return sum(parts[1:], parts[0])


def scatters(kernel: tuple[int, ...], stride: Any, dilation: Any) -> bool:
    """Whether `scattered_gradient` is for this kernel (*window, in, out), and the faster one."""
    simple = set(stride) == set(dilation) == {1}
    return simple and kernel[-2] <= 6 and math.prod(kernel[:-2]) <= MOST_TAPS


def scattered_gradient(g: jax.Array, kernel: jax.Array, shape: Any, pads: Pads) -> jax.Array:
    """The gradient of images of that shape: what each window sends back, added where it came from.

    One product gives what all windows send; it is put together axis by axis, the last one first.
    No padding takes part, where a convolution would multiply its zeros, by infinity too.
    Measured: 5x5, 6 from 16 channels, 3.8 times as fast as a convolution; 3x3, 4 from 16, 2.6.
    """
    *window, _, features = kernel.shape
    axes = len(window)
    order = (axes + 1, *range(axes - 1, -1, -1), axes)  # out, the window's last axis first, in
    y = g.reshape(-1, features) @ kernel.transpose(order).reshape(features, -1)
    y = y.reshape(*g.shape[:-1], -1)
    for axis in range(axes, 0, -1):
        parts = jnp.split(y, window[axis - 1], axis=-1)
        y = jnp.zeros(
            (*y.shape[:axis], y.shape[axis] + len(parts) - 1, *parts[0].shape[axis + 1 :]), y.dtype
        )
        for start, part in enumerate(parts):
            old = lax.slice_in_dim(y, start, start + part.shape[axis], axis=axis)
            y = lax.dynamic_update_slice_in_dim(y, old + part, start, axis)
    around = [
        (-before, size + before - n, 0)
        for (before, _), size, n in zip(pads, shape[1:-1], y.shape[1:-1], strict=True)
    ]
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *around, (0, 0, 0)])


def _reach(window: int, fold: int) -> int:
    """How many folded pixels the windows of `fold` neighbouring outputs touch."""
    return -(-(window - 1 + fold) // fold)


def _folded(x: jax.Array, window: int, pads: Pads, out: int, fold: int) -> jax.Array:
    """The rows of `out` outputs, padded, as folded pixels."""
    pixels = -(-out // fold) + _reach(window, fold) - 1
    around = [(0, 0, 0)] * x.ndim
    around[-2] = (pads[-1][0], pixels * fold - x.shape[-2] - pads[-1][0], 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), around)
    return x.reshape(*x.shape[:-2], pixels, fold * x.shape[-1])
