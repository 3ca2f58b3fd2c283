"""Operations of two operands, linear in each, whose form for the CPU need not be written so.

`lax.platform_dependent` lays all forms out in the program, where JAX looks into them: a form that
asks a question of its operands (are they finite?) is not linear to it, and `jax.linear_transpose`
fails. A primitive is opaque to JAX until it is lowered: the plain form stands for it everywhere
else, in shapes, shardings, `vmap`, transposition and counts of operations.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir


def bilinear(name: str, plain: Callable, tuned: Callable) -> Callable[..., jax.Array]:
    """`plain(x, y, **how)`, for which `tuned(x, y, **how)` is lowered on the CPU.

    `how` is hashable. It has no tangent of its own: give its user a `custom_jvp`.
    """
    primitive = Primitive(name)

    def operation(x: jax.Array, y: jax.Array, **how: Any) -> jax.Array:
        form = jax.make_jaxpr(functools.partial(plain, **how))(x, y)
        return primitive.bind(x, y, jaxpr=form, how=tuple(how.items()))

    @functools.cache
    def compiled(how: tuple) -> Callable:
        return jax.jit(functools.partial(operation, **dict(how)))

    def lowered(x: jax.Array, y: jax.Array, *, jaxpr: Any, how: tuple) -> jax.Array:
        return tuned(x, y, **dict(how))

    primitive.def_impl(lambda x, y, *, jaxpr, how: compiled(how)(x, y))
    primitive.def_abstract_eval(lambda x, y, **how: _result(x, y, **how))
    batching.primitive_batchers[primitive] = _mapped
    ad.primitive_transposes[primitive] = _transposed
    mlir.register_lowering(primitive, mlir.lower_fun(_plain, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(lowered, multiple_results=False), platform="cpu"
    )
    return operation


def _plain(x: jax.Array, y: jax.Array, *, jaxpr: Any, how: tuple) -> jax.Array:
    return jaxpr_as_fun(jaxpr)(x, y)[0]


def _result(x: Any, y: Any, **how: Any) -> Any:
    return jax.make_jaxpr(functools.partial(_plain, **how))(x, y).out_avals[0]


def _mapped(operands: Any, axes: Any, **how: Any) -> tuple[jax.Array, int]:
    return jax.vmap(functools.partial(_plain, **how), axes)(*operands), 0


def _transposed(cotangent: jax.Array, *operands: Any, **how: Any) -> list[jax.Array | None]:
    """For the operand that is not known: the other one's is None."""
    at = [ad.is_undefined_primal(operand) for operand in operands].index(True)

    def one(unknown: jax.Array) -> jax.Array:
        given = [unknown if i == at else operand for i, operand in enumerate(operands)]
        return _plain(*given, **how)

    back = jax.linear_transpose(one, operands[at].aval)(cotangent)[0]
    return [back if i == at else None for i in range(2)]
