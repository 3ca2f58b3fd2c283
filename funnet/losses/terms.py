"""What losses are put together from: arrays checked and widened, terms weighted and averaged."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from funnet import checks

WHOLE = "to weigh whole examples write (weights * loss).sum() / weights.sum()"


def widen(*arrays: ArrayLike) -> list[jax.Array]:
    """All in one dtype, float64 if any of them is and float32 if not."""
    converted = [jnp.asarray(x) for x in arrays]
    wide = any(x.dtype == jnp.float64 for x in converted)
    return [x.astype(jnp.float64 if wide else jnp.float32) for x in converted]


def floats(**arrays: ArrayLike) -> list[jax.Array]:
    """Floating-point arrays of one shape, refused if they are not, in one wide dtype.

    Raises:
        TypeError: If one is no float array.
        ValueError: If the shapes differ or there is no axis of examples.
    """
    for name, x in arrays.items():
        checks.floating(name, x)
    alike(**arrays)
    return widen(*arrays.values())


def alike(**arrays: ArrayLike) -> None:
    """Refuses arrays whose shapes differ, or that have no first axis of examples.

    Raises:
        ValueError: Naming two that differ, or the first.
    """
    for (first, x), (name, y) in itertools.pairwise(arrays.items()):
        checks.same_shape(**{first: x, name: y})
    checks.examples(*next(iter(arrays.items())))


def elements(
    weights: ArrayLike | None, **arrays: ArrayLike
) -> tuple[list[jax.Array], jax.Array | None]:
    """As `floats`, with zeros where the weight is 0; and what `spread` makes of the weights."""
    wide = floats(**arrays)
    weights = spread(weights, next(iter(arrays)), wide[0])
    return [kept(x, weights) for x in wide], weights


def spread(weights: ArrayLike | None, name: str, x: Any) -> jax.Array | None:
    """Weights of elements, one for each element of the predictions `x` (N, ...); None stays None.

    Raises:
        TypeError: If the weights are no array.
        ValueError: If they are not of the shape of the predictions or of two or more of their
            leading axes, or, outside `jit`, one is negative.
    """
    if weights is None:
        return None
    checks.array("weights", weights)
    if np.ndim(weights) < 2 or np.shape(weights) != x.shape[: np.ndim(weights)]:
        raise ValueError(
            f"weights has shape {np.shape(weights)} but {name} has shape {x.shape}, expected the "
            "same shape or its leading axes, the first two at least, for they weigh elements "
            f"within an example; {WHOLE}"
        )
    checks.within("weights", weights, 0, math.inf)
    weights = jnp.asarray(weights)
    wide = weights if jnp.issubdtype(weights.dtype, jnp.floating) else widen(weights)[0]
    # Where 0 is a constant its gradient is 0; else it would be that of the stand-in of `kept`.
    wide = jnp.where(wide == 0, jnp.zeros_like(wide), wide)
    return jnp.broadcast_to(wide.reshape(*wide.shape, *[1] * (x.ndim - wide.ndim)), x.shape)


def kept(x: ArrayLike, weights: jax.Array | None, instead: float = 0) -> jax.Array:
    """`x`, with a stand-in where the weight is 0, so that what lies there reaches nothing."""
    x = jnp.asarray(x)
    return x if weights is None else jnp.where(weights == 0, jnp.asarray(instead, x.dtype), x)


def per_example(x: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """The mean over every axis but the first, weighted if there are weights; 0 if all are 0."""
    axes = tuple(range(1, x.ndim))
    if weights is None:
        return jnp.mean(x, axis=axes)
    weights = weights.astype(x.dtype)
    total = jnp.sum(weights, axis=axes)
    return jnp.sum(weights * x, axis=axes) / jnp.where(total == 0, 1, total)


def of_classes(weights: ArrayLike | None, name: str, logits: jax.Array) -> jax.Array | None:
    """Weights of classes (C,) in the dtype of the logits (..., C); None stays None.

    Raises:
        TypeError: If the weights are no array.
        ValueError: If there is not one for each class, or, outside `jit`, one is negative.
    """
    if weights is None:
        return None
    checks.array("weights", weights)
    if np.shape(weights) != logits.shape[-1:]:
        raise ValueError(
            f"weights has shape {np.shape(weights)} but {name} has shape {logits.shape}, expected "
            f"one weight for each class, shape {logits.shape[-1:]}; {WHOLE}"
        )
    checks.within("weights", weights, 0, math.inf)
    return jnp.asarray(weights).astype(logits.dtype)


def weighted(weight: jax.Array, x: jax.Array) -> jax.Array:
    """`weight * x` where 0 * inf is 0, gradients included."""
    return weight * jnp.where((weight == 0) & jnp.isinf(x), 0, x)


def one_hot(labels: jax.Array, classes: int) -> jax.Array:
    """Booleans (..., C), true at each label alone."""
    return labels[..., None] == jnp.arange(classes, dtype=labels.dtype)


def poisoned(x: jax.Array, valid: jax.Array) -> jax.Array:
    """`x`, with NaN where it is not valid, in value and gradient."""
    # A product, for a `where` would give such a row the gradient 0.
    return x * jnp.where(valid, jnp.ones_like(x), jnp.nan)


def above(x: jax.Array) -> jax.Array:
    """`max(x, 0)`, whose slope at 0 is 0."""
    return jnp.where(x <= 0, jnp.zeros_like(x), x)
