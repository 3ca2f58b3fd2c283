"""The lifts: a repeated block is a Python loop, a rematerialised one is the block itself."""

import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet import initializers

pytestmark = pytest.mark.usefixtures("quick_compilation")

UNIFORM = initializers.uniform(0.5)
X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
KEY = jax.random.key(0)


@fn.layer
def plain(p, x):
    return x + fn.tanh(fn.dense(p["dense"], x, 4, kernel_init=UNIFORM))


@fn.layer
def full(p, x, factor=1.0, *, shift=None, rate=0.5):
    """A block with everything: nested parameters, state, keys, arrays and settings."""
    y = fn.batch_norm(p["norm"], fn.dense(p["dense"], x, 4, kernel_init=UNIFORM))
    y = y * p.param("scale", (4,), UNIFORM)
    y = fn.dropout(p["drop"], fn.tanh(y), rate) * factor
    return x + (y if shift is None else y + shift)


def closed(function, x=X):
    model = fn.Model(fn.layer(function))
    return model, *model.init(KEY, x)


def unrolled(block, n):
    """The layers `0` to `n - 1` of one scope, one after another."""

    @fn.layer
    def loop(p, x, *args, **settings):
        for i in range(n):
            x = block(p[str(i)], x, *args, **settings)
        return x

    return loop


