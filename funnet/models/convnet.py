"""The first networks: a multilayer perceptron, LeNet, and a plain convolutional network."""

from collections.abc import Sequence

import jax

from funnet import checks
from funnet.layers.conv import conv
from funnet.layers.dropout import dropout
from funnet.layers.linear import dense
from funnet.layers.pool import flatten, max_pool
from funnet.scope import Scope, layer


@layer
def mlp(p: Scope, x: jax.Array, widths: Sequence[int], *, rate: float = 0.0) -> jax.Array:
    """Dense layers with ReLU between them.

    Args:
        p: the layer's scope.
        x: (N, ...), flattened.
        widths: features of each layer; the last are the output's.
        rate: of the dropout before each layer but the first.

    Returns:
        (N, widths[-1]).

    >>> import funnet as fn
    >>> fn.Model(mlp, widths=(128, 64, 10))
    Model(mlp, widths=(128, 64, 10))
    """
    *hidden, features = widths
    x = flatten(x)
    for i, width in enumerate(hidden):
        x = jax.nn.relu(dense(p[f"hidden{i}"], x, width))
        x = dropout(p[f"dropout{i}"], x, rate)
    return dense(p["head"], x, features)


@layer
def lenet(p: Scope, images: jax.Array, classes: int) -> jax.Array:
    """LeNet-5 with ReLU and max pools: 6 and 16 maps of 5 by 5, then 120, 84 and the classes.

    Args:
        p: the layer's scope.
        images: (N, H, W, C), 32 by 32 in the paper.
        classes: how many.

    Returns:
        Logits (N, classes).

    Reference: LeCun et al. 1998, https://doi.org/10.1109/5.726791
    """
    checks.images("lenet", images)
    x = jax.nn.relu(conv(p["conv1"], images, 6, 5, padding="valid"))
    x = jax.nn.relu(conv(p["conv2"], max_pool(x, 2), 16, 5, padding="valid"))
    x = jax.nn.relu(dense(p["hidden1"], flatten(max_pool(x, 2)), 120))
    x = jax.nn.relu(dense(p["hidden2"], x, 84))
    return dense(p["head"], x, classes)


@layer
def conv_features(
    p: Scope, images: jax.Array, *, widths: Sequence[int] = (32, 64), hidden: int = 128
) -> jax.Array:
    """For each width a 3 by 3 convolution, ReLU and a max pool of 2; then a dense layer, ReLU.

    Args:
        p: the layer's scope.
        images: (N, H, W, C), H and W at least `2 ** len(widths)`.
        widths: channels of each convolution.
        hidden: features of the dense layer.

    Returns:
        (N, hidden).
    """
    checks.images("conv_features", images)
    x = images
    for i, width in enumerate(widths):
        x = max_pool(jax.nn.relu(conv(p[f"conv{i}"], x, width, 3)), 2)
    return jax.nn.relu(dense(p["hidden"], flatten(x), hidden))


@layer
def convnet(
    p: Scope,
    images: jax.Array,
    classes: int,
    *,
    widths: Sequence[int] = (32, 64),
    hidden: int = 128,
    rate: float = 0.0,
) -> jax.Array:
    """`conv_features`, dropout of `rate`, and a dense layer: logits (N, classes)."""
    x = conv_features(p["features"], images, widths=widths, hidden=hidden)
    return dense(p["head"], dropout(p["dropout"], x, rate), classes)
