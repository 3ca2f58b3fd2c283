"""Generation with a cache: however a sequence is cut, attention gives what one pass gives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

TIME, ROOM, WIDTH = 9, 12, 8
KINDS = {
    "plain": {},
    "grouped": {"heads": 4, "kv_heads": 2},
    "rotary": {"rotary": 10_000.0},
    "alibi": {"alibi": True},
    "window": {"window": 3},
    "all": {"heads": 4, "kv_heads": 1, "rotary": 10.0, "alibi": True, "window": 4, "bias": False},
}


def steps(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pair(kind, room=ROOM):
    """A model of whole sequences, and the same with a cache."""
    settings = {"heads": 2, "causal": True, **KINDS[kind]}

    def cached(p, x, lengths=None):
        return fn.attention(p, x, lengths=lengths, cache=room, **settings)

    return fn.Model(fn.attention, **settings), fn.Model(fn.layer(cached))


def near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def in_pieces(model, trees, x, cuts):
    """The outputs of calls that each go on where the one before ended, as one."""
    apply, (params, state), outputs = jax.jit(model.apply), trees, []
    for piece in np.split(x, np.cumsum(cuts)[:-1], axis=1):
        y, state = apply(params, state, piece)
        outputs.append(y)
    return jnp.concatenate(outputs, 1), state


CUTS = {
    "single steps": [1] * TIME,
    "a short prompt": [2] + [1] * (TIME - 2),
    "a long prompt": [TIME - 1, 1],
    "all at once": [TIME],
    "chunks": [3, 2, 4],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_pieces_are_the_whole(kind, cuts):
    x, (whole, cached) = steps(2, TIME, WIDTH), pair(kind)
    params, state = cached.init(jax.random.key(0), x[:, :1])
    y, state = in_pieces(cached, (params, state), x, cuts)
    near(y, jax.jit(whole)(params, x))
    np.testing.assert_array_equal(state["length"], [TIME, TIME])


def test_the_state_has_room_for_keys_and_values_of_their_own_heads():
    _, cached = pair("grouped")
    state = cached.shapes(steps(3, 2, WIDTH))[1]
    assert {name: leaf.shape for name, leaf in state.items()} == {
        "key": (3, ROOM, 2, 2),
        "value": (3, ROOM, 2, 2),
        "length": (3,),
    }
    assert state["length"].dtype == jnp.int32


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_prompts_go_on_each_at_its_own_place(kind):
    """Prompts of 3, 5 and 0 steps, padded with NaN; then 2, none and 1; then one each."""
    x, (whole, cached) = steps(3, TIME, WIDTH), pair(kind)
    params, state = cached.init(jax.random.key(0), x[:, :1], np.ones(3, np.int32))
    expected, apply = jax.jit(whole)(params, x), jax.jit(cached.apply)
    at = np.zeros(3, int)
    for size, lengths in ((5, [3, 5, 0]), (2, [2, 0, 1]), (1, [1, 1, 1])):
        piece = np.full((3, size, WIDTH), np.nan, np.float32)
        for n, more in enumerate(lengths):
            piece[n, :more] = x[n, at[n] : at[n] + more]
        y, state = apply(params, state, piece, np.array(lengths))
        for n, more in enumerate(lengths):
            near(y[n, :more], expected[n, at[n] : at[n] + more])
            np.testing.assert_array_equal(y[n, more:], 0)
        at += lengths
        np.testing.assert_array_equal(state["length"], at)


def test_inside_a_scan():
    x, (whole, cached) = steps(2, TIME, WIDTH), pair("all")
    params, state = cached.init(jax.random.key(0), x[:, :1])

    @jax.jit
    def generate(params, state, x):
        def step(state, now):
            y, state = cached.apply(params, state, now[:, None])
            return state, y[:, 0]

        return jax.lax.scan(step, state, jnp.moveaxis(x, 1, 0))[1]

    near(jnp.moveaxis(generate(params, state, x), 0, 1), whole(params, x))


def deep(lift, cache):
    """Three blocks under a lift."""

    @fn.layer
    def block(p, x):
        y = fn.rms_norm(p["norm"], x)
        return x + fn.attention(p["it"], y, heads=2, causal=True, rotary=10.0, cache=cache)

    @fn.layer
    def network(p, x):
        if lift == "repeat":
            return fn.repeat(block, 3)(p["blocks"], x)
        for i in range(3):
            x = fn.remat(block)(p[f"block{i}"], x)
        return x

    return fn.Model(network)


@pytest.mark.parametrize("lift", ["repeat", "remat"])
def test_in_lifted_blocks(lift):
    x, whole, cached = steps(2, TIME, WIDTH), deep(lift, None), deep(lift, ROOM)
    params, state = cached.init(jax.random.key(0), x[:, :1])
    if lift == "repeat":
        assert state["blocks"]["it"]["key"].shape == (3, 2, ROOM, 2, WIDTH // 2)
    near(in_pieces(cached, (params, state), x, [4, 1, 1, 3])[0], whole(params, x))


def test_beams_are_mapped():
    x, (whole, cached) = steps(3, 2, TIME, WIDTH), pair("rotary")
    params, state = cached.init(jax.random.key(0), x[0, :, :1])
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), state)
    apply = jax.jit(jax.vmap(cached.apply, (None, 0, 0)))
    first, states = apply(params, states, x[:, :, :5])
    second, _ = apply(params, states, x[:, :, 5:])
    expected = jax.vmap(whole, (None, 0))(params, x)
    near(jnp.concatenate([first, second], 2), expected)


def test_half_precision_steps_keep_a_cache_of_its_own_dtype():
    x, (_, cached) = steps(2, TIME, WIDTH), pair("plain")
    for dtype in (jnp.float32, jnp.bfloat16):
        params, state = cached.init(jax.random.key(0), jnp.asarray(x[:, :1], dtype))
        y, after = cached.apply(params, state, jnp.asarray(x, jnp.bfloat16))
        assert y.dtype == jnp.bfloat16
        assert after["key"].dtype == dtype


# A full cache.


def filled(lengths):
    x, (_, cached) = steps(2, TIME, WIDTH), pair("plain", room=TIME)
    params, state = cached.init(jax.random.key(0), x[:, :1])
    _, state = cached.apply(params, state, x, np.array(lengths, np.int32))
    return cached, params, state


def test_a_full_cache_is_refused():
    cached, params, state = filled([TIME, 4])
    with pytest.raises(ValueError, match="cache has room for 9 steps, and 10 are needed: make"):
        cached.apply(params, state, steps(2, 1, WIDTH))
    cached.apply(params, state, steps(2, 1, WIDTH), np.array([0, 1]))  # nothing more for that one


@pytest.mark.parametrize("more", [1, 3])
def test_under_jit_a_full_cache_gives_nan_and_keeps_what_it_has(more):
    """For that sequence alone; and once there was no room, there is none afterwards."""
    cached, params, state = filled([TIME, 4])
    apply = jax.jit(cached.apply)
    y, after = apply(params, state, steps(2, more, WIDTH))
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()
    for name in ("key", "value"):
        np.testing.assert_array_equal(after[name][0], state[name][0])
        np.testing.assert_array_equal(after[name][1, :4], state[name][1, :4])
        np.testing.assert_array_equal(after[name][1, 4 + more :], state[name][1, 4 + more :])
    y, _ = apply(params, after, steps(2, 1, WIDTH))
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()


def test_another_batch_is_refused():
    cached, params, state = filled([3, 3])
    with pytest.raises(ValueError, match=r"'length' is stored with shape \(2,\).*needs \(3,\)"):
        cached.apply(params, state, steps(3, 1, WIDTH))


# What a step costs.


def test_a_hundred_steps_after_a_prompt_of_five_hundred():
    """One program for all of them, and its arithmetic is that of a first step."""
    x, (whole, cached) = steps(1, 600, 4), pair("rotary", room=600)
    params, state = cached.init(jax.random.key(0), x[:, :1])
    traces = itertools.count()

    @jax.jit
    def step(state, now):
        next(traces)
        return cached.apply(params, state, now)

    first = step.lower(state, x[:, :1]).compile().cost_analysis()
    y, state = jax.jit(cached.apply)(params, state, x[:, :500])
    outputs = [y]
    for t in range(500, 600):
        y, state = step(state, x[:, t : t + 1])
        outputs.append(y)
    near(jnp.concatenate(outputs, 1), jax.jit(whole)(params, x))
    assert next(traces) == 1
    last = step.lower(state, x[:, :1]).compile().cost_analysis()
    assert last["flops"] == first["flops"] > 0


def test_a_step_is_cheaper_than_a_pass():
    x, (whole, cached) = steps(1, 64, WIDTH), pair("plain", room=64)
    params, state = cached.init(jax.random.key(0), x[:, :1])

    def flops(f, *inputs):
        return jax.jit(f).lower(*inputs).compile().cost_analysis()["flops"]

    step = flops(cached.apply, params, state, x[:, :1])
    assert step * 16 < flops(whole, params, x)
