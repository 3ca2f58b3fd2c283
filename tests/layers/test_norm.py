"""Norms: PyTorch's numbers, running statistics, and statistics in float32 at least."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


def drawn(*shape, seed=0):
    return (3 + 2 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def affine(size):
    return {"scale": drawn(size, seed=1), "bias": drawn(size, seed=2)}


def torch_batch_norm(params, **settings):
    torch = pytest.importorskip("torch")
    norm = torch.nn.BatchNorm1d(len(params["scale"]), **settings)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(params["scale"]))
        norm.bias.copy_(torch.tensor(params["bias"]))
    return torch, norm


@pytest.mark.parametrize("shape", [(16, 5), (4, 3, 5), (2, 3, 4, 5), (2, 2, 2, 3, 5)])
def test_batch_norm_uses_the_statistics_of_the_batch(shape):
    x, params = drawn(*shape), affine(5)
    model = fn.Model(fn.batch_norm, eps=1e-3)
    state = model.init(KEY, x)[1]
    y, _ = model.apply(params, state, x, train=True)
    axes, wide = tuple(range(x.ndim - 1)), x.astype(np.float64)
    centred = wide - wide.mean(axes)
    expected = centred / np.sqrt(wide.var(axes) + 1e-3) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_running_statistics_are_those_of_pytorch_after_ten_steps(momentum):
    params = affine(5)
    torch, theirs = torch_batch_norm(params, momentum=1 - momentum)
    model = fn.Model(fn.batch_norm, momentum=momentum)
    state = model.init(KEY, drawn(6, 5))[1]
    step = jax.jit(lambda state, x: model.apply(params, state, x, train=True))
    for seed in range(10):
        x = drawn(6, 5, seed=seed)
        y, state = step(state, x)
        expected = theirs(torch.tensor(x)).detach().numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state["mean"], theirs.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(state["var"], theirs.running_var.numpy(), rtol=1e-5)
    theirs.eval()
    y, after = model.apply(params, state, x)
    np.testing.assert_allclose(y, theirs(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-4)
    assert after is state or after == state


def test_the_gradient_flows_through_the_statistics_of_the_batch():
    x, g, params = drawn(6, 5), drawn(6, 5, seed=3), affine(5)
    torch, theirs = torch_batch_norm(params)
    leaf = torch.tensor(x, requires_grad=True)
    theirs(leaf).backward(torch.tensor(g))
    model = fn.Model(fn.batch_norm)
    state = model.init(KEY, x)[1]

    def loss(params, x):
        return (model.apply(params, state, x, train=True)[0] * g).sum()

    gradients, dx = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    np.testing.assert_allclose(dx, leaf.grad.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients["scale"], theirs.weight.grad.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients["bias"], theirs.bias.grad.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 4, 5)])
def test_layer_norm_is_that_of_pytorch(shape):
    torch = pytest.importorskip("torch")
    x, params = drawn(*shape), affine(5)
    expected = torch.nn.functional.layer_norm(
        torch.tensor(x), (5,), torch.tensor(params["scale"]), torch.tensor(params["bias"]), 1e-3
    )
    y = fn.Model(fn.layer_norm, eps=1e-3)(params, x)
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_norms_begin_as_the_identity_of_normalised_input():
    for layer in (fn.batch_norm, fn.layer_norm):
        params, state = fn.Model(layer).init(KEY, drawn(4, 5))
        assert (params["scale"] == 1).all()
        assert not params["bias"].any()
        assert all((leaf == float(name == "var")).all() for name, leaf in state.items())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("layer", [fn.batch_norm, fn.layer_norm])
def test_half_precision_has_statistics_in_float32(layer, dtype):
    x = jnp.asarray(drawn(512, 8) + 200, dtype)  # in float16 the sum of squares would overflow
    model = fn.Model(layer)
    params, state = model.init(KEY, x)
    y, after = model.apply(params, state, x, train=True)
    wide, expected = model.apply(params, state, x.astype(jnp.float32), train=True)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(jnp.float32), wide, rtol=0.02, atol=0.02)
    for name in after:
        assert after[name].dtype == jnp.float32
        np.testing.assert_allclose(after[name], expected[name], rtol=1e-5)


def test_a_large_mean_does_not_drown_the_variance():
    x = drawn(64, 4) + 4096
    expected = (x - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)
    model = fn.Model(fn.batch_norm)
    y, _ = model.apply(*model.init(KEY, x), x, train=True)
    np.testing.assert_allclose(y, expected, atol=2e-3)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        x = jnp.asarray(drawn(4, 5), jnp.float64)
        for layer in (fn.batch_norm, fn.layer_norm):
            model = fn.Model(layer)
            y, after = model.apply(*model.init(KEY, x), x, train=True)
            assert y.dtype == jnp.float64
            assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize("shape", [(1, 5), (1, 1, 5)])
def test_one_value_a_channel_cannot_train_but_can_be_evaluated(shape):
    model, x = fn.Model(fn.batch_norm), drawn(*shape)
    params, state = model.init(KEY, x)
    with pytest.raises(ValueError, match="one value a channel"):
        model.apply(params, state, x, train=True)
    np.testing.assert_allclose(model.apply(params, state, x)[0], x, rtol=1e-4)


def test_momentum_outside_its_range_is_refused():
    for momentum in (-0.1, 1.5):
        with pytest.raises(ValueError, match="momentum"):
            fn.Model(fn.batch_norm, momentum=momentum).shapes(drawn(4, 5))
