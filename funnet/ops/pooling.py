"""Pooling whose gradient is cheap.

The gradient of a `reduce_window` maximum is a select-and-scatter, which XLA:CPU runs some forty
times slower than the pool itself. But the maximum of a window is that of the maxima of its rows,
and the first of equal elements lies in the first row that has one: so a pool goes axis by axis,
the last one first, and its gradient by the winner's place in each window, kept as int8. Of equal
elements the first one wins, as in PyTorch, and padding never does.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funnet.ops.precision import widened
from funnet.ops.window import Pads

MOST_UNROLLED = 32  # elements of a window along an axis; beyond, programs grow long


def plain_max_pool(
    x: jax.Array, window: tuple[int, ...], stride: tuple[int, ...], pads: Pads
) -> jax.Array:
    """The maximum of each window of `x` (N, *spatial, C), as XLA has it."""
    return _reduce(x, lowest(x.dtype), lax.max, window, stride, pads)


def max_pool(
    x: jax.Array, window: tuple[int, ...], stride: tuple[int, ...], pads: Pads
) -> jax.Array:
    """As `plain_max_pool`, with a fast gradient, of equal elements to the first."""
    for axis, (w, s, pad) in reversed(list(enumerate(zip(window, stride, pads, strict=True), 1))):
        if w <= MOST_UNROLLED:
            x = _max_along(x, axis, w, s, pad)
        else:
            x = max_over(x, axis, *_reach(x.shape[axis], w, s, pad))
    return x


def avg_pool(
    x: jax.Array,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    pads: Pads,
    count_include_pad: bool = True,
) -> jax.Array:
    """The mean of each window of `x` (N, *spatial, C), over its zeros of padding or without."""
    total = _reduce(widened(x), 0.0, lax.add, window, stride, pads)
    if count_include_pad:
        return (total / math.prod(window)).astype(x.dtype)
    counts: Any = np.ones((), total.dtype)
    for size, w, s, pad in zip(x.shape[1:-1], window, stride, pads, strict=True):
        starts, ends = _reach(size, w, s, pad)
        counts = counts[..., None] * np.maximum(ends - starts, 1)
    return (total / counts[..., None].astype(total.dtype)).astype(x.dtype)


def adaptive_max_pool(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """The maxima of so many windows an axis, as even as can be."""
    for axis, n in reversed(list(enumerate(size, 1))):
        x = max_over(x, axis, *_shares(x.shape[axis], n))
    return x


def adaptive_avg_pool(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """The means of so many windows an axis, as even as can be."""
    y = widened(x)
    for axis, n in enumerate(size, 1):
        y = mean_over(y, axis, *_shares(x.shape[axis], n))
    return y.astype(x.dtype)


def max_over(x: jax.Array, axis: int, starts: np.ndarray, ends: np.ndarray) -> jax.Array:
    """The maxima of the elements from each start up to its end along an axis."""
    windows, inside = _gathered(x, axis, starts, ends)
    return largest(jnp.where(inside, windows, lowest(x.dtype)), axis + 1)


def mean_over(x: jax.Array, axis: int, starts: np.ndarray, ends: np.ndarray) -> jax.Array:
    """The means of the elements from each start up to its end along an axis."""
    windows, inside = _gathered(x, axis, starts, ends)
    counts = (ends - starts).reshape(-1, *[1] * (x.ndim - axis - 1))
    return jnp.where(inside, windows, 0).sum(axis + 1) / counts.astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(x: jax.Array, axis: int) -> jax.Array:
    """The maximum along an axis; its gradient goes to the first of equal elements."""
    y = x.max(axis, initial=lowest(x.dtype))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return y
    return jnp.where((x != x).any(axis), jnp.nan, y)  # XLA:CPU drops a NaN over an inner axis


@largest.defjvp
def _largest_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    y, size = largest(x, axis), x.shape[axis]
    winning = (x == jnp.expand_dims(y, axis)) | (x != x)
    place = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    first = jnp.where(winning, place, size).min(axis, keepdims=True, initial=size)
    return y, jnp.where(place == first, dx, 0).sum(axis)


def lowest(dtype: Any) -> np.ndarray:
    """What is never larger than anything of a dtype."""
    low = -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min
    return np.asarray(low, dtype)  # a constant, or XLA would not know the reduction


def _reduce(x: Any, start: Any, combine: Any, window: Any, stride: Any, pads: Any) -> jax.Array:
    ends, start = ((0, 0), *pads, (0, 0)), np.asarray(start, x.dtype)
    return lax.reduce_window(x, start, combine, (1, *window, 1), (1, *stride, 1), ends)


def _reach(size: int, window: int, stride: int, pad: tuple[int, int]) -> tuple[Any, Any]:
    """Where each window starts and ends within an axis, its padding left out."""
    starts = np.arange(0, size + sum(pad) - window + 1, stride) - pad[0]
    return np.clip(starts, 0, size), np.clip(starts + window, 0, size)


def _shares(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `count` windows starts and ends: together they cover the axis."""
    places = np.arange(count)
    return places * size // count, -(-(places + 1) * size // count)


