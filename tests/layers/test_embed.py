"""Embeddings: rows by id, ids of every dtype, and what happens out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
TABLE = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


def embed(ids, table=TABLE):
    return fn.Model(fn.embed, vocab=len(table), features=table.shape[1])({"table": table}, ids)


@pytest.mark.parametrize("shape", [(), (4,), (2, 5), (2, 1, 3), (0,)])
def test_each_id_has_its_row(shape):
    ids = np.random.default_rng(1).integers(0, 7, shape)
    np.testing.assert_array_equal(embed(jnp.asarray(ids, jnp.int32)), TABLE[ids])


@pytest.mark.parametrize(
    ("dtype", "vocab"),
    [
        (jnp.int8, 100),
        (jnp.int8, 256),
        (jnp.uint8, 256),
        (jnp.int16, 50_257),
        (jnp.uint16, 50_257),
        (jnp.int32, 50_257),
        (jnp.uint32, 50_257),
    ],
)
def test_ids_of_every_dtype(dtype, vocab):
    table = np.arange(vocab, dtype=np.float32)[:, None]
    ids = np.clip([0, 3, 100, vocab - 1], 0, min(vocab - 1, jnp.iinfo(dtype).max))
    found = jax.jit(embed)(jnp.asarray(ids, dtype), jnp.asarray(table))
    np.testing.assert_array_equal(found[:, 0], ids)


@pytest.mark.parametrize("wrong", [7, -1, 1000, -8])
def test_an_id_out_of_range_is_refused_or_gives_nan(wrong):
    ids = np.asarray([1, wrong], np.int32)
    with pytest.raises(ValueError, match=rf"ids\[1\] is {wrong}.*<= 6"):
        embed(ids)
    found = jax.jit(embed)(ids)
    np.testing.assert_array_equal(found[0], TABLE[1])
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("ids", [np.zeros(3, np.float32), np.zeros(3, bool)])
def test_what_is_no_integer_is_refused(ids):
    with pytest.raises(TypeError, match=r"ids.*astype\('int32'\)"):
        embed(ids)


def test_the_gradient_counts_an_id_as_often_as_it_comes():
    ids = np.asarray([2, 5, 2, 2], np.int32)
    model = fn.Model(fn.embed, vocab=7, features=3)
    gradient = jax.grad(lambda table: model({"table": table}, ids).sum())(TABLE)
    np.testing.assert_array_equal(gradient[:, 0], [0, 0, 3, 0, 0, 1, 0])


def test_unembed_is_the_table_transposed():
    x = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    found = fn.Model(fn.unembed, vocab=7)({"table": TABLE}, x)
    np.testing.assert_allclose(found, x @ TABLE.T, rtol=1e-5, atol=1e-6)


def test_a_table_begins_with_rows_of_norm_one():
    shapes = {
        "embed": (fn.embed, np.zeros(2, np.int32)),
        "unembed": (fn.unembed, np.zeros((2, 64))),
    }
    for layer, x in shapes.values():
        settings = {"vocab": 512} if layer is fn.unembed else {"vocab": 512, "features": 64}
        x = x.astype(np.float32) if layer is fn.unembed else x
        params, _ = fn.Model(layer, **settings).init(KEY, x)
        np.testing.assert_allclose(params["table"].std(), 1 / 8, rtol=0.02)


def test_half_precision():
    model = fn.Model(fn.unembed, vocab=7)
    assert model({"table": TABLE}, jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.bfloat16
    half = jnp.asarray(TABLE, jnp.bfloat16)
    assert embed(np.arange(3, dtype=np.int32), half).dtype == jnp.bfloat16
