"""The product that every layer with a kernel goes through, and the one of attention.

The gradient for the right factor, `x^T g`, is a product whose left factor lies across. For a wide
`x` and a narrow `g` XLA:CPU's library takes twice the time of `g^T x` (measured: 55 of 105 GFLOP/s
for 512 and 128 columns), and where there are several such products at once, as in attention, XLA
copies the left factor to turn it. There it is `g^T x` that is computed, and then turned, behind a
barrier, for XLA would swap them back. Other platforms keep the plain form.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from funnet.ops.opaque import opaque


def matmul(x: jax.Array, kernel: Any) -> jax.Array:
    """`x @ kernel` in the dtype of `x`: (..., in) by (in, out) gives (..., out).

    A kernel that is no plain array but stands for one (quantized, low-rank, masked) takes part
    through its `__rmatmul__`. Leading axes are flattened, so that the gradients too are plain
    two-dimensional products, the form that XLA runs fastest.
    """
    if not isinstance(kernel, jax.Array | np.ndarray):
        return x @ kernel
    y = product(x.reshape(-1, x.shape[-1]), kernel.astype(x.dtype))
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_jvp
def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """`x @ y` for (..., T, A) and (..., A, B) of one dtype, with gradients that suit the CPU."""
    return jnp.matmul(x, y)


@functools.partial(product.defjvp, symbolic_zeros=True)
def _product_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x, y), (dx, dy) = primals, tangents
    z, parts = product(x, y), []
    if not isinstance(dx, SymbolicZero):
        parts.append(product(dx, y))
    if not isinstance(dy, SymbolicZero):
        gradient = functools.partial(_right_gradient, x)
        parts.append(jax.linear_transpose(gradient, jax.ShapeDtypeStruct(z.shape, z.dtype))(dy)[0])
    return z, sum(parts[1:], parts[0]) if parts else jnp.zeros_like(z)


def plain_right_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """`x^T g` for (..., T, A) and (..., T, B), as XLA has it."""
    return jnp.matmul(x.mT, g)


def turned_right_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """As `plain_right_gradient`, with `g` turned in place of a wider `x`."""
    rows, wide, narrow = *x.shape[-2:], g.shape[-1]
    if narrow >= min(rows, wide):
        return plain_right_gradient(x, g)
    return lax.optimization_barrier(jnp.matmul(g.mT, x)).mT


_right_gradient = opaque("right_gradient", plain_right_gradient, turned_right_gradient, maps=True)
