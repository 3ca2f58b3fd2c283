"""Convolution whose gradients stay fast wherever the program puts them.

XLA:CPU sends a convolution to its library only in canonical layout, and brings the two gradients
of a convolution into that layout only at the top of a program: inside a `lax.scan` they miss it and
run up to 85 times slower. Here both gradients are written out as forward convolutions in canonical
layout, chosen when lowering for the CPU; other platforms get the plain form. A transposed
convolution is the input's gradient of a convolution, and has the same care. A depthwise one is
written out as products of shifted images. The kernel's gradient is a primitive (`ops/opaque.py`),
and on the CPU a sum over a few examples at a time.

The rule is a `custom_jvp` whose tangent is the linear transpose of the gradient we want, so reverse
mode transposes it once more and lands on exactly that gradient, and forward mode, Hessians, `vmap`
and `checkpoint` keep working.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from funnet.ops.matmul import matmul
from funnet.ops.narrow import (
    FEW,
    columns_gradient,
    fold_of,
    fold_of_columns,
    folded_convolution,
    scattered_gradient,
    scatters,
)
from funnet.ops.opaque import opaque
from funnet.ops.precision import widened
from funnet.ops.window import Pads, padded, strided

LETTERS = ("", "W", "HW", "DHW")
MOST_SHIFTS = 64  # elements of a depthwise window; beyond, programs grow long
FEW_OUT = 16  # output channels up to which the kernel's gradient is taken of the batch at once
LEAST_PART = 8  # examples that it is taken of otherwise, unless the images are large


def plain_convolution(
    x: jax.Array,
    kernel: jax.Array,
    stride: tuple[int, ...],
    pads: Pads,
    dilation: tuple[int, ...],
    groups: int = 1,
) -> jax.Array:
    """`x` (N, *spatial, in) with `kernel` (*window, in / groups, out), as XLA has it."""
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=_layout(x.ndim - 2),
        feature_group_count=groups,
    )


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    stride: tuple[int, ...],
    pads: Pads,
    dilation: tuple[int, ...],
    groups: int = 1,
) -> jax.Array:
    """As `plain_convolution`, with gradients that are fast on the CPU too."""
    if groups != 1 and kernel.shape[-2] == 1 and math.prod(kernel.shape[:-2]) <= MOST_SHIFTS:
        return _depthwise(x, kernel, stride, pads, dilation)
    if groups != 1:
        return plain_convolution(x, kernel, stride, pads, dilation, groups)
    if set(kernel.shape[:-2]) == {1} and not any(map(any, pads)):
        x = lax.slice(x, (0,) * x.ndim, x.shape, (1, *stride, 1))
        return matmul(x, kernel.reshape(kernel.shape[-2:]))
    return _convolution(x, kernel, stride, pads, dilation)


def plain_transposed_convolution(
    x: jax.Array,
    kernel: jax.Array,
    stride: tuple[int, ...],
    crops: Pads,
    dilation: tuple[int, ...],
    groups: int = 1,
) -> jax.Array:
    """The transpose of `plain_convolution` padded by `crops`: it takes that one's outputs back.

    `x` (N, *spatial, in) with `kernel` (*window, in / groups, out) gives (N, *spatial', out), on
    each axis `(size - 1) * stride + (window - 1) * dilation + 1 - before - after` large; a crop
    `after` that is negative leaves so much room at the end.
    """
    kernel = _swapped(kernel, groups)
    shape = _transposed_shape(x.shape, kernel.shape, stride, crops, dilation, groups)
    forward = lambda y: plain_convolution(y, kernel, stride, crops, dilation, groups)  # noqa: E731
    return jax.linear_transpose(forward, jax.ShapeDtypeStruct(shape, x.dtype))(x)[0]


def transposed_convolution(
    x: jax.Array,
    kernel: jax.Array,
    stride: tuple[int, ...],
    crops: Pads,
    dilation: tuple[int, ...],
    groups: int = 1,
) -> jax.Array:
    """As `plain_transposed_convolution`, fast on the CPU wherever the program puts it."""
    if groups != 1:
        return plain_transposed_convolution(x, kernel, stride, crops, dilation, groups)
    return _transposed_convolution(x, _swapped(kernel, 1), stride, crops, dilation)


def _forward_fold(x: Any, kernel: Any, stride: Any, pads: Any, dilation: Any) -> int:
    out = x.shape[-2] + sum(pads[-1]) - kernel.shape[-3] + 1
    return fold_of(kernel.shape, out, stride, dilation)


def _where_finite(
    x: jax.Array, kernel: jax.Array, stride: Any, pads: Pads, dilation: Any
) -> jax.Array:
    """Folded if the images are finite, and as they come if not."""

    def plain(x: jax.Array, kernel: jax.Array, pads: Pads = pads) -> jax.Array:
        return plain_convolution(x, kernel, stride, pads, dilation)

    def folded(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return folded_convolution(plain, x, kernel, pads, fold)

    fold = _forward_fold(x, kernel, stride, pads, dilation)
    return lax.cond(jnp.isfinite(x).all(), folded, plain, x, kernel)


_folded_on_cpu = opaque("folded_convolution", plain_convolution, _where_finite)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _convolution(x: jax.Array, kernel: jax.Array, stride: Any, pads: Any, dilation: Any):
    fold = _forward_fold(x, kernel, stride, pads, dilation)
    form = plain_convolution if fold == 1 else _folded_on_cpu
    return form(x, kernel, stride=stride, pads=pads, dilation=dilation)


@functools.partial(_convolution.defjvp, symbolic_zeros=True)
def _convolution_jvp(stride: Any, pads: Any, dilation: Any, primals: Any, tangents: Any):
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _convolution(x, kernel, stride, pads, dilation)
    to_x = functools.partial(_input_gradient, kernel, x.shape, stride, pads, dilation)
    to_kernel = functools.partial(_kernel_gradient, x, kernel.shape, stride, pads, dilation)
    return y, _tangent(y, (to_x, dx), (to_kernel, dkernel))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _transposed_convolution(
    x: jax.Array, kernel: jax.Array, stride: Any, crops: Any, dilation: Any
):
    """With the kernel of the convolution that it is the transpose of: (*window, out, in)."""
    shape = _transposed_shape(x.shape, kernel.shape, stride, crops, dilation, 1)
    return _input_gradient(kernel, shape, stride, crops, dilation, x)


@functools.partial(_transposed_convolution.defjvp, symbolic_zeros=True)
def _transposed_convolution_jvp(
    stride: Any, crops: Any, dilation: Any, primals: Any, tangents: Any
):
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _transposed_convolution(x, kernel, stride, crops, dilation)
    to_x = lambda g: plain_convolution(g, kernel, stride, crops, dilation)  # noqa: E731
    to_kernel = lambda g: _kernel_gradient(g, kernel.shape, stride, crops, dilation, x)  # noqa: E731
    return y, _tangent(y, (to_x, dx), (to_kernel, dkernel))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _depthwise(x: jax.Array, kernel: jax.Array, stride: Any, pads: Any, dilation: Any):
    """A kernel of its own for each channel, for which XLA:CPU has nothing fast."""
    tuned, plain = _depthwise_forms(stride, pads, dilation)
    return lax.platform_dependent(x, kernel, cpu=tuned, default=plain)


@functools.partial(_depthwise.defjvp, symbolic_zeros=True)
def _depthwise_jvp(stride: Any, pads: Any, dilation: Any, primals: Any, tangents: Any):
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _depthwise(x, kernel, stride, pads, dilation)
    tuned, plain = _depthwise_forms(stride, pads, dilation)

    def to_x(g: jax.Array) -> jax.Array:
        back = [_transposed_of(lambda x, f=f: f(x, kernel), x) for f in (tuned, plain)]
        return _on_cpu(back[0], back[1], g)

    def to_kernel(g: jax.Array) -> jax.Array:
        back = [_transposed_of(lambda k, f=f: f(x, k), kernel) for f in (tuned, plain)]
        return _on_cpu(back[0], back[1], g)

    return y, _tangent(y, (to_x, dx), (to_kernel, dkernel))


def _depthwise_forms(stride: Any, pads: Any, dilation: Any) -> tuple[Callable, Callable]:
    """The sum of the shifted images, each times its row of the kernel; and XLA's own."""

    def tuned(x: jax.Array, kernel: jax.Array) -> jax.Array:
        *window, _, features = kernel.shape
        wide, rows = (widened(a) for a in (x, kernel.reshape(-1, features)))
        wide = jnp.repeat(padded(wide, pads), features // x.shape[-1], -1)
        out = [
            (n - (k - 1) * d - 1) // s + 1
            for n, k, d, s in zip(wide.shape[1:-1], window, dilation, stride, strict=True)
        ]
        shifts = itertools.product(*map(range, window))
        parts = [strided(wide, o, stride, dilation, out) * rows[i] for i, o in enumerate(shifts)]
        return sum(parts[1:], parts[0]).astype(x.dtype)

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return plain_convolution(x, kernel, stride, pads, dilation, x.shape[-1])

    return tuned, plain


def _transposed_of(function: Callable, x: jax.Array) -> Callable:
    return lambda g: jax.linear_transpose(function, jax.ShapeDtypeStruct(x.shape, x.dtype))(g)[0]


def _tangent(y: jax.Array, *parts: tuple[Callable, Any]) -> jax.Array:
    """The output's tangent, of gradients and the tangents of the operands that they belong to."""
    sums = [_transposed(g, y, d) for g, d in parts if not isinstance(d, SymbolicZero)]
    return sum(sums[1:], sums[0]) if sums else jnp.zeros_like(y)


def _swapped(kernel: jax.Array, groups: int) -> jax.Array:
    """(*window, in / groups, out) as (*window, out / groups, in), and the other way round."""
    *window, channels, features = kernel.shape
    split = kernel.reshape(*window, channels, groups, features // groups)
    return split.swapaxes(-1, -3).reshape(*window, features // groups, groups * channels)


def _transposed_shape(shape: Any, kernel: Any, stride: Any, crops: Any, dilation: Any, groups: int):
    sizes = [
        (n - 1) * s + (k - 1) * d + 1 - sum(crop)
        for n, k, s, d, crop in zip(shape[1:-1], kernel, stride, dilation, crops, strict=False)
    ]
    return shape[0], *sizes, kernel[-2] * groups


def _transposed(gradient: Callable, y: jax.Array, tangent: jax.Array) -> jax.Array:
    return jax.linear_transpose(gradient, jax.ShapeDtypeStruct(y.shape, y.dtype))(tangent)[0]


def _on_cpu(tuned: Callable, plain: Callable, gradient: jax.Array) -> jax.Array:
    return lax.platform_dependent(gradient, cpu=tuned, default=plain)


def _input_gradient(kernel: Any, shape: Any, stride: Any, pads: Any, dilation: Any, g: jax.Array):
    """The gradient for `x`: the output's, dilated by the stride, with the kernel flipped."""
    axes = len(shape) - 2

    def as_scatter(g: jax.Array) -> jax.Array:
        return scattered_gradient(g, kernel, shape, pads)

    def as_convolution(g: jax.Array) -> jax.Array:
        flipped = jnp.flip(kernel, range(axes)).swapaxes(-1, -2)
        around = [
            _around((k - 1) * d - before, size + (k - 1) * d - (out - 1) * s - 1)
            for k, d, s, size, out, (before, _) in zip(
                kernel.shape, dilation, stride, shape[1:-1], g.shape[1:-1], pads, strict=False
            )
        ]
        return lax.conv_general_dilated(
            g, flipped, (1,) * axes, around, stride, dilation, _layout(axes)
        )

    def plain(g: jax.Array) -> jax.Array:
        forward = lambda x: plain_convolution(x, kernel, stride, pads, dilation)  # noqa: E731
        return jax.linear_transpose(forward, jax.ShapeDtypeStruct(shape, g.dtype))(g)[0]

    few = scatters(kernel.shape, stride, dilation)
    return _on_cpu(as_scatter if few else as_convolution, plain, g)


def _plain_kernel_gradient(
    x: jax.Array, g: jax.Array, shape: Any, stride: Any, pads: Any, dilation: Any
) -> jax.Array:
    forward = lambda w: plain_convolution(x, w, stride, pads, dilation)  # noqa: E731
    return jax.linear_transpose(forward, jax.ShapeDtypeStruct(shape, g.dtype))(g)[0]


def _kernel_gradient_on_cpu(
    x: jax.Array, g: jax.Array, shape: Any, stride: Any, pads: Any, dilation: Any
) -> jax.Array:
    """`_plain_kernel_gradient` in the form, of three, that is fast for such channels and sizes.

    As a convolution, it lays a window of the whole image out, of all examples: of few at a time, it
    fits a processor's caches, and takes down to a fifth of the time.
    """
    few = shape[-1] <= FEW_OUT  # then a product is so narrow that parts cost more than they save
    if few and shape[-2] <= FEW:
        fold = fold_of_columns(shape, g.shape[-2], stride, dilation)
        return columns_gradient(x, g, shape, stride, pads, dilation, fold)
    whole = functools.partial(_as_convolution, shape, stride, pads, dilation)
    examples, positions = len(x), math.prod(g.shape[1:-1])
    part = max(1, min(max(LEAST_PART, 512 // positions), 2**16 // positions))
    if few or examples < 2 * part:
        return whole(x, g)
    parts = examples // part - (examples % part == 0)  # but the last one, which may be smaller
    split = [a[: parts * part].reshape(parts, part, *a.shape[1:]) for a in (x, g)]
    last = widened(whole(x[parts * part :], g[parts * part :]))
    add = lambda total, pair: (total + widened(whole(*pair)), None)  # noqa: E731
    return lax.scan(add, last, split)[0].astype(g.dtype)


def _as_convolution(
    shape: Any, stride: Any, pads: Any, dilation: Any, x: jax.Array, g: jax.Array
) -> jax.Array:
    """`x` under the output's gradient, the batch as channels."""
    around = [
        _around(before, (k - 1) * d + (out - 1) * s + 1 - size)
        for k, d, s, size, out, (before, _) in zip(
            shape, dilation, stride, x.shape[1:-1], g.shape[1:-1], pads, strict=False
        )
    ]
    flat = lax.conv_general_dilated(
        x.swapaxes(0, -1),
        jnp.moveaxis(g, 0, -2),
        dilation,
        around,
        rhs_dilation=stride,
        dimension_numbers=_layout(len(shape) - 2),
    )
    return jnp.moveaxis(flat, 0, -2)


_opaque_kernel_gradient = opaque(
    "kernel_gradient", _plain_kernel_gradient, _kernel_gradient_on_cpu, maps=True
)


def _kernel_gradient(x: Any, shape: Any, stride: Any, pads: Any, dilation: Any, g: jax.Array):
    how = {"shape": shape, "stride": stride, "pads": pads, "dilation": dilation}
    return _opaque_kernel_gradient(x, g, **how)


def _around(before: int, whole: int) -> tuple[int, int]:
    """Padding of `whole` in all, `before` of it in front; negative padding crops."""
    return before, whole - before


def _layout(axes: int) -> tuple[str, str, str]:
    letters = LETTERS[axes]
    return f"N{letters}C", f"{letters}IO", f"N{letters}C"
