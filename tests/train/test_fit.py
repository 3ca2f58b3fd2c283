"""The loop: how far it goes, when it validates, what it traces, and any step that it is given."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import (
    BATCHES,
    DATA,
    LINEAR_OBJECTIVE,
    LINEAR_STEP,
    QUIET,
    SGD,
    STEP,
    Streamed,
    assert_close,
    assert_same,
    compilations,
    host,
    linear_start,
    start,
)

import funnet as fn


def fitted(run=None, batches=BATCHES, **how):
    """The plain step's run, after so many steps."""
    run = linear_start() if run is None else run
    return fn.fit(LINEAR_STEP, run, batches, **QUIET, **how)


def test_training_is_the_steps_one_after_another():
    run, step = linear_start(), jax.jit(LINEAR_STEP)
    for i in range(10):
        run, _ = step(run, BATCHES[i])
    assert_close(fitted(steps=10), run, rtol=1e-5, atol=1e-7)


def test_training_lowers_the_loss():
    run = fitted(steps=300)
    before, after = (fn.evaluate(LINEAR_OBJECTIVE, r, DATA)["loss"] for r in (linear_start(), run))
    assert after < before


@pytest.mark.parametrize(
    ("how", "steps"),
    [
        ({"steps": 0}, 0),
        ({"steps": 7}, 7),
        ({"steps": np.int64(7)}, 7),
        ({"epochs": 1}, 4),
        ({"epochs": 2}, 7),
        ({"epochs": 1.5}, 5),
        ({"epochs": 0.01}, 1),
        ({"epochs": 0}, 0),
    ],
)
def test_steps_and_epochs_say_where_to_stop(how, steps):
    run = fitted(**how)
    assert int(run.step) == steps
    assert_same(run, fitted(steps=steps))


@pytest.mark.parametrize("how", [{"steps": 5}, {"steps": 3}, {"epochs": 1}, {"steps": 0}])
def test_a_run_that_is_there_already_comes_back_as_it_is(how, tmp_path):
    run = fitted(steps=5)
    told, asked = [], Streamed() if "steps" in how else BATCHES
    again = fitted(run, asked, folder=tmp_path / "new", validate=told.append, **how)
    assert_same(again, run)
    assert told == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("steps", [0, 5])
def test_the_caller_s_run_stays_valid(steps):
    run = start()
    before = host(run)
    first = fn.fit(STEP, run, BATCHES, steps=steps, **QUIET)
    assert_same(run, before)
    kept = host(first)
    second = fn.fit(STEP, first, BATCHES, steps=9, **QUIET)
    assert_same(first, kept)
    assert_same(fn.fit(STEP, run, BATCHES, steps=9, **QUIET), second)


@pytest.mark.parametrize(
    ("begin", "steps", "every", "told"),
    [
        (0, 10, None, [4, 8, 10]),  # an epoch is 4 steps
        (0, 10, 3, [3, 6, 9, 10]),
        (5, 12, 3, [6, 9, 12]),
        (6, 12, 3, [9, 12]),
        (0, 3, 100, [3]),
        (0, 3, 1, [1, 2, 3]),
        (2, 3, 1, [3]),
    ],
)
@pytest.mark.parametrize("fuse", [2, None])
def test_validation_is_every_so_many_steps_and_at_the_end(begin, steps, every, told, fuse):
    met = []
    run = fitted(steps=begin)
    how = {"validate": lambda run: met.append(int(run.step)) or {}, "validate_every": every}
    fitted(run, steps=steps, fuse=fuse, **how)
    assert met == told


def test_a_source_without_epochs_is_validated_at_the_end():
    met = []
    fitted(batches=Streamed(), steps=9, validate=lambda run: met.append(int(run.step)) or {})
    assert met == [9]


def test_a_run_that_validation_keeps_stays_valid():
    kept = []
    fitted(steps=9, validate=lambda run: kept.append(run) or {}, validate_every=3)
    for run, steps in zip(kept, (3, 6, 9), strict=True):
        assert_same(run, fitted(steps=steps))


def test_each_function_is_traced_once_and_compiled_once():
    traced = {True: 0, False: 0}

    def objective(params, state, batch, *, train, key):
        traced[train] += 1
        return LINEAR_OBJECTIVE(params, state, batch, train=train, key=key)

    step, run = fn.train_step(objective, SGD), linear_start()
    part = {name: array[:30] for name, array in DATA.items()}

    def validate(run):
        return fn.evaluate(objective, run, part, batch_size=16)  # a last batch of 14

    with compilations() as compiled:
        for how in ({"epochs": 3}, {"steps": 40, "fuse": 7}, {"steps": 57}):
            run = fn.fit(step, run, BATCHES, validate=validate, **how, **QUIET)
    assert traced == {True: 1, False: 1}
    assert [name for name in compiled if "copy" not in name] == ["jit(_advance)", "jit(_measure)"]


