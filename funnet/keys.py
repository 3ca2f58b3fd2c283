"""Random keys by name: a key's numbers depend on the seed and the name, never on an order.

Inside a model, and in an objective, keys draw row by row: row `r` of an array comes from the key
folded with `r`. So what an example draws depends on its row alone, not on how many rows there are
nor, with axes of time behind it, on how much padding; and a key that stands for rows 32 to 47 of a
batch draws for 16 examples what the whole batch's key draws for them. Such keys are JAX keys like
any other (`jax.extend.random.define_prng_impl`): every `jax.random` function takes them, and what
is folded or split from them belongs to the same rows.
"""

import functools
import hashlib
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

PLAIN = "threefry2x32"  # JAX's usual generator, of which the rows' keys are made


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
    """The key as a typed one: a raw uint32 key is wrapped, one of rows is the whole batch's.

    Raises:
        TypeError: if `key` is no key; the message says how to make one.
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return _wrapped(jax.random.key_data(key)) if draws_by_row(key) else key
    if isinstance(key, jax.Array) and key.dtype == jnp.uint32 and key.shape[-1:] == (2,):
        return jax.random.wrap_key_data(key)
    raise TypeError(f"key must be a JAX random key, got {key!r}: write jax.random.key(0)")


def row_key(key: jax.Array) -> jax.Array:
    """The key as one that draws row by row; so it stays, if it is one already.

    Keys of other generators than `threefry2x32` stay as they are: they cannot.

    >>> key = jax.random.key(0)
    >>> long, short = (jax.random.normal(row_key(key), (rows, 5)) for rows in (8, 3))
    >>> bool((long[:3] == short).all())
    True
    """
    if isinstance(key, jax.Array) and draws_by_row(key):
        return key
    key = checked_key(key)
    return _of_rows(key, 0, 0) if _is_plain(key) else key


def part_key(key: jax.Array, first: jax.Array | int, rows: int) -> jax.Array:
    """The key of `rows` rows of a batch, from row `first` on, which draws what the batch's would.

    An array whose first axis is a multiple `m` of `rows` begins at row `first * m`, as where time
    is flattened into it; any other draws what it would without.

    Raises:
        ValueError: if the key is of another generator than `threefry2x32`.

    >>> key = jax.random.key(0)
    >>> whole = jax.random.bits(row_key(key), (8,))
    >>> bool((whole[6:] == jax.random.bits(part_key(key, 6, 2), (2,))).all())
    True
    """
    key = checked_key(key)
    if not _is_plain(key):
        raise ValueError(
            f"parts of a batch draw the same as the whole with keys of {PLAIN} alone, this one is "
            f'of {jax.random.key_impl(key)}: jax.config.update("jax_default_prng_impl", "{PLAIN}")'
        )
    return _of_rows(key, first, rows)


def draws_by_row(key: jax.Array) -> bool:
    """Whether the key draws row by row."""
    return str(key.dtype).startswith("key<rows")


def _is_plain(key: jax.Array) -> bool:
    return jax.random.key_impl(key) == PLAIN


def _wrapped(data: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(data[..., :2], impl=PLAIN)


def _of_rows(key: jax.Array, first: jax.Array | int, rows: int) -> jax.Array:
    data = jax.random.key_data(key)
    start = jnp.broadcast_to(jnp.asarray(first, jnp.uint32), (*data.shape[:-1], 1))
    return jax.random.wrap_key_data(jnp.concatenate([data, start], -1), impl=_generator(rows))


@functools.cache
def _generator(rows: int) -> Hashable:
    """The generator of keys that stand for so many rows; for 0, of a batch of any size.

    A key is three words: those of a plain one, and the first row.
    """

    def starting(words: jax.Array, length: int) -> jax.Array:
        """The rows of an array of some length."""
        within = rows > 0 and length % rows == 0
        start = words[2] * jnp.uint32(length // rows) if within else jnp.uint32(0)
        return jax.lax.iota(jnp.uint32, length) + start

    def bits(words: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
        key, dtype = _wrapped(words), jnp.dtype(f"uint{width}")
        if not shape:
            return jax.random.bits(key, (), dtype)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, starting(words, shape[0]))
        return jax.vmap(lambda key: jax.random.bits(key, shape[1:], dtype))(keys)

    def fold_in(words: jax.Array, data: Any) -> jax.Array:
        folded = jax.random.key_data(jax.random.fold_in(_wrapped(words), data))
        return jnp.concatenate([folded, words[2:]])

    def split(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        count = int(np.prod(shape))
        # One key a row is that row's own. A pair is none of rows, whatever their number.
        each = rows > 0 and count % rows == 0 and count != 2
        numbers = starting(words, count) if each else jax.lax.iota(jnp.uint32, count)
        keys = jax.vmap(lambda number: fold_in(words, number))(numbers)
        return keys.at[:, 2].multiply(jnp.uint32(not each)).reshape(*shape, 3)

    def seed(number: jax.Array) -> jax.Array:
        data = jax.random.key_data(jax.random.key(number, impl=PLAIN))
        return jnp.concatenate([data, jnp.zeros(1, jnp.uint32)])

    name = f"rows of {rows}" if rows else "rows"
    return define_prng_impl(
        key_shape=(3,),
        seed=seed,
        split=split,
        random_bits=bits,
        fold_in=fold_in,
        name=name,
        tag=name,
    )
