"""Normalisation. Statistics are computed in float32 at least, whatever the dtype of `x`."""

import jax
import jax.numpy as jnp

from funnet import initializers
from funnet.checks import examples, floating, within
from funnet.scope import Scope, layer


@layer
def batch_norm(p: Scope, x: jax.Array, *, momentum: float = 0.9, eps: float = 1e-5) -> jax.Array:
    """Each channel at mean 0 and variance 1, then scaled and shifted.

    Training uses the batch's mean and (biased) variance and moves the running ones towards them:
    `new = momentum * old + (1 - momentum) * batch`, the variance unbiased; otherwise the running
    ones are used.

    Args:
        p: the layer's scope.
        x: (..., C) of a floating dtype; statistics are over all axes but the last.
        momentum: how much of the running statistics a step keeps, 0 to 1.
        eps: added to the variance.

    Returns:
        As `x`.

    Parameters: `scale` (C,), `bias` (C,). State: `mean` (C,), `var` (C,).

    Raises:
        ValueError: if training on a single value a channel, which has no variance.

    Reference: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167
    """
    floating("x", x)
    examples("x", x)
    within("momentum", momentum, 0, 1)
    size = (x.shape[-1],)
    scale, bias = _affine(p, size)
    running = (
        p.variable("mean", size, initializers.zeros),
        p.variable("var", size, initializers.ones),
    )
    mean, var = running
    wide = _widened(x)
    if p.train:
        mean, var = _moments(wide, tuple(range(x.ndim - 1)))
        count = x.size // x.shape[-1]
        if count < 2:
            raise ValueError(
                f"batch_norm cannot train on one value a channel, got x of shape {x.shape}: "
                "use a batch of at least 2, or train=False"
            )
        for name, old, new in zip(
            ("mean", "var"), running, (mean, var * (count / (count - 1))), strict=True
        ):
            p.update(name, momentum * old.astype(new.dtype) + (1 - momentum) * new)
    return _normalised(wide, mean, var, scale, bias, eps).astype(x.dtype)


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
    scale, bias = _affine(p, (x.shape[-1],))
    wide = _widened(x)
    mean, var = _moments(wide, (-1,), keepdims=True)
    return _normalised(wide, mean, var, scale, bias, eps).astype(x.dtype)


def _widened(x: jax.Array) -> jax.Array:
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _affine(p: Scope, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    return p.param("scale", shape, initializers.ones), p.param("bias", shape, initializers.zeros)


def _moments(x: jax.Array, axes: tuple[int, ...], *, keepdims: bool = False):
    mean = x.mean(axes, keepdims=True)
    var = jnp.square(x - mean).mean(axes, keepdims=keepdims)
    return (mean if keepdims else mean.reshape(var.shape)), var


def _normalised(x: jax.Array, mean, var, scale, bias, eps: float) -> jax.Array:
    mean, var, scale, bias = (v.astype(x.dtype) for v in (mean, var, scale, bias))
    return (x - mean) * (jax.lax.rsqrt(var + eps) * scale) + bias
