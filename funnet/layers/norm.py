"""Normalisation of each example by itself; that over the batch is in `batch_norm`.

Statistics are computed in float32 at least, whatever the dtype of `x`, and the variance in two
passes: a mean square less a squared mean would drown in a large mean.
"""

import math

import jax
import jax.numpy as jnp

from funnet import initializers
from funnet.checks import count, examples, floating
from funnet.ops.precision import widened
from funnet.ops.standardise import standardised
from funnet.scope import Scope, layer


@layer
def layer_norm(p: Scope, x: jax.Array, *, eps: float = 1e-5) -> jax.Array:
    """Each vector of the last axis at mean 0 and variance 1, then scaled and shifted.

    Args:
        p: the layer's scope.
        x: (..., C) of a floating dtype.
        eps: added to the variance.

    Returns:
        As `x`.

    Parameters: `scale` (C,), `bias` (C,).

    Reference: Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450
    """
    floating("x", x)
    examples("x", x)
    scale, bias = affine(p, x.shape[-1])
    y = standardised(widened(x), eps)
    return (y * scale.astype(y.dtype) + bias.astype(y.dtype)).astype(x.dtype)


@layer
def rms_norm(p: Scope, x: jax.Array, *, eps: float = 1e-5) -> jax.Array:
    """Each vector of the last axis over its root mean square, then scaled; nothing is centred.

    Args:
        p: the layer's scope.
        x: (..., C) of a floating dtype.
        eps: added to the mean square.

    Returns:
        As `x`.

    Parameters: `scale` (C,).

    Reference: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467
    """
    floating("x", x)
    examples("x", x)
    scale = p.param("scale", x.shape[-1:], initializers.ones)
    wide = widened(x)
    square = jnp.square(wide).mean(-1, keepdims=True)
    return (wide * (jax.lax.rsqrt(square + eps) * scale.astype(wide.dtype))).astype(x.dtype)


@layer
def group_norm(p: Scope, x: jax.Array, groups: int, *, eps: float = 1e-5) -> jax.Array:
    """Each group of channels of an example at mean 0 and variance 1, then scaled and shifted.

    Args:
        p: the layer's scope.
        x: (N, *spatial, C) of a floating dtype; statistics are over all spatial axes and the
            channels of a group, which are neighbours.
        groups: how many groups the channels are split into.
        eps: added to the variance.

    Returns:
        As `x`.

    Parameters: `scale` (C,), `bias` (C,).

    Raises:
        ValueError: if `groups` does not divide the channels, or a group has a single value.

    Reference: Wu and He 2018, https://arxiv.org/abs/1803.08494

    >>> import funnet as fn
    >>> model = fn.Model(fn.group_norm, groups=2)
    >>> params = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    >>> model(params, jnp.asarray([[1.0, 3.0, 5.0, 5.0]])).round(3)
    Array([[-1.,  1.,  0.,  0.]], dtype=float32)
    """
    floating("x", x)
    channels = _channels("group_norm", x)
    if channels % count("groups", groups):
        raise ValueError(
            f"groups must divide the channels of x, got groups={groups} for {channels} channels"
        )
    shape = (math.prod(x.shape[1:-1]), groups, channels // groups)
    _several("group_norm", x, shape[0] * shape[2], "a group")
    scale, bias = (v.reshape(shape[1:]) for v in affine(p, channels))
    wide = widened(x).reshape(len(x), *shape)
    y = normalised(wide, *_moments(wide, (1, 3)), scale, bias, eps)
    return y.reshape(x.shape).astype(x.dtype)


@layer
def instance_norm(p: Scope, x: jax.Array, *, eps: float = 1e-5) -> jax.Array:
    """Each channel of an example at mean 0 and variance 1, then scaled and shifted.

    Args:
        p: the layer's scope.
        x: (N, *spatial, C) of a floating dtype; statistics are over all spatial axes.
        eps: added to the variance.

    Returns:
        As `x`.

    Parameters: `scale` (C,), `bias` (C,).

    Raises:
        ValueError: if there are fewer than two spatial elements.

    Reference: Ulyanov, Vedaldi and Lempitsky 2016, https://arxiv.org/abs/1607.08022
    """
    floating("x", x)
    channels = _channels("instance_norm", x)
    _several("instance_norm", x, math.prod(x.shape[1:-1]), "a channel")
    scale, bias = affine(p, channels)
    wide = widened(x)
    axes = tuple(range(1, x.ndim - 1))
    return normalised(wide, *_moments(wide, axes), scale, bias, eps).astype(x.dtype)


def affine(p: Scope, channels: int) -> tuple[jax.Array, jax.Array]:
    """The parameters `scale` (C,), at first 1, and `bias` (C,), at first 0."""
    shape = (channels,)
    return p.param("scale", shape, initializers.ones), p.param("bias", shape, initializers.zeros)


def normalised(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> jax.Array:
    """`(x - mean) / sqrt(var + eps) * scale + bias`, in the dtype of `x`."""
    mean, var, scale, bias = (v.astype(x.dtype) for v in (mean, var, scale, bias))
    return (x - mean) * (jax.lax.rsqrt(var + eps) * scale) + bias


def _moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)


def _channels(what: str, x: jax.Array) -> int:
    if x.ndim < 2:
        raise ValueError(f"{what} takes x of shape (N, *spatial, C), got {x.shape}; write x[None]")
    return x.shape[-1]


def _several(what: str, x: jax.Array, values: int, of: str) -> None:
    if values < 2:
        raise ValueError(
            f"{what} needs at least 2 values {of} of an example, for one has no variance, got "
            f"{values} in x of shape {x.shape}: use a larger image, or layer_norm"
        )
