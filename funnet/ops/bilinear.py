"""Operations of two operands, linear in each, whose form for the CPU need not be written so.

`lax.platform_dependent` lays all forms out in the program, where JAX looks into them: a form that
asks a question of its operands (are they finite?) is not linear to it, and `jax.linear_transpose`
fails. A primitive is opaque to JAX until it is lowered: the plain form stands for it everywhere
else, in shapes, shardings, `vmap` and transposition.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def bilinear(name: str, plain: Callable, tuned: Callable) -> Callable[..., jax.Array]:
    """`plain(x, y, **how)`, for which `tuned(x, y, **how)` is lowered on the CPU.

    `how` is hashable. It has no tangent of its own: give its user a `custom_jvp`.
    """
    primitive = Primitive(name)

    def operation(x: jax.Array, y: jax.Array, **how: Any) -> jax.Array:
        return primitive.bind(x, y, **how)

    def of(**how: Any) -> Callable:
        return lambda x, y: plain(x, y, **how)

    @functools.cache
    def compiled(**how: Any) -> Callable:
        return jax.jit(functools.partial(operation, **how))

    def result(x: Any, y: Any, **how: Any) -> Any:
        return jax.make_jaxpr(of(**how))(x, y).out_avals[0]

    def mapped(operands: Any, axes: Any, **how: Any) -> tuple[jax.Array, int]:
        return jax.vmap(of(**how), axes)(*operands), 0

    def transposed(cotangent: jax.Array, *operands: Any, **how: Any) -> list[jax.Array | None]:
        at = [ad.is_undefined_primal(o) for o in operands].index(True)
        given = operands[1 - at]
        one = lambda o: of(**how)(*((o, given) if at == 0 else (given, o)))  # noqa: E731
        back = jax.linear_transpose(one, operands[at].aval)(cotangent)[0]
        return [back, None] if at == 0 else [None, back]

    primitive.def_impl(lambda x, y, **how: compiled(**how)(x, y))
    primitive.def_abstract_eval(result)
    batching.primitive_batchers[primitive] = mapped
    ad.primitive_transposes[primitive] = transposed
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(tuned, multiple_results=False), platform="cpu")
    return operation
