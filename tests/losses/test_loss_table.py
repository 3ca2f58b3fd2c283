"""What holds for every loss: PyTorch's numbers, its gradients, its dtypes, its independence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from against_torch import agree
from jax.test_util import check_grads
from loss_table import TABLE, cast

from funnet import losses

pytestmark = pytest.mark.usefixtures("quick_compilation")
each = pytest.mark.parametrize("name", TABLE)


def test_the_table_has_all_losses():
    ours = {row.ours for row in TABLE.values()}
    public = {x for name, x in vars(losses).items() if callable(x) and not name.startswith("_")}
    assert ours == public


def is_floating(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


def of_floats(arrays, settings, row):
    """The loss as a function of its floating arrays, and these."""
    floating = {name: jnp.asarray(x) for name, x in arrays.items() if is_floating(x)}
    fixed = {name: x for name, x in arrays.items() if name not in floating}
    return lambda floating: row.ours(**floating, **fixed, **settings), floating


@each
@pytest.mark.parametrize("seed", range(20))
def test_values_and_gradients_are_those_of_pytorch(name, seed):
    torch = pytest.importorskip("torch")
    row = TABLE[name]
    arrays, settings = row.drawn(seed)
    agree(lambda x: row.ours(**x, **settings), lambda x: row.theirs(torch, **x, **settings), arrays)


@each
@pytest.mark.parametrize("seed", range(40, 43))
def test_float64_is_kept_to_its_last_digits(name, seed):
    torch = pytest.importorskip("torch")
    row = TABLE[name]
    arrays, settings = row.drawn(seed, np.float64)
    tensors = {key: torch.tensor(x) for key, x in arrays.items()}
    expected = row.theirs(torch, **tensors, **settings).numpy()
    with jax.enable_x64(True):
        found = jax.jit(lambda: row.ours(**arrays, **settings))()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@each
def test_gradients_are_finite_differences(name):
    row = TABLE[name]
    with jax.enable_x64(True):
        for seed in (50, 51):
            arrays, settings = row.drawn(seed, np.float64)
            loss, floating = of_floats(arrays, settings, row)
            check_grads(jax.jit(loss), (floating,), order=1, atol=1e-6, rtol=1e-6, eps=1e-6)


@each
def test_half_precision_is_computed_in_float32(name):
    row = TABLE[name]
    arrays, settings = row.drawn(60, jnp.bfloat16)
    loss, floating = of_floats(arrays, settings, row)
    found, pull = jax.vjp(jax.jit(loss), floating)
    wide = {key: cast(x, np.float32) for key, x in floating.items()}
    expected, wide_pull = jax.vjp(jax.jit(loss), wide)
    gradients, wide_gradients = pull(jnp.ones_like(found))[0], wide_pull(jnp.ones_like(found))[0]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    for key, gradient in gradients.items():
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            gradient.astype(jnp.float32), wide_gradients[key], rtol=1e-2, atol=1e-5
        )


@each
def test_vmap_is_a_loop(name):
    row = TABLE[name]
    arrays, settings = row.drawn(70)
    one = {key: x for key, x in arrays.items() if not (key == "weights" and x.ndim == 1)}
    two = {key: np.stack([x, x[::-1]]) for key, x in one.items()}
    rest = {key: arrays[key] for key in arrays.keys() - one.keys()}

    def loss(arrays):
        return row.ours(**arrays, **rest, **settings)

    found = jax.jit(jax.vmap(loss))(two)
    for i in (0, 1):
        expected = jax.jit(loss)({key: x[i] for key, x in two.items()})
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)


@each
def test_forward_mode_is_reverse_mode(name):
    row = TABLE[name]
    arrays, settings = row.drawn(80)
    loss, floating = of_floats(arrays, settings, row)
    way = jax.tree.map(jnp.cos, floating)
    _, slope = jax.jit(lambda x: jax.jvp(lambda x: loss(x).sum(), (x,), (way,)))(floating)
    gradient = jax.jit(jax.grad(lambda x: loss(x).sum()))(floating)
    expected = sum(jnp.vdot(gradient[key], way[key]) for key in way)
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.alone])
def test_an_example_alone_costs_what_it_costs_in_a_batch(name):
    row = TABLE[name]
    for seed in (90, 91):
        arrays, settings = row.drawn(seed)
        whole = row.ours(**arrays, **settings)
        shared = {"weights"} if arrays.get("weights", np.ones((1, 1))).ndim == 1 else set()
        alone = {key: x if key in shared else x[:1] for key, x in arrays.items()}
        np.testing.assert_allclose(row.ours(**alone, **settings), whole[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.alone])
def test_an_empty_batch_has_an_empty_loss(name):
    row = TABLE[name]
    arrays, settings = row.drawn(100)
    shared = {"weights"} if arrays.get("weights", np.ones((1, 1))).ndim == 1 else set()
    none = {key: x if key in shared else x[:0] for key, x in arrays.items()}
    assert row.ours(**none, **settings).shape == (0, *row.ours(**arrays, **settings).shape[1:])
