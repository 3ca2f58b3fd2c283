"""Padded sequences: which steps of `(N, T, ...)` count, given `lengths` (N,).

What is padded is set aside before it is computed with, so that whatever lies there (garbage, NaN)
reaches no output, no state and no gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from funnet.checks import integer, within


def sequence_mask(lengths: ArrayLike, size: int) -> jax.Array:
    """Which of `size` steps lie within each length.

    Args:
        lengths: (N,) integers in 0..size.
        size: the number of steps, T.

    Returns:
        (N, T) booleans, the first `lengths[n]` of row `n` true. Under `jit` a length above `size`
        counts as `size`.

    Raises:
        TypeError: if the lengths are no integers.
        ValueError: if they have not one axis, or, outside `jit`, one is negative or above `size`.

    >>> sequence_mask(jnp.array([2, 0]), 3)
    Array([[ True,  True, False],
           [False, False, False]], dtype=bool)
    """
    integer("lengths", lengths)
    if np.ndim(lengths) != 1:
        shape = np.shape(lengths)
        raise ValueError(f"lengths must have shape (N,), one for each sequence, got {shape}")
    within("lengths", lengths, 0, size, why=f", for there are {size} steps")
    return jnp.arange(size, dtype=jnp.int32) < jnp.asarray(lengths, jnp.int32)[:, None]


def steps_of(x: jax.Array, lengths: ArrayLike) -> jax.Array:
    """The mask (N, T) of the steps of `x` (N, T, ...) that lie within the lengths.

    Raises:
        ValueError: if there is not one length for each sequence, or one is out of range.
    """
    if x.ndim < 2:
        raise ValueError(f"lengths belong to x of shape (N, T, ...), got x of shape {x.shape}")
    mask = sequence_mask(lengths, x.shape[1])
    if len(mask) != len(x):
        raise ValueError(
            f"lengths has shape {mask.shape[:1]}, expected one for each of the {len(x)} sequences "
            f"of x, whose shape is {x.shape}"
        )
    return mask


def masked(x: jax.Array, mask: jax.Array) -> jax.Array:
    """`x` where the mask of its leading axes is true, else zero, and its gradient likewise."""
    return jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x, 0)
