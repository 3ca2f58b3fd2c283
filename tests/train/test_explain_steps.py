"""Numbers gone bad in steps of one's own, in large models, and what is said of them."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from explaining import (
    BATCH,
    X,
    deep,
    made,
    poisoned,
    zero_norm,
)
from toys import SGD

import funnet as fn
from funnet.train.explain import Explanation, explain
from funnet.train.retrace import Number


@pytest.fixture(scope="module")
def trained():
    return made(deep)


# Steps of one's own


@fn.layer
def generator(p, z):
    return fn.dense(p["out"], jnp.tanh(fn.dense(p["hidden"], z, 5)), 6)


@fn.layer
def critic(p, x):
    return fn.dense(p["out"], jnp.tanh(fn.dense(p["hidden"], x, 5)), 1)


MAKER, JUDGE = fn.Model(generator), fn.Model(critic)


def adversarial(run, batch):
    """A step of two networks, with a penalty on the gradient of one, that reports no gradient."""
    z = jax.random.normal(run.key("z"), (4, 2))
    fake = lambda params: MAKER(params["maker"], z)  # noqa: E731

    def maker_loss(params):
        return -JUDGE(run.params["judge"], fake(params)).mean()

    def judge_loss(params):
        slope = jax.grad(lambda x: JUDGE(params["judge"], x).sum())(batch["image"])
        penalty = jnp.square(jnp.linalg.norm(slope, axis=-1) - 1).mean()
        return JUDGE(params["judge"], fake(run.params)).mean() + penalty

    losses, gradients = zip(
        *(jax.value_and_grad(loss)(run.params) for loss in (maker_loss, judge_loss)), strict=True
    )
    norms = [optax.tree.norm(gradient) for gradient in gradients]
    params = jax.tree.map(lambda w, g, h: w - 0.1 * (g + h), run.params, *gradients)
    return fn.guarded(run, run.next(params=params), *norms), {"loss": losses[0]}


@pytest.fixture(scope="module")
def pair():
    params = {
        "maker": MAKER.init(jax.random.key(0), jnp.ones((4, 2)))[0],
        "judge": JUDGE.init(jax.random.key(1), jnp.asarray(X))[0],
    }
    return fn.Run(params, {}, (), jnp.int32(0), jnp.uint32(0))


@pytest.mark.parametrize(("name", "model"), [("maker", "generator"), ("judge", "critic")])
def test_two_networks_are_told_apart(pair, name, model):
    found = explain(jax.jit(adversarial), poisoned(pair, f"{name}.out.kernel"), BATCH)
    assert (found.path, found.model, found.backward) == ("out", model, False)
    assert f"out (dense in {model})" in str(found)


def test_a_gradient_of_a_gradient_is_followed(pair):
    flat = jax.tree.map(jnp.zeros_like, pair.params["judge"])
    run = dataclasses.replace(pair, params={**pair.params, "judge": flat})
    found = explain(adversarial, run, BATCH)  # the norm of a slope of zero
    assert (found.layer, found.backward, found.primitive) == ("", True, "div")


PLAIN = fn.classification(fn.Model(deep))


def accumulated(run, batch):
    """A step whose gradient is summed over three microbatches."""

    def part(total, batch):
        loss_of = lambda params: PLAIN(params, run.state, batch, train=True, key=run.key())[0]  # noqa: E731
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss_of)(run.params)), None

    parts = jax.tree.map(lambda x: x.reshape(3, -1, *x.shape[1:]), batch)
    zeros = (jnp.float32(0), jax.tree.map(jnp.zeros_like, run.params))
    (loss, gradient), _ = jax.lax.scan(part, zeros, parts)
    params = jax.tree.map(lambda w, g: w - 0.1 * g, run.params, gradient)
    return fn.guarded(run, run.next(params=params), loss, optax.tree.norm(gradient)), {"loss": loss}


def test_microbatches_are_told_apart_from_turns_of_a_block(trained):
    batch = jax.tree.map(lambda x: np.concatenate([x, x, x])[:12], BATCH)
    found = explain(accumulated, poisoned(trained[1], "blocks.dense.kernel", (2,)), batch)
    assert (found.path, found.turn, found.loop) == ("blocks.2.dense", (2,), (0,))
    batch["image"][9] = np.inf
    found = explain(accumulated, trained[1], batch)
    assert (found.path, found.turn, found.loop) == ("first", (), (2,))
    assert "in turn 2 of a loop around it" in str(found)
    batch["image"][9], batch["label"][5] = 1, 3
    found = explain(accumulated, trained[1], batch)
    assert (found.layer, found.loop) == ("", (1,))


def test_a_branch_is_gone_into(trained):
    step, run = trained

    def sometimes(run, batch):
        _, shapes = jax.eval_shape(step, run, batch)
        skipped = lambda: (run.next(), jax.tree.map(jnp.zeros_like, shapes))  # noqa: E731
        return jax.lax.cond(run.step % 2 == 0, lambda: step(run, batch), skipped)

    bad = poisoned(run, "blocks.dense.kernel", (1,))
    assert explain(sometimes, bad, BATCH).path == "blocks.1.dense"
    skipped = explain(sometimes, dataclasses.replace(bad, step=jnp.int32(1)), BATCH)
    assert (skipped.found, skipped.leaves) == (False, ("params.blocks.dense.kernel",))


def test_an_ensemble_is_explained_as_one(trained):
    step, run = trained
    runs = jax.tree.map(lambda x: jnp.stack([x, x]), run)
    found = explain(jax.vmap(step, (0, None)), poisoned(runs, "blocks.dense.kernel", (1, 2)), BATCH)
    assert (found.path, found.nans) == ("blocks.2.dense", 4)


def test_random_layers_draw_as_they_did():
    @fn.layer
    def dropping(p, x):
        kept = fn.dropout(p["dropout"], jnp.ones_like(x), 0.5)
        return fn.dense(p["out"], jnp.log(kept - 1e-3), 3)

    step, run = made(dropping)
    kept = fn.Model(dropping).capture(
        run.params, run.state, jnp.asarray(X), taps="dropout", train=True, key=run.key()
    )[1]["dropout"]
    assert explain(step, run, BATCH).nans == int((np.asarray(kept) == 0).sum()) > 0


# Models of the house


def test_a_turn_of_gpt_s_blocks_is_named():
    ids = np.arange(12, dtype=np.int32).reshape(2, 6)
    gpt = fn.Model(fn.models.gpt, vocab=12, depth=3, width=8, heads=2, context=6)

    def objective(params, state, batch, *, train, key):
        logits, state = gpt.apply(params, state, batch["ids"], train=train, key=key)
        return fn.losses.cross_entropy(logits, batch["ids"]).mean(), (state, {})

    step, run = fn.train_step(objective, SGD), fn.Run.start(gpt, SGD, ids)
    found = explain(step, poisoned(run, "blocks.feed.up.kernel", (2,)), {"ids": ids})
    assert (found.path, found.turn) == ("blocks.2.feed.up", (2,))


RESNET = fn.Model(fn.models.resnet, classes=10, depth=18, stem="cifar")
IMAGES = {
    "image": np.random.default_rng(2).normal(size=(2, 32, 32, 3)).astype(np.float32),
    "label": np.array([3, 7], np.int32),
}


def residual(patches):
    """A step of ResNet-18 with functions after some of its layers."""

    def objective(params, state, batch, *, train, key):
        logits, _ = RESNET.capture(params, state, batch["image"], patches=patches, train=train)
        return fn.losses.cross_entropy(logits, batch["label"]).mean(), (state, {})

    return fn.train_step(objective, SGD)


@pytest.fixture(scope="module")
def resnet_run():
    return fn.Run.start(RESNET, SGD, IMAGES["image"])


def test_a_parameter_of_a_resnet_is_found(resnet_run):
    path = "stage3.block1.conv2.kernel"
    found = explain(residual({}), poisoned(resnet_run, path), IMAGES)
    assert (found.path, found.layer, found.model) == ("stage3.block1.conv2", "conv", "resnet")
    assert (found.leaves, found.backward) == ((f"params.{path}",), False)


def test_a_derivative_in_a_block_of_a_resnet_is_found(resnet_run):
    found = explain(residual({"stage2.block0": zero_norm}), resnet_run, IMAGES)
    assert (found.path, found.layer, found.backward) == ("stage2.block0", "basic", True)


# What is said


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"path": "a.conv", "layer": "conv", "model": "net", "primitive": "log", "size": 4096}
            | {"nans": 12, "low": -0.3, "high": 5.1},
            "a.conv (conv in net) gave the first output that is not finite in the forward pass: "
            "12 of 4,096 numbers are NaN (operation log, whose finite inputs ranged from -0.3 to "
            "5.1).",
        ),
        (
            {"layer": "net", "model": "net", "primitive": "div", "size": 8, "nans": 1, "infs": 2}
            | {"backward": True, "loop": (3,), "low": 0.0, "high": 0.0, "line": "net.py:7"},
            "The top layer (net) gave the first gradient that is not finite in the backward pass, "
            "in turn 3 of a loop around it: 1 of 8 numbers are NaN and 2 infinite (operation div, "
            "whose finite inputs were 0, at net.py:7).",
        ),
        (
            {"path": "a", "layer": "dense", "model": "net", "size": 8},
            "a (dense in net) gave the first output that is not finite in the forward pass; "
            "computed by itself, it was finite.",
        ),
    ],
)
def test_an_explanation_reads_as_a_sentence(fields, text):
    assert str(Explanation(**fields)) == text


def test_what_does_not_come_again_is_named_all_the_same(monkeypatch, trained):
    module = sys.modules["funnet.train.explain"]
    monkeypatch.setattr(module, "_looked_at", lambda *_: Number(np.zeros(3)))
    found = explain(trained[0], poisoned(trained[1], "head.kernel"), BATCH)
    assert (found.path, found.primitive, found.nans) == ("head", "", 0)


def test_fit_explains_and_keeps_the_run_and_the_batch(trained, tmp_path):
    step, run = trained[:2]
    bad, batches = poisoned(run, "head.kernel"), fn.data.batches(BATCH, 4)
    how = {"steps": 3, "folder": tmp_path, "on_nonfinite": "explain", "progress": False}
    with pytest.raises(
        ValueError, match=r"step 0 was refused: .*\. head \(dense in deep\)"
    ) as caught:
        fn.fit(step, bad, batches, **how)
    kept = fn.load(tmp_path / "refused-00000000.safetensors")
    np.testing.assert_array_equal(kept["image"], batches[0]["image"])
    again = fn.restore(tmp_path, like=run)
    np.testing.assert_array_equal(again.params["head"]["kernel"], bad.params["head"]["kernel"])
    assert caught.value.batch["image"].shape == X.shape


def test_what_cannot_be_explained_is_refused_all_the_same(trained, monkeypatch):
    def broken(*_):
        raise KeyError("name_stack")

    monkeypatch.setattr(sys.modules["funnet.train.explain"], "explain", broken)
    bad, batches = poisoned(trained[1], "head.kernel"), fn.data.batches(BATCH, 4)
    with pytest.raises(ValueError, match=r"step 0 was refused: .* could not be found \(KeyError"):
        fn.fit(trained[0], bad, batches, steps=3, on_nonfinite="explain", progress=False)
