"""The product that every layer with a kernel goes through."""

from typing import Any

import jax
import numpy as np


def matmul(x: jax.Array, kernel: Any) -> jax.Array:
    """`x @ kernel` in the dtype of `x`: (..., in) by (in, out) gives (..., out).

    A kernel that is no plain array but stands for one (quantized, low-rank, masked) takes part
    through its `__rmatmul__`. Leading axes are flattened, so that the gradients too are plain
    two-dimensional products, the form that XLA runs fastest.
    """
    if not isinstance(kernel, jax.Array | np.ndarray):
        return x @ kernel
    y = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])
