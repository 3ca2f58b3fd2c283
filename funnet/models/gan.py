"""The two sides of a deep convolutional generative adversarial network.

Reference: Radford, Metz and Chintala 2015, https://arxiv.org/abs/1511.06434
"""

import jax
import jax.numpy as jnp

from funnet import checks, initializers
from funnet.layers.batch_norm import batch_norm
from funnet.layers.conv import conv, conv_transpose
from funnet.layers.linear import dense
from funnet.layers.pool import flatten
from funnet.scope import Scope, layer

SMALL = initializers.normal(0.02)


@layer
def generator(
    p: Scope, noise: jax.Array, shape: tuple[int, int, int], *, width: int = 64
) -> jax.Array:
    """Images from noise, by transposed convolutions of 4 by 4 and stride 2 with batch norm.

    Args:
        p: the layer's scope.
        noise: (N, any).
        shape: (H, W, C) of an image; H and W are halved while both are even and above 4, so 28
            begins at 7 and 64 at 4.
        width: channels of the last hidden layer; each one before has twice as many.

    Returns:
        Images (N, H, W, C) in -1..1.
    """
    height, breadth, channels = shape
    halvings = 0
    while height % 2 == 0 and breadth % 2 == 0 and min(height, breadth) > 4:
        height, breadth, halvings = height // 2, breadth // 2, halvings + 1
    size = (height, breadth, width * 2 ** max(halvings - 1, 0))
    x = dense(p["in"], noise, size[0] * size[1] * size[2], bias=False, kernel_init=SMALL)
    x = jax.nn.relu(batch_norm(p["norm0"], x.reshape(-1, *size)))
    for i in range(1, halvings):
        x = conv_transpose(
            p[f"conv{i}"], x, size[2] >> i, 4, stride=2, bias=False, kernel_init=SMALL
        )
        x = jax.nn.relu(batch_norm(p[f"norm{i}"], x))
    stride = 2 if halvings else 1
    return jnp.tanh(conv_transpose(p["out"], x, channels, 4, stride=stride, kernel_init=SMALL))


@layer
def discriminator(p: Scope, images: jax.Array, *, width: int = 64) -> jax.Array:
    """How real images look, by convolutions of 4 by 4 and stride 2 with leaky ReLU and batch norm.

    Args:
        p: the layer's scope.
        images: (N, H, W, C), halved while a side is above 4.
        width: channels of the first layer; each next one has twice as many.

    Returns:
        Logits (N,), above zero for real.
    """
    checks.images("discriminator", images)
    x, i = images, 0
    while i == 0 or min(x.shape[1:3]) > 4:
        x = conv(p[f"conv{i}"], x, width * 2**i, 4, stride=2, bias=i == 0, kernel_init=SMALL)
        x = jax.nn.leaky_relu(batch_norm(p[f"norm{i}"], x) if i else x, 0.2)
        i += 1
    return dense(p["out"], flatten(x), 1, kernel_init=SMALL)[:, 0]
