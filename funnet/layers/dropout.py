"""Dropout."""

import jax
import jax.numpy as jnp

from funnet.checks import floating, within
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
    within("rate", rate, 0, 1)
    if not p.train or rate == 0:
        return x
    if rate == 1:
        return jnp.zeros_like(x)
    kept = jax.random.bernoulli(p.key(), 1 - rate, x.shape)
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))
