"""Embeddings: integers to vectors, and vectors back to scores over the same table."""

import jax
import jax.numpy as jnp

from funnet import initializers
from funnet.checks import count, floating, integer, within
from funnet.ops.matmul import matmul
from funnet.scope import Scope, layer

TABLE = initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-1, out_axis=-2)


@layer
def embed(p: Scope, ids: jax.Array, vocab: int, features: int) -> jax.Array:
    """The row of a table for each id.

    Args:
        p: the layer's scope.
        ids: (...) integers in 0..vocab-1.
        vocab: the number of rows.
        features: the size of a row.

    Returns:
        (..., features). An id out of range gives NaN where it cannot be refused, under `jit`.

    Parameters: `table` (vocab, features).

    Raises:
        TypeError: if `ids` are no integers.
        ValueError: if a concrete id is out of range.
    """
    integer("ids", ids)
    count("vocab", vocab)
    count("features", features)
    within("ids", ids, 0, vocab - 1)
    table = p.param("table", (vocab, features), TABLE)
    ids = jnp.asarray(ids, jnp.int32)
    beyond = jnp.where(ids < 0, vocab, ids)  # a negative id would count from the end
    return jnp.asarray(table).at[beyond].get(mode="fill", fill_value=jnp.nan)


@layer
def unembed(p: Scope, x: jax.Array, vocab: int) -> jax.Array:
    """Scores of every row of a table: `x @ table.T`; share the scope with `embed` to tie them.

    Args:
        p: the layer's scope, `p.shared("tokens")` where it is also the embedding's.
        x: (..., features) of a floating dtype.
        vocab: the number of rows.

    Returns:
        (..., vocab) of the dtype of `x`.

    Parameters: `table` (vocab, features).
    """
    floating("x", x)
    return matmul(x, p.param("table", (vocab, x.shape[-1]), TABLE).T)
