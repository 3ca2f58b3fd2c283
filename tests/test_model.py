"""A model: pure functions `init` and `apply` over plain trees, which JAX may transform."""

import logging

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet import initializers

X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
KEY = jax.random.key(0)


@fn.layer
def mlp(p, x, width=6, classes=3):
    hidden = fn.relu(fn.layer_norm(p["norm"], fn.dense(p["hidden"], x, width)))
    return fn.dense(p["out"], hidden, classes)


@fn.layer
def noisy(p, x, rate=0.5):
    """State, keys and parameters in one."""
    x = fn.batch_norm(p["norm"], fn.dense(p["dense"], x, 4))
    return fn.dropout(p["drop"], x, rate)


def counted(calls):
    """An initializer that notes each time it is traced."""

    def init(key, shape, dtype):
        calls.append(shape)
        return jax.random.normal(key, shape, dtype)

    return init


# init: plain trees, from shapes alone, in one program.


def test_trees_are_plain_nested_dicts_of_arrays():
    params, state = fn.Model(noisy).init(KEY, X)
    assert type(params) is dict
    assert type(params["dense"]) is dict
    assert {name: sorted(tree) for name, tree in params.items()} == {
        "norm": ["bias", "scale"],
        "dense": ["bias", "kernel"],
    }
    assert sorted(state["norm"]) == ["mean", "var"]
    leaves = jax.tree.leaves((params, state))
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in leaves)


@pytest.mark.parametrize("layer", [mlp, noisy, fn.dense])
def test_shapes_are_those_of_init(layer):
    settings = {"features": 3} if layer is fn.dense else {}
    model = fn.Model(layer, **settings)
    shapes, trees = model.shapes(X), model.init(KEY, X)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, trees)


def test_inputs_may_be_shapes():
    model = fn.Model(noisy)
    chex.assert_trees_all_equal(
        model.init(KEY, jax.ShapeDtypeStruct(X.shape, X.dtype)), model.init(KEY, X)
    )


def test_parameters_depend_on_key_and_shapes_not_on_values_batch_or_settings():
    params = [
        fn.Model(noisy).init(KEY, X)[0],
        fn.Model(noisy).init(KEY, X * 7 + 1)[0],
        fn.Model(noisy).init(KEY, X[:3])[0],
        fn.Model(noisy, rate=0.1).init(KEY, X)[0],
    ]
    for other in params[1:]:
        chex.assert_trees_all_equal(params[0], other)


def test_init_and_shapes_run_no_forward_pass():
    ran = []

    @fn.layer
    def tells(p, x):
        jax.debug.callback(lambda: ran.append("forward"))
        return fn.dense(p["d"], x, 3)

    model = fn.Model(tells)
    params, _ = model.init(KEY, X)
    model.shapes(X)
    model.summary(X)
    jax.effects_barrier()
    assert ran == []
    model(params, X).block_until_ready()
    jax.effects_barrier()
    assert ran == ["forward"]


def test_shapes_allocate_nothing_however_large_the_model():
    x = jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32)  # four terabytes
    before = len(jax.live_arrays())
    params, _ = fn.Model(mlp, width=2**24, classes=2**24).shapes(x)
    assert params["hidden"]["kernel"].shape == (2**20, 2**24)
    assert len(jax.live_arrays()) == before


def test_init_needs_no_room_for_its_inputs():
    x = jax.ShapeDtypeStruct((2**40, 4), jnp.float32)
    assert fn.Model(mlp).init(KEY, x)[0]["hidden"]["kernel"].shape == (4, 6)


def test_init_traces_each_initializer_once():
    calls = []
    init = counted(calls)

    @fn.layer
    def two(p, x):
        return x * p.param("a", (4,), init) + p["below"].param("b", (4,), init)

    model = fn.Model(two)
    first = model.init(KEY, X)
    assert len(calls) == 2
    again = model.init(KEY, X)
    assert len(calls) == 2
    chex.assert_trees_all_equal(first, again)


def test_init_compiles_one_program(caplog):
    model = fn.Model(noisy)
    x = np.zeros((3, 17), np.float32)  # a shape that no other test has compiled
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        model.init(KEY, x)
    compiled = [r.getMessage() for r in caplog.records if "Finished XLA comp" in r.getMessage()]
    assert len(compiled) == 1, compiled
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        model.init(jax.random.key_data(KEY), x)
        model.init(KEY, x)
    assert not [r for r in caplog.records if "Finished XLA comp" in r.getMessage()]


def test_init_may_be_jitted():
    model = fn.Model(noisy)
    chex.assert_trees_all_equal(jax.jit(model.init)(KEY, X), model.init(KEY, X))


