"""The dense layer, and the product that every kernel goes through."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet import initializers
from funnet.ops.matmul import matmul

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_a_linear_map_of_the_last_axis(shape, bias):
    x = drawn(*shape)
    model = fn.Model(fn.dense, features=5, bias=bias)
    params = {"kernel": drawn(4, 5, seed=1), "bias": drawn(5, seed=2)}
    if not bias:
        del params["bias"]
    expected = x.astype(np.float64) @ params["kernel"] + params.get("bias", 0)
    np.testing.assert_allclose(model(params, x), expected, rtol=1e-5, atol=1e-5)
    assert {k: v.shape for k, v in model.shapes(x)[0].items()} == {
        k: v.shape for k, v in params.items()
    }


def test_it_begins_with_the_variance_of_one_over_the_inputs():
    params, _ = fn.Model(fn.dense, features=256).init(KEY, drawn(1, 256))
    np.testing.assert_allclose(params["kernel"].std(), 1 / 16, rtol=0.02)
    assert not params["bias"].any()


def test_an_initializer_may_be_given():
    model = fn.Model(fn.dense, features=3, kernel_init=initializers.constant(2.0))
    assert (model.init(KEY, drawn(1, 4))[0]["kernel"] == 2).all()


def test_gradients_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    x, g = drawn(2, 3, 4), drawn(2, 3, 5, seed=3)
    params = {"kernel": drawn(4, 5, seed=1), "bias": drawn(5, seed=2)}
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, params["kernel"], params["bias"])]
    (leaves[0] @ leaves[1] + leaves[2]).backward(torch.tensor(g))
    model = fn.Model(fn.dense, features=5)
    gradients, dx = jax.grad(lambda params, x: (model(params, x) * g).sum(), (0, 1))(params, x)
    for found, leaf in zip((dx, gradients["kernel"], gradients["bias"]), leaves, strict=True):
        np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("parameters", [jnp.float32, jnp.bfloat16, jnp.float16, np.float32])
def test_the_input_says_the_dtype(dtype, parameters):
    make = np.asarray if parameters is np.float32 else jnp.asarray
    params = {"kernel": make(drawn(4, 5), parameters), "bias": make(drawn(5), parameters)}
    y = fn.Model(fn.dense, features=5)(params, jnp.asarray(drawn(3, 4), dtype))
    assert y.dtype == dtype
    expected = drawn(3, 4) @ drawn(4, 5) + drawn(5)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=0.05, atol=0.05)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
    """A structured array: a product of two, which is never formed."""

    left: jax.Array
    right: jax.Array

    @property
    def shape(self):
        return self.left.shape[0], self.right.shape[1]

    def __rmatmul__(self, x):
        return (x @ self.left.astype(x.dtype)) @ self.right.astype(x.dtype)


def test_a_structured_kernel_takes_part_through_its_product():
    x = jnp.asarray(drawn(2, 3, 4))
    low = LowRank(jnp.asarray(drawn(4, 2)), jnp.asarray(drawn(2, 5, seed=1)))
    params = {"kernel": low, "bias": drawn(5)}
    model = fn.Model(fn.dense, features=5)
    whole = {**params, "kernel": low.left @ low.right}
    np.testing.assert_allclose(jax.jit(model)(params, x), model(whole, x), rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda params: model(params, x).sum())(params)["kernel"]
    assert gradient.left.shape == (4, 2)
    np.testing.assert_allclose(matmul(x, low), x @ whole["kernel"], rtol=1e-5, atol=1e-5)


def test_a_structured_kernel_of_another_shape_is_refused():
    low = LowRank(jnp.zeros((3, 2)), jnp.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"kernel.*\(3, 5\).*\(4, 5\)"):
        fn.Model(fn.dense, features=5)({"kernel": low, "bias": drawn(5)}, drawn(2, 4))
