"""Losses of segmentations: one number for an image, from how its regions overlap."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet import checks
from funnet.losses.terms import one_hot, poisoned, widen


def dice(logits: ArrayLike, labels: ArrayLike, *, smoothing: float = 1.0) -> jax.Array:
    """Soft Dice loss: how little the regions predicted overlap with the true ones.

    `1 - mean_c (2 sum p_c g_c + s) / (sum p_c^2 + sum g_c^2 + s)` with `p = softmax(logits)`, g
    the labels one-hot and s the smoothing, sums over every axis but the first and the last. A
    small region counts as much as a large one.

    Args:
        logits: Floats `(N, ..., C)`, scores of the classes at each place.
        labels: Integers `(N, ...)` in 0..C-1, the class of each place.
        smoothing: A number of places that count as hits in every class, above zero. So a class
            that is neither there nor predicted costs nothing, and small regions make less noise.

    Returns:
        Loss `(N,)` in 0..1. Under `jit` a label that is no class makes its example's loss and
        gradient NaN.

    Raises:
        TypeError: If the labels are no integers or the logits no floats.
        ValueError: If the shapes do not belong together, the smoothing is not above zero, or,
            outside `jit`, a label is no class.

    References:
        Milletari et al. 2016, "V-Net", https://arxiv.org/abs/1606.04797

    >>> dice(jnp.array([[[9.0, -9.0], [-9.0, 9.0]]]), jnp.array([[0, 1]])).round(3).tolist()
    [0.0]
    """
    checks.positive("smoothing", smoothing)
    labels, valid = checks.labels(labels, logits)
    checks.examples("labels", labels)
    (logits,) = widen(logits)
    predicted = jax.nn.softmax(logits, axis=-1)
    places = tuple(range(1, labels.ndim))
    true = one_hot(labels, logits.shape[-1])
    hits = jnp.sum(jnp.where(true, predicted, 0), axis=places)
    area = jnp.sum(jnp.square(predicted), axis=places) + jnp.sum(true.astype(hits.dtype), places)
    overlap = (2 * hits + smoothing) / (area + smoothing)
    return poisoned(1 - jnp.mean(overlap, axis=-1), valid.all(axis=places))
