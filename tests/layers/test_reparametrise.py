"""Weight and spectral norm: PyTorch's numbers, over any layer and lift, and what is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from against_torch import agree

import funnet as fn
from funnet import initializers

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
SEEDS = pytest.mark.parametrize("seed", range(24))
WRAPPERS = {"weight_norm": fn.weight_norm, "spectral_norm": fn.spectral_norm}
EACH = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# PyTorch's numbers: a dense layer for every fourth seed, else a convolution.


def layer_and_arrays(seed):
    """A layer, its settings, and its arrays."""
    rng = np.random.default_rng(seed)
    axes, (channels, features) = seed % 4, (int(n) for n in rng.integers(1, 6, 2))
    window = tuple(int(n) for n in rng.integers(1, 4, axes))
    sizes = rng.integers(3, 6, axes)
    layer, settings = (fn.conv, {"kernel_size": window, "padding": 0}) if axes else (fn.dense, {})
    arrays = {
        "x": drawn(int(rng.integers(1, 4)), *sizes, channels, seed=seed),
        "kernel": drawn(*window, channels, features, seed=seed + 100),
        "bias": drawn(features, seed=seed + 200),
    }
    return layer, settings | {"features": features}, arrays


def torch_layer(torch, x, weight, bias):
    """The layer on a weight in PyTorch's layout."""
    if weight.ndim == 2:
        return torch.nn.functional.linear(x, weight, bias)
    function = getattr(torch.nn.functional, f"conv{weight.ndim - 2}d")
    return function(x.movedim(-1, 1), weight, bias).movedim(1, -1)


def out_first(kernel):
    """A kernel (*window, in, out) in PyTorch's layout, (out, in, *window)."""
    return kernel.movedim((-1, -2), (0, 1))


@SEEDS
def test_weight_norm_is_that_of_pytorch(seed):
    torch = pytest.importorskip("torch")
    layer, settings, arrays = layer_and_arrays(seed)
    arrays["kernel_scale"] = drawn(settings["features"], seed=seed + 300)
    model = fn.Model(fn.weight_norm(layer), **settings)

    def ours(a):
        return model({name: a[name] for name in ("kernel", "kernel_scale", "bias")}, a["x"])

    def theirs(a):
        v = out_first(a["kernel"])
        scale = a["kernel_scale"].reshape(-1, *[1] * (v.ndim - 1))
        return torch_layer(torch, a["x"], torch._weight_norm(v, scale, 0), a["bias"])

    agree(ours, theirs, arrays)


def test_the_function_above_is_what_pytorchs_module_computes():
    torch = pytest.importorskip("torch")
    module = torch.nn.Conv2d(3, 4, 2)
    torch.nn.utils.parametrizations.weight_norm(module, dim=0)
    scale, v = (module.parametrizations.weight.original0, module.parametrizations.weight.original1)
    assert scale.shape == (4, 1, 1, 1)
    torch.testing.assert_close(module.weight, torch._weight_norm(v, scale, 0))


@SEEDS
def test_spectral_norm_is_that_of_pytorch_in_training(seed):
    """After some steps with other kernels, each of which moves the vector in both."""
    torch = pytest.importorskip("torch")
    layer, settings, arrays = layer_and_arrays(seed)
    model = fn.Model(fn.spectral_norm(layer), **settings)
    _, state = model.init(jax.random.key(seed), arrays["x"])
    kernel = torch.tensor(arrays["kernel"])

    def of_torch(v):
        return v.reshape(kernel.shape[:-1]).movedim(-1, 0).flatten()

    module = torch.nn.Linear(1, 1) if kernel.ndim == 2 else torch.nn.Conv2d(1, 1, 1)
    module.weight = torch.nn.Parameter(out_first(kernel))
    norm = torch.nn.utils.parametrizations.spectral_norm(module).parametrizations.weight[0]
    norm._v = of_torch(torch.tensor(np.asarray(state["kernel_v"])))

    def ours(a, state=state):
        params = {"kernel": a["kernel"], "bias": a["bias"]}
        return model.apply(params, state, a["x"], train=True)

    for step in range(seed % 3):
        other = arrays | {"kernel": drawn(*kernel.shape, seed=seed + 400 + step)}
        _, state = ours(other, state)
        norm(out_first(torch.tensor(other["kernel"])))

    def theirs(a):
        return torch_layer(torch, a["x"], norm(out_first(a["kernel"])), a["bias"])

    agree(lambda a: ours(a, state)[0], theirs, arrays)
    after = torch.tensor(np.asarray(ours(arrays, state)[1]["kernel_v"]))
    torch.testing.assert_close(of_torch(after), norm._v, rtol=1e-5, atol=1e-5)


