"""Numbers gone bad: the layer that is named is the one in which they were planted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from explaining import (
    BATCH,
    X,
    block,
    deep,
    explained,
    made,
    poisoned,
    steep,
    steeper,
    zero_norm,
)
from toys import SGD, compilations

import funnet as fn
from funnet.train.explain import Explanation, explain
from funnet.train.replay import Op, Program
from funnet.train.retrace import Number, origin_of


@pytest.fixture(scope="module")
def trained():
    return made(deep)


# A parameter that is no number


@pytest.mark.parametrize(
    ("path", "index", "layer", "turn", "primitive"),
    [
        ("first.dense.kernel", (), "dense", (), "dot_general"),
        ("again.dense.bias", (), "dense", (), "add"),
        ("blocks.dense.kernel", (2,), "dense", (2,), "dot_general"),
        ("conv.kernel", (), "conv", (), "conv_general_dilated"),
        ("head.bias", (), "dense", (), "add"),
    ],
)
def test_a_parameter_that_is_no_number_is_named_with_its_layer(
    trained, path, index, layer, turn, primitive
):
    step, run = trained
    found = explain(step, poisoned(run, path, index), BATCH)
    expected = path.rpartition(".")[0]
    for i in turn:
        expected = expected.replace("blocks", f"blocks.{i}")
    assert (found.path, found.layer, found.model) == (expected, layer, "deep")
    assert (found.turn, found.primitive, found.backward) == (turn, primitive, False)
    assert found.leaves == (f"params.{path}",)
    assert str(found).startswith(f"params.{path} was not finite before the step. {expected} (")


def test_the_numbers_of_an_explanation_are_those_of_the_layer(trained):
    step, run = trained
    found = explain(step, poisoned(run, "head.kernel"), BATCH)
    model = fn.Model(deep)
    _, taps = model.capture(run.params, run.state, jnp.asarray(X), taps="conv")
    hidden = np.maximum(np.asarray(taps["conv"]), 0)  # what the head is given
    kernel = np.array(run.params["head"]["kernel"])
    kernel[0, 0] = np.nan
    assert (found.size, found.nans, found.infs) == (12, 4, 0)  # one of three columns
    np.testing.assert_allclose(found.low, min(hidden.min(), np.nanmin(kernel)), rtol=1e-5)
    np.testing.assert_allclose(found.high, max(hidden.max(), np.nanmax(kernel)), rtol=1e-5)


def test_a_jitted_step_is_explained_alike_and_compiled_once_for_its_flags(trained):
    step, run = trained
    bad = poisoned(run, "blocks.dense.bias", (1,))
    with compilations() as programs:
        found = explain(jax.jit(step), bad, BATCH)
    assert found == explain(step, bad, BATCH)
    assert found.path == "blocks.1.dense"
    assert len([name for name in programs if "lambda" in name]) == 2  # all, and one layer's inputs


def test_a_sound_step_is_said_to_be_sound(trained):
    step, run = trained
    found = explain(step, run, BATCH)
    assert found == Explanation(found=False)
    assert "finite numbers only" in str(found)


def test_nothing_is_changed(trained):
    step, run = trained
    before = jax.tree.map(np.array, run)
    explain(step, poisoned(run, "head.bias"), BATCH)
    jax.tree.map(np.testing.assert_array_equal, before, run)


# A batch, or what else comes from outside


def test_a_batch_that_is_no_number_is_named_with_the_first_layer(trained):
    image = X.copy()
    image[1, 2] = np.inf
    found = explain(*trained, {**BATCH, "image": image})
    assert (found.leaves, found.path, found.infs) == (("batch.image",), "first", 1)
    assert "batch.image was not finite before the step. first (block in deep)" in str(found)


def test_leaves_that_are_cast_or_moved_are_not_blamed_on_who_does_it():
    model = fn.Model(fn.repeat(block, 2))
    run = fn.Run.start(model, SGD, X)

    def objective(params, state, batch, *, train, key):
        params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
        y, state = model.apply(params, state, batch["image"].astype(jnp.bfloat16), train=train)
        return jnp.square(y.astype(jnp.float32)).sum(), (state, {})

    found = explain(fn.train_step(objective, SGD), poisoned(run, "dense.kernel", (1,)), BATCH)
    assert (found.path, found.layer, found.turn) == ("1.dense", "dense", (1,))


def test_state_and_optimizer_are_looked_at_too():
    adam, model = optax.adam(0.1), fn.Model(lambda p, x: fn.batch_norm(p["norm"], x)[:, :3])
    run = fn.Run.start(model, adam, X)
    run = dataclasses.replace(
        run,
        state=jax.tree.map(lambda x: x * jnp.nan, run.state),
        optimizer_state=jax.tree.map(
            lambda x: x * jnp.inf if x.ndim else x,
            optax.tree.map_params(adam, lambda x: x + 1, run.optimizer_state),
        ),
    )
    found = explain(fn.train_step(fn.classification(model), adam), run, BATCH)
    assert "optimizer_state.0.mu.norm.bias" in found.leaves
    assert {"state.norm.mean", "state.norm.var"} <= set(found.leaves)
    assert "and 3 more were not finite" in str(found)


# A layer's own computation


@pytest.mark.parametrize(
    ("function", "primitive", "nans"),
    [(lambda x: jnp.log(x * 0 - 1), "log", 24), (lambda x: jnp.exp(1e3 + 0 * x), "exp", 0)],
    ids=["log", "exp"],
)
def test_a_layer_that_makes_bad_numbers_is_named(function, primitive, nans):
    found = explained(deep, function=function)
    assert (found.path, found.layer, found.primitive) == ("odd", "block", primitive)
    assert (found.nans, found.infs, found.backward) == (nans, 24 - nans, False)
    assert f"{__file__}:" in str(found)


def test_a_layer_is_blamed_for_what_it_hands_to_its_children():
    @fn.layer
    def parent(p, x):
        return fn.dense(p["out"], jnp.log(fn.dense(p["hidden"], x, 4) * 0 - 1), 3)

    found = explained(fn.layer(lambda p, x: parent(p["it"], x)))
    assert (found.path, found.layer, found.primitive) == ("it", "parent", "log")


def test_the_top_layer_of_a_model_has_no_path_but_a_name():
    step, run = made(fn.dense, features=3)
    found = explain(step, poisoned(run, "kernel"), BATCH)
    assert (found.path, found.layer, found.model) == ("", "dense", "dense")
    assert "The top layer (dense) gave the first output" in str(found)


def test_named_scopes_of_the_caller_s_own_are_no_layers():
    @fn.layer
    def scoped(p, x):
        with jax.named_scope("mine"):
            return fn.dense(p["out"], x, 3) * jnp.log(x[:, :1] * 0 - 1)

    found = explained(scoped)
    assert (found.path, found.layer) == ("", "scoped")


@pytest.mark.parametrize("lengths", [None, np.array([5, 0, 2, 1], np.int32)], ids=["all", "some"])
def test_a_loop_within_a_layer_is_looked_into(lengths):
    @fn.layer
    def sequence(p, x):
        return fn.dense(p["out"], fn.lstm(p["lstm"], x, 4, lengths=lengths)[0][:, -1], 3)

    x = np.ones((4, 5, 3), np.float32)
    step, run = made(sequence, x)
    found = explain(step, poisoned(run, "lstm.hidden_kernel"), {**BATCH, "image": x})
    assert (found.path, found.primitive, found.loop) == ("lstm", "dot_general", ())


# The backward pass


def root(x):
    return x + jnp.sqrt(0 * x)


@pytest.mark.parametrize("function", [steep, steeper, root, zero_norm])
def test_a_layer_whose_derivative_is_bad_is_named(function):
    found = explained(deep, function=function)
    assert (found.path, found.layer, found.backward) == ("odd", "block", True)
    assert "gave the first gradient that is not finite in the backward pass" in str(found)
    assert found.leaves == ()


def in_block(p, x):
    return block(p, x, steep)


NESTS = {
    "remat": (fn.remat(in_block), "", ()),
    "repeat": (fn.repeat(in_block, 3), "2", (2,)),
    "remat in repeat": (fn.repeat(fn.remat(in_block), 3), "2", (2,)),
    "repeat in remat": (fn.remat(fn.repeat(in_block, 3)), "2", (2,)),
    "repeat in repeat": (fn.repeat(fn.repeat(in_block, 2), 2), "1.1", (1, 1)),
    "loop in repeat": (
        fn.repeat(lambda p, x: jax.lax.fori_loop(0, 3, lambda i, x: in_block(p["in"], x), x), 3),
        "2.in",
        (2,),
    ),
}


@pytest.mark.parametrize("nest", NESTS)
def test_the_backward_pass_of_lifted_layers_starts_at_the_last_turn(nest):
    layer, path, turn = NESTS[nest]
    found = explained(lambda p, x: fn.dense(p["out"], layer(p["blocks"], x), 3))
    assert found.path == ".".join(filter(None, ("blocks", path)))
    assert (found.layer, found.turn, found.backward) == ("block", turn, True)
    assert found.loop == ((2,) if nest == "loop in repeat" else ())


# Outside of layers


def of_objective(function, batch=BATCH):
    """An explanation where the loss is a function of the sum of squares of a dense layer."""
    model = fn.Model(fn.dense, features=3)

    def objective(params, state, batch, *, train, key):
        y, state = model.apply(params, state, batch["image"], train=train)
        return function(jnp.square(y).sum()), (state, {})

    return explain(fn.train_step(objective, SGD), fn.Run.start(model, SGD, X), batch)


@pytest.mark.parametrize(
    ("function", "primitive", "backward"),
    [
        (lambda s: jnp.log(s * 0), "log", False),
        (lambda s: jnp.sqrt(s * 0), "div", True),
        (lambda s: jnp.exp(1e3 + 0 * s), "exp", False),
    ],
    ids=["log", "sqrt", "exp"],
)
def test_the_objective_is_no_layer(function, primitive, backward):
    found = of_objective(function)
    assert (found.path, found.layer, found.model) == ("", "", "")
    assert (found.primitive, found.backward) == (primitive, backward)
    assert "outside any layer, in the objective or the optimizer" in str(found)


def test_a_label_out_of_range_is_the_objective_s(trained):
    label = BATCH["label"].copy()
    label[2] = 3
    found = explain(*trained, {**BATCH, "label": label})
    assert (found.path, found.layer, found.backward, found.leaves) == ("", "", False, ())


def test_a_norm_of_gradients_that_overflows_is_outside_too():
    found = of_objective(lambda s: 1e25 * s)
    assert (found.layer, found.infs, found.backward) == ("", 1, False)


# Infinities on purpose


@fn.layer
def masked(p, x):
    """Attention with masks of -inf, and logits of which one is ruled out."""
    q = fn.dense(p["q"], x, 4)
    mask = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), 0, -jnp.inf)
    x = adding(p["adding"], q @ q.swapaxes(1, 2), mask) @ q
    x = fn.attention(p["attention"], x, heads=2, causal=True, lengths=jnp.array([3, 0, 5, 1]))
    return jnp.where(jnp.arange(4) < 3, fn.dense(p["out"], x[:, -1], 4), -jnp.inf)


@fn.layer
def adding(p, scores, mask):
    return fn.softmax(scores + mask)


SEQUENCES = {**BATCH, "image": np.random.default_rng(1).normal(size=(4, 5, 3)).astype(np.float32)}


@pytest.fixture(scope="module")
def attending():
    return made(masked, SEQUENCES["image"])


def test_masks_of_infinity_are_no_false_alarm(attending):
    assert not explain(*attending, SEQUENCES).found


def test_masks_of_infinity_do_not_hide_who_it_is(attending):
    step, run = attending
    (name,) = [name for name in run.params["attention"] if name in ("qkv", "query", "q")]
    found = explain(step, poisoned(run, f"attention.{name}.kernel"), SEQUENCES)
    assert found.path == f"attention.{name}"
    label = np.array([0, 1, 2, 9], np.int32)
    assert explain(step, run, {**SEQUENCES, "label": label}).layer == ""


def test_a_row_that_sees_nothing_is_blamed_where_it_becomes_nan():
    @fn.layer
    def blind(p, x):
        weights = fn.softmax(jnp.where(x > 1e9, x, -jnp.inf))
        return fn.dense(p["out"], weights, 3)

    found = explained(blind)
    assert (found.layer, found.primitive, found.nans) == ("blind", "sub", X.size)


def test_where_a_number_came_from():
    op = Op("log", lambda: (), {}, [], [], (), Program())
    inf, nan, fine = np.array([np.inf]), np.array([np.nan, 1]), np.array([2.0, 3.0])
    constant, given = Number(inf, fixed=True), Number(fine)
    masked = Number(inf, op, (constant, given))
    assert origin_of(Number(fine, op, (given,))) is None
    assert origin_of(masked) is None  # written into the program
    spoilt = Number(nan, op, (masked, given))
    assert origin_of(Number(nan, op, (spoilt,))) is spoilt
    grown = Number(inf, op, (given,))
    assert origin_of(Number(nan, op, (grown,))) is grown
    moved = Number(nan, op, (Number(nan),))
    met = Number(nan, op, (moved, given))
    assert origin_of(met) is met
    assert origin_of(moved) is moved
