"""Batch normalisation: over whole batches, partly filled ones, and ones spread over devices."""

import math
from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet import initializers
from funnet.checks import array, examples, floating, within
from funnet.layers.norm import affine, normalised
from funnet.layers.sequence import masked, steps_of
from funnet.ops.precision import widened
from funnet.scope import Scope, layer


@layer
def batch_norm(
    p: Scope,
    x: jax.Array,
    *,
    momentum: float = 0.9,
    eps: float = 1e-5,
    mask: jax.Array | None = None,
    lengths: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> jax.Array:
    """Each channel at mean 0 and variance 1, then scaled and shifted.

    Training uses the batch's mean and (biased) variance and moves the running ones towards them:
    `new = momentum * old + (1 - momentum) * batch`, the variance unbiased; otherwise the running
    ones are used. What is masked counts in no statistic, whatever lies there, and comes out as
    zero; where fewer than two values are left, the running statistics stay.

    A batch that `jit` has sharded over devices is one batch, and needs no setting.

    Args:
        p: the layer's scope.
        x: (..., C) of a floating dtype; statistics are over all axes but the last.
        momentum: how much of the running statistics a step keeps, 0 to 1.
        eps: added to the variance.
        mask: booleans of the leading axes of `x`, true where it counts: (N,) for a batch whose
            last examples are padding, up to all axes but the last.
        lengths: (N,) integers, for `x` (N, T, ..., C): how many steps of each example count.
        axis_name: the name, or names, of the mapped axes (of `jax.vmap` or `jax.shard_map`) over
            which the batch is spread; its statistics are then those of all parts together.

    Returns:
        As `x`.

    Parameters: `scale` (C,), `bias` (C,). State: `mean` (C,), `var` (C,).

    Raises:
        TypeError: if `x` is not of a floating dtype, or the mask not of booleans.
        ValueError: if mask or lengths do not fit `x` or both are given, if training on a single
            value a channel, which has no variance, or where no axis `axis_name` is mapped.

    Reference: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167
    """
    floating("x", x)
    examples("x", x)
    within("momentum", momentum, 0, 1)
    counted = _counted(x, mask, lengths)
    wide = widened(x) if counted is None else masked(widened(x), counted)
    scale, bias = affine(p, x.shape[-1])
    mean = p.variable("mean", x.shape[-1:], initializers.zeros)
    var = p.variable("var", x.shape[-1:], initializers.ones)
    if p.train:
        running = {"mean": mean, "var": var}
        mean, var, count = _statistics(wide, counted, axis_name)
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        for name, new in {"mean": mean, "var": unbiased}.items():
            old = running[name].astype(new.dtype)
            p.update(name, jnp.where(count < 2, old, momentum * old + (1 - momentum) * new))
    y = normalised(wide, mean, var, scale, bias, eps).astype(x.dtype)
    return y if counted is None else masked(y, counted)


def _counted(x: jax.Array, mask: jax.Array | None, lengths: ArrayLike | None) -> jax.Array | None:
    """Which of the leading positions of `x` count; None for all."""
    if lengths is None:
        return None if mask is None else _fitting(mask, x)
    if mask is not None:
        raise ValueError(
            "batch_norm was given both mask and lengths: leave one out, or give "
            "mask=mask & fn.sequence_mask(lengths, x.shape[1])"
        )
    if x.ndim < 3:
        raise ValueError(f"lengths belong to x of shape (N, T, ..., C), got x of shape {x.shape}")
    return steps_of(x, lengths)


def _fitting(mask: jax.Array, x: jax.Array) -> jax.Array:
    array("mask", mask)
    if mask.dtype != bool:
        raise TypeError(f"mask must be booleans, got {mask.dtype}; write mask != 0")
    if mask.ndim == 0 or mask.shape != x.shape[:-1][: mask.ndim]:
        raise ValueError(
            f"mask has shape {mask.shape}, expected leading axes of x, whose shape is {x.shape}: "
            f"{x.shape[:1]} for whole examples, up to {x.shape[:-1]}"
        )
    return jnp.asarray(mask)


def _statistics(x: jax.Array, counted: jax.Array | None, axis_name: Hashable | None):
    """Mean and biased variance of each channel, and from how many values they are."""

    def total(values: jax.Array) -> jax.Array:
        own = values.sum(tuple(range(x.ndim - 1)))
        return own if axis_name is None else jax.lax.psum(own, axis_name)

    values = math.prod(x.shape[:-1]) * _parts(axis_name)
    if values < 2:
        raise ValueError(
            f"batch_norm cannot train on one value a channel, got x of shape {x.shape}: "
            "use a batch of at least 2, or train=False"
        )
    if counted is None:
        count = jnp.asarray(values, x.dtype)
    else:
        spread = counted.reshape(*counted.shape, *[1] * (x.ndim - 1 - counted.ndim))
        count = total(jnp.broadcast_to(spread, x.shape[:-1]).astype(x.dtype))
    mean = total(x) / jnp.maximum(count, 1)
    centred = x - mean if counted is None else masked(x - mean, counted)
    return mean, total(jnp.square(centred)) / jnp.maximum(count, 1), count


def _parts(axis_name: Hashable | None) -> int:
    """Over how many parts the batch is spread."""
    try:
        return 1 if axis_name is None else jax.lax.psum(1, axis_name)
    except NameError:
        raise ValueError(
            f"axis_name is {axis_name!r}, and no axis of that name is mapped here: train inside "
            f"jax.vmap(..., axis_name={axis_name!r}) or jax.shard_map, or leave it out"
        ) from None
