"""Summaries: every count by hand, columns that add up, and nothing allocated."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet import initializers

F32, ONES = jnp.float32, initializers.ones
X = jax.ShapeDtypeStruct((8, 4), F32)
IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 6), F32)
COLUMNS = ("parameters", "bytes", "multiply_adds")


def closed(function):
    return fn.Model(fn.layer(function))


def counts(function, x=X):
    """Each row's parameters, bytes and multiply-adds, and, under `total`, the totals."""
    summary = closed(function).summary(x)
    found = {row.path: tuple(getattr(row, c) for c in COLUMNS) for row in summary.rows}
    return {**found, "total": tuple(getattr(summary, c) for c in COLUMNS)}


def conv(*shape, **settings):
    """A convolution's row for images of `shape`, with a kernel of 3 and 4 features."""
    x = jax.ShapeDtypeStruct(shape, F32)
    return counts(lambda p, x: fn.conv(p["it"], x, 4, 3, **settings), x)["it"]


def test_dense():
    # kernel 4·3, bias 3; each of 8 rows takes 4·3 products
    assert counts(lambda p, x: fn.dense(p["it"], x, 3))["it"] == (15, 60, 96)
    assert counts(lambda p, x: fn.dense(p["it"], x, 3, bias=False))["it"] == (12, 48, 96)


def test_conv():
    kernel, bias = 9 * 6 * 4, 4
    work = 2 * 64 * kernel
    assert conv(2, 8, 8, 6) == (kernel + bias, 4 * (kernel + bias), work)
    assert conv(2, 8, 8, 6, stride=2)[2] == work // 4
    assert conv(2, 8, 8, 6, padding="valid")[2] == 2 * 36 * kernel
    assert conv(2, 8, 8, 6, dilation=2)[2] == work
    assert conv(2, 8, 8, 6, bias=False)[:2] == (kernel, 4 * kernel)


def test_grouped_and_strided_conv():
    kernel = 9 * 3 * 4
    assert conv(2, 8, 8, 6, groups=2, stride=(1, 2)) == (kernel + 4, 4 * kernel + 16, 64 * kernel)
    assert conv(2, 8, 8, 4, groups=4) == (9 * 4 + 4, 4 * 40, 2 * 64 * 9 * 4)


def test_conv_of_one_and_three_axes():
    assert conv(2, 8, 6)[2] == 2 * 8 * 3 * 6 * 4
    assert conv(1, 4, 4, 4, 6)[2] == 64 * 27 * 6 * 4


def test_a_pointwise_conv_is_counted_though_it_is_a_product():
    found = counts(lambda p, x: fn.conv(p["it"], x, 4, 1, stride=2), IMAGES)["it"]
    assert found == (28, 112, 2 * 16 * 24)


def test_batch_norm_state_is_in_bytes_but_not_in_parameters():
    found = counts(lambda p, x: fn.batch_norm(p["it"], x))
    assert found["it"] == found["total"] == (8, 16 * 4, 0)


def test_dtypes_count_in_bytes():
    def half(p, x):
        return x * p.param("scale", (4,), initializers.ones, jnp.bfloat16).astype(x.dtype)

    assert counts(lambda p, x: fn.layer(half)(p["it"], x))["it"] == (4, 8, 0)


def twice(p, x):
    return fn.dense(p["b"], fn.dense(p["a"], x, 6), 4)


@pytest.mark.parametrize("lift", [lambda f: fn.repeat(f, 5), lambda f: fn.repeat(fn.remat(f), 5)])
def test_a_repeated_layer_counts_times_its_turns(lift):
    found = counts(lambda p, x: lift(fn.layer(twice))(p["blocks"], x))
    assert found["blocks.a"] == (5 * 30, 5 * 120, 5 * 192)
    assert found["blocks.b"] == (5 * 28, 5 * 112, 5 * 192)


def test_turns_of_turns_multiply():
    def inner(p, x):
        return fn.repeat(fn.layer(twice), 2)(p["inner"], x)

    found = counts(lambda p, x: fn.repeat(fn.layer(inner), 3)(p["outer"], x))
    assert found["outer.inner.a"] == (6 * 30, 6 * 120, 6 * 192)
    rows = closed(lambda p, x: fn.repeat(fn.layer(inner), 3)(p["outer"], x)).summary(X).rows
    assert [row.layer for row in rows if row.path == "outer.inner.a"] == ["dense ×3 ×2"]


def test_a_shared_parameter_is_counted_once_and_its_work_each_time():
    found = counts(lambda p, x: fn.dense(p.shared("d"), fn.dense(p.shared("d"), x, 4), 4))
    assert found["d"] == (20, 80, 2 * 128)


def test_tied_embeddings():
    def tied(p, ids):
        return fn.unembed(p.shared("t"), fn.embed(p.shared("t"), ids, 10, 4), 10)

    ids = jax.ShapeDtypeStruct((3, 5), jnp.int32)
    assert counts(tied, ids)["t"] == (40, 160, 15 * 40)


def test_the_branch_that_costs_most_is_counted():
    def branches(p, x):
        def large(x):
            return fn.dense(p["large"], x, 4)

        return jax.lax.cond(x[0, 0] > 0, large, lambda x: x, x)

    assert counts(branches)["large"] == (20, 80, 128)


WAYS = {
    "remat": lambda f: fn.remat(fn.layer(f)),
    "jit": lambda f: lambda p, x: jax.jit(lambda x: f(p, x))(x),
    "vmap": lambda f: lambda p, x: jax.vmap(lambda x: f(p, x))(x),
    "scan": lambda f: lambda p, x: jax.lax.scan(lambda _, x: (None, f(p, x)), None, x)[1],
    "checkpoint": lambda f: lambda p, x: jax.checkpoint(lambda x: f(p, x))(x),
}


