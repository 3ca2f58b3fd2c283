"""Positions: learned ones, rotary angles beside complex numbers, and ALiBi's slopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Learned.


def test_position_embed_adds_a_row_for_each_step():
    x, model = normal(2, 3, 4), fn.Model(fn.position_embed, most=5)
    params, state = model.init(KEY, x)
    assert params["table"].shape == (5, 4)
    assert state == {}
    np.testing.assert_array_equal(model(params, x), x + params["table"][:3])


def test_a_table_begins_small():
    params, _ = fn.Model(fn.position_embed, most=200).init(KEY, normal(1, 2, 64))
    np.testing.assert_allclose(params["table"].std(), 0.02, rtol=0.05)


def test_steps_beyond_a_length_get_no_position():
    x, lengths = normal(2, 3, 4), np.array([1, 3])
    model = fn.Model(fn.position_embed, most=5, lengths=lengths)
    params, _ = model.init(KEY, x)
    moved = np.asarray(model(params, x) - x).any(-1)
    np.testing.assert_array_equal(moved, np.arange(3) < lengths[:, None])


def with_cache(x, most=5):
    model = fn.Model(fn.layer(lambda p, x, n: fn.position_embed(p, x, most, lengths=n, cache=True)))
    return model, *model.init(KEY, x, np.array([1] * len(x)))


@pytest.mark.parametrize("jit", [False, True])
def test_each_sequence_goes_on_at_its_own_place(jit):
    x = normal(2, 3, 4)
    model, params, state = with_cache(x)
    apply = jax.jit(model.apply) if jit else model.apply
    _, state = apply(params, state, x, jnp.array([1, 3]))
    y, state = apply(params, state, x[:, :2], jnp.array([2, 1]))
    table = params["table"]
    np.testing.assert_allclose(y[0], x[0, :2] + table[1:3], rtol=1e-6)
    np.testing.assert_allclose(y[1], x[1, :2] + jnp.stack([table[3], 0 * table[3]]), rtol=1e-6)
    np.testing.assert_array_equal(state["length"], [3, 4])


def test_a_position_beyond_the_table_is_refused_or_nan():
    x = normal(2, 3, 4)
    model, params, state = with_cache(x)
    _, state = model.apply(params, state, x, np.array([1, 3]))
    given = params, state, x, np.array([2, 3])
    with pytest.raises(ValueError, match="most has room for 5 steps, and 6 are needed"):
        model.apply(*given)
    y, _ = jax.jit(model.apply)(*given)
    nan = np.isnan(y)
    assert nan[1, 2].all()  # the sixth position of that sequence
    assert nan.sum() == 4


def test_position_embed_refuses():
    with pytest.raises(ValueError, match="x has 3 steps, and most=2 positions"):
        fn.Model(fn.position_embed, most=2).shapes(normal(2, 3, 4))
    with pytest.raises(ValueError, match="most is 0"):
        fn.Model(fn.position_embed, most=0).shapes(normal(2, 3, 4))
    with pytest.raises(ValueError, match=r"x must have shape \(N, T, C\), got \(3, 4\)"):
        fn.Model(fn.position_embed, most=9).shapes(normal(3, 4))
    with pytest.raises(ValueError, match=r"lengths\[0\] is 4"):
        fn.Model(fn.position_embed, most=9, lengths=np.array([4, 1])).init(KEY, normal(2, 3, 4))


# Rotary.


def by_complex_numbers(x, positions, base):
    """In float64."""
    x, half = np.asarray(x, np.float64), x.shape[-1] // 2
    angles = np.asarray(positions, np.float64)[..., None] * base ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[..., None, :]
    return np.concatenate([turned.real, turned.imag], -1)


@pytest.mark.parametrize("seed", range(40))
def test_rotary_is_a_product_of_complex_numbers(seed):
    rng = np.random.default_rng(seed)
    n, time, heads, half = rng.integers(1, 5, 4)
    x, base = rng.normal(size=(n, time, heads, 2 * half)), float(rng.choice([2.0, 10_000.0]))
    positions = rng.integers(0, 200, (n, time) if seed % 2 else time)
    expected = by_complex_numbers(x, positions, base)
    found = fn.rotary(x.astype(np.float32), positions, base=base)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with jax.enable_x64(True):
        found = fn.rotary(x, positions, base=base)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_rotary_is_exact_far_out_in_float64_and_within_a_fiftieth_in_float32():
    """An angle of 100,000 is known to 0.004 in float32, and the speeds to as much again."""
    x, positions = normal(1, 2, 1, 64), np.array([99_999, 100_000])
    expected = by_complex_numbers(x, positions, 10_000.0)
    np.testing.assert_allclose(fn.rotary(x, positions), expected, atol=0.05)
    with jax.enable_x64(True):
        found = fn.rotary(x.astype(np.float64), positions)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_products_see_distances_only_and_norms_stay():
    q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1)

    def product(a, b):
        return (fn.rotary(q, np.array([a])) * fn.rotary(k, np.array([b]))).sum()

    np.testing.assert_allclose(product(7, 3), product(104, 100), rtol=1e-4)
    assert abs(product(7, 3) - product(3, 7)) > 0.01
    turned = fn.rotary(normal(2, 9, 3, 8), np.arange(9))
    norms = [jnp.linalg.norm(y, axis=-1) for y in (turned, normal(2, 9, 3, 8))]
    np.testing.assert_allclose(*norms, rtol=1e-5)


def test_the_first_position_turns_nothing():
    x = normal(2, 1, 3, 4)
    np.testing.assert_array_equal(fn.rotary(x, np.zeros(1, np.int32)), x)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_angles_of_half_precision_are_in_float32(dtype):
    """A thousand and one is no number of bfloat16."""
    x, positions = jnp.asarray(normal(1, 2, 1, 8), dtype), np.array([1001, 1003])
    y = fn.rotary(x, positions)
    assert y.dtype == dtype
    expected = by_complex_numbers(x.astype(jnp.float32), positions, 10_000.0)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.02)


def test_the_gradient_of_a_turn_is_the_turn_back():
    with jax.enable_x64(True):
        x, g = (np.random.default_rng(seed).normal(size=(2, 3, 2, 4)) for seed in (0, 1))
        positions = np.arange(3)
        back = jax.vjp(lambda x: fn.rotary(x, positions), x)[1](jnp.asarray(g))[0]
        np.testing.assert_allclose(back, fn.rotary(g, -positions), rtol=1e-12)


ROTARY = {
    "odd": ((1, 2, 1, 3), np.arange(2), 10.0, "even D, got"),
    "rank": ((2, 3, 4), np.arange(3), 10.0, r"\(N, T, H, D\)"),
    "positions": ((1, 2, 1, 4), np.arange(3), 10.0, r"one a step.*got \(3,\)"),
    "base": ((1, 2, 1, 4), np.arange(2), 0.0, "base is 0.0"),
}


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_refuses(name):
    shape, positions, base, message = ROTARY[name]
    with pytest.raises(ValueError, match=message):
        fn.rotary(normal(*shape), positions, base=base)


def test_rotary_refuses_other_types():
    with pytest.raises(TypeError, match="positions must be integers"):
        fn.rotary(normal(1, 2, 1, 4), np.arange(2.0))
    with pytest.raises(TypeError, match="x must be floating point"):
        fn.rotary(np.ones((1, 2, 1, 4), np.int32), np.arange(2))


# ALiBi.


def of_the_paper(heads):
    """The slopes as the paper's code has them (get_slopes of its attention_with_linear_biases)."""
    if (power := 2 ** int(np.floor(np.log2(heads)))) == heads:
        start = 2 ** (-(2 ** -(np.log2(heads) - 3)))
        return [start * start**i for i in range(heads)]
    return of_the_paper(power) + of_the_paper(2 * power)[0::2][: heads - power]


@pytest.mark.parametrize("heads", range(1, 34))
def test_slopes_are_those_of_the_paper(heads):
    slopes = fn.alibi_slopes(heads)
    assert slopes.dtype == np.float32
    np.testing.assert_allclose(slopes, of_the_paper(heads), rtol=1e-6)


def test_slopes_of_eight_and_of_twelve_heads():
    eight = [2.0**-h for h in range(1, 9)]
    np.testing.assert_array_equal(fn.alibi_slopes(8), np.float32(eight))
    rest = [2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5]
    np.testing.assert_array_equal(fn.alibi_slopes(12), np.float32(eight + rest))


def test_no_heads_have_no_slopes():
    with pytest.raises(ValueError, match="heads is 0"):
        fn.alibi_slopes(0)
