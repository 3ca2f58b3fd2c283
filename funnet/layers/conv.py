"""Convolutions, and transposed ones, over one, two or three spatial axes."""

from collections.abc import Sequence

import jax

from funnet import initializers
from funnet.checks import count, floating
from funnet.draw import Initializer
from funnet.layers.linear import KERNEL
from funnet.ops.convolution import convolution, transposed_convolution
from funnet.ops.window import Padding, crops, pads, per_axis, spatial
from funnet.scope import Scope, layer


@layer
def conv(
    p: Scope,
    x: jax.Array,
    features: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    kernel_init: Initializer = KERNEL,
) -> jax.Array:
    """A convolution (cross-correlation, as everywhere in deep learning) over the spatial axes.

    Args:
        p: the layer's scope.
        x: (N, *spatial, in) with 1, 2 or 3 spatial axes, of a floating dtype.
        features: channels of the result.
        kernel_size: size of the window, one int or one for each spatial axis.
        stride: step of the window.
        padding: `"same"` (output of size `ceil(size / stride)`), `"valid"` (none), an int for
            every side, or one int or (before, after) pair for each spatial axis.
        dilation: distance between the elements of the window.
        groups: channels are split into so many groups that do not mix; `groups` equal to `in`
            is a depthwise convolution.
        bias: whether to add a bias, at first zero.
        kernel_init: the kernel's initializer.

    Returns:
        (N, *spatial', features) of the dtype of `x`.

    Parameters: `kernel` (*window, in / groups, features), `bias` (features,).

    Raises:
        TypeError: if `x` is not of a floating dtype.
        ValueError: if axes, groups, padding or window do not fit `x`.

    >>> import funnet as fn, jax.numpy as jnp
    >>> model = fn.Model(fn.conv, features=16, kernel_size=3)
    >>> model.shapes(jnp.ones((1, 8, 8, 3)))[0]["kernel"].shape
    (3, 3, 3, 16)
    """
    window, steps, gaps, reach = _windows("conv", x, features, kernel_size, stride, dilation)
    channels = _grouped(x.shape[-1], features, groups)
    kernel = p.param("kernel", (*window, channels, features), kernel_init).astype(x.dtype)
    around = pads(padding, x.shape[1:-1], reach, steps)
    y = convolution(x, kernel, steps, around, gaps, groups)
    return y + p.param("bias", (features,), initializers.zeros).astype(y.dtype) if bias else y


@layer
def conv_transpose(
    p: Scope,
    x: jax.Array,
    features: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    kernel_init: Initializer = KERNEL,
) -> jax.Array:
    """A transposed convolution: each element of `x` lays down the kernel, `stride` steps apart.

    `y[stride * i + dilation * k - before] += x[i] @ kernel[k]`, as in PyTorch: the kernel is not
    flipped. It is the transpose (in `x`) of the convolution that has this padding and stride and
    the kernel with its channels exchanged, and so takes images back to the size they had there.

    Args:
        p: the layer's scope.
        x: (N, *spatial, in) with 1, 2 or 3 spatial axes, of a floating dtype.
        features: channels of the result.
        kernel_size: size of the window, one int or one for each spatial axis.
        stride: distance at which neighbours of `x` lay down the kernel.
        padding: what is cropped from the whole of `(size - 1) * stride + (window - 1) * dilation
            + 1`: `"same"` down to `size * stride`; `"valid"` nothing; an int so much from every
            side; or one int or (before, after) pair for each spatial axis. PyTorch's `padding=p,
            output_padding=e` is the pair `(p, p - e)`, whose `after` may be negative.
        dilation: distance between the elements of the window.
        groups: channels are split into so many groups that do not mix.
        bias: whether to add a bias, at first zero.
        kernel_init: the kernel's initializer.

    Returns:
        (N, *spatial', features) of the dtype of `x`.

    Parameters: `kernel` (*window, in / groups, features), `bias` (features,).

    Raises:
        TypeError: if `x` is not of a floating dtype.
        ValueError: if axes or groups do not fit `x`, or the padding leaves nothing of it.

    Reference: Dumoulin and Visin 2016, https://arxiv.org/abs/1603.07285

    >>> import funnet as fn, jax, jax.numpy as jnp
    >>> model = fn.Model(fn.conv_transpose, features=3, kernel_size=4, stride=2)
    >>> params, _ = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 16)))
    >>> model(params, jnp.ones((1, 8, 8, 16))).shape
    (1, 16, 16, 3)
    """
    window, steps, gaps, reach = _windows(
        "conv_transpose", x, features, kernel_size, stride, dilation
    )
    channels = _grouped(x.shape[-1], features, groups)
    kernel = p.param("kernel", (*window, channels, features), kernel_init).astype(x.dtype)
    cropped = crops(padding, x.shape[1:-1], reach, steps)
    y = transposed_convolution(x, kernel, steps, cropped, gaps, groups)
    return y + p.param("bias", (features,), initializers.zeros).astype(y.dtype) if bias else y


def _windows(what: str, x: jax.Array, features: int, kernel_size, stride, dilation):
    """The checked size, step and gaps of the window, and how far it reaches, an axis each."""
    floating("x", x)
    count("features", features)
    axes = spatial(x, what)
    named = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
    window, steps, gaps = (per_axis(name, value, axes) for name, value in named.items())
    reach = tuple((w - 1) * d + 1 for w, d in zip(window, gaps, strict=True))
    return window, steps, gaps, reach


def _grouped(channels: int, features: int, groups: int) -> int:
    """Input channels a group.

    Raises:
        ValueError: if the groups do not divide both the input channels and the features.
    """
    if groups < 1 or channels % groups or features % groups:
        raise ValueError(
            f"groups must divide both channels of x and features, got groups={groups} "
            f"for {channels} channels and features={features}"
        )
    return channels // groups