def test_a_raw_key_is_as_good_as_a_typed_one():
    model = fn.Model(mlp)
    chex.assert_trees_all_equal(model.init(jax.random.PRNGKey(0), X), model.init(KEY, X))


def test_an_initializer_may_give_what_the_parameter_is_cast_to():
    @fn.layer
    def half(p, x):
        return p.param("a", (4,), lambda key, shape, dtype: np.ones(shape), jnp.bfloat16)

    params, _ = fn.Model(half).init(KEY, X)
    assert params["a"].dtype == jnp.bfloat16


def test_a_model_may_ask_for_nothing():
    params, state = fn.Model(fn.dropout, rate=0.5).init(KEY, X)
    assert params == {}
    assert state == {}


# apply: a pure function, and what it returns.


def test_apply_is_pure_and_repeats_itself():
    model = fn.Model(noisy)
    params, state = model.init(KEY, X)
    copies = jax.tree.map(np.array, (params, state))
    first = model.apply(params, state, X, train=True, key=KEY)
    chex.assert_trees_all_equal(first, model.apply(params, state, X, train=True, key=KEY))
    chex.assert_trees_all_equal((params, state), copies)


def test_training_keeps_the_structure_of_the_state_and_evaluation_the_state():
    model = fn.Model(noisy)
    params, state = model.init(KEY, X)
    trained, evaluated = (model.apply(params, state, X, train=t, key=KEY)[1] for t in (True, False))
    chex.assert_trees_all_equal_shapes_and_dtypes(trained, state)
    assert jax.tree.structure(trained) == jax.tree.structure(state)
    assert not np.array_equal(trained["norm"]["mean"], state["norm"]["mean"])
    chex.assert_trees_all_equal(evaluated, state)


def test_calling_gives_the_output_alone():
    model = fn.Model(mlp)
    params, state = model.init(KEY, X)
    output, after = model.apply(params, state, X)
    np.testing.assert_array_equal(model(params, X), output)
    assert after == {}


def test_calling_may_train():
    model = fn.Model(fn.dropout, rate=0.5)
    x = np.ones((32, 32), np.float32)
    output = model({}, x, train=True, key=KEY)
    assert set(np.unique(output)) == {0, 2}
    np.testing.assert_array_equal(output, model.apply({}, {}, x, train=True, key=KEY)[0])


def test_settings_and_arrays_may_be_given_by_name():
    @fn.layer
    def scaled(p, x, *, mask=None, factor=1.0, width=3):
        y = fn.dense(p["d"], x, width) * factor
        return y if mask is None else jnp.where(mask, y, 0)

    model = fn.Model(scaled, width=5)
    mask = np.arange(8)[:, None] < 4
    params, _ = model.init(KEY, X, mask=mask)
    output = model(params, X, mask=mask, factor=2.0)
    assert output.shape == (8, 5)
    np.testing.assert_array_equal(output, np.where(mask, 2 * model(params, X), 0))
    assert model.shapes(X, mask=mask)[0]["d"]["kernel"].shape == (4, 5)
    assert model.summary(X, mask=mask).parameters == 25


def test_outputs_may_be_any_tree():
    @fn.layer
    def several(p, x):
        y = fn.dense(p["d"], x, 2)
        return {"y": y, "pair": (x, [y.sum(), None]), "name": "text"}

    model = fn.Model(several)
    params, state = model.init(KEY, X)
    output, _ = model.apply(params, state, X)
    assert output["name"] == "text"
    assert output["pair"][1][1] is None


def test_a_cast_of_the_tree_and_the_input_is_half_precision():
    model = fn.Model(noisy)
    params, state = model.init(KEY, X)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    output, after = model.apply(half, state, jnp.asarray(X, jnp.bfloat16), train=True, key=KEY)
    assert output.dtype == jnp.bfloat16
    assert after["norm"]["mean"].dtype == jnp.float32


# What JAX does to functions, it does to apply.


def loss(model, params, state, x, key=KEY):
    output, _ = model.apply(params, state, x, train=True, key=key)
    return jnp.square(output).mean()


