"""Gradients of a batch from those of its parts, one part after another, as of the whole."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funnet.keys import part_key
from funnet.metrics import Mean, Sum
from funnet.ops.precision import widened

Tree = Any
# (params, state, batch, key) -> ((_, (loss, (state, metrics))), gradients)
Gradient = Callable[[Tree, Tree, Tree, jax.Array], tuple[Any, Tree]]


def accumulated(parts: int, gradient: Gradient) -> Gradient:
    """A function that gives what `gradient` does, and holds the activations of one part at a time.

    Each part weighs as much as the count of its `metrics["loss"]`, so that the sum is the gradient
    of the whole batch's mean, whatever the weights; a part that weighs nothing adds nothing.
    """

    def whole(params: Tree, state: Tree, batch: Tree, key: jax.Array) -> tuple[Any, Tree]:
        rows = _rows(batch, parts)
        cut = jax.tree.map(lambda x: jnp.reshape(x, (parts, rows, *jnp.shape(x)[1:])), batch)

        def part(carry: tuple, given: tuple) -> tuple[tuple, tuple]:
            (state, total), (i, batch) = carry, given
            found = gradient(params, state, batch, part_key(key, i * rows, rows))
            (_, (loss, (state, metrics))), gradients = found
            weight = _weight(metrics, loss)
            total = jax.tree.map(lambda t, g: t + _weighed(weight, widened(g)), total, gradients)
            return (state, total), (_weighed(weight, loss), weight, metrics)

        zero = jax.tree.map(lambda x: jnp.zeros_like(widened(x)), params)
        numbers = jnp.arange(parts, dtype=jnp.uint32)
        (state, total), (losses, weights, metrics) = jax.lax.scan(
            part, (state, zero), (numbers, cut)
        )
        loss, weight = losses.sum() / weights.sum(), weights.sum()
        gradients = jax.tree.map(
            lambda t, x: (t / weight.astype(t.dtype)).astype(x.dtype), total, params
        )
        return (None, (loss, (state, _summed(metrics)))), gradients

    return whole


def _rows(batch: Tree, parts: int) -> int:
    """The examples in a part of the batch."""
    shapes = {jnp.shape(x)[:1] for x in jax.tree.leaves(batch)}
    if len(shapes) != 1 or () in shapes:
        found = jax.tree.map(jnp.shape, batch)
        raise ValueError(
            "accumulate cuts a batch along its first axis, and its arrays have the shapes "
            f"{found}: give them all one row for each example"
        )
    ((examples,),) = shapes
    if examples % parts or not examples:
        raise ValueError(
            f"accumulate={parts} does not divide the batch's {examples} examples: "
            f"make batches of a multiple of {parts}"
        )
    return examples // parts


def _weight(metrics: dict[str, Any], loss: jax.Array) -> jax.Array:
    """How much a part weighs: the count behind its loss."""
    mean = metrics.get("loss")
    if not isinstance(mean, Mean):
        raise ValueError(
            "accumulate weighs the parts of a batch by how much is in each, and the objective does "
            "not tell: return fn.metrics.mean(values, batch.get('weight')) as metrics['loss'], "
            f"which is {'missing' if mean is None else f'a {type(mean).__name__}'}"
        )
    return jnp.asarray(mean.count).astype(widened(loss).dtype)


def _weighed(weight: jax.Array, x: jax.Array) -> jax.Array:
    """Weight times a mean; the mean of nothing, which is NaN, adds nothing."""
    return jnp.where(weight > 0, weight.astype(x.dtype) * x, 0)


def _summed(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics with a leading axis of parts: sums added up, plain numbers averaged."""

    def summed(metric: Any) -> Any:
        if isinstance(metric, Mean | Sum):
            return jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), metric)
        return metric.mean(0)

    return jax.tree.map(summed, metrics, is_leaf=lambda x: isinstance(x, Mean | Sum))