def test_compiled_thoroughly_it_is_a_program_of_its_own_that_differs_by_rounding():
    step, runs = fn.train_step(LINEAR_OBJECTIVE, SGD), []
    with compilations() as compiled:
        for thorough in (False, True, True):
            how = {"steps": 10, "thorough": thorough, **QUIET}
            runs.append(fn.fit(step, linear_start(), BATCHES, **how))
    assert compiled.count("jit(_advance)") == 2
    assert_close(runs[1], runs[0], rtol=1e-5, atol=1e-7)


# Steps of one's own

GENERATOR, CRITIC = fn.Model(fn.dense, features=2), fn.Model(fn.dense, features=1)
OPTIMIZERS = {"g": optax.adam(1e-2, b1=0.5), "d": optax.sgd(1e-2)}


def adversarial_start():
    params = {
        "g": GENERATOR.init(jax.random.key(0), jnp.ones((1, 3)))[0],
        "d": CRITIC.init(jax.random.key(1), jnp.ones((1, 2)))[0],
    }
    kept = {name: optimizer.init(params[name]) for name, optimizer in OPTIMIZERS.items()}
    return fn.Run(params, {}, kept, jnp.int32(0), jnp.uint32(0))


def adversarial(run, batch):
    """Two networks, two optimizers, two losses: one after the other."""
    noise = jax.random.normal(run.key("noise"), (8, 3))
    params, kept, found = dict(run.params), dict(run.optimizer_state), {}

    def critic(d):
        fake = CRITIC(d, GENERATOR(params["g"], noise))
        return jnp.mean(jax.nn.softplus(fake) + jax.nn.softplus(-CRITIC(d, batch["point"])))

    def generator(g):
        return jnp.mean(jax.nn.softplus(-CRITIC(params["d"], GENERATOR(g, noise))))

    for name, loss in (("d", critic), ("g", generator)):
        found[name], gradients = jax.value_and_grad(loss)(params[name])
        with jax.numpy_dtype_promotion("standard"):
            updates, kept[name] = OPTIMIZERS[name].update(gradients, kept[name])
        params[name] = optax.apply_updates(params[name], updates)
    new = run.next(params=params, optimizer_state=kept)
    return fn.guarded(run, new, *found.values()), {**found, "both": (found["d"] > 0)}


POINTS = fn.data.batches({"point": np.random.default_rng(0).normal(3, 1, (40, 2))}, 8)


def test_a_step_with_two_networks_and_two_optimizers_loops(tmp_path, lines):
    run = fn.fit(adversarial, adversarial_start(), POINTS, steps=30, folder=tmp_path, **QUIET)
    by_hand, step = adversarial_start(), jax.jit(adversarial)
    for i in range(30):
        by_hand, _ = step(by_hand, POINTS[i])
    assert_close(run, by_hand, rtol=1e-3, atol=1e-4)
    (line,) = lines(tmp_path)
    assert line.keys() == {"step", "kind", "seconds", "d", "g", "both"}
    assert line["both"] == 1


def test_a_training_of_two_networks_resumes_to_the_same_bits(tmp_path):
    whole = fn.fit(adversarial, adversarial_start(), POINTS, steps=30, **QUIET)
    run = fn.fit(adversarial, adversarial_start(), POINTS, steps=11, fuse=2, **QUIET)
    fn.save(tmp_path / "run.safetensors", run)
    run = fn.load(tmp_path / "run.safetensors", like=adversarial_start())
    assert_same(fn.fit(adversarial, run, POINTS, steps=30, **QUIET), whole)


def counting(run, batch):
    return run.next(params=run.params + 1), {}


def test_parameters_may_be_any_tree_and_metrics_none(tmp_path, lines):
    run = fn.Run(jnp.float32(0), None, (), jnp.int32(0), jnp.uint32(0))
    run = fn.fit(counting, run, BATCHES, steps=7, folder=tmp_path, log_every=5, **QUIET)
    assert float(run.params) == 7
    assert [line["step"] for line in lines(tmp_path)] == [5, 7]


def test_batches_without_ids_will_do():
    run = fitted(batches=Streamed(without=("id",)), steps=6)
    assert_same(run, fitted(steps=6))


def test_augmentation_without_ids_says_what_is_missing():
    objective = fn.classification(fn.Model(image_net), augment=fn.data.augment.flip())
    step = fn.train_step(objective, SGD)
    pixels = {"image": np.ones((20, 2, 2, 1), np.uint8), "label": np.arange(20) % 3}
    run = fn.Run.start(fn.Model(image_net), SGD, pixels["image"])
    batches = fn.data.batches(pixels, 4)
    assert int(fn.fit(step, run, batches, steps=3, **QUIET).step) == 3
    with pytest.raises(ValueError, match='batch has no "id"'):
        fn.fit(step, run, Streamed(batches, without=("id",)), steps=3, **QUIET)


@fn.layer
def image_net(p, images):
    return fn.dense(p["out"], fn.flatten(fn.normalise(images)), 3)


def test_one_example_is_a_training_too():
    data = {"image": DATA["image"][:1], "label": DATA["label"][:1]}
    run = fitted(batches=fn.data.batches(data, 1), steps=50)
    assert fn.evaluate(LINEAR_OBJECTIVE, run, data)["accuracy"] == 1
