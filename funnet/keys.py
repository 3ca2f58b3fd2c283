"""Random keys by name: a key's numbers depend on the seed and the name, never on an order."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np


def words(name: str) -> np.ndarray:
    """Sixty-four bits of a name, as two uint32 words (2,)."""
    return np.frombuffer(hashlib.blake2b(name.encode(), digest_size=8).digest(), "<u4")


def fold(key: jax.Array, pair: jax.Array) -> jax.Array:
    """A key derived from `key` and two uint32 words."""
    return jax.random.fold_in(jax.random.fold_in(key, pair[0]), pair[1])


def named_key(key: jax.Array, name: str) -> jax.Array:
    """A key derived from `key` for whatever `name` stands for."""
    return fold(key, jnp.asarray(words(name)))


def checked_key(key: object) -> jax.Array:
    """The key as a typed one; a raw uint32 key is wrapped.

    Raises:
        TypeError: if `key` is no key; the message says how to make one.
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if isinstance(key, jax.Array) and key.dtype == jnp.uint32 and key.shape[-1:] == (2,):
        return jax.random.wrap_key_data(key)
    raise TypeError(f"key must be a JAX random key, got {key!r}: write jax.random.key(0)")
