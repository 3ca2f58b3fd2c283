"""Noise while training: elements, channels or whole examples dropped, or numbers added.

What a row of the first axis draws is its own (see `funnet.keys`): it does not depend on how many
rows there are, and with time on the second axis not on how much padding.
"""

import math

import jax
import jax.numpy as jnp

from funnet.checks import examples, floating, within
from funnet.ops.window import spatial
from funnet.scope import Scope, layer


@layer
def dropout(p: Scope, x: jax.Array, rate: float) -> jax.Array:
    """While training, each element is zero with probability `rate`, else divided by `1 - rate`.

    Args:
        p: the layer's scope.
        x: of any shape, of a floating dtype.
        rate: probability to drop an element, 0 to 1.

    Returns:
        As `x`; `x` itself when not training.

    Raises:
        TypeError: if `x` is not of a floating dtype.
        ValueError: if `rate` is outside 0..1, or the model trains without a key.

    Reference: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    floating("x", x)
    return _dropped(p, x, rate, x.shape)


@layer
def spatial_dropout(p: Scope, x: jax.Array, rate: float) -> jax.Array:
    """While training, each channel of an example is zero all over with probability `rate`.

    Neighbouring pixels tell nearly the same, so that dropping one by one hides little. What is
    left is divided by `1 - rate`.

    Args:
        p: the layer's scope.
        x: (N, *spatial, C) with 1, 2 or 3 spatial axes, of a floating dtype.
        rate: probability to drop a channel, 0 to 1.

    Returns:
        As `x`; `x` itself when not training.

    Raises:
        TypeError: if `x` is not of a floating dtype.
        ValueError: if `x` has other axes, `rate` is outside 0..1, or the model trains without a
            key.

    Reference: Tompson et al. 2015, https://arxiv.org/abs/1411.4280
    """
    floating("x", x)
    ones = (1,) * spatial(x, "spatial_dropout")
    return _dropped(p, x, rate, (len(x), *ones, x.shape[-1]))


@layer
def stochastic_depth(p: Scope, x: jax.Array, rate: float) -> jax.Array:
    """While training, each example is zero all over with probability `rate`.

    For the branch of a residual block, which an example then skips:
    `x + fn.stochastic_depth(p["depth"], branch, 0.1)`. What is left is divided by `1 - rate`.

    Args:
        p: the layer's scope.
        x: (N, ...) of a floating dtype.
        rate: probability to drop an example, 0 to 1.

    Returns:
        As `x`; `x` itself when not training.

    Raises:
        TypeError: if `x` is not of a floating dtype.
        ValueError: if `rate` is outside 0..1, or the model trains without a key.

    Reference: Huang et al. 2016, https://arxiv.org/abs/1603.09382
    """
    floating("x", x)
    examples("x", x)
    return _dropped(p, x, rate, (len(x), *(1,) * (x.ndim - 1)))


@layer
def gaussian_noise(p: Scope, x: jax.Array, std: float) -> jax.Array:
    """While training, a normal number of mean 0 is added to each element.

    Args:
        p: the layer's scope.
        x: of any shape, of a floating dtype.
        std: standard deviation of the noise, at least 0.

    Returns:
        As `x`; `x` itself when not training.

    Raises:
        TypeError: if `x` is not of a floating dtype.
        ValueError: if `std` is negative, or the model trains without a key.
    """
    floating("x", x)
    within("std", std, 0, math.inf)
    if not p.train or std == 0:
        return x
    return x + jnp.asarray(std, x.dtype) * jax.random.normal(p.key(), x.shape, x.dtype)


def _dropped(p: Scope, x: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """`x` with what a mask of `shape` drops at zero and the rest divided by `1 - rate`."""
    within("rate", rate, 0, 1)
    if not p.train or rate == 0:
        return x
    if rate == 1:
        return jnp.zeros_like(x)
    kept = jax.random.bernoulli(p.key(), 1 - rate, shape)
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))