def stacked(tree, n):
    """The trees of unrolled layers as those of a repeated one."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(tree[str(i)] for i in range(n)))


def value_and_gradients(model, params, state, x=X, **more):
    def loss(params, x):
        output, after = model.apply(params, state, x, **more)
        return jnp.sin(output).sum(), (output, after)

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)


def in_one_program(model, *trees, **more):
    return jax.jit(lambda *trees: value_and_gradients(model, *trees, **more))(*trees)


# repeat draws what unrolled layers draw, and computes what they compute.


@pytest.mark.parametrize(("block", "n"), [(plain, 1), (plain, 11), (full, 3)])
def test_turn_i_draws_exactly_what_a_layer_named_i_would(block, n):
    trees = closed(lambda p, x: fn.repeat(block, n)(p["blocks"], x))[1:]
    loops = closed(lambda p, x: unrolled(block, n)(p["blocks"], x))[1:]
    for repeated, loop in zip(trees, loops, strict=True):
        expected = {"blocks": stacked(loop["blocks"], n)} if loop else {}
        chex.assert_trees_all_equal(repeated, expected)


def test_nested_turns_draw_what_nested_layers_would():
    twice = fn.layer(lambda p, x: fn.repeat(plain, 2)(p["inner"], x))
    _, params, _ = closed(lambda p, x: fn.repeat(twice, 3)(p["outer"], x))
    loop = fn.layer(lambda p, x: unrolled(plain, 2)(p["inner"], x))
    _, apart, _ = closed(lambda p, x: unrolled(loop, 3)(p["outer"], x))
    inner = {str(i): {"inner": stacked(apart["outer"][str(i)]["inner"], 2)} for i in range(3)}
    chex.assert_trees_all_equal(params, {"outer": stacked(inner, 3)})
    assert params["outer"]["inner"]["dense"]["kernel"].shape == (3, 2, 4, 4)


def test_a_repeat_of_a_repeat_of_one_scope():
    _, params, _ = closed(lambda p, x: fn.repeat(fn.repeat(fn.dense, 2), 3)(p["d"], x, 4))
    loop = unrolled(unrolled(fn.dense, 2), 3)
    _, apart, _ = closed(lambda p, x: loop(p["d"], x, 4))
    inner = {str(i): stacked(apart["d"][str(i)], 2) for i in range(3)}
    chex.assert_trees_all_equal(params, {"d": stacked(inner, 3)})


@pytest.mark.parametrize(
    ("n", "train", "jitted"), [(1, True, True), (3, True, True), (3, False, True), (3, True, False)]
)
def test_repeat_is_a_loop_over_slices(n, train, jitted):
    settings = {"factor": 0.5, "shift": jnp.ones(4) / 3, "rate": 0.0}
    model, *trees = closed(lambda p, x: fn.repeat(full, n)(p["blocks"], x, **settings))
    block = fn.Model(full, **settings)

    def loop(params, state, x):
        after = []
        for i in range(n):
            own = jax.tree.map(lambda leaf, i=i: leaf[i], (params, state))
            x, new = block.apply(*own, x, train=train)
            after.append(new)
        return jnp.sin(x).sum(), (x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *after))

    params, state = (tree["blocks"] for tree in trees)
    expected = jax.jit(jax.value_and_grad(loop, (0, 2), has_aux=True))(params, state, X)

    def repeat(params, state, x):
        return value_and_gradients(model, params, state, x, train=train)

    found = (jax.jit(repeat) if jitted else repeat)(*trees, jnp.asarray(X))
    (loss, (output, after)), (gradient, inputs) = found
    found = (loss, (output, after["blocks"])), (gradient["blocks"], inputs)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


def test_dropout_differs_from_turn_to_turn():
    @fn.layer
    def added(p, x):
        return x + fn.dropout(p["drop"], jnp.ones_like(x), 0.5)

    twice = fn.layer(lambda p, x: fn.repeat(added, 2)(p["inner"], x))
    model = fn.Model(fn.layer(lambda p, x: fn.repeat(twice, 3)(p["outer"], x)))
    x = np.zeros((16, 16), np.float32)
    taps = "outer.inner.drop"
    _, captured = model.capture({}, {}, x, taps=taps, train=True, key=KEY)
    masks = captured[taps].reshape(6, -1)
    assert len(np.unique(masks, axis=0)) == 6


def test_a_shared_repeat_draws_other_keys_at_each_call():
    def twice(p, x):
        drop = fn.repeat(fn.dropout, 2)
        return [drop(p.shared("drop"), x, 0.5) for _ in range(2)]

    x = np.ones((16, 16), np.float32)
    first, second = fn.Model(fn.layer(twice))({}, x, train=True, key=KEY)
    assert not np.array_equal(first, second)


def test_a_shared_repeat_shares_parameters_and_moves_state_twice():
    def twice(p, x):
        for _ in range(2):
            x = fn.repeat(full, 2)(p.shared("blocks"), x, rate=0.0)
        return x

    def once(p, x):
        return fn.repeat(full, 2)(p["blocks"], x, rate=0.0)

    (model, params, state), (single, *_) = closed(twice), closed(once)
    output, after = model.apply(params, state, X, train=True)
    expected, middle = single.apply(params, state, X, train=True)
    expected = single.apply(params, middle, expected, train=True)
    chex.assert_trees_all_close((output, after), expected, rtol=1e-5, atol=1e-6)


def test_arrays_and_trees_may_be_carried():
    @fn.layer
    def both(p, x, mask):
        return {"a": fn.dense(p["d"], x["a"], 4) * mask, "b": x["b"] + 1}

    x = {"a": jnp.asarray(X), "b": jnp.int32(0)}
    mask = jnp.asarray([1.0, 0.0, 1.0, 1.0])
    model = fn.Model(fn.layer(lambda p, x: fn.repeat(both, 3)(p["blocks"], x, mask)))
    params, _ = model.init(KEY, x)
    output = model(params, x)
    assert output["b"] == 3
    assert (output["a"][:, 1] == 0).all()


@pytest.mark.parametrize("n", [0, -1, 2.0, "3", None])
def test_a_bad_number_of_turns_is_refused(n):
    with pytest.raises((ValueError, TypeError), match=f"repeat.*at least 1.*{n!r}"):
        fn.repeat(plain, n)


CHANGES = {
    "width": (lambda p, x: fn.dense(p, x, 5), "5"),
    "dtype": (lambda p, x: x.astype(jnp.bfloat16), "bfloat16"),
    "structure": (lambda p, x: (x, x), "float32"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_changes_what_it_carries_is_refused(change):
    function, word = CHANGES[change]
    with pytest.raises(ValueError, match=rf"must give what it takes.*'blocks'.*{word}"):
        closed(lambda p, x: fn.repeat(fn.layer(function), 2)(p["blocks"], x))


# remat: the same numbers, computed twice.


def bare(layer):
    return layer


@pytest.mark.parametrize(
    ("train", "run"),
    [(True, value_and_gradients), (True, in_one_program), (False, in_one_program)],
)
def test_remat_is_the_layer_itself(train, run):
    shift = jnp.arange(4.0)
    results = []
    for lift in (bare, fn.remat):
        model, *trees = closed(lambda p, x, lift=lift: lift(full)(p["b"], x, 0.5, shift=shift))
        results.append((trees, run(model, *trees, train=train, key=jax.random.key(3))))
    chex.assert_trees_all_equal(results[0][0], results[1][0])
    chex.assert_trees_all_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)


def test_remat_drops_what_the_layer_itself_drops():
    x = np.ones((16, 16), np.float32)
    direct = fn.Model(fn.layer(lambda p, x: fn.dropout(p["drop"], x, 0.5)))
    lifted = fn.Model(fn.layer(lambda p, x: fn.remat(fn.dropout)(p["drop"], x, 0.5)))
    outputs = [model({}, x, train=True, key=KEY) for model in (direct, lifted)]
    np.testing.assert_array_equal(*outputs)


def test_a_shared_remat_draws_other_keys_at_each_call():
    def twice(p, x):
        return [fn.remat(fn.dropout)(p.shared("drop"), x, 0.5) for _ in range(2)]

    x = np.ones((16, 16), np.float32)
    first, second = fn.Model(fn.layer(twice))({}, x, train=True, key=KEY)
    assert not np.array_equal(first, second)


def test_remat_sees_arrays_that_a_layer_closes_over():
    def outer(p, x, lift):
        weight = p.param("weight", (4,), initializers.normal())
        inner = fn.layer(lambda q, x: fn.dense(q, x * weight, 4))
        return lift(inner)(p["inner"], x)

    model, params, state = closed(lambda p, x: outer(p, x, fn.remat))
    direct, *_ = closed(lambda p, x: outer(p, x, bare))
    found, expected = (in_one_program(m, params, state) for m in (model, direct))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


SETTINGS = {"features": np.int64(4), "bias": np.bool_(True)}


@pytest.mark.parametrize("lift", [fn.remat, lambda layer: fn.repeat(layer, np.int64(2))])
def test_settings_may_be_numbers_of_numpy(lift):
    model, params, _ = closed(lambda p, x: lift(fn.dense)(p["it"], x, **SETTINGS))
    assert model(params, X).shape == X.shape


def residuals(lift):
    model, params, _ = closed(lambda p, x: lift(plain)(p["block"], x))
    jaxpr = jax.make_jaxpr(jax.grad(lambda params: model(params, X).sum()))(params)
    return str(jaxpr)


def test_remat_computes_its_activations_again():
    assert "checkpoint" in residuals(fn.remat) or "remat" in residuals(fn.remat)
    assert residuals(fn.remat).count(" tanh ") > residuals(bare).count(" tanh ")


LIFTED = {
    "repeat of remat": lambda layer: fn.repeat(fn.remat(layer), 3),
    "remat of repeat": lambda layer: fn.remat(fn.repeat(layer, 3)),
    "remat of remat": lambda layer: fn.repeat(fn.remat(fn.remat(layer)), 3),
}


@pytest.mark.parametrize("lift", LIFTED)
def test_lifts_of_lifts(lift):
    model, *trees = closed(lambda p, x: LIFTED[lift](full)(p["blocks"], x, rate=0.0))
    looped, *expected_trees = closed(lambda p, x: fn.repeat(full, 3)(p["blocks"], x, rate=0.0))
    chex.assert_trees_all_equal(trees, expected_trees)
    found, expected = (in_one_program(m, *trees, train=True) for m in (model, looped))
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lift", LIFTED)
def test_lifts_of_lifts_draw_a_key_a_turn(lift):
    @fn.layer
    def added(p, x):
        return x + fn.dropout(p["drop"], jnp.ones_like(x), 0.5)

    model = fn.Model(fn.layer(lambda p, x: LIFTED[lift](added)(p["blocks"], x)))
    output = model({}, np.zeros((32, 32), np.float32), train=True, key=KEY)
    assert set(np.unique(output)) == {0, 2, 4, 6}


# The point of repeat: a deep model traces as fast as a shallow one.


@fn.layer
def transformer_block(p, x, heads=2):
    width = x.shape[-1]
    h = fn.layer_norm(p["norm1"], x)
    q, k, v = jnp.split(fn.dense(p["qkv"], h, 3 * width), 3, -1)
    q, k, v = (a.reshape(*a.shape[:2], heads, -1).swapaxes(1, 2) for a in (q, k, v))
    weights = fn.softmax(q @ k.swapaxes(-1, -2) / np.float32(np.sqrt(width // heads)))
    h = (weights @ v).swapaxes(1, 2).reshape(x.shape)
    x = x + fn.dense(p["out"], h, width)
    h = fn.gelu(fn.dense(p["up"], fn.layer_norm(p["norm2"], x), 4 * width))
    return x + fn.dense(p["down"], h, width)


def equations(jaxpr):
    inner = jax.extend.core.jaxprs_in_params
    return len(jaxpr.eqns) + sum(equations(j) for eqn in jaxpr.eqns for j in inner(eqn.params))


SEQUENCES = jax.ShapeDtypeStruct((2, 8, 16), jnp.float32)


def transformer(lift):
    """A model of transformer blocks, the shapes of its parameters, and its gradient."""
    model = fn.Model(fn.layer(lambda p, x: lift(transformer_block)(p["blocks"], x)))
    params, _ = model.shapes(SEQUENCES)
    return model, params, jax.grad(lambda params, x: model(params, x).sum())


def test_a_deep_transformer_traces_in_twice_the_equations_of_one_block():
    counts = {}
    for depth, lift in {1: bare, 24: lambda layer: fn.repeat(layer, 24)}.items():
        _, params, gradient = transformer(lift)
        counts[depth] = equations(jax.make_jaxpr(gradient)(params, SEQUENCES).jaxpr)
    assert params["blocks"]["qkv"]["kernel"].shape == (24, 16, 48)
    assert counts[24] <= 2 * counts[1], counts


def trace_seconds(lift):
    """Processor time to trace a forward pass, the best of several."""
    model, params, _ = transformer(lift)
    times = []
    for _ in range(7):
        start = time.process_time()
        jax.make_jaxpr(lambda *arrays: model(*arrays))(params, SEQUENCES)  # a new one: no cache
        times.append(time.process_time() - start)
    return min(times)


def test_a_deep_transformer_traces_in_twice_the_time_of_one_block():
    one, many = trace_seconds(bare), trace_seconds(lambda layer: fn.repeat(layer, 24))
    print(f"one block {1e3 * one:.1f} ms, 24 blocks {1e3 * many:.1f} ms")
    assert many <= 2 * one
