"""The scope: what it gives by name, what it refuses, and that a place depends on nothing else."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet import initializers

X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
ONES = initializers.ones


def closed(function):
    return fn.Model(fn.layer(function))


def made(function, x=X):
    model = closed(function)
    return model, *model.init(jax.random.key(0), x)


def run(function, x=X, **more):
    model, params, state = made(function, x)
    return model.apply(params, state, x, **more)


# A parameter's numbers depend on the key and its path, and on nothing else.


def alone(p, x):
    return fn.dense(p["middle"], x, 4)


def among_siblings(p, x):
    x = fn.dense(p["before"], x, 4)
    x = fn.dense(p["middle"], x, 4)
    return fn.batch_norm(p["after"], fn.conv(p["conv"], x[:, None], 2, 1))


def with_parameters_beside(p, x):
    x = x * p.param("scale", (4,), ONES)
    return fn.dense(p["middle"], x, 4) + p.param("bias", (4,), initializers.normal())


@pytest.mark.parametrize("function", [among_siblings, with_parameters_beside])
def test_a_sibling_changes_no_other_numbers(function):
    chex.assert_trees_all_equal(made(function)[1]["middle"], made(alone)[1]["middle"])


def test_a_path_has_the_same_numbers_however_it_is_reached():
    def nested(p, x):
        return fn.dense(p["middle"], fn.dense(p["a"]["b"], x, 4), 4)

    def inner(p, x):
        return fn.dense(p["b"], x, 4)

    def layered(p, x):
        return fn.layer(inner)(p["a"], x)

    chex.assert_trees_all_equal(made(nested)[1]["a"], made(layered)[1]["a"])


def test_paths_and_keys_give_numbers_of_their_own():
    def two(p, x):
        return fn.dense(p["a"], x, 4) + fn.dense(p["b"], x, 4)

    model = closed(two)
    first, second = (model.init(jax.random.key(seed), X)[0] for seed in (0, 1))
    kernels = [tree[name]["kernel"] for tree in (first, second) for name in ("a", "b")]
    for i, kernel in enumerate(kernels):
        assert not any(np.array_equal(kernel, other) for other in kernels[:i])


def test_joined_names_do_not_run_into_each_other():
    def slippery(p, x):
        return fn.dense(p["ab"]["c"], x, 4) + fn.dense(p["a"]["bc"], x, 4)

    _, params, _ = made(slippery)
    assert not np.array_equal(params["ab"]["c"]["kernel"], params["a"]["bc"]["kernel"])


# A name is a string without a dot.

ASK = {
    "child": lambda p, name: p[name],
    "shared": lambda p, name: p.shared(name),
    "param": lambda p, name: p.param(name, (4,), ONES),
    "variable": lambda p, name: p.variable(name, (4,), ONES),
}


@pytest.mark.parametrize("name", ["a.b", "", 3, None])
@pytest.mark.parametrize("ask", ASK)
def test_a_bad_name_is_refused_when_it_is_given(ask, name):
    def bad(p, x):
        ASK[ask](p, name)
        return x

    with pytest.raises((ValueError, TypeError), match="string without a dot"):
        closed(bad).init(jax.random.key(0), X)


# Sharing is said, never silent: tied weights, siamese branches.


def tied(p, ids):
    x = fn.embed(p.shared("tokens"), ids, 7, 4)
    return fn.unembed(p.shared("tokens"), x, 7)


def untied(p, ids):
    return fn.unembed(p["out"], fn.embed(p["in"], ids, 7, 4), 7)


def test_tied_weights_are_one_parameter_and_their_gradients_add_up():
    ids = np.arange(6)
    model, params, _ = made(tied, ids)
    table = params["tokens"]["table"]
    assert list(params) == ["tokens"]
    assert table.shape == (7, 4)

    def loss(model, params):
        return jnp.square(model(params, ids)).sum()

    apart = {"in": {"table": table}, "out": {"table": table}}
    parts = jax.grad(loss, 1)(closed(untied), apart)
    whole = jax.grad(loss, 1)(model, params)["tokens"]["table"]
    np.testing.assert_allclose(whole, parts["in"]["table"] + parts["out"]["table"], rtol=1e-5)


def test_siamese_branches_share_a_whole_subtree():
    def tower(p, x):
        return fn.dense(p["out"], fn.relu(fn.dense(p["hidden"], x, 5)), 3)

    def siamese(p, x):
        left, right = (fn.layer(tower)(p.shared("tower"), half) for half in (x[:4], x[4:]))
        return left, right

    (left, right), _ = run(siamese, np.concatenate([X[:4], X[:4]]))
    _, params, _ = made(siamese)
    np.testing.assert_array_equal(left, right)
    assert sorted(params["tower"]) == ["hidden", "out"]


def test_shared_state_moves_once_for_each_call():
    def twice(p, x):
        fn.batch_norm(p.shared("norm"), x, momentum=0.5)
        return fn.batch_norm(p.shared("norm"), x + 1, momentum=0.5)

    _, state = run(twice, train=True)
    expected = 0.5 * (0.5 * X.mean(0)) + 0.5 * (X + 1).mean(0)
    np.testing.assert_allclose(state["norm"]["mean"], expected, rtol=1e-5, atol=1e-6)


def test_sharing_between_calls_of_different_shapes_is_refused():
    def unequal(p, x):
        return fn.dense(p.shared("d"), fn.dense(p.shared("d"), x, 5), 5)

    with pytest.raises(ValueError, match=r"d\.kernel.*\(4, 5\).*\(5, 5\)"):
        closed(unequal).init(jax.random.key(0), X)


# Keys: one of each path's own, another at each call.


def masks(**calls):
    """Dropout masks of layers called in this order; `twice=2` draws at one shared place twice."""

    def drops(p, x):
        return {
            name: [fn.dropout(p.shared(name), x, 0.5) for _ in range(count)]
            for name, count in calls.items()
        }

    return run(drops, np.ones((16, 16), np.float32), train=True, key=jax.random.key(1))[0]


def test_keys_depend_on_the_path_alone():
    chex.assert_trees_all_equal(masks(b=1)["b"], masks(a=1, b=1, c=2)["b"])


def test_keys_differ_from_path_to_path_and_from_call_to_call():
    drawn = [mask for several in masks(a=2, b=2).values() for mask in several]
    for i, mask in enumerate(drawn):
        assert not any(np.array_equal(mask, other) for other in drawn[:i])


def test_keys_differ_with_the_model_key_and_repeat_with_it():
    model = fn.Model(fn.dropout, rate=0.5)
    x = np.ones((16, 16), np.float32)
    first, again, other = (model({}, x, train=True, key=jax.random.key(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# State: read, updated, returned; nothing is changed in place.


def counter(p, x):
    count = p.variable("count", (), initializers.zeros, jnp.int32)
    if p.train:
        p.update("count", count + 1)
    return x + count.astype(x.dtype)


def two_counters(p, x):
    return fn.layer(counter)(p["a"], x) + fn.layer(counter)(p["b"], x)


def test_state_is_read_and_updated_and_the_old_one_stays():
    model, params, state = made(two_counters)
    output, after = model.apply(params, state, X, train=True)
    np.testing.assert_array_equal(output, 2 * X)
    assert after == {"a": {"count": 1}, "b": {"count": 1}}
    assert state == {"a": {"count": 0}, "b": {"count": 0}}
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)


def test_evaluation_leaves_state_alone():
    model, params, state = made(two_counters)
    assert model.apply(params, state, X)[1] == state


def test_an_update_is_kept_in_the_dtype_of_its_variable():
    def wide(p, x):
        p.variable("seen", (4,), initializers.zeros, jnp.bfloat16)
        p.update("seen", x[0])
        return x

    _, state = run(wide)
    assert state["seen"].dtype == jnp.bfloat16


def test_a_variable_reads_what_was_last_written():
    def write_and_read(p, x):
        before = p.shared("it").variable("v", (), initializers.zeros)
        p.shared("it").update("v", before + 5)
        return p.shared("it").variable("v", (), initializers.zeros)

    assert run(write_and_read)[0] == 5


def test_train_is_what_the_caller_said():
    def mode(p, x):
        return p.train, p["child"].train

    assert run(mode)[0] == (False, False)
    assert run(mode, train=True)[0] == (True, True)


# A wrapped parameter: the layer sees a function of what is stored.


def gained(q, value):
    return value * q.param("gain", value.shape[-1:], initializers.constant(3.0))


def wrapped_dense(p, x):
    return fn.dense(p["d"].wrapped("kernel", gained), x, 4, bias=False)


def test_a_layer_sees_the_function_of_its_parameter():
    model, params, _ = made(wrapped_dense)
    assert {name: leaf.shape for name, leaf in params["d"].items()} == {
        "kernel": (4, 4),
        "gain": (4,),
    }
    np.testing.assert_allclose(model(params, X), X @ (params["d"]["kernel"] * 3), rtol=1e-5)


def test_what_is_stored_is_drawn_as_ever():
    def plain(p, x):
        return fn.dense(p["d"], x, 4, bias=False)

    chex.assert_trees_all_equal(
        made(wrapped_dense)[1]["d"]["kernel"], made(plain)[1]["d"]["kernel"]
    )


def test_while_initialising_the_layer_sees_the_function_of_the_stand_in():
    seen = []

    def shows(p, x):
        seen.append(p.wrapped("w", lambda q, value: value.astype(x.dtype)).param("w", (4,), ONES))
        return x

    closed(shows).shapes(X.astype(jnp.bfloat16))
    assert (seen[0].shape, seen[0].dtype) == ((4,), jnp.bfloat16)


def test_children_are_not_wrapped():
    def nested(p, x):
        q = p.wrapped("kernel", lambda q, value: value * 0)
        return fn.dense(q["child"], x, 4) + fn.dense(q.shared("other"), x, 4)

    model, params, _ = made(nested)
    assert np.all(model(params, X) != 0)


def test_several_functions_are_applied_in_the_order_given():
    def twice(p, x):
        q = p.wrapped("w", lambda q, value: value + 1).wrapped("w", lambda q, value: value * 2)
        return q.param("w", (4,), ONES)

    np.testing.assert_array_equal(run(twice)[0], [4, 4, 4, 4])


def test_a_wrapped_scope_is_the_same_place():
    def twice(p, x):
        q = p["d"]
        return fn.dense(q, fn.dense(q.wrapped("kernel", gained), x, 4), 4)

    with pytest.raises(ValueError, match=r"'d.kernel' is used twice"):
        closed(twice).init(jax.random.key(0), X)


def test_the_place_itself_stays_as_it_was():
    def beside(p, x):
        q = p.shared("d")
        wrapped = fn.dense(q.wrapped("kernel", lambda q, value: value * 0), x, 4)
        return wrapped, fn.dense(q, x, 4)

    (wrapped, bare), _ = run(beside)
    assert not wrapped.any()
    assert bare.any()


@pytest.mark.parametrize("change", [lambda value: value.T, lambda value: value[0]])
def test_a_function_that_changes_the_shape_is_refused(change):
    def wrong(p, x):
        return fn.dense(p["d"].wrapped("kernel", lambda q, value: change(value)), x, 3)

    with pytest.raises(ValueError, match=r"'d.kernel' is wrapped to shape \(3.*expected \(4, 3\)"):
        closed(wrong).init(jax.random.key(0), X)


def noisy(q, value):
    """A function with everything: a parameter, state, a key."""
    calls = q.variable("calls", (), initializers.zeros)
    if q.train:
        q.update("calls", calls + 1)
        value = value + jax.random.normal(q.key(), value.shape)
    return gained(q, value) + calls


WRAPPED_LIFTS = {
    "remat within": lambda p, x: fn.remat(fn.dense)(p["d"].wrapped("kernel", noisy), x, 4),
    "remat around": lambda p, x: fn.remat(lambda q, x: fn.dense(q.wrapped("kernel", noisy), x, 4))(
        p["d"], x
    ),
}


@pytest.mark.parametrize("lift", WRAPPED_LIFTS)
def test_a_wrapped_parameter_survives_remat(lift):
    def bare(p, x):
        return fn.dense(p["d"].wrapped("kernel", noisy), x, 4)

    key = jax.random.key(1)
    found = run(WRAPPED_LIFTS[lift], train=True, key=key)
    chex.assert_trees_all_close(found, run(bare, train=True, key=key), rtol=1e-5)
    assert found[1] == {"d": {"calls": 1}}


def test_a_wrapped_parameter_survives_repeat():
    def within(p, x):
        return fn.repeat(fn.dense, 3)(p["d"].wrapped("kernel", noisy), x, 4)

    def around(p, x):
        dense = fn.layer(lambda q, x: fn.dense(q.wrapped("kernel", noisy), x, 4))
        return fn.repeat(dense, 3)(p["d"], x)

    key, (model, params, state) = jax.random.key(1), made(within)
    assert {name: leaf.shape for name, leaf in params["d"].items()} == {
        "bias": (3, 4),
        "kernel": (3, 4, 4),
        "gain": (3, 4),
    }
    found = model.apply(params, state, X, train=True, key=key)
    expected = closed(around).apply(params, state, X, train=True, key=key)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(found[1]["d"]["calls"], [1, 1, 1])