# What the kernel becomes.


@fn.layer
def weigh(p, x, shape=(3, 4, 5)):
    """The kernel that a layer sees."""
    return p.param("kernel", shape, initializers.normal())


def seen(wrap, params, state=None, **how):
    return fn.Model(wrap(weigh)).apply(params, state or {}, jnp.zeros(()), **how)


def test_the_columns_of_weight_norm_have_the_lengths_of_its_scale():
    scale = np.array([2, -1, 0.5, 0, 3], np.float32)
    kernel, _ = seen(fn.weight_norm, {"kernel": drawn(3, 4, 5), "kernel_scale": scale})
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=(0, 1)), abs(scale), rtol=1e-6)


def test_weight_norm_knows_no_length_of_its_kernel():
    scale = np.ones(5, np.float32)
    short, long = (
        seen(fn.weight_norm, {"kernel": drawn(3, 4, 5) * size, "kernel_scale": scale})[0]
        for size in (1e-3, 1e6)
    )
    np.testing.assert_allclose(short, long, rtol=1e-5)


def test_weight_norm_begins_near_the_lengths_it_normalises():
    model = fn.Model(fn.weight_norm(fn.dense), features=64)
    params, _ = model.init(KEY, drawn(1, 64))
    lengths = np.linalg.norm(params["kernel"], axis=0)
    assert (params["kernel_scale"] == 1).all()
    np.testing.assert_allclose(np.mean(lengths**2), 1, rtol=0.05)


def test_a_vector_of_zero_stays_zero_and_can_leave_it():
    params = {"kernel": drawn(3, 4, 5), "kernel_scale": np.ones(5, np.float32)}
    params["kernel"][..., 2] = 0

    def loss(params):
        return seen(fn.weight_norm, params)[0].sum()

    assert not seen(fn.weight_norm, params)[0][..., 2].any()
    gradients = jax.grad(loss)(params)
    assert all(np.isfinite(leaf).all() for leaf in gradients.values())
    assert gradients["kernel"][..., 2].all()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (1, 5), (5, 1), (2, 3, 4), (1, 1)])
def test_after_enough_training_calls_the_largest_singular_value_is_one(shape):
    model = fn.Model(fn.spectral_norm(weigh), shape=shape)
    params, state = {"kernel": 7 * drawn(*shape)}, model.init(KEY, jnp.zeros(()))[1]
    step = jax.jit(lambda state: model.apply(params, state, jnp.zeros(()), train=True))
    for _ in range(200):
        kernel, state = step(state)
    for found in (kernel, model.apply(params, state, jnp.zeros(()))[0]):
        values = np.linalg.svd(np.asarray(found).reshape(-1, shape[-1]), compute_uv=False)
        np.testing.assert_allclose(values[0], 1, rtol=1e-5)


def test_an_evaluation_divides_by_the_stretch_of_its_vector_and_keeps_it():
    params, v = {"kernel": drawn(3, 4, 5)}, drawn(12, seed=1)
    state = {"kernel_v": v / np.linalg.norm(v)}
    kernel, after = seen(fn.spectral_norm, params, state)
    stretch = np.linalg.norm(state["kernel_v"] @ params["kernel"].reshape(12, 5))
    np.testing.assert_allclose(kernel, params["kernel"] / stretch, rtol=1e-5)
    chex.assert_trees_all_equal(after, state)


def test_the_vector_begins_at_length_one_and_differs_from_turn_to_turn():
    model = fn.Model(fn.repeat(fn.spectral_norm(fn.dense), 3), features=4)
    v = model.init(KEY, drawn(2, 4))[1]["kernel_v"]
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, rtol=1e-6)
    assert len(np.unique(v[:, 0])) == 3


