"""Dense layers."""

import jax

from funnet import initializers
from funnet.checks import count, examples, floating
from funnet.draw import Initializer
from funnet.ops.matmul import matmul
from funnet.scope import Scope, layer

KERNEL = initializers.lecun_normal()


@layer
def dense(
    p: Scope, x: jax.Array, features: int, *, bias: bool = True, kernel_init: Initializer = KERNEL
) -> jax.Array:
    """A linear map of the last axis: `y = x @ kernel + bias`.

    Args:
        p: the layer's scope.
        x: (..., in), of a floating dtype, which is also the dtype of the result.
        features: the size of the last axis of the result.
        bias: whether to add a bias, at first zero.
        kernel_init: the kernel's initializer.

    Returns:
        (..., features).

    Parameters: `kernel` (in, features), `bias` (features,).

    Raises:
        TypeError: if `x` is not of a floating dtype.

    >>> import funnet as fn, jax.numpy as jnp
    >>> fn.Model(fn.dense, features=10).shapes(jnp.ones((2, 4)))[0]["kernel"].shape
    (4, 10)
    """
    floating("x", x)
    examples("x", x)
    count("features", features)
    y = matmul(x, p.param("kernel", (x.shape[-1], features), kernel_init))
    return y + p.param("bias", (features,), initializers.zeros).astype(y.dtype) if bias else y
