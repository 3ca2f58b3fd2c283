"""The precision that sums are taken in."""

import jax
import jax.numpy as jnp


def widened(x: jax.Array) -> jax.Array:
    """Half precision as float32, for sums and statistics; anything else as it is."""
    half = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return x.astype(jnp.float32) if half else x
