"""The weights of attention as a tap: the formula's, for every setting, in repeated blocks too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 12)).astype(np.float32)
CONTEXT = RNG.normal(size=(2, 4, 8)).astype(np.float32)
SETTINGS = {
    "plain": {},
    "causal": {"causal": True},
    "lengths": {"lengths": np.array([5, 2])},
    "window": {"causal": True, "window": 2},
    "shared": {"kv_heads": 1, "alibi": True},
    "context": {"context": CONTEXT, "lengths": np.array([1, 4])},
    "nothing": {"context": CONTEXT, "lengths": np.array([0, 4])},
}


def drawn(model, *inputs, **more):
    """Parameters of which none is zero."""
    rng, (params, _) = np.random.default_rng(1), model.shapes(*inputs, **more)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, params)


def values(params, heads, kv_heads, context):
    """The values (N, S, heads, D) that the parameters make of an input."""
    layer = params["qkv"] if context is None else params["key_value"]
    both = (X if context is None else context) @ layer["kernel"] + layer["bias"]
    v = both[..., -12 * kv_heads // heads :].reshape(*both.shape[:2], kv_heads, -1)
    return np.repeat(v, heads // kv_heads, axis=2)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_output_is_values_weighed_by_them(name):
    settings = SETTINGS[name]
    model = fn.Model(fn.attention, heads=3)
    params = drawn(model, X, **settings)
    y, found = model.capture(params, None, X, taps="weights", **settings)
    np.testing.assert_array_equal(y, model(params, X, **settings))
    weights = np.asarray(found["weights"])
    v = values(params, 3, settings.get("kv_heads", 3), settings.get("context"))
    mixed = np.einsum("nhts,nshd->nthd", weights, v).reshape(X.shape)
    expected = mixed @ params["out"]["kernel"] + params["out"]["bias"]
    inside = np.arange(5) < np.array([5, 2])[:, None] if name == "lengths" else np.ones((2, 5))
    np.testing.assert_allclose(y, expected * inside[..., None], rtol=1e-4, atol=1e-5)
    sums = np.ones((2, 3, 5)) * np.array([name != "nothing", 1])[:, None, None]
    np.testing.assert_allclose(weights.sum(-1), sums, rtol=1e-5)


def test_of_repeated_blocks_they_are_stacked_under_jit():
    shape = {"vocab": 7, "depth": 3, "width": 12, "heads": 3, "context": 8}
    model, ids = fn.Model(fn.models.transformer, **shape), jnp.ones((2, 5), jnp.int32)
    params = drawn(model, ids, ids)
    taps = ("decoder.blocks.cross.weights", "encoder.blocks.1.attention.weights")
    look = jax.jit(lambda *given: model.capture(params, None, *given, taps=taps)[1])
    found = look(ids[:, :4], ids)
    assert [found[tap].shape for tap in taps] == [(3, 2, 3, 5, 4), (2, 3, 4, 4)]


def test_untapped_they_are_not_there():
    model = fn.Model(fn.attention, heads=3)
    params = drawn(model, X)
    assert set(model.capture(params, None, X, taps="out")[1]) == {"out"}
    with pytest.raises(ValueError, match="weight"):
        model.capture(params, None, X, taps="weight")
