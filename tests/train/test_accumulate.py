"""Accumulated steps: the same loss, gradient, metrics and masks as the undivided one's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import DATA, LINEAR, MODEL, QUIET, assert_close, assert_same

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")


@fn.layer
def block(p, x):
    y = fn.relu(fn.dense(p["dense"], fn.layer_norm(p["norm"], x), 8))
    return x + fn.dropout(p["dropout"], y, 0.25)


@fn.layer
def net(p, x):
    x = fn.dropout(p["first"], fn.dense(p["in"], x, 8), 0.2)
    x = fn.repeat(fn.remat(block), 2)(p["blocks"], x)
    return fn.dense(p["out"], fn.layer_norm(p["norm"], x), 3)


RNG = np.random.default_rng(0)
WEIGHTS = RNG.choice(np.float32([0, 0.5, 1, 3]), 50)
WEIGHTED = {**DATA, "weight": WEIGHTS}
NET = fn.Model(net)
BATCHES = fn.data.batches(WEIGHTED, 16)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), fn.optim.adamw(1e-3))
OBJECTIVE = fn.classification(NET)


EACH = {k: fn.train_step(OBJECTIVE, OPTIMIZER, accumulate=k) for k in (1, 2, 4)}
JITTED = {k: jax.jit(step) for k, step in EACH.items()}


def steps(objective, optimizer, parts=(1, 2, 4)):
    return [jax.jit(fn.train_step(objective, optimizer, accumulate=k)) for k in parts]


def start(model=NET, optimizer=OPTIMIZER):
    return fn.Run.start(model, optimizer, DATA["image"])


def test_fifty_steps_are_those_of_the_big_batch_fused_or_not():
    runs = {}
    for k, step in EACH.items():
        runs[k] = fn.fit(step, start(), BATCHES, steps=50, **QUIET)
        assert_close(runs[k].params, runs[1].params, rtol=0, atol=1e-6)
        assert_same(fn.fit(step, start(), BATCHES, steps=50, fuse=7, **QUIET), runs[k])
    moved = jax.tree.map(lambda x, y: abs(x - y).max(), start().params, runs[1].params)
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_one_step_has_loss_metrics_and_norm_of_the_big_batch():
    batch = BATCHES[0]
    (run, expected), *others = [step(start(), batch) for step in JITTED.values()]
    assert expected["gradient_norm"] > 0.1
    for new, metrics in others:
        assert metrics.keys() == expected.keys()
        assert_close(metrics, expected, rtol=1e-5)
        assert_close(new.params, run.params, rtol=0, atol=1e-6)
        assert metrics["accuracy"].count.dtype == expected["accuracy"].count.dtype


def noise(layer, shape, key):
    return fn.Model(layer, rate=0.5)({}, jnp.ones(shape), train=True, key=key)


@fn.layer
def tokens(p, x):
    """Time flattened into the rows, a lift in a lift, and noise of no rows beside it."""
    flat = fn.dropout(p["flat"], x.reshape(-1, x.shape[-1]), 0.5).reshape(x.shape)
    y = fn.repeat(fn.repeat(fn.dropout, 2), 2)(p["deep"], x, 0.2)
    y = fn.remat(fn.spatial_dropout)(p["channels"], y, 0.2) + fn.gaussian_noise(p["n"], x, 1.0)
    one = fn.dropout(p["one"], jnp.ones((1, *x.shape[1:])), 0.5)
    return flat + fn.stochastic_depth(p["depth"], y, 0.5) * one


def test_masks_of_any_layer_are_those_of_the_whole_batch():
    def objective(params, state, batch, *, train, key):
        y, state = fn.Model(tokens).apply({}, {}, batch["x"], train=train, key=key)
        own = jax.random.normal(key, batch["x"].shape)
        found = fn.metrics.mean((y + own).mean((1, 2)) * params["w"], batch["weight"])
        # each row's numbers at the row's own place, so that they can be told apart
        place = jnp.zeros((8, 5, 4)).at[batch["id"]].set(y + own)
        return found.value, (state, {"loss": found, "rows": fn.metrics.Sum(place)})

    x, weight = RNG.normal(size=(8, 5, 4)).astype("f"), np.ones(8, "f")
    batch = {"x": x, "id": np.arange(8, dtype=np.int32), "weight": weight}
    params = {"w": jnp.float32(1)}
    run = fn.Run(params, {}, optax.sgd(0.1).init(params), jnp.int32(4), jnp.uint32(1))
    whole, *others = [
        s(run, batch)[1]["rows"].total for s in steps(objective, optax.sgd(0.1), (1, 2, 4))
    ]
    for other in others:
        np.testing.assert_array_equal(other, whole)
    assert len(np.unique(np.round(whole, 5))) > 150


def test_augmented_examples_are_those_of_the_whole_batch():
    move = fn.data.augment.chain(fn.data.augment.shift(2), fn.data.augment.flip())
    seen = []

    def augment(key, batch):
        batch = move(key, batch)
        jax.debug.callback(lambda ids, x: seen.append((ids, x)), batch["id"], batch["image"])
        return batch

    model = fn.Model(fn.layer(lambda p, x: fn.dense(p["out"], fn.flatten(x), 3)))
    images = {"image": RNG.normal(size=(8, 4, 4, 1)).astype("f"), "label": DATA["label"][:8]}
    batch = {**images, "id": np.arange(8, dtype=np.int32)}
    run = fn.Run.start(model, optax.sgd(0.1), images["image"])
    found = []
    for step in steps(fn.classification(model, augment=augment), optax.sgd(0.1), (1, 2, 4, 8)):
        seen.clear()
        step(run, batch)
        jax.effects_barrier()
        found.append(
            {int(i): np.asarray(x) for ids, xs in seen for i, x in zip(ids, xs, strict=True)}
        )
    for other in found[1:]:
        assert_same(other, found[0])


def test_parts_that_weigh_nothing_add_nothing():
    weight = np.float32([0] * 4 + [1, 2, 0, 0.5] + [0] * 8)
    batch = {**BATCHES[0], "weight": weight}
    (run, expected), *others = [step(start(), batch) for step in JITTED.values()]
    assert int(run.step) == 1
    for new, metrics in others:
        assert_close(new.params, run.params, rtol=0, atol=1e-6)
        assert_close(metrics, expected, rtol=1e-5)


def test_a_batch_that_weighs_nothing_is_refused_as_ever():
    batch = {**BATCHES[0], "weight": np.zeros(16, np.float32)}
    for step in JITTED.values():
        new, metrics = step(start(), batch)
        assert_same(new, start())
        assert np.isnan(metrics["loss"].value)


def test_a_label_that_is_no_class_is_refused_in_whatever_part():
    for row in (0, 15):
        labels = BATCHES[0]["label"].copy()
        labels[row] = 3
        batch = {**BATCHES[0], "label": labels, "weight": np.ones(16, np.float32)}
        new, metrics = JITTED[4](start(), batch)
        assert_same(new, start())
        assert np.isnan(metrics["gradient_norm"])


def test_model_state_goes_from_part_to_part():
    objective, batch = fn.classification(MODEL), BATCHES[0]
    run = start(MODEL, optax.sgd(0.1))
    new, _ = steps(objective, optax.sgd(0.1), (4,))[0](run, batch)
    x = batch["image"] @ run.params["hidden"]["kernel"]
    mean, var = np.zeros(8), np.ones(8)
    for part in np.split(np.asarray(x), 4):
        mean, var = 0.9 * mean + 0.1 * part.mean(0), 0.9 * var + 0.1 * part.var(0, ddof=1)
    assert_close(new.state["norm"], {"mean": mean, "var": var}, rtol=1e-5)


def test_it_is_torch_s_accumulation():
    torch = pytest.importorskip("torch")
    optimizer = optax.sgd(0.1, momentum=0.9)
    run = start(LINEAR, optimizer)
    layer = torch.nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.asarray(run.params["out"]["kernel"]).T))
        layer.bias.copy_(torch.tensor(np.asarray(run.params["out"]["bias"])))
    reference = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    (step,) = steps(fn.classification(LINEAR), optimizer, (4,))
    for i in range(3):
        batch = BATCHES[i]
        x, label, weight = (
            torch.tensor(np.asarray(batch[n])) for n in ("image", "label", "weight")
        )
        reference.zero_grad()
        for part in torch.arange(16).chunk(4):
            losses = torch.nn.functional.cross_entropy(
                layer(x[part]), label[part].long(), reduction="none"
            )
            ((losses * weight[part]).sum() / weight.sum()).backward()
        reference.step()
        run, _ = step(run, batch)
    found = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
    assert_close(
        (run.params["out"]["kernel"], run.params["out"]["bias"]), found, rtol=1e-5, atol=1e-6
    )


def test_frozen_averaged_and_scaled_too():
    optimizer = fn.optim.scale_loss(fn.optim.average(fn.optim.freeze(OPTIMIZER, "blocks.*"), 0.5))
    whole, parts = (
        s(start(NET, optimizer), BATCHES[0]) for s in steps(OBJECTIVE, optimizer, (1, 4))
    )
    assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def plain(params, state, batch, *, train, key):
    loss = (params["w"] * batch["x"]).mean()
    return loss, (state, {"size": jnp.float32(7), "most": batch["x"].max()})


def scalar_run():
    params = {"w": jnp.float32(1)}
    return fn.Run(params, {}, optax.sgd(0.1).init(params), jnp.int32(4), jnp.uint32(1))


def test_plain_numbers_are_averaged():
    def objective(params, state, batch, *, train, key):
        loss, (state, found) = plain(params, state, batch, train=train, key=key)
        return loss, (state, {**found, "loss": fn.metrics.mean(params["w"] * batch["x"])})

    (step,) = steps(objective, optax.sgd(0.1), (2,))
    _, metrics = step(scalar_run(), {"x": jnp.float32([1, 2, 3, 6])})
    assert (float(metrics["size"]), float(metrics["most"])) == (7, 4)
    assert (float(metrics["loss"].total), int(metrics["loss"].count)) == (12, 4)


def taken(batch, k=2, objective=plain, **changes):
    step = fn.train_step(objective, optax.sgd(0.1), accumulate=k)
    return step(dataclasses.replace(scalar_run(), **changes), batch)


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(
        ValueError, match=r"accumulate=3 does not divide.* 4 examples.*multiple of 3"
    ):
        taken({"x": jnp.ones(4)}, 3)
    with pytest.raises(ValueError, match=r"first axis.*'y': \(2,\).*one row for each"):
        taken({"x": jnp.ones(4), "y": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"first axis.*'y': \(\)"):
        taken({"x": jnp.ones(4), "y": jnp.float32(2)})
    with pytest.raises(ValueError, match=r"does not divide.* 0 examples"):
        taken({"x": jnp.ones(0)})
    for k, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="accumulate"):
            taken({"x": jnp.ones(4)}, k)


def test_an_objective_that_does_not_tell_its_weight_is_refused():
    with pytest.raises(
        ValueError, match=r"fn\.metrics\.mean\(values, batch.*'loss'\], which is missing"
    ):
        taken({"x": jnp.ones(4)})

    def objective(params, state, batch, *, train, key):
        loss = (params["w"] * batch["x"]).mean()
        return loss, (state, {"loss": fn.metrics.Sum(loss)})

    with pytest.raises(ValueError, match="which is a Sum"):
        taken({"x": jnp.ones(4)}, objective=objective)
