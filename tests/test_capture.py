"""Capture: activations by path, and patches in their place, wherever the layer is called."""

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
def block(p, x):
    x = x + fn.dense(p["attn"], x, 4, kernel_init=UNIFORM)
    return x + fn.tanh(fn.dense(p["mlp"], x, 4, kernel_init=UNIFORM))


def bare(layer):
    return layer


def looped(layer):
    @fn.layer
    def loop(p, x):
        for i in range(3):
            x = layer(p[str(i)], x)
        return x

    return loop


def repeated(layer):
    return fn.repeat(layer, 3)


def deep(lift):
    @fn.layer
    def net(p, x):
        return fn.dense(p["head"], lift(block)(p["blocks"], x), 2, kernel_init=UNIFORM)

    return net


def made(layer, x=X):
    model = fn.Model(layer)
    return model, *model.init(KEY, x)


def apart(params):
    """A repeated model's parameters as those of three layers in a row."""
    blocks = {str(i): jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]) for i in range(3)}
    return {**params, "blocks": blocks}


# Taps: patterns in, paths out.


def test_the_output_is_the_one_of_apply_and_nothing_is_captured_unasked():
    model, params, state = made(deep(repeated))
    output, captured = model.capture(params, state, X)
    np.testing.assert_array_equal(output, model.apply(params, state, X)[0])
    assert captured == {}


PATTERNS = {
    "head": {"head": (8, 2)},
    "blocks": {"blocks": (3, 8, 4)},
    "*.mlp": {"blocks.mlp": (3, 8, 4)},
    "blocks.[am]*": {"blocks.attn": (3, 8, 4), "blocks.mlp": (3, 8, 4)},
    "*ead": {"head": (8, 2)},
    "blocks.2.attn": {"blocks.2.attn": (8, 4)},
    "blocks.0": {"blocks.0": (8, 4)},
    "blocks.2.*": {"blocks.2.attn": (8, 4), "blocks.2.mlp": (8, 4)},
    ("blocks.1.mlp", "head"): {"blocks.1.mlp": (8, 4), "head": (8, 2)},
    ("blocks.mlp", "*.mlp"): {"blocks.mlp": (3, 8, 4)},
    ("blocks.mlp", "blocks.1.mlp"): {"blocks.mlp": (3, 8, 4), "blocks.1.mlp": (8, 4)},
}


@pytest.mark.parametrize("taps", PATTERNS, ids=str)
def test_patterns_pick_paths(taps):
    model, params, state = made(deep(repeated))
    _, captured = model.capture(params, state, X, taps=taps)
    assert {path: value.shape for path, value in captured.items()} == PATTERNS[taps]


LIFTS = {
    "repeat": repeated,
    "remat of repeat": lambda layer: fn.remat(repeated(layer)),
    "repeat of remat": lambda layer: repeated(fn.remat(layer)),
}


@pytest.mark.parametrize("lift", LIFTS)
def test_a_repeated_layer_gives_the_turns_of_a_loop_stacked(lift):
    model, params, state = made(deep(LIFTS[lift]))
    taps = ("blocks*", *(f"blocks.{i}.attn" for i in range(3)))
    _, captured = model.capture(params, state, X, taps=taps)
    direct = fn.Model(deep(looped))
    _, expected = direct.capture(apart(params), {}, X, taps="blocks.*")
    for name in ("", ".attn", ".mlp"):
        stack = np.stack([expected[f"blocks.{i}{name}"] for i in range(3)])
        np.testing.assert_allclose(captured[f"blocks{name}"], stack, rtol=1e-5, atol=1e-6)
    for i in range(3):
        path = f"blocks.{i}.attn"
        np.testing.assert_allclose(captured[path], expected[path], rtol=1e-5, atol=1e-6)


def test_turns_of_turns_are_picked_by_both_indices():
    twice = fn.layer(lambda p, x: fn.repeat(block, 2)(p["inner"], x))
    model, params, state = made(fn.layer(lambda p, x: fn.repeat(twice, 3)(p["outer"], x)))
    taps = ("outer.inner.attn", "outer.2.inner.1.attn")
    _, captured = model.capture(params, state, X, taps=taps)
    assert captured[taps[0]].shape == (3, 2, 8, 4)
    np.testing.assert_array_equal(captured[taps[1]], captured[taps[0]][2, 1])


