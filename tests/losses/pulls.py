"""A loss and the gradient of the sum over its examples."""

import jax
import jax.numpy as jnp


def value_and_gradient(loss, x, *rest):
    value, pull = jax.vjp(jax.jit(lambda x: loss(x, *rest)), x)
    return value, pull(jnp.ones_like(value))[0]
