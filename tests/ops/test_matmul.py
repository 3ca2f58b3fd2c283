"""The product of arrays: its gradients in both forms, transformed by JAX, for each platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from uses import USES, assert_near, pulled_back

from funnet.ops.matmul import matmul, plain_right_gradient, product, turned_right_gradient

SHAPES = {
    "wide to narrow": ((9, 7), (7, 3)),
    "narrow to wide": ((9, 3), (3, 7)),
    "few rows": ((2, 7), (7, 3)),
    "of several": ((2, 4, 9, 7), (2, 4, 7, 3)),
    "of nothing": ((0, 7), (7, 3)),
}
TURNED = {"wide to narrow", "of several"}


def operands(name, dtype=np.float32):
    rng, (x, y) = np.random.default_rng(0), SHAPES[name]
    return tuple(rng.normal(size=s).astype(dtype) for s in (x, y, (*x[:-1], y[-1])))


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", ["wide to narrow", "narrow to wide", "of several"])
@pytest.mark.parametrize("use", USES)
def test_it_may_be_transformed_as_the_plain_form_may(use, name):
    pair = product, jnp.matmul
    assert_near(*jax.jit(lambda *a: [USES[use](f, *a) for f in pair])(*operands(name)))


@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients_are_numpys(name):
    with jax.enable_x64(True):
        x, y, g = operands(name, np.float64)
        expected = x @ y, g @ y.swapaxes(-1, -2), x.swapaxes(-1, -2) @ g
        assert_near(pulled_back(product, x, y, g), expected, 1e-13)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays(dtype):
    arrays = [jnp.asarray(a, dtype) for a in operands("of several")]
    for found, plain in zip(*(pulled_back(f, *arrays) for f in (product, jnp.matmul)), strict=True):
        assert found.dtype == dtype
        assert_near(found, plain, 1e-2)


@pytest.mark.parametrize("name", SHAPES)
def test_the_product_is_turned_where_that_saves(name):
    x, _, g = operands(name)
    found = jax.make_jaxpr(turned_right_gradient)(x, g)
    assert ("optimization_barrier" in str(found)) == (name in TURNED)
    assert_near(turned_right_gradient(x, g), plain_right_gradient(x, g))


@pytest.mark.parametrize("platforms", [("cuda",), ("tpu",), ("cpu", "cuda", "tpu")], ids="-".join)
def test_it_exports_for_other_platforms(platforms):
    x, kernel, _ = operands("wide to narrow")
    program = jax.jit(jax.grad(lambda kernel, x: jnp.square(matmul(x, kernel)).sum()))
    exported = jax.export.export(program, platforms=platforms)(kernel, x)
    assert ("optimization_barrier" in exported.mlir_module()) == ("cpu" in platforms)
    if "cpu" in platforms:
        assert_near(exported.call(kernel, x), program(kernel, x))
