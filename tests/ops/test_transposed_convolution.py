"""The tuned transposed convolution against its plain form, and everything JAX does to a function.

Beside PyTorch it stands in `tests/layers/test_conv_torch.py`.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from uses import USES, assert_near, pulled_back

from funnet.ops.convolution import (
    plain_convolution,
    plain_transposed_convolution,
    transposed_convolution,
)

quickly = pytest.mark.usefixtures("quick_compilation")


@dataclasses.dataclass(frozen=True)
class Case:
    """One transposed convolution: shapes of x and kernel, and settings."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    crops: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def settings(self):
        return self.stride, self.crops, self.dilation, self.groups

    def of(self, function):
        return lambda x, kernel: function(x, kernel, *self.settings)

    def arrays(self, seed=0, dtype=np.float32):
        """x, kernel, and a cotangent for the output."""
        rng = np.random.default_rng(seed)
        shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in (self.x, self.kernel)]
        output = jax.eval_shape(self.of(plain_transposed_convolution), *shapes)
        return [rng.normal(size=s).astype(dtype) for s in (self.x, self.kernel, output.shape)]


CASES = {
    "few features": Case((2, 4, 3, 5), (4, 3, 5, 3), (2, 2), ((1, 1), (1, 0)), (1, 1)),
    "many features": Case((2, 4, 3, 5), (4, 3, 5, 6), (2, 2), ((1, 1), (1, 0)), (1, 1)),
    "room at the end": Case((2, 3, 3, 3), (3, 2, 3, 5), (2, 3), ((1, 0), (0, -1)), (1, 1)),
    "few with room": Case((2, 3, 3, 3), (1, 2, 3, 2), (2, 3), ((0, -2), (0, -1)), (1, 1)),
    "dilated": Case((2, 5, 6), (3, 6, 5), (2,), ((3, 1),), (3,)),
    "three axes": Case((1, 2, 3, 2, 6), (2, 2, 3, 6, 5), (1, 2, 1), ((0, 0),) * 3, (1,) * 3),
    "grouped": Case((2, 3, 3, 4), (3, 3, 2, 6), (1, 2), ((1, 1), (1, 1)), (1, 1), 2),
}


@quickly
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_transpose_of_the_convolution_with_channels_exchanged(name):
    case = CASES[name]
    with jax.enable_x64(True):
        x, kernel, y = case.arrays(dtype=np.float64)
        groups, features = case.groups, kernel.shape[-1] // case.groups
        exchanged = [
            kernel[..., g * features : (g + 1) * features].swapaxes(-1, -2) for g in range(groups)
        ]
        there = plain_convolution(y, np.concatenate(exchanged, -1), *case.settings)
        back = case.of(transposed_convolution)(x, kernel)
        np.testing.assert_allclose((there * x).sum(), (back * y).sum(), rtol=1e-12)


@quickly
def test_by_hand():
    """Each element lays down the kernel as it is, two apart; what lies outside is cropped."""
    x, kernel = jnp.array([1.0, 10.0]), jnp.array([1.0, 2.0, 3.0])
    call = functools.partial(transposed_convolution, x[None, :, None], kernel[:, None, None], (2,))
    np.testing.assert_array_equal(call(((0, 0),), (1,)).ravel(), [1, 2, 13, 20, 30])
    np.testing.assert_array_equal(call(((1, 0),), (1,)).ravel(), [2, 13, 20, 30])
    np.testing.assert_array_equal(call(((0, -2),), (1,)).ravel(), [1, 2, 13, 20, 30, 0, 0])
    np.testing.assert_array_equal(call(((0, 0),), (2,)).ravel(), [1, 0, 12, 0, 23, 0, 30])


@quickly
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_plain_form(name):
    case = CASES[name]
    forms = (transposed_convolution, plain_transposed_convolution)
    found = jax.jit(lambda *arrays: [pulled_back(case.of(f), *arrays) for f in forms])
    assert_near(*found(*case.arrays()))


@quickly
@pytest.mark.parametrize(
    ("name", "use"),
    [
        *(("many features", use) for use in USES),
        *(("few features", use) for use in ("hessian-vector", "vmap over both")),
    ],
)
def test_it_may_be_transformed_as_the_plain_form_may(name, use):
    case = CASES[name]

    @jax.jit
    def both(*arrays):
        forms = (transposed_convolution, plain_transposed_convolution)
        return [USES[use](case.of(f), *arrays) for f in forms]

    assert_near(*both(*case.arrays()))


@quickly
@pytest.mark.parametrize("name", CASES)
def test_finite_differences_in_float64(name):
    with jax.enable_x64(True):
        case = CASES[name]
        x, kernel, g = case.arrays(dtype=np.float64)
        dx, dkernel, _ = case.arrays(seed=1, dtype=np.float64)

        @jax.jit
        def along(t):
            y = case.of(transposed_convolution)(x + t * dx, kernel + t * dkernel)
            return (jnp.sin(y) * g).sum()

        difference = (along(1e-5) - along(-1e-5)) / 2e-5
        slopes = jax.jit(lambda t: (jax.grad(along)(t), jax.jvp(along, (t,), (1.0,))[1]))(0.0)
        np.testing.assert_allclose(slopes, difference, rtol=1e-7, atol=1e-7)


@quickly
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["few features", "many features", "grouped"])
def test_half_precision_stays_half(name, dtype):
    case = CASES[name]
    arrays = case.arrays()
    half = [jnp.asarray(a, dtype) for a in arrays]
    found = jax.jit(functools.partial(pulled_back, case.of(transposed_convolution)))(*half)
    assert all(a.dtype == dtype for a in found)
    wide = [np.asarray(a, np.float32) for a in half]
    assert_near(found, pulled_back(case.of(plain_transposed_convolution), *wide), tolerance=0.01)


@quickly
def test_nan_reaches_what_its_window_reaches():
    x = np.zeros((1, 4, 1), np.float32)
    x[0, 2] = np.nan
    y = transposed_convolution(jnp.asarray(x), jnp.ones((2, 1, 1)), (2,), ((0, 0),), (1,))
    assert np.isnan(y[0, 4:6]).all()


def step(case):
    """Two steps of gradient descent on x and kernel, in a scan."""

    def loss(arrays, g):
        return (jnp.square(case.of(transposed_convolution)(*arrays)) * g).sum()

    def steps(x, kernel, g):
        def body(arrays, _):
            return jax.tree.map(lambda a, b: a - 1e-3 * b, arrays, jax.grad(loss)(arrays, g)), None

        return lax.scan(body, (x, kernel), None, length=2)[0]

    return jax.jit(steps)


@quickly
@pytest.mark.parametrize("platforms", [("cuda",), ("tpu",), ("cpu", "cuda", "tpu")], ids="-".join)
@pytest.mark.parametrize("name", ["few features", "many features", "grouped"])
def test_it_exports_for_other_platforms(name, platforms):
    arrays = CASES[name].arrays()
    program = step(CASES[name])
    exported = jax.export.export(program, platforms=platforms)(*arrays)
    assert "convolution" in exported.mlir_module()
    if "cpu" in platforms:
        assert_near(exported.call(*arrays), program(*arrays))


@pytest.mark.parametrize("name", ["few features", "many features"])
def test_the_compiled_step_keeps_to_canonical_convolutions(name):
    case = dataclasses.replace(CASES[name], x=(2, 8, 8, 5))
    text = step(case).lower(*case.arrays()).compile().as_text()
    layouts = re.findall(r"dim_labels=(\S+?)[,\s]", text)
    assert layouts
    assert set(layouts) <= {"b01f_01io->b01f"}, layouts
