"""Operations whose form for the CPU need not be written in a way that JAX sees through.

`lax.platform_dependent` lays all forms out in the program, where JAX looks into them: a form that
asks a question of its operands (are they finite?) is not linear to it, and `jax.linear_transpose`
fails. A primitive is opaque to JAX until it is lowered: the plain form stands for it everywhere
else, in shapes, shardings, `vmap`, and counts of operations. Its transpose is the plain form's, and
the transpose of that is the primitive again.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir


def opaque(name: str, plain: Callable, tuned: Callable) -> Callable[..., jax.Array]:
    """`plain(x, y, **how)`, for which `tuned(x, y, **how)` is lowered on the CPU.

    `how` is hashable. It may be transposed for an operand that the plain form is linear in, and has
    no tangent of its own: give its user a `custom_jvp`.
    """
    forward, backward = Primitive(name), Primitive(f"{name}_transposed")

    @functools.partial(jax.jit, static_argnums=2)  # so that it is traced once
    def bound(x: jax.Array, y: jax.Array, how: tuple) -> jax.Array:
        form = jax.make_jaxpr(functools.partial(plain, **dict(how)))(x, y)
        return forward.bind(x, y, jaxpr=form, how=how)

    def lowered(x: jax.Array, y: jax.Array, *, jaxpr: Any, how: tuple) -> jax.Array:
        return tuned(x, y, **dict(how))

    def transposed(cotangent: Any, *operands: Any, **form: Any) -> list[jax.Array | None]:
        at = [ad.is_undefined_primal(operand) for operand in operands].index(True)
        unknown, given = operands[at].aval, operands[1 - at]
        return _only(at, backward.bind(cotangent, given, at=at, unknown=unknown, **form))

    def transposed_twice(
        cotangent: Any, _: Any, given: jax.Array, *, at: int, unknown: Any, **form: Any
    ) -> list[jax.Array | None]:
        return [forward.bind(*_placed(cotangent, given, at), **form), None]

    _rules(forward, _plain, lowered, transposed)
    _rules(backward, _plain_back, _plain_back, transposed_twice)
    return lambda x, y, **how: bound(x, y, tuple(how.items()))


def _rules(primitive: Primitive, plain: Callable, lowered: Callable, transposed: Callable) -> None:
    """Gives a primitive of two operands all that JAX asks of one."""

    def eager(*operands: Any, **form: Any) -> jax.Array:
        return jax.jit(functools.partial(primitive.bind, **form))(*operands)

    def result(*operands: Any, **form: Any) -> Any:
        return jax.make_jaxpr(functools.partial(plain, **form))(*operands).out_avals[0]

    def mapped(operands: Any, axes: Any, **form: Any) -> tuple[jax.Array, int]:
        return jax.vmap(functools.partial(plain, **form), axes)(*operands), 0

    primitive.def_impl(eager)
    primitive.def_abstract_eval(result)
    batching.primitive_batchers[primitive] = mapped
    ad.primitive_transposes[primitive] = transposed
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(lowered, multiple_results=False), platform="cpu"
    )


def _plain(x: jax.Array, y: jax.Array, *, jaxpr: Any, how: tuple) -> jax.Array:
    return jaxpr_as_fun(jaxpr)(x, y)[0]


def _plain_back(
    cotangent: jax.Array, given: jax.Array, *, at: int, unknown: Any, **form: Any
) -> jax.Array:
    """The gradient for the operand that is `at` 0 or 1, of the kind of `unknown`."""
    one = lambda operand: _plain(*_placed(operand, given, at), **form)  # noqa: E731
    return jax.linear_transpose(one, unknown)(cotangent)[0]


def _placed(operand: Any, given: Any, at: int) -> tuple[Any, Any]:
    return (operand, given) if at == 0 else (given, operand)


def _only(at: int, x: jax.Array) -> list[jax.Array | None]:
    return [x if i == at else None for i in range(2)]
