"""Autoencoders of images, plain and variational."""

import jax
import jax.numpy as jnp

from funnet import checks
from funnet.layers.conv import conv, conv_transpose
from funnet.layers.linear import dense
from funnet.layers.pool import flatten
from funnet.scope import Scope, layer

Shape = tuple[int, int, int]


@layer
def image_encoder(p: Scope, images: jax.Array, features: int, *, width: int = 32) -> jax.Array:
    """Two 3 by 3 convolutions of stride 2, and a dense layer: (N, H, W, C) to (N, features)."""
    checks.images("image_encoder", images)
    x = jax.nn.relu(conv(p["conv1"], images, width, 3, stride=2))
    x = jax.nn.relu(conv(p["conv2"], x, 2 * width, 3, stride=2))
    return dense(p["out"], flatten(x), features)


@layer
def image_decoder(p: Scope, latents: jax.Array, shape: Shape, *, width: int = 32) -> jax.Array:
    """The way back: (N, latents) to logits (N, H, W, C) of pixels between 0 and 1.

    Args:
        p: the layer's scope.
        latents: (N, any).
        shape: (H, W, C) of an image, H and W divisible by 4.
        width: channels of the last hidden layer.

    Raises:
        ValueError: if 4 does not divide height and width.
    """
    height, breadth, channels = shape
    if height % 4 or breadth % 4:
        raise ValueError(f"4 must divide height and width of shape, got {shape}")
    size = (height // 4, breadth // 4, 2 * width)
    x = jax.nn.relu(dense(p["in"], latents, size[0] * size[1] * size[2]))
    x = x.reshape(-1, *size)
    x = jax.nn.relu(conv_transpose(p["conv1"], x, width, 3, stride=2))
    return conv_transpose(p["conv2"], x, channels, 3, stride=2)


@layer
def autoencoder(p: Scope, images: jax.Array, latents: int, *, width: int = 32) -> jax.Array:
    """Images through `latents` numbers each and back.

    Args:
        p: the layer's scope.
        images: (N, H, W, C) in 0..1, H and W divisible by 4.
        latents: how many numbers stand for an image.
        width: channels of the outer hidden layers.

    Returns:
        Reconstructions (N, H, W, C), in 0..1.

    Reference: Hinton and Salakhutdinov 2006, https://doi.org/10.1126/science.1127647
    """
    checks.count("latents", latents)
    codes = image_encoder(p["encoder"], images, latents, width=width)
    return jax.nn.sigmoid(image_decoder(p["decoder"], codes, _shape(images), width=width))


@layer
def vae(
    p: Scope, images: jax.Array, latents: int, *, width: int = 32
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A variational autoencoder: a distribution over latents, and images of one drawn from it.

    In training the latents are `mean + exp(log_var / 2) * noise`, otherwise the mean. The loss is
    `losses.binary_cross_entropy(logits, images) * H * W * C + losses.gaussian_kl(mean, log_var)`;
    new images are `sigmoid(decoder(params["decoder"], noise))` with
    `decoder = fn.Model(fn.models.image_decoder, shape=(H, W, C))`.

    Args:
        p: the layer's scope.
        images: (N, H, W, C) in 0..1, H and W divisible by 4.
        latents: how many numbers stand for an image.
        width: channels of the outer hidden layers.

    Returns:
        Logits (N, H, W, C); mean and log_var, (N, latents) each.

    Reference: Kingma and Welling 2013, https://arxiv.org/abs/1312.6114
    """
    checks.count("latents", latents)
    codes = image_encoder(p["encoder"], images, 2 * latents, width=width)
    mean, log_var = jnp.split(codes, 2, axis=-1)
    drawn = mean
    if p.train:
        drawn += jnp.exp(log_var / 2) * jax.random.normal(p.key(), mean.shape, mean.dtype)
    return image_decoder(p["decoder"], drawn, _shape(images), width=width), mean, log_var


def _shape(images: jax.Array) -> Shape:
    return images.shape[1], images.shape[2], images.shape[3]
