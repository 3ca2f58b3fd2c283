"""Windows that slide over the spatial axes: sizes, strides and paddings, checked and spelt out."""

import math
import operator
from collections.abc import Sequence

import jax

Padding = str | int | Sequence[int | tuple[int, int]]


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


def _explicit(padding: Padding, axes: int) -> list[tuple[int, int]]:
    try:
        each = [padding] * axes if isinstance(padding, int) else list(padding)
        pairs = [(p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in each]  # type: ignore[index]
        if isinstance(padding, str) or len(pairs) != axes or min(map(min, pairs)) < 0:
            raise ValueError
    except (ValueError, TypeError, IndexError):
        raise ValueError(
            f'padding must be "same", "valid", an int, or {axes} ints or pairs, got {padding!r}'
        ) from None
    return pairs