def test_remat_carries_taps_through():
    expected = fn.Model(deep(bare))
    model, params, state = made(deep(fn.remat))
    found = model.capture(params, state, X, taps="blocks*")
    chex.assert_trees_all_close(found, expected.capture(params, state, X, taps="blocks*"))


@pytest.mark.parametrize("lift", [bare, fn.remat], ids=["plain", "remat"])
def test_a_shared_layer_called_twice_gives_a_tuple(lift):
    @fn.layer
    def twice(p, x):
        x = lift(block)(p.shared("block"), x)
        return lift(block)(p.shared("block"), x)

    model, params, state = made(twice)
    output, captured = model.capture(params, state, X, taps=("block", "block.mlp"))
    first, second = captured["block"]
    np.testing.assert_array_equal(second, output)
    own = fn.Model(block)
    np.testing.assert_allclose(first, own(params["block"], X), rtol=1e-5, atol=1e-6)
    assert isinstance(captured["block.mlp"], tuple)


def test_a_shared_layer_in_a_repeat_gives_a_tuple_at_each_turn():
    @fn.layer
    def twice(p, x):
        return fn.tanh(fn.dense(p.shared("d"), fn.dense(p.shared("d"), x, 4), 4))

    model, params, state = made(fn.layer(lambda p, x: fn.repeat(twice, 3)(p["blocks"], x)))
    _, captured = model.capture(params, state, X, taps=("blocks.d", "blocks.1.d"))
    assert [value.shape for value in captured["blocks.d"]] == [(3, 8, 4)] * 2
    assert [value.shape for value in captured["blocks.1.d"]] == [(8, 4)] * 2


LENDERS = {"plain": bare, "remat": fn.remat, "repeat": repeated}


@pytest.mark.parametrize("lift", LENDERS)
def test_a_layer_that_hands_on_its_scope_is_one_place(lift):
    @fn.layer
    def lends(p, x):
        return LENDERS[lift](block)(p, x) * 2

    model, params, state = made(fn.layer(lambda p, x: lends(p["it"], x) + 1))
    output, captured = model.capture(params, state, X, taps="it")
    np.testing.assert_allclose(captured["it"] + 1, output, rtol=1e-6)
    patched, _ = model.capture(params, state, X, patches={"it": lambda y: y + 5})
    np.testing.assert_allclose(patched, output + 5, rtol=1e-5)
    rows = [(row.path, row.layer) for row in model.summary(X).rows if row.path == "it"]
    assert rows == [("it", "lends")]


def test_capture_trains_and_draws_as_apply_does():
    @fn.layer
    def noisy(p, x):
        return fn.batch_norm(p["norm"], fn.dropout(p["drop"], x, 0.5))

    model, params, state = made(noisy)
    output, captured = model.capture(params, state, X, taps="*", train=True, key=KEY)
    expected, _ = model.apply(params, state, X, train=True, key=KEY)
    np.testing.assert_array_equal(output, expected)
    assert (captured["drop"] == 0).any()
    assert set(captured) == {"", "drop", "norm"}


def test_a_pattern_that_matches_nothing_lists_the_nearest_paths():
    model, params, state = made(deep(repeated))
    for wrong in ({"taps": "block.atn"}, {"patches": {"block.atn": fn.relu}}):
        with pytest.raises(ValueError, match=r"'block\.atn' matches nothing.*blocks\.attn"):
            model.capture(params, state, X, **wrong)


@pytest.mark.parametrize("wrong", ["blocks.3.attn", "blocks.-1.attn", "blocks.x.attn", "", "nope"])
def test_patterns_that_name_no_place(wrong):
    model, params, state = made(deep(repeated))
    if wrong == "":  # the top, whose dotted path is empty
        assert model.capture(params, state, X, taps="")[1][""].shape == (8, 2)
        return
    with pytest.raises(ValueError, match=r"matches nothing.*(blocks|head)"):
        model.capture(params, state, X, taps=("head", wrong))


