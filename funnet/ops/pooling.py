"""Pooling whose gradient is cheap.

The gradient of a `reduce_window` maximum is a select-and-scatter, which XLA:CPU runs some forty
times slower than the pool itself. Where windows tile the input, the maximum is taken over a
reshaped view, and the gradient goes by the winner's index, kept as int8; of equal elements the
first one wins, as in PyTorch.
"""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pads = tuple[tuple[int, int], ...]
MOST_UNROLLED = 25  # elements of a window; beyond, the comparisons outgrow what they save


def plain_max_pool(
    x: jax.Array, window: tuple[int, ...], stride: tuple[int, ...], pads: Pads
) -> jax.Array:
    """The maximum of each window of `x` (N, *spatial, C), as XLA has it."""
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return _reduce(x, lowest, lax.max, window, stride, pads)


def max_pool(
    x: jax.Array, window: tuple[int, ...], stride: tuple[int, ...], pads: Pads
) -> jax.Array:
    """As `plain_max_pool`, with a fast gradient where the windows tile the input."""
    tiles = window == stride and not any(map(any, pads))
    whole = all(size % w == 0 for size, w in zip(x.shape[1:-1], window, strict=True))
    if tiles and whole and math.prod(window) <= MOST_UNROLLED:
        return _tiled_max(x, window)
    return plain_max_pool(x, window, stride, pads)


def avg_pool(
    x: jax.Array, window: tuple[int, ...], stride: tuple[int, ...], pads: Pads
) -> jax.Array:
    """The mean of each window of `x` (N, *spatial, C); padding counts as zeros."""
    return _reduce(x, 0.0, lax.add, window, stride, pads) / math.prod(window)


def _reduce(x: Any, start: Any, combine: Any, window: Any, stride: Any, pads: Any) -> jax.Array:
    ends = ((0, 0), *pads, (0, 0))
    start = np.asarray(start, x.dtype)  # a constant, or XLA would not know the reduction
    return lax.reduce_window(x, start, combine, (1, *window, 1), (1, *stride, 1), ends)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _tiled_max(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    return functools.reduce(jnp.maximum, _elements(x, window))


@_tiled_max.defjvp
def _tiled_max_jvp(window: tuple[int, ...], primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    y, winner = _winners(_elements(x, window))
    scatter = functools.partial(_scatter, winner, window)
    dy = jax.linear_transpose(scatter, jax.ShapeDtypeStruct(y.shape, y.dtype))(dx)[0]
    return y, dy


def _winners(elements: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The maximum, NaN before all, and the int8 index of the first element that has it."""
    best, winner = elements[0], jnp.zeros(elements[0].shape, jnp.int8)
    for index, element in enumerate(elements[1:], 1):
        better = ~(element <= best) & (best == best)
        best = jnp.where(better, element, best)
        winner = jnp.where(better, jnp.int8(index), winner)
    return best, winner


def _scatter(winner: jax.Array, window: tuple[int, ...], g: jax.Array) -> jax.Array:
    """The gradient of each output, put where its maximum came from."""
    axes = [2 * i + 2 for i in range(len(window))]
    own = jnp.arange(math.prod(window), dtype=jnp.int8)
    own = own.reshape([n for w in window for n in (1, w)] + [1])[None]
    spread = jnp.where(own == jnp.expand_dims(winner, axes), jnp.expand_dims(g, axes), 0)
    sizes = [n * w for n, w in zip(g.shape[1:-1], window, strict=True)]
    return spread.reshape(g.shape[0], *sizes, g.shape[-1])


def _elements(x: jax.Array, window: tuple[int, ...]) -> list[jax.Array]:
    """The first element of every window, the second, and so on, in row-major order."""
    split = [n for size, w in zip(x.shape[1:-1], window, strict=True) for n in (size // w, w)]
    tiles = x.reshape(x.shape[0], *split, x.shape[-1])
    return [_element(tiles, offset) for offset in itertools.product(*map(range, window))]


def _element(tiles: jax.Array, offset: tuple[int, ...]) -> jax.Array:
    for axis, index in enumerate(offset, 2):
        tiles = lax.index_in_dim(tiles, index, axis, keepdims=False)
    return tiles