@pytest.mark.usefixtures("quick_compilation")
def test_jit_and_grad():
    model = fn.Model(noisy)
    params, state = model.init(KEY, X)
    eager = jax.value_and_grad(loss, 1)(model, params, state, X)
    jitted = jax.jit(jax.value_and_grad(loss, 1), static_argnums=0)(model, params, state, X)
    chex.assert_trees_all_close(eager, jitted, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal_shapes_and_dtypes(eager[1], params)


@pytest.mark.usefixtures("quick_compilation")
def test_apply_as_a_scan_of_steps():
    model = fn.Model(noisy)
    params, state = model.init(KEY, X)
    keys = jax.random.split(jax.random.key(1), 3)

    def step(state, key):
        output, state = model.apply(params, state, X, train=True, key=key)
        return state, output

    after, outputs = jax.lax.scan(step, state, keys)
    for key, output in zip(keys, outputs, strict=True):
        state, expected = step(state, key)
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(after, state, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("transform", [jax.checkpoint, lambda f: f])
def test_per_example_gradients(transform):
    model = fn.Model(mlp)
    params, _ = model.init(KEY, X)
    gradient = jax.grad(transform(lambda params, x: model(params, x[None]).sum()))
    each = jax.jit(jax.vmap(gradient, (None, 0)))(params, X)
    whole = jax.jit(jax.grad(lambda params: model(params, X).sum()))(params)
    summed = jax.tree.map(lambda leaf: leaf.sum(0), each)
    chex.assert_trees_all_close(summed, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("quick_compilation")
def test_an_ensemble_of_eight_is_eight_models():
    model = fn.Model(noisy)
    keys, drops = (jax.random.split(jax.random.key(seed), 8) for seed in (1, 2))
    trees = jax.vmap(model.init, (0, None))(keys, X)
    gradient = jax.grad(loss, 1)
    together = jax.jit(jax.vmap(lambda p, s, k: gradient(model, p, s, X, k)))(*trees, drops)
    for i in range(8):
        params, state = model.init(keys[i], X)
        own = jax.tree.map(lambda leaf, i=i: leaf[i], (trees, together))
        chex.assert_trees_all_equal(own[0], (params, state))
        alone = gradient(model, params, state, X, drops[i])
        chex.assert_trees_all_close(own[1], alone, rtol=1e-4, atol=1e-5)


# Trees that do not fit, and exceptions on their way out.


def test_a_parameter_of_another_shape_is_refused():
    model = fn.Model(mlp)
    params, _ = model.init(KEY, X)
    params["hidden"]["kernel"] = jnp.ones((5, 6))
    with pytest.raises(ValueError, match=r"hidden\.kernel.*\(5, 6\).*\(4, 6\).*float32\[8,4\]"):
        model(params, X)


def test_a_missing_parameter_is_refused():
    model = fn.Model(mlp)
    params, _ = model.init(KEY, X)
    del params["out"]["bias"]
    with pytest.raises(ValueError, match=r"out\.bias.*kernel"):
        model(params, X)


@pytest.mark.parametrize("wrap", [lambda x: (x,), lambda x: [x], lambda x: jnp.ones(3)])
def test_parameters_that_are_no_dict_are_refused(wrap):
    params, _ = fn.Model(mlp).init(KEY, X)
    with pytest.raises(TypeError, match=r"params must be a dict.*model\.init"):
        fn.Model(mlp)(wrap(params), X)


def test_a_subtree_that_is_no_dict_is_refused_by_name():
    model = fn.Model(fn.layer(lambda p, x: noisy(p["block"], x)))
    params, state = model.init(KEY, X)
    with pytest.raises(ValueError, match=r"block\.dense\.kernel"):
        model.apply({"block": jnp.ones(3)}, state, X)
    with pytest.raises(ValueError, match=r"block\.norm\.mean"):
        model.apply(params, {"block": jnp.ones(3)}, X)


class Trouble(KeyError):
    """An exception type of the caller's own."""


@fn.layer
def troubled(p, x):
    raise Trouble("own words")


@fn.layer
def outer(p, x):
    return troubled(p["a"]["b"], x * p.param("scale", x.shape[-1:], initializers.ones))


WAYS = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "grad": lambda f: jax.grad(lambda params, x: f(params, x).sum()),
    "vmap": lambda f: jax.vmap(f, (None, 0)),
    "all": lambda f: jax.jit(jax.vmap(jax.grad(lambda p, x: f(p, x).sum()), (None, 0))),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_exception_keeps_its_type_and_gains_its_place(way):
    model, params = fn.Model(outer), {"scale": jnp.ones(4)}
    with pytest.raises(Trouble, match="own words") as caught:
        WAYS[way](model)(params, X)
    notes = "\n".join(caught.value.__notes__)
    shape = "float32[4]" if way in ("vmap", "all") else "float32[8,4]"
    assert f"in a.b (troubled), given {shape}" in notes
    assert f"(outer), given {shape}" in notes
    assert notes.index("troubled") < notes.index("outer")


def test_an_exception_while_initialising_gains_its_place_too():
    with pytest.raises(Trouble, match="own words") as caught:
        fn.Model(outer).init(KEY, X)
    assert any("a.b (troubled)" in note for note in caught.value.__notes__)
