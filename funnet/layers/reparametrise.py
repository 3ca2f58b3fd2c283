"""Layers whose kernel is computed from other parameters: weight and spectral normalisation.

Each takes a layer and gives one: `fn.weight_norm(fn.dense)(p["out"], x, 10)`. What the layer asks
for as `kernel` is stored as ever; the layer gets a function of it.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from funnet import initializers
from funnet.describe import describe
from funnet.ops.precision import widened
from funnet.scope import Scope

Layer = TypeVar("Layer", bound=Callable[..., Any])


def weight_norm(layer: Layer, name: str = "kernel") -> Layer:
    """A layer whose kernel has the lengths of its columns as parameters of their own.

    `kernel = scale * v / ||v||`, the norm over all axes but the last, that of output features, so
    that a step changes directions and lengths apart. The lengths begin at 1, which is what the
    columns of `lecun_normal` have on average; a `v` of zero gives a kernel of zero.

    Args:
        layer: a layer that asks for the parameter `name`.
        name: the parameter to normalise.

    Returns:
        The layer, called as before.

    Parameters: those of the layer, `kernel` (..., out) now standing for `v`, and `kernel_scale`
    (out,).

    Raises:
        TypeError: if `layer` is no layer.
        ValueError: if it asks for no parameter `name`.

    Reference: Salimans and Kingma 2016, https://arxiv.org/abs/1602.07868

    >>> import funnet as fn
    >>> model = fn.Model(fn.weight_norm(fn.dense), features=3)
    >>> jax.tree.map(jnp.shape, model.init(jax.random.key(0), jnp.ones((2, 4)))[0])
    {'bias': (3,), 'kernel': (4, 3), 'kernel_scale': (3,)}
    """

    def normalised(p: Scope, v: jax.Array) -> jax.Array:
        scale = p.param(f"{name}_scale", v.shape[-1:], initializers.ones)
        wide = widened(v)
        square = jnp.square(wide).sum(range(v.ndim - 1))
        # A vector of zero stays zero, and its gradient is one that leads away from there.
        inverse = jax.lax.rsqrt(jnp.where(square > 0, square, 1))
        return (wide * (inverse * scale.astype(wide.dtype))).astype(v.dtype)

    return _reparametrised("weight_norm", layer, name, normalised)


def spectral_norm(layer: Layer, name: str = "kernel") -> Layer:
    """A layer whose kernel is divided by its largest singular value, which makes it 1.

    The kernel counts as a matrix (out, in) of output features by all else. Each training call
    takes one step of power iteration, `u = W v / ||W v||` and `v = W^T u / ||W^T u||`, and divides
    by `u . W v`; an evaluation divides by `||W v||` and changes nothing. Gradients take `u` and
    `v` for constants.

    Args:
        layer: a layer that asks for the parameter `name`.
        name: the parameter to normalise.

    Returns:
        The layer, called as before.

    Parameters: those of the layer. State: `kernel_v` (in,), at first a random direction.

    Raises:
        TypeError: if `layer` is no layer.
        ValueError: if it asks for no parameter `name`.

    Reference: Miyato et al. 2018, https://arxiv.org/abs/1802.05957

    >>> import funnet as fn
    >>> model = fn.Model(fn.spectral_norm(fn.conv), features=3, kernel_size=2)
    >>> model.init(jax.random.key(0), jnp.ones((1, 5, 5, 4)))[1]["kernel_v"].shape
    (16,)
    """

    def normalised(p: Scope, kernel: jax.Array) -> jax.Array:
        matrix = widened(kernel).reshape(-1, kernel.shape[-1])
        fixed = jax.lax.stop_gradient(matrix)
        v = p.variable(f"{name}_v", matrix.shape[:1], _direction).astype(matrix.dtype)
        u = _unit(v @ fixed, 0)
        if p.train:
            v = _unit(fixed @ u, v)
            p.update(f"{name}_v", v)
        sigma = (v @ matrix) @ u
        return (widened(kernel) / jnp.where(sigma > 0, sigma, 1)).astype(kernel.dtype)

    return _reparametrised("spectral_norm", layer, name, normalised)


def _unit(x: jax.Array, otherwise: jax.Array | int) -> jax.Array:
    """`x` at length 1; where it has no direction, `otherwise`."""
    square = jnp.square(x).sum()
    return jnp.where(square > 0, x * jax.lax.rsqrt(jnp.where(square > 0, square, 1)), otherwise)


def _direction(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    return _unit(jax.random.normal(key, shape, dtype), 0)


def _reparametrised(
    what: str, layer: Layer, name: str, function: Callable[[Scope, jax.Array], jax.Array]
) -> Layer:
    """The layer, where its parameter `name` goes through `function`.

    It is no place of its own: the layer is, as it would be bare, and so in lifts of it.
    """
    if not callable(layer):
        raise TypeError(
            f"{what} takes a layer and gives one, got {describe(layer) or repr(layer)}: write "
            f'fn.{what}(fn.dense)(p["name"], x, 10)'
        )

    @functools.wraps(layer)
    def call(p: Scope, *args: Any, **settings: Any) -> Any:
        if not isinstance(p, Scope):
            return layer(p, *args, **settings)  # which says what is missing
        asked = []

        def once(p: Scope, value: jax.Array) -> jax.Array:
            asked.append(name)
            return function(p, value)

        y = layer(p.wrapped(name, once), *args, **settings)
        if not asked:
            raise ValueError(
                f"{what}: {call.__name__} at {'.'.join(p.path) or 'the top'!r} asks for no "
                f"parameter {name!r} itself: wrap the layer within that does, or give its name, "
                f'as in fn.{what}(fn.lstm, name="hidden_kernel")'
            )
        return y

    return cast(Layer, call)
