"""Residual networks of 18, 34 and 50 layers."""

import jax

from funnet import checks, initializers
from funnet.layers.batch_norm import batch_norm
from funnet.layers.conv import conv
from funnet.layers.linear import dense
from funnet.layers.pool import global_avg_pool, max_pool
from funnet.scope import Scope, layer

HE = initializers.kaiming_normal(mode="fan_out")
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


@layer
def resnet(
    p: Scope, images: jax.Array, classes: int, *, depth: int = 18, stem: str = "imagenet"
) -> jax.Array:
    """A residual network, the same function as torchvision's: see `fn.interop.TORCHVISION_RESNET`.

    Args:
        p: the layer's scope.
        images: (N, H, W, C).
        classes: how many.
        depth: 18, 34 or 50 layers.
        stem: "imagenet", a 7 by 7 convolution of stride 2 and a max pool; or "cifar", for small
            images, a 3 by 3 convolution.

    Returns:
        Logits (N, classes).

    Raises:
        ValueError: if depth or stem is another.

    Reference: He et al. 2015, https://arxiv.org/abs/1512.03385

    >>> import funnet as fn
    >>> fn.Model(resnet, classes=10, depth=18, stem="cifar")
    Model(resnet, classes=10, depth=18, stem='cifar')
    """
    checks.images("resnet", images)
    if depth not in DEPTHS:
        raise ValueError(f"depth must be one of {sorted(DEPTHS)}, got {depth!r}")
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f'stem must be "imagenet" or "cifar", got {stem!r}')
    small = stem == "cifar"
    x = _conv(p["stem"], images, 64, 3 if small else 7, stride=1 if small else 2)
    x = jax.nn.relu(batch_norm(p["stem_norm"], x))
    x = x if small else max_pool(x, 3, stride=2, padding=1)
    block = bottleneck if depth == 50 else basic
    for stage, blocks in enumerate(DEPTHS[depth]):
        scope = p[f"stage{stage + 1}"]
        for i in range(blocks):
            stride = 2 if stage > 0 and i == 0 else 1
            x = block(scope[f"block{i}"], x, 64 * 2**stage, stride=stride)
    return dense(p["head"], global_avg_pool(x), classes)


@layer
def basic(p: Scope, x: jax.Array, width: int, *, stride: int = 1) -> jax.Array:
    """Two 3 by 3 convolutions beside a shortcut: (N, H / stride, W / stride, width)."""
    y = jax.nn.relu(batch_norm(p["norm1"], _conv(p["conv1"], x, width, 3, stride=stride)))
    y = batch_norm(p["norm2"], _conv(p["conv2"], y, width, 3))
    return jax.nn.relu(y + _shortcut(p, x, y, stride))


@layer
def bottleneck(p: Scope, x: jax.Array, width: int, *, stride: int = 1) -> jax.Array:
    """Convolutions of 1, 3 and 1, the last four times as wide, beside a shortcut."""
    y = jax.nn.relu(batch_norm(p["norm1"], _conv(p["conv1"], x, width, 1)))
    y = jax.nn.relu(batch_norm(p["norm2"], _conv(p["conv2"], y, width, 3, stride=stride)))
    y = batch_norm(p["norm3"], _conv(p["conv3"], y, 4 * width, 1))
    return jax.nn.relu(y + _shortcut(p, x, y, stride))


def _shortcut(p: Scope, x: jax.Array, y: jax.Array, stride: int) -> jax.Array:
    if x.shape == y.shape:
        return x
    return batch_norm(p["project_norm"], _conv(p["project"], x, y.shape[-1], 1, stride=stride))


def _conv(p: Scope, x: jax.Array, width: int, size: int, stride: int = 1) -> jax.Array:
    """Padded by half the window on both sides, where "same" would be uneven at a stride of 2."""
    return conv(p, x, width, size, stride=stride, padding=size // 2, bias=False, kernel_init=HE)