@pytest.mark.parametrize("train", [True, False])
def test_a_kernel_of_zero_stays_zero_and_its_vector_stays(train):
    params, state = {"kernel": np.zeros((3, 4, 5), np.float32)}, {"kernel_v": drawn(12)}

    def loss(params):
        kernel, after = seen(fn.spectral_norm, params, state, train=train)
        return kernel.sum(), (kernel, after)

    gradients, (kernel, after) = jax.grad(loss, has_aux=True)(params)
    assert not kernel.any()
    assert np.isfinite(gradients["kernel"]).all()
    chex.assert_trees_all_equal(after, state)


def test_a_kernel_of_nan_leaves_the_vector_as_it_was():
    state = {"kernel_v": drawn(12)}
    params = {"kernel": np.full((3, 4, 5), np.nan, np.float32)}
    kernel, after = seen(fn.spectral_norm, params, state, train=True)
    assert np.isnan(kernel).all()
    chex.assert_trees_all_equal(after, state)


@EACH
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_normalised_in_float32(wrap, dtype):
    model = fn.Model(wrap(weigh))
    params, state = model.init(KEY, jnp.zeros(()))
    # In float16 the squares of such numbers overflow, or vanish.
    half = params | {"kernel": jnp.asarray(drawn(3, 4, 5) * [3e4, 3e3, 1, 1e-2, 1e-4], dtype)}
    wide = half | {"kernel": half["kernel"].astype(jnp.float32)}
    found, expected = (model.apply(tree, state, jnp.zeros(()))[0] for tree in (half, wide))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=0.01, atol=1e-6)


# Over any layer, in any lift.


@fn.layer
def looped(p, x, steps=3):
    """A toy of a recurrent layer: its kernel has another name, and is used in a scan."""
    kernel = p.param("hidden_kernel", (x.shape[-1],) * 2, initializers.normal(1.0))
    return jax.lax.scan(lambda h, _: (fn.tanh(h @ kernel), None), x, length=steps)[0]


def test_another_parameter_goes_by_its_name():
    x = drawn(2, 4)
    weight, spectral = (fn.Model(wrap(looped, "hidden_kernel")) for wrap in WRAPPERS.values())
    params, _ = weight.init(KEY, x)
    assert set(params) == {"hidden_kernel", "hidden_kernel_scale"}
    kernel = params["hidden_kernel"] / np.linalg.norm(params["hidden_kernel"], axis=0)
    expected = fn.Model(looped)({"hidden_kernel": kernel}, x)
    np.testing.assert_allclose(weight(params, x), expected, rtol=1e-5)
    assert set(spectral.init(KEY, x)[1]) == {"hidden_kernel_v"}


LIFTS = {
    "repeat within": lambda wrap, layer: wrap(fn.repeat(layer, 3)),
    "remat within": lambda wrap, layer: fn.repeat(wrap(fn.remat(layer)), 3),
    "remat around": lambda wrap, layer: fn.repeat(fn.remat(wrap(layer)), 3),
    "remat around all": lambda wrap, layer: fn.remat(fn.repeat(wrap(layer), 3)),
}


@EACH
@pytest.mark.parametrize("lift", LIFTS)
def test_lifts_draw_and_compute_what_a_loop_would(lift, wrap):
    lifted = fn.Model(fn.layer(lambda p, x: LIFTS[lift](wrap, fn.conv)(p["it"], x, 3, 2)))

    @fn.layer
    def loop(p, x):
        q = p["it"]
        for i in range(3):
            x = wrap(fn.conv)(q[str(i)], x, 3, 2)
        return x

    def stacked(tree):
        turns = [tree["it"][str(i)] for i in range(3)] if tree else [{}]
        return {"it": jax.tree.map(lambda *leaves: jnp.stack(leaves), *turns)} if tree else {}

    x, model = drawn(2, 4, 4, 3), fn.Model(loop)
    trees, own = lifted.init(KEY, x), model.init(KEY, x)
    chex.assert_trees_all_close(trees, tuple(map(stacked, own)), rtol=1e-6)

    def loss(model, params, state):
        y, after = model.apply(params, state, x, train=True)
        return jnp.sin(y).sum(), (y, after)

    run = jax.jit(jax.grad(loss, 1, has_aux=True), static_argnums=0)
    (found, (y, after)), (expected, (target, then)) = run(lifted, *trees), run(model, *own)
    pairs = (found, y, after), (stacked(expected), target, stacked(then))
    chex.assert_trees_all_close(*pairs, rtol=1e-4, atol=1e-5)