# Patches: another output, on the way.


def test_a_patch_replaces_what_follows():
    model, params, state = made(deep(bare))
    values = jnp.full((8, 4), 0.25)
    output, captured = model.capture(
        params, state, X, taps="blocks", patches={"blocks": lambda y: values}
    )
    np.testing.assert_array_equal(captured["blocks"], values)
    head = params["head"]
    np.testing.assert_allclose(output, values @ head["kernel"] + head["bias"], rtol=1e-5)


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("path", ["attn", ""])
def test_a_patch_at_one_turn_is_that_of_one_layer_in_a_loop(lift, path):
    place = ".".join(["blocks.1", *filter(None, [path])])
    patches = {place: lambda y: -2 * y}
    model, params, state = made(deep(LIFTS[lift]))
    output, _ = model.capture(params, state, X, patches=patches)
    expected, _ = fn.Model(deep(looped)).capture(apart(params), {}, X, patches=patches)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(output, model(params, X))


@pytest.mark.parametrize("lift", LIFTS)
def test_a_patch_at_all_turns(lift):
    patches = {"blocks.attn": jnp.negative}
    model, params, state = made(deep(LIFTS[lift]))
    output, _ = model.capture(params, state, X, patches=patches)
    loop = fn.Model(deep(looped))
    expected, _ = loop.capture(apart(params), {}, X, patches={"blocks.?.attn": jnp.negative})
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("patch", [lambda y: y[:1], lambda y: 0.0, lambda y: (y, y)])
def test_a_patch_at_one_turn_must_give_what_the_layer_gave(patch):
    model, params, state = made(deep(repeated))
    with pytest.raises((ValueError, TypeError), match=r"patch.*blocks\.1\.attn"):
        model.capture(params, state, X, patches={"blocks.1.attn": patch})


def test_a_patch_works_where_a_tap_cannot():
    @fn.layer
    def mapped(p, x):
        return jax.vmap(lambda row: fn.dense(p["d"], row, 4))(x)

    model, params, state = made(mapped)
    output, _ = model.capture(params, state, X, patches={"d": jnp.zeros_like})
    assert not output.any()
    with pytest.raises(ValueError, match=r"'d'.*tapped.*fn\.repeat"):
        model.capture(params, state, X, taps="d")


# Transformations: taps ride on what the function returns.


def gradients(model, params, x, patches=None):
    def loss(params, x):
        output, captured = model.capture(
            params, {}, x[None], taps=("blocks*", "blocks.2.attn"), patches=patches
        )
        return jnp.sin(output).sum(), captured

    return jax.grad(loss, has_aux=True)(params, x)


@pytest.mark.parametrize("lift", LIFTS)
def test_taps_and_patches_under_jit_of_vmap_of_grad(lift):
    model, params, _ = made(deep(LIFTS[lift]))
    patches = {"blocks.1.mlp": lambda y: 3 * y}
    together = jax.jit(jax.vmap(lambda p, x: gradients(model, p, x, patches), (None, 0)))
    found = together(params, X[:2])
    for i in range(2):
        alone = jax.jit(lambda p, x: gradients(model, p, x, patches))(params, X[i])
        own = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        chex.assert_trees_all_close(own, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("lift", "place"),
    [*((lift, "blocks.1.attn") for lift in LIFTS), ("repeat", "blocks.2"), ("repeat", "head")],
)
def test_the_gradient_at_an_activation_is_a_finite_difference(lift, place):
    with jax.enable_x64(True):
        x = jnp.asarray(X, jnp.float64)
        model, params, state = made(deep(LIFTS[lift]))
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)

        @jax.jit
        def loss(nudge):
            patches = {place: lambda y: y + nudge}
            return jnp.sin(model.capture(params, state, x, patches=patches)[0]).sum()

        shape = (8, 2) if place == "head" else (8, 4)
        gradient = jax.grad(loss)(jnp.zeros(shape))
        way = np.random.default_rng(0).normal(size=shape)
        difference = (loss(1e-6 * way) - loss(-1e-6 * way)) / 2e-6
        np.testing.assert_allclose((gradient * way).sum(), difference, rtol=1e-6)