@pytest.mark.parametrize("way", WAYS)
def test_work_is_put_down_to_the_layer_whatever_is_around_it(way):
    expected = {"it.a": (30, 120, 192), "it.b": (28, 112, 192)}
    found = counts(lambda p, x: WAYS[way](twice)(p["it"], x))
    assert {path: found[path] for path in expected} == expected


def own_scope(p, x):
    return fn.remat(fn.layer(twice))(p, x)


def with_a_scope_of_another(p, x):
    def inner(p, x, q):
        return fn.dense(q, fn.dense(p["a"], x, 4), 4)

    return fn.layer(inner)(p["inner"], x, p["lent"])


PLACES = {
    "a scope of another layer": (with_a_scope_of_another, "lent"),
    "a name with a slash": (lambda p, x: fn.dense(p["a/b"], x, 4), "a/b"),
    "a name with brackets": (lambda p, x: fn.dense(p["f(x)"], x, 4), "f(x)"),
    "a child of a child": (lambda p, x: fn.dense(p["a"]["b"], x, 4), "a.b"),
    "names twice over": (lambda p, x: fn.dense(p["b"]["a"], fn.dense(p["a"], x, 4), 4), "b.a"),
    "a scope handed on": (lambda p, x: fn.layer(own_scope)(p["it"], x), "it.b"),
}


@pytest.mark.parametrize("place", PLACES)
def test_work_is_put_down_to_the_layer_whatever_it_is_called(place):
    function, path = PLACES[place]
    assert counts(function)[path][2] == (192 if place == "a scope handed on" else 128)


MODELS = {
    "nested": fn.layer(lambda p, x: fn.layer(twice)(p["it"], fn.batch_norm(p["norm"], x))),
    "repeated": fn.repeat(fn.layer(twice), 3),
    "own parameters": fn.layer(lambda p, x: twice(p, x) @ p.param("w", (4, 4), ONES)),
    "no layer at the top": lambda p, x: twice(p, x) @ p.param("w", (4, 4), ONES),
    "lift at the top": fn.repeat(lambda p, x: twice(p["it"], x) * p.param("s", (4,), ONES), 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_columns_add_up_to_the_totals_and_these_to_the_trees(name):
    model = fn.Model(MODELS[name])
    summary, (params, state) = model.summary(X), model.shapes(X)
    for column in COLUMNS:
        assert sum(getattr(row, column) for row in summary.rows) == getattr(summary, column)
    elements = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert summary.parameters == elements
    assert summary.bytes == 4 * (elements + sum(leaf.size for leaf in jax.tree.leaves(state)))


def test_rows_are_in_the_order_of_the_calls_and_show_outputs():
    summary = closed(twice).summary(X)
    assert [row.path for row in summary.rows] == [".", "a", "b"]
    assert [row.output for row in summary.rows] == ["float32[8,4]", "float32[8,6]", "float32[8,4]"]


def test_printed_it_is_a_table():
    lines = str(closed(lambda p, x: fn.repeat(fn.layer(twice), 1000)(p["blocks"], x)).summary(X))
    lines = lines.splitlines()
    assert all(word in lines[1] for word in ("path", "layer", "output", "parameters", "bytes"))
    assert any("blocks.a" in line and "30,000" in line and "×1000" in line for line in lines)
    assert lines[-1].split() == ["total", "58,000", "232,000", "384,000"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_arrays_and_shapes_give_one_summary():
    model = closed(twice)
    assert model.summary(X) == model.summary(np.zeros(X.shape, np.float32))


@fn.layer
def attention(p, x, heads):
    n, t, width = x.shape
    qkv = fn.dense(p["qkv"], x, 3 * width, bias=False).reshape(n, t, 3, heads, -1)
    q, k, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))
    weights = fn.softmax(q @ k.swapaxes(-1, -2))
    return fn.dense(p["out"], (weights @ v).swapaxes(1, 2).reshape(x.shape), width, bias=False)


@fn.layer
def block(p, x, heads, hidden):
    x = x + attention(p["attn"], fn.layer_norm(p["norm1"], x), heads)
    h = fn.layer_norm(p["norm2"], x)
    h = fn.silu(fn.dense(p["gate"], h, hidden, bias=False)) * fn.dense(
        p["up"], h, hidden, bias=False
    )
    return x + fn.dense(p["down"], h, x.shape[-1], bias=False)


@fn.layer
def transformer(p, ids, vocab=32_000, width=4096, blocks=32, heads=32, hidden=11_008):
    x = fn.embed(p["tokens"], ids, vocab, width)
    x = fn.layer_norm(p["norm"], fn.repeat(block, blocks)(p["blocks"], x, heads, hidden))
    return fn.unembed(p["head"], x, vocab)


def test_seven_billion_parameters_are_summarised_without_room_for_them():
    model = fn.Model(transformer)
    ids = jax.ShapeDtypeStruct((1, 2048), jnp.int32)
    model.summary(jax.ShapeDtypeStruct((1, 8), jnp.int32))  # whatever is cached, is
    arrays = len(jax.live_arrays())
    tracemalloc.start()
    summary = model.summary(ids)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kernels = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    assert summary.parameters == kernels + 2 * 32_000 * 4096 + 65 * 2 * 4096
    assert summary.parameters > 6.7e9
    assert summary.bytes == 4 * summary.parameters
    attended = 32 * 2 * 2048 * 2048 * 4096
    assert summary.multiply_adds == 2048 * (kernels + 32_000 * 4096) + attended
    assert len(jax.live_arrays()) == arrays
    assert peak < 20e6
