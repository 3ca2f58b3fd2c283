"""Bilinear operations whose form for the CPU need not be written in a way that JAX sees through.

`lax.platform_dependent` lays all forms out in the program, where JAX looks into them: a form that
asks a question of its operands (are they finite?) is not linear to it, and `jax.linear_transpose`
fails; a loop is, but comes back from being transposed twice as a slower one. A primitive is opaque
to JAX until it is lowered: the plain form stands for it everywhere else, in shapes, shardings, and
counts of operations. Its transpose is the plain form's, and the transpose of that is the primitive
again.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir


def opaque(
    name: str, plain: Callable, tuned: Callable, *, maps: bool = False
) -> Callable[..., jax.Array]:
    """`plain(x, y, **how)`, for which `tuned(x, y, **how)` is lowered on the CPU.

    The operation is linear in either operand, and `how` is hashable. `maps` says that under `vmap`
    the tuned form is still the faster one.
    """
    forward, backward = Primitive(name), Primitive(f"{name}_transposed")
    _forward_rules(forward, backward, tuned, maps)
    _backward_rules(forward, backward, maps)

    @functools.partial(jax.jit, static_argnums=2)  # so that it is traced once
    def bound(x: jax.Array, y: jax.Array, how: tuple) -> jax.Array:
        form = jax.make_jaxpr(functools.partial(plain, **dict(how)))(x, y)
        return forward.bind(x, y, jaxpr=form, how=how, axes=())

    return lambda x, y, **how: bound(x, y, tuple(how.items()))


def _forward_rules(forward: Primitive, backward: Primitive, tuned: Callable, maps: bool) -> None:
    def lowered(x: jax.Array, y: jax.Array, *, jaxpr: Any, how: tuple, axes: tuple) -> jax.Array:
        form = functools.partial(tuned, **dict(how))
        for both in axes:  # that it was mapped over, the innermost first
            form = jax.vmap(form, both)
        return form(x, y)

    def mapped(operands: Any, at: Any, *, jaxpr: Any, how: tuple, axes: tuple) -> tuple:
        if not maps:
            return jax.vmap(jaxpr_as_fun(jaxpr), at)(*operands)[0], 0
        form = _mapped_form(jaxpr, at, operands)
        return forward.bind(*operands, jaxpr=form, how=how, axes=(*axes, at)), 0

    def to_x(cotangent: jax.Array, x: Any, y: jax.Array, **form: Any) -> jax.Array:
        return backward.bind(cotangent, y, at=0, unknown=x.aval, **form)

    def to_y(cotangent: jax.Array, x: jax.Array, y: Any, **form: Any) -> jax.Array:
        return backward.bind(cotangent, x, at=1, unknown=y.aval, **form)

    _rules(forward, _plain, lowered, mapped)
    ad.defbilinear(forward, to_x, to_y)


def _backward_rules(forward: Primitive, backward: Primitive, maps: bool) -> None:
    """Of the gradient for operand `at`, of the kind of `unknown`: of a cotangent and the other."""

    def mapped(operands: Any, axes_of: Any, *, at: int, unknown: Any, **form: Any) -> tuple:
        cotangent, given = operands
        if not maps:
            plain = functools.partial(_plain_back, at=at, unknown=unknown, **form)
            return jax.vmap(plain, axes_of)(cotangent, given), 0
        size = next(x.shape[i] for x, i in zip(operands, axes_of, strict=True) if i is not None)
        cotangent = _at_front(cotangent, axes_of[0], size)
        unknown = jax.ShapeDtypeStruct((size, *unknown.shape), unknown.dtype)
        both = _placed(0, axes_of[1], at)
        form["jaxpr"] = _mapped_form(form["jaxpr"], both, _placed(unknown, given, at))
        form["axes"] += (both,)
        return backward.bind(cotangent, given, at=at, unknown=unknown, **form), 0

    def twice(result: jax.Array, _: Any, given: Any, *, at: int, unknown: Any, **form: Any) -> Any:
        return forward.bind(*_placed(result, given, at), **form)

    def to_given(result: Any, cotangent: Any, given: Any, *, at: int, unknown: Any, **form: Any):
        return backward.bind(cotangent, result, at=1 - at, unknown=given.aval, **form)

    _rules(backward, _plain_back, _plain_back, mapped)
    ad.defbilinear(backward, twice, to_given)


def _rules(primitive: Primitive, plain: Callable, lowered: Callable, mapped: Callable) -> None:
    """How a primitive of two operands is computed, lowered and mapped."""

    @functools.lru_cache(256)
    def compiled(form: tuple) -> Callable:
        return jax.jit(functools.partial(primitive.bind, **dict(form)))

    def eager(*operands: Any, **form: Any) -> jax.Array:
        return compiled(tuple(form.items()))(*operands)

    def result(*operands: Any, **form: Any) -> Any:
        return jax.make_jaxpr(functools.partial(plain, **form))(*operands).out_avals[0]

    primitive.def_impl(eager)
    primitive.def_abstract_eval(result)
    batching.primitive_batchers[primitive] = mapped
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(lowered, multiple_results=False), platform="cpu"
    )


def _plain(x: jax.Array, y: jax.Array, *, jaxpr: Any, **_: Any) -> jax.Array:
    return jaxpr_as_fun(jaxpr)(x, y)[0]


def _plain_back(
    cotangent: jax.Array, given: jax.Array, *, at: int, unknown: Any, jaxpr: Any, **_: Any
) -> jax.Array:
    one = lambda operand: jaxpr_as_fun(jaxpr)(*_placed(operand, given, at))[0]  # noqa: E731
    return jax.linear_transpose(one, unknown)(cotangent)[0]


def _mapped_form(jaxpr: Any, axes: Any, operands: Any) -> Any:
    return jax.make_jaxpr(jax.vmap(jaxpr_as_fun(jaxpr), axes))(*operands)


def _at_front(x: jax.Array, axis: int | None, size: int) -> jax.Array:
    return jnp.moveaxis(x, axis, 0) if axis is not None else jnp.broadcast_to(x, (size, *x.shape))


def _placed(operand: Any, given: Any, at: int) -> tuple[Any, Any]:
    return (operand, given) if at == 0 else (given, operand)
