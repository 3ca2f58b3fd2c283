"""Positions in a sequence: learned, rotary, and as a bias of attention's scores (ALiBi)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from funnet import initializers
from funnet.checks import concrete, count, floating, integer, positive
from funnet.layers.sequence import masked, steps_of
from funnet.scope import Scope, layer

TABLE = initializers.normal(0.02)


@layer
def position_embed(
    p: Scope,
    x: jax.Array,
    most: int,
    *,
    lengths: ArrayLike | None = None,
    cache: bool = False,
) -> jax.Array:
    """Adds to each step of a sequence a learned vector of its position.

    Args:
        p: the layer's scope.
        x: (N, T, C) of a floating dtype.
        most: how many positions there are; T may be less.
        lengths: (N,) how many steps of each sequence count; those beyond get no position.
        cache: whether `x` goes on where the call before ended, whose count the state keeps.

    Returns:
        As `x`. Under `jit` a position beyond `most` gives NaN.

    Parameters: `table` (most, C). State, with `cache`: `length` (N,) int32.

    Raises:
        ValueError: if `x`, or, outside `jit`, what it goes on with, has more than `most` steps.
    """
    sequence("x", x)
    count("most", most)
    if x.shape[1] > most:
        raise ValueError(f"x has {x.shape[1]} steps, and most={most} positions: x is {x.shape}")
    inside = None if lengths is None else steps_of(x, lengths)
    table = jnp.asarray(p.param("table", (most, x.shape[2]), TABLE)).astype(x.dtype)
    if cache:
        starts, _ = advance(p, x, lengths, "most", most)
        at = positions(starts, x.shape[1])
        places = table.at[at].get(mode="fill", fill_value=jnp.nan)
    else:
        places = jnp.broadcast_to(table[: x.shape[1]], x.shape)
    return x + (places if inside is None else masked(places, inside))


def rotary(x: jax.Array, positions: ArrayLike, *, base: float = 10_000.0) -> jax.Array:
    """Turns pairs of features by angles that grow with position, so that products see distances.

    Features `i` and `i + D/2` turn by `position * base**(-2 i / D)` radians.

    Args:
        x: (N, T, H, D), queries or keys, `D` even.
        positions: (T,) or (N, T) integers.
        base: the slowest pair turns once in about `2 pi base` steps.

    Returns:
        As `x`; the angles are computed in float32 at least.

    Raises:
        ValueError: if `D` is odd, or the positions are not one a step.

    Reference: Su et al. 2021, https://arxiv.org/abs/2104.09864; the pairs are halves, as in Llama.
    """
    floating("x", x)
    integer("positions", positions)
    positive("base", base)
    if x.ndim != 4 or x.shape[-1] % 2:
        raise ValueError(f"rotary takes x of shape (N, T, H, D) with an even D, got {x.shape}")
    positions = jnp.asarray(positions)
    if positions.shape not in (x.shape[1:2], x.shape[:2]):
        raise ValueError(f"positions must be one a step, (T,) or (N, T), got {positions.shape}")
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    half = x.shape[-1] // 2
    speeds = jnp.asarray(base, wide) ** (-jnp.arange(half, dtype=wide) / half)
    angles = (positions.astype(wide)[..., None] * speeds)[..., None, :]  # (.., T, 1, D / 2)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = x[..., :half].astype(wide), x[..., half:].astype(wide)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def alibi_slopes(heads: int) -> np.ndarray:
    """The slope of each head's bias, `-slope * distance`: `2**(-8 h / heads)` for h = 1, 2, ...

    Where `heads` is no power of two, the slopes of the power below, then every other one of the
    power above. Gives (heads,) float32.

    Reference: Press, Smith and Lewis 2021, https://arxiv.org/abs/2108.12409

    >>> alibi_slopes(2).tolist()
    [0.0625, 0.00390625]
    """
    below = 2 ** int(math.log2(count("heads", heads)))
    first = 2.0 ** (-8 * np.arange(1, below + 1) / below)
    rest = 2.0 ** (-4 * np.arange(1, 2 * (heads - below), 2) / below)
    return np.concatenate([first, rest]).astype(np.float32)


def sequence(name: str, x: jax.Array) -> None:
    """Refuses what is not (N, T, C) of a floating dtype."""
    floating(name, x)
    if x.ndim != 3:
        raise ValueError(f"{name} must have shape (N, T, C), got {x.shape}")


def positions(starts: jax.Array, steps: int) -> jax.Array:
    """(N, T): the positions of so many steps after each start."""
    return starts[:, None] + jnp.arange(steps, dtype=jnp.int32)


def advance(
    p: Scope, x: jax.Array, lengths: ArrayLike | None, name: str, room: int
) -> tuple[jax.Array, jax.Array]:
    """Where `x` begins in each sequence, and whether it ends beyond the room there is, both (N,).

    The state `length` moves on to where it ends. `name` is what the user calls the room; that the
    lengths fit `x` has been seen to.

    Raises:
        ValueError: outside `jit`, if there is no room.
    """
    starts = p.variable("length", x.shape[:1], initializers.zeros, jnp.int32)
    ends = starts + (x.shape[1] if lengths is None else jnp.asarray(lengths, jnp.int32))
    p.update("length", ends)
    if concrete(ends) and (ends > room).any():
        raise ValueError(
            f"{name} has room for {room} steps, and {int(ends.max())} are needed: "
            f"make the model with a larger {name}"
        )
    return starts, ends > room