@EACH
def test_members_of_an_ensemble_are_mapped(wrap):
    model, x = fn.Model(wrap(fn.dense), features=3), drawn(4, 5)
    keys = jax.random.split(jax.random.key(1), 2)
    trees = jax.vmap(lambda key: model.init(key, x))(keys)
    found = jax.vmap(lambda trees: model.apply(*trees, x, train=True))(trees)
    for i in range(2):
        own, result = (jax.tree.map(lambda leaf, i=i: leaf[i], tree) for tree in (trees, found))
        chex.assert_trees_all_close(result, model.apply(*own, x, train=True), rtol=1e-5, atol=1e-6)


@EACH
def test_a_wrapped_layer_is_the_place_it_was(wrap):
    @fn.layer
    def net(p, x):
        return fn.repeat(wrap(fn.dense), 2)(p["blocks"], wrap(fn.dense)(p["in"], x, 4), 4)

    model, x = fn.Model(net), drawn(2, 4)
    params, state = model.init(KEY, x)
    _, taps = model.capture(params, state, x, taps=["in", "blocks.1"])
    assert {name: tap.shape for name, tap in taps.items()} == {"in": (2, 4), "blocks.1": (2, 4)}
    assert repr(fn.Model(wrap(fn.dense), features=3)) == "Model(dense, features=3)"


@EACH
def test_a_shared_layer_may_be_wrapped_at_each_use(wrap):
    @fn.layer
    def twice(p, x):
        return wrap(fn.dense)(p.shared("d"), wrap(fn.dense)(p.shared("d"), x, 4), 4)

    model, x = fn.Model(twice), drawn(2, 4)
    once = fn.Model(wrap(fn.dense), features=4)
    params, state = model.init(KEY, x)
    first, after = once.apply(params["d"], state.get("d", {}), x, train=True)
    second, after = once.apply(params["d"], after, first, train=True)
    found, then = model.apply(params, state, x, train=True)
    np.testing.assert_allclose(found, second, rtol=1e-5)
    chex.assert_trees_all_close(then.get("d", {}), after, rtol=1e-6)


def test_both_at_once_are_applied_from_the_outermost_inwards():
    model = fn.Model(fn.weight_norm(fn.spectral_norm(weigh)))
    params, state = model.init(KEY, jnp.zeros(()))
    assert set(params) | set(state) == {"kernel", "kernel_scale", "kernel_v"}
    columns, _ = seen(fn.weight_norm, params)
    expected, _ = seen(fn.spectral_norm, {"kernel": columns}, state)
    np.testing.assert_allclose(model.apply(params, state, jnp.zeros(()))[0], expected, rtol=1e-5)


# What is refused.


@EACH
def test_what_is_no_layer_is_refused(wrap):
    with pytest.raises(TypeError, match=r"takes a layer and gives one, got float32\[2,4\]: write"):
        wrap(jnp.zeros((2, 4)))


@EACH
def test_a_call_without_a_scope_is_refused_as_that_of_the_layer(wrap):
    with pytest.raises(TypeError, match=r"dense is a layer: its first argument is a scope"):
        wrap(fn.dense)(jnp.zeros((2, 4)), 3)


@EACH
def test_a_parameter_that_the_layer_does_not_ask_for_is_refused(wrap):
    @fn.layer
    def net(p, x):
        return wrap(fn.batch_norm)(p["it"], x)

    with pytest.raises(ValueError, match=r"batch_norm at 'it' asks for no parameter 'kernel'"):
        fn.Model(net).init(KEY, drawn(2, 4))


@EACH
def test_a_block_whose_layers_have_the_kernels_is_refused(wrap):
    @fn.layer
    def block(p, x):
        return fn.dense(p["inner"], x, 4)

    with pytest.raises(ValueError, match=r"block at 'the top'.*itself: wrap the layer within"):
        fn.Model(wrap(block)).init(KEY, drawn(2, 4))


def test_spectral_norm_keeps_state_and_says_so():
    model, x = fn.Model(fn.spectral_norm(fn.dense), features=3), drawn(2, 4)
    with pytest.raises(ValueError, match=r"keeps state \('kernel_v'\)"):
        model(model.init(KEY, x)[0], x)