def _gathered(x: jax.Array, axis: int, starts: Any, ends: Any) -> tuple[jax.Array, Any]:
    """The axis as two, windows and their elements, and which of these are inside."""
    size, width = x.shape[axis], int((ends - starts).max())
    places = starts[:, None] + np.arange(width)
    if np.array_equal(places.ravel(), np.arange(size)):
        return x.reshape(*x.shape[:axis], -1, width, *x.shape[axis + 1 :]), True
    inside = (places < ends[:, None]).reshape(*places.shape, *[1] * (x.ndim - axis - 1))
    return jnp.take(x, np.minimum(places, size - 1), axis, mode="clip"), inside


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def _max_along(x: jax.Array, axis: int, window: int, stride: int, pad: Any) -> jax.Array:
    return functools.reduce(jnp.maximum, _elements(x, axis, window, stride, pad))


@_max_along.defjvp
def _max_along_jvp(axis: int, window: int, stride: int, pad: Any, primals: Any, tangents: Any):
    (x,), (dx,) = primals, tangents
    first = np.clip(
        pad[0] - stride * np.arange(_count(x, axis, window, stride, pad)), 0, window - 1
    )
    first = first.astype(np.int8).reshape(-1, *[1] * (x.ndim - axis - 1))
    y, winner = _winners(_elements(x, axis, window, stride, pad), first)
    scatter = functools.partial(_scatter, winner, x.shape[axis], axis, window, stride, pad)
    dy = jax.linear_transpose(scatter, jax.ShapeDtypeStruct(y.shape, dx.dtype))(dx)[0]
    return y, dy


def _winners(elements: list[jax.Array], first: Any) -> tuple[jax.Array, jax.Array]:
    """The maximum, NaN before all, and the place of the first element that has it.

    Where none is above the lowest, `first`, which is no padding, stays the winner.
    """
    best, winner = elements[0], jnp.broadcast_to(first, elements[0].shape)
    for index, element in enumerate(elements[1:], 1):
        better = ~(element <= best) & (best == best)
        best = jnp.where(better, element, best)
        winner = jnp.where(better, jnp.int8(index), winner)
    return best, winner


def _elements(x: jax.Array, axis: int, window: int, stride: int, pad: Any) -> list[jax.Array]:
    """The first element of every window along an axis, the second, and so on.

    They are read off a view of the axis as rows of one stride each: `o` places on is the element
    `o % stride` of the row `o // stride` further down.
    """
    count = _count(x, axis, window, stride, pad)
    rows = count + (window - 1) // stride
    low, after = jnp.asarray(lowest(x.dtype)), rows * stride - x.shape[axis] - pad[0]
    view = lax.pad(x, low, _at(axis, x.ndim, (pad[0], after, 0)))
    view = view.reshape(*x.shape[:axis], rows, stride, *x.shape[axis + 1 :])
    places = [divmod(o, stride) for o in range(window)]
    return [
        lax.index_in_dim(lax.slice_in_dim(view, m, m + count, 1, axis), r, axis + 1, False)
        for m, r in places
    ]


def _scatter(winner: Any, size: int, axis: int, window: int, stride: int, pad: Any, g: Any):
    """The gradient of each output, put where its maximum came from, in the view of `_elements`."""
    spread = _side_by_side if window <= stride else _overlapping
    view = spread(winner, axis, window, stride, g)
    flat = view.reshape(*g.shape[:axis], -1, *g.shape[axis + 1 :])
    after = size + pad[0] - flat.shape[axis]
    return lax.pad(flat, jnp.zeros((), g.dtype), _at(axis, g.ndim, (-pad[0], after, 0)))


def _side_by_side(winner: Any, axis: int, window: int, stride: int, g: jax.Array) -> jax.Array:
    own = np.minimum(np.arange(stride), window).astype(np.int8)  # a place beyond wins nothing
    own = own.reshape(-1, *[1] * (g.ndim - axis - 1))
    return jnp.where(own == jnp.expand_dims(winner, axis + 1), jnp.expand_dims(g, axis + 1), 0)


def _overlapping(winner: Any, axis: int, window: int, stride: int, g: jax.Array) -> jax.Array:
    """Element `r` of each row takes from the window that starts there, and those before."""
    turns = (window - 1) // stride + 1
    zero = jnp.zeros((), g.dtype)

    def element(r: int) -> jax.Array:
        parts = [
            lax.pad(
                jnp.where(winner == m * stride + r, g, zero),
                zero,
                _at(axis, g.ndim, (m, turns - 1 - m, 0)),
            )
            for m in range(turns)
        ]
        return sum(parts[1:], parts[0])

    return jnp.stack([element(r) for r in range(stride)], axis + 1)


def _count(x: jax.Array, axis: int, window: int, stride: int, pad: tuple[int, int]) -> int:
    return (x.shape[axis] + sum(pad) - window) // stride + 1


def _at(axis: int, axes: int, config: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """What `lax.pad` does along one axis, and nothing along the others."""
    return [config if i == axis else (0, 0, 0) for i in range(axes)]
