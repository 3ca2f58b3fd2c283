"""The attention layer: what a step sees, what padding cannot do, and every refusal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


def steps(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def drawn(model, *inputs):
    """Parameters of which none is zero."""
    rng, (params, _) = np.random.default_rng(1), model.shapes(*inputs)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)


def attend(x, **settings):
    model = fn.Model(fn.attention, **settings)
    return model(drawn(model, x), x)


def shapes(x, **settings):
    return jax.tree.map(lambda leaf: leaf.shape, fn.Model(fn.attention, **settings).shapes(x)[0])


def test_parameters():
    x = steps(2, 5, 12)
    out = {"kernel": (12, 12), "bias": (12,)}
    assert shapes(x, heads=3) == {"qkv": {"kernel": (12, 36), "bias": (36,)}, "out": out}
    assert shapes(x, heads=4, kv_heads=1)["qkv"]["kernel"] == (12, 18)
    assert shapes(x, heads=3, bias=False)["qkv"] == {"kernel": (12, 36)}
    assert shapes(x, heads=3, kv_heads=1, context=steps(2, 4, 5)) == {
        "query": {"kernel": (12, 12), "bias": (12,)},
        "key_value": {"kernel": (5, 8), "bias": (8,)},
        "out": out,
    }


# What a step sees, read off the gradient: which steps of x each output depends on.


def seen(time=6, **settings):
    x = steps(1, time, 4)
    model = fn.Model(fn.attention, heads=2, **settings)
    slopes = jax.jacobian(lambda x: model(drawn(model, x), x)[0].sum(-1))(x)[:, 0]
    return np.abs(slopes).max(-1) > 0


GAP = np.arange(6)[:, None] - np.arange(6)
SIGHT = {
    "all": ({}, GAP == GAP),
    "causal": ({"causal": True}, GAP >= 0),
    "window": ({"window": 2}, np.abs(GAP) < 2),
    "itself": ({"window": 1}, GAP == 0),
    "causal window": ({"causal": True, "window": 3}, (GAP >= 0) & (GAP < 3)),
    "mask": ({"mask": GAP % 2 == 0}, GAP % 2 == 0),
    "mask of keys": ({"mask": GAP[:1] > -2}, (GAP == 0) | (np.arange(6) < 2)),
    "masks together": ({"mask": GAP % 2 == 0, "causal": True}, (GAP % 2 == 0) & (GAP >= 0)),
    "lengths": ({"lengths": np.array([4])}, np.outer(np.arange(6) < 4, np.arange(6) < 4)),
}


@pytest.mark.parametrize("name", SIGHT)
def test_what_a_step_sees(name):
    settings, expected = SIGHT[name]
    np.testing.assert_array_equal(seen(**settings), expected)


@pytest.mark.parametrize("shape", [(5, 5), (1, 5), (5, 1), (2, 5, 5), (2, 1, 5), (1, 5, 1)])
def test_sizes_of_one_in_a_mask_stand_for_any(shape):
    mask = np.random.default_rng(2).random(shape) < 0.7
    whole = np.broadcast_to(mask if mask.ndim == 3 else mask[None], (2, 5, 5))
    whole = np.broadcast_to(whole[:, None], (2, 2, 5, 5))
    x = steps(2, 5, 4)
    np.testing.assert_array_equal(attend(x, heads=2, mask=mask), attend(x, heads=2, mask=whole))


def test_heads_may_have_a_mask_each():
    """Of two heads, each masked alone, the sum of changes is that of both masked."""
    x, model = steps(1, 4, 4), fn.Model(fn.attention, heads=2)
    params = drawn(model, x)

    def masked(*heads):
        mask = np.ones((1, 2, 4, 4), bool)
        mask[:, list(heads), :, 2] = False
        return fn.Model(fn.attention, heads=2, mask=mask)(params, x)

    changes = [masked(*heads) - model(params, x) for heads in ([0], [1], [0, 1])]
    assert all(np.abs(change).max() > 0.01 for change in changes)
    np.testing.assert_allclose(changes[0] + changes[1], changes[2], atol=1e-5)


# A step that sees nothing.


def over(**settings):
    """A model of x and a context."""

    def layer(p, x, context):
        return fn.attention(p, x, heads=2, context=context, **settings)

    return fn.Model(fn.layer(layer))


@pytest.mark.parametrize("setting", ["mask", "lengths", "window"])
def test_a_step_that_sees_nothing_gives_the_bias_alone(setting):
    x, context = steps(2, 5, 4), steps(2, 2, 4)
    settings = {
        "mask": {"mask": np.arange(5)[:, None] < [3, 3]},
        "lengths": {"lengths": np.array([2, 0])},
        "window": {"window": 1},
    }[setting]
    blind = {"mask": np.s_[:, 3:], "lengths": np.s_[1], "window": np.s_[:, 2:]}[setting]
    model = over(**settings)
    params = drawn(model, x, context)

    def loss(params, x, context):
        y = model(params, x, context)
        return jnp.square(y).sum(), y

    gradients, y = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, x, context)
    expected = jnp.broadcast_to(params["out"]["bias"], y[blind].shape)
    np.testing.assert_array_equal(y[blind], expected)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    assert np.all(np.asarray(gradients[1][blind]) == 0)


def test_of_an_empty_context_nothing_is_seen():
    x, model = steps(2, 3, 4), over()
    params = drawn(model, x, steps(2, 2, 6))
    y = model(params, x, steps(2, 0, 6))
    np.testing.assert_array_equal(y, jnp.broadcast_to(params["out"]["bias"], y.shape))


# Padding.

LENGTHS = np.array([2, 0, 5], np.int32)
INSIDE = (np.arange(5) < LENGTHS[:, None])[..., None]


@pytest.mark.parametrize("settings", [{}, {"causal": True, "rotary": 10.0}, {"alibi": True}])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
def test_nothing_in_the_padding_reaches_anything(settings, garbage):
    """Bit for bit: outputs, and gradients of parameters and steps; those of padding are zero."""
    x, model = steps(3, 5, 4), fn.Model(fn.attention, heads=2, lengths=LENGTHS, **settings)
    params = drawn(model, x)

    @jax.jit
    def run(x):
        y, pull = jax.vjp(model, params, x)
        return y, *pull(jnp.cos(y))

    clean, dirty = run(np.where(INSIDE, x, 0)), run(np.where(INSIDE, x, garbage))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    for leaf in (dirty[0], dirty[2]):
        assert np.all(np.asarray(leaf)[~INSIDE[..., 0]] == 0)


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_nor_in_the_padding_of_a_context(garbage):
    x, context, model = steps(3, 2, 4), steps(3, 5, 6), over(lengths=LENGTHS)
    params = drawn(model, x, context)
    pull = jax.jit(jax.grad(lambda *given: jnp.sin(model(*given)).sum(), (0, 1, 2)))
    clean, dirty = (pull(params, x, np.where(INSIDE, context, fill)) for fill in (0, garbage))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert np.all(np.isfinite(model(params, x, np.where(INSIDE, context, garbage))))


def test_more_padding_changes_nothing_but_the_last_bits():
    x, model = steps(3, 5, 4), fn.Model(fn.attention, heads=2, lengths=LENGTHS)
    params = drawn(model, x)
    more = np.pad(x, ((0, 0), (0, 4), (0, 0)), constant_values=7)
    y = model(params, more)
    np.testing.assert_allclose(y[:, :5], model(params, x), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(y[:, 5:], 0)


# What JAX does to it.


@pytest.mark.parametrize("shape", [(0, 5, 4), (2, 0, 4), (1, 1, 4)])
@pytest.mark.parametrize("settings", [{}, {"kv_heads": 1, "rotary": 10.0, "causal": True}])
def test_nothing_at_all_is_an_input_too(shape, settings):
    model = fn.Model(fn.attention, heads=2, **settings)
    assert model(drawn(model, steps(1, 3, 4)), steps(*shape)).shape == shape


def test_a_single_step_has_its_own_value():
    x, model = steps(2, 1, 4), fn.Model(fn.attention, heads=2)
    params = drawn(model, x)
    value = x @ params["qkv"]["kernel"][:, 8:] + params["qkv"]["bias"][8:]
    expected = value @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(model(params, x), expected, rtol=1e-5, atol=1e-5)


def test_jvp_and_vmap():
    x, model = steps(2, 5, 4), fn.Model(fn.attention, heads=2, lengths=LENGTHS[1:])
    params = drawn(model, x)

    def f(x):
        return model(params, x)

    _, slope = jax.jvp(f, (x,), (jnp.cos(x),))
    pulled = jax.vjp(f, x)[1](jnp.ones_like(x))[0]
    np.testing.assert_allclose(slope.sum(), (pulled * jnp.cos(x)).sum(), rtol=1e-4)
    both = jax.vmap(f)(jnp.stack([x, -x]))
    np.testing.assert_allclose(both, jnp.stack([f(x), f(-x)]), rtol=1e-5, atol=1e-5)


# Refusals.

X = steps(2, 5, 12)
REFUSED = {
    "heads that do not divide": ({"heads": 5}, r"heads must divide.*heads=5.*\(2, 5, 12\)"),
    "no heads": ({"heads": 0}, "heads is 0, expected heads >= 1"),
    "kv_heads that do not divide": ({"kv_heads": 3}, "kv_heads=3, heads=4"),
    "no kv_heads": ({"kv_heads": 0}, "kv_heads is 0"),
    "no window": ({"window": 0}, "window is 0"),
    "long length": ({"lengths": np.array([6, 1])}, r"lengths\[0\] is 6.*5 steps"),
    "negative length": ({"lengths": np.array([5, -1])}, r"lengths\[1\] is -1"),
    "lengths of another batch": ({"lengths": np.array([5])}, r"each of the 2 sequences"),
    "lengths of a context": (
        {"context": X[:, :3], "lengths": np.array([5, 1])},
        "there are 3 steps",
    ),
    "mask of vectors": ({"mask": np.ones(5, bool)}, r"\(T, S\), \(N, T, S\) or.*got \(5,\)"),
    "mask of other steps": ({"mask": np.ones((5, 4), bool)}, r"T=5, S=5, got \(5, 4\)"),
    "mask of other examples": ({"mask": np.ones((3, 5, 5), bool)}, r"N=2.*got \(3, 5, 5\)"),
    "mask of other heads": ({"mask": np.ones((2, 3, 5, 5), bool)}, r"heads=4.*\(2, 3, 5, 5\)"),
    "context of another batch": ({"context": X[:1]}, r"as many examples.*\(1, 5, 12\)"),
    "context of another dtype": ({"context": X.astype(np.float16)}, "its dtype.*float16"),
    "context of vectors": ({"context": X[:, 0]}, r"context must have shape \(N, T, C\)"),
    "no base": ({"rotary": 0.0}, "rotary is 0.0, expected rotary > 0"),
    "rotary switched on": ({"rotary": True}, r"write rotary=10_000.0"),
    "rotary of odd heads": ({"rotary": 10.0}, "a head has 3"),
    "cache of a context": ({"cache": 9, "causal": True, "context": X}, "no context"),
    "cache without causal": ({"cache": 9}, "causal=True"),
    "more than the cache": ({"cache": 4, "causal": True}, "room for 4 steps, and x has 5"),
    "no cache": ({"cache": 0, "causal": True}, "cache is 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        attend(X, **{"heads": 4, **settings})


REFUSED_TYPES = {
    "integers": (X.astype(np.int32), {}, r"x must be floating point.*astype"),
    "context of integers": (X, {"context": X.astype(np.int32)}, "context must be floating"),
    "mask of numbers": (X, {"mask": np.ones((5, 5))}, "mask must be boolean, true where"),
    "mask of lists": (X, {"mask": [[True] * 5] * 5}, "mask must be a JAX or NumPy array"),
    "half a head": (X, {"heads": 1.5}, "heads must be an integer, got 1.5"),
    "lengths of numbers": (X, {"lengths": np.ones(2)}, "lengths must be integers"),
}


@pytest.mark.parametrize("name", REFUSED_TYPES)
def test_another_type_is_refused(name):
    x, settings, message = REFUSED_TYPES[name]
    with pytest.raises(TypeError, match=message):
        attend(x, **{"heads": 4, **settings})


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 5, 1, 12)])
def test_another_rank_is_refused(shape):
    with pytest.raises(ValueError, match=r"x must have shape \(N, T, C\)"):
        attend(steps(*shape), heads=4)
