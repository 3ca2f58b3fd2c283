"""Windows that slide over the spatial axes: sizes, strides and paddings, checked and spelt out."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Padding = str | int | Sequence[int | tuple[int, int]]
Pads = tuple[tuple[int, int], ...]  # before and after each spatial axis


def spatial(x: jax.Array, what: str) -> int:
    """The number of spatial axes of `x` (N, *spatial, C).

    Raises:
        ValueError: unless it is 1, 2 or 3.
    """
    if not 3 <= x.ndim <= 5:
        raise ValueError(
            f"{what} takes x of shape (N, *spatial, C) with 1, 2 or 3 spatial axes, got {x.shape}; "
            "add a missing batch axis with x[None], a missing channel axis with x[..., None]"
        )
    return x.ndim - 2


def per_axis(name: str, value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """One number for all spatial axes, or one for each, as a tuple of positive ints."""
    try:
        each = value if isinstance(value, Sequence) else (value,) * axes
        numbers = tuple(operator.index(n) for n in each)
    except TypeError:
        numbers = ()
    if len(numbers) != axes or min(numbers) < 1:
        raise ValueError(f"{name} must be a positive int or {axes} of them, got {value!r}")
    return numbers


def pads(
    padding: Padding, sizes: Sequence[int], window: Sequence[int], stride: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """The padding before and after each spatial axis; `window` counts its dilation in.

    `"same"` gives outputs of size `ceil(size / stride)`, the odd pixel after; `"valid"` pads
    nothing; an int pads every side by it; else one int or one pair (before, after) an axis.

    Raises:
        ValueError: if the padding is none of these, or a window does not fit its padded axis.
    """
    if padding == "valid":
        pairs = [(0, 0)] * len(sizes)
    elif padding == "same":
        whole = [
            max((math.ceil(size / s) - 1) * s + w - size, 0)
            for size, w, s in zip(sizes, window, stride, strict=True)
        ]
        pairs = [(n // 2, n - n // 2) for n in whole]
    else:
        pairs = _explicit(padding, len(sizes))
    for axis, (size, w, (before, after)) in enumerate(zip(sizes, window, pairs, strict=True)):
        if w > size + before + after:
            raise ValueError(
                f"a window of {w} is larger than spatial axis {axis} of size {size} padded by "
                f'({before}, {after}): use a smaller window, or padding="same"'
            )
    return tuple(pairs)


def crops(
    padding: Padding, sizes: Sequence[int], window: Sequence[int], stride: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """What a transposed convolution crops before and after each axis, as `pads` has it.

    `"same"` gives outputs of size `size * stride`, the transpose of what `pads` gives on those;
    of a pair, `after` may be negative, and leaves so much room.

    Raises:
        ValueError: if the padding is none of these, or it leaves nothing of an axis.
    """
    if padding == "same":
        whole = [w - s for w, s in zip(window, stride, strict=True)]
        pairs = [(max(n, 0) // 2, n - max(n, 0) // 2) for n in whole]
    elif padding == "valid":
        pairs = [(0, 0)] * len(sizes)
    else:
        pairs = _explicit(padding, len(sizes), room=True)
    for axis, (size, w, s, pair) in enumerate(zip(sizes, window, stride, pairs, strict=True)):
        if (whole := (size - 1) * s + w) - sum(pair) < 1:
            raise ValueError(
                f"padding crops {pair} from the {whole} that spatial axis {axis} of size {size} "
                'gives, which leaves nothing: use less, or padding="valid"'
            )
    return tuple(pairs)


def padded(x: jax.Array, pads: Pads) -> jax.Array:
    """`x` (N, *spatial, C) with zeros around its spatial axes."""
    around = [(before, after, 0) for before, after in ((0, 0), *pads, (0, 0))]
    return lax.pad(x, jnp.zeros((), x.dtype), around)


def strided(
    x: jax.Array,
    offset: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    out: Sequence[int],
) -> jax.Array:
    """What the element at `offset` of each of `out` windows sees: (N, *out, C)."""
    starts = [o * d for o, d in zip(offset, dilation, strict=True)]
    limits = [a + (n - 1) * s + 1 for a, n, s in zip(starts, out, stride, strict=True)]
    ends = (x.shape[0], *limits, x.shape[-1])
    return lax.slice(x, (0, *starts, 0), ends, (1, *stride, 1))


def _explicit(padding: Padding, axes: int, *, room=False) -> list[tuple[int, int]]:
    """One pair an axis; with `room`, the second of a pair may be negative."""
    try:
        each: list[Any] = list(padding) if isinstance(padding, Sequence) else [padding] * axes
        pairs = [tuple(p) if isinstance(p, Sequence) else (p, p) for p in each]
        pairs = [(operator.index(before), operator.index(after)) for before, after in pairs]
        if len(pairs) != axes or any(a < 0 or (b < 0 and not room) for a, b in pairs):
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(
            f'padding must be "same", "valid", an int, or {axes} ints or pairs, got {padding!r}'
        ) from None
    return pairs
