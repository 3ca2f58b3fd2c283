"""Keys that draw row by row: a row's numbers are its own, whatever part of a batch it is in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import funnet as fn
from funnet.keys import checked_key, named_key, part_key, row_key

KEY = jax.random.key(3)
DRAWS = {
    "normal": jax.random.normal,
    "half": lambda key, shape: jax.random.normal(key, shape, jnp.bfloat16),
    "bernoulli": lambda key, shape: jax.random.bernoulli(key, 0.5, shape),
    "randint": lambda key, shape: jax.random.randint(key, shape, 0, 1000),  # which splits the key
    "gamma": lambda key, shape: jax.random.gamma(key, 2.0, shape),  # and this one for each number
    "bytes": lambda key, shape: jax.random.bits(key, shape, "uint8"),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_parts_draw_what_the_whole_does(draw):
    whole = draw(row_key(KEY), (8, 3))
    parts = [draw(part_key(KEY, first, 4), (4, 3)) for first in (0, 4)]
    np.testing.assert_array_equal(whole, jnp.concatenate(parts))
    assert len(np.unique(np.asarray(whole, np.float32), axis=0)) > 3


@settings(deadline=None, max_examples=5, derandomize=True)
@given(
    parts=st.integers(1, 4),
    rows=st.integers(1, 4),
    times=st.integers(1, 3),
    tail=st.lists(st.integers(1, 3), max_size=2),
    name=st.text(max_size=3),
)
def test_whatever_is_flattened_into_the_rows(parts, rows, times, tail, name):
    def draw(key, length):
        return np.asarray(
            jax.random.bits(jax.random.fold_in(named_key(key, name), 1), (length, *tail))
        )

    whole = draw(row_key(KEY), parts * rows * times)
    each = [draw(part_key(KEY, i * rows, rows), rows * times) for i in range(parts)]
    np.testing.assert_array_equal(whole, np.concatenate(each))


def test_what_is_of_no_rows_draws_as_without():
    for shape in ((1, 3), (5,), (6, 2), ()):
        draw = [jax.random.normal(key, shape) for key in (row_key(KEY), part_key(KEY, 8, 4))]
        np.testing.assert_array_equal(*draw)


def test_neither_more_rows_nor_padding_changes_a_row():
    short, long, padded = (
        jax.random.normal(row_key(KEY), shape) for shape in ((3, 4, 2), (9, 4, 2), (3, 7, 2))
    )
    np.testing.assert_array_equal(short, long[:3])
    np.testing.assert_array_equal(short, padded[:, :4])


def test_a_key_for_each_row_is_the_row_s():
    whole = jax.random.key_data(jax.random.split(row_key(KEY), 8))
    part = jax.random.key_data(jax.random.split(part_key(KEY, 4, 4), 4))
    np.testing.assert_array_equal(whole[4:, :2], part[:, :2])
    assert not part[:, 2].any()  # such a key stands for a row, and draws alike wherever it is


def test_parts_may_be_traced_scanned_and_mapped():
    def draw(first):
        return jax.random.normal(part_key(KEY, first, 2), (2, 3))

    firsts = jnp.arange(0, 8, 2, dtype=jnp.uint32)
    whole = jax.random.normal(row_key(KEY), (8, 3))
    for mapped in (jax.vmap(draw), lambda xs: jax.lax.map(draw, xs), jax.jit(jax.vmap(draw))):
        np.testing.assert_array_equal(whole, mapped(firsts).reshape(8, 3))


def test_named_keys_are_those_of_the_plain_key():
    named = jax.random.key_data(named_key(row_key(KEY), "augment"))
    np.testing.assert_array_equal(named[:2], jax.random.key_data(named_key(KEY, "augment")))
    assert bool(checked_key(part_key(KEY, 4, 4)) == KEY)
    assert row_key(part_key(KEY, 4, 4)).dtype == part_key(KEY, 0, 4).dtype


def test_numbers_are_normal_and_rows_independent():
    stats = pytest.importorskip("scipy.stats")
    drawn = np.asarray(jax.random.normal(row_key(KEY), (2000, 4)))
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 4.5 / np.sqrt(2000)


def test_another_generator_keeps_its_keys_and_has_no_parts():
    other = jax.random.key(0, impl="rbg")
    assert row_key(other) is other
    with pytest.raises(ValueError, match=r"threefry2x32.*rbg.*jax\.config\.update"):
        part_key(other, 0, 2)
    y = fn.Model(fn.dropout, rate=0.5)({}, jnp.ones((8, 4)), train=True, key=other)
    assert set(np.unique(y)) == {0, 2}


def test_what_is_no_key_is_refused():
    for call in (row_key, lambda key: part_key(key, 0, 1)):
        with pytest.raises(TypeError, match=r"jax\.random\.key\(0\)"):
            call(3)
    raw = jax.random.key_data(KEY)
    assert bool(row_key(raw) == row_key(KEY))
