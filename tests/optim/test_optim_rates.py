"""Learning rates: reported by step and by group, and of a restored run the new optimizer's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
DATA = {"input": X, "target": X[:, :2].copy()}
MODEL = fn.Model(fn.layer(lambda p, x: fn.dense(p["head"], fn.dense(p["trunk"], x, 4), 2)))
OBJECTIVE = fn.regression(MODEL)
SCHEDULE = optax.linear_schedule(0.4, 0.0, 4)
MAKERS = [fn.optim.sgd, fn.optim.adamw]


def start(optimizer):
    return fn.Run.start(MODEL, optimizer, X)


def rates_of(optimizer, steps=3):
    run, step, found = start(optimizer), jax.jit(fn.train_step(OBJECTIVE, optimizer)), []
    for _ in range(steps):
        run, metrics = step(run, DATA)
        rates = {n: x for n, x in metrics.items() if n.startswith("learning_rate")}
        found.append({name: round(float(rate), 6) for name, rate in rates.items()})
    return found


@pytest.mark.parametrize("make", MAKERS)
def test_the_rate_of_each_step_is_in_its_metrics(make):
    told = [metrics["learning_rate"] for metrics in rates_of(make(SCHEDULE))]
    np.testing.assert_allclose(told, [0.4, 0.3, 0.2], rtol=1e-6)
    assert rates_of(make(1), 1) == [{"learning_rate": 1.0}]


def test_groups_are_told_by_their_patterns():
    groups = fn.optim.groups({"head.*": fn.optim.sgd(SCHEDULE), "*": fn.optim.adamw(1e-3)})
    optimizer = fn.optim.average(optax.chain(optax.clip(1.0), groups))
    assert rates_of(optimizer, 2)[1] == {"learning_rate.head.*": 0.3, "learning_rate.*": 0.001}


def test_an_optimizer_that_does_not_tell_is_not_asked():
    assert rates_of(optax.adam(1e-3), 1) == [{}]
    theirs = optax.inject_hyperparams(optax.sgd)(learning_rate=0.25)
    assert rates_of(theirs, 1) == [{"learning_rate": 0.25}]
    state = optax.chain(fn.optim.sgd(0.5), fn.optim.sgd(0.25)).init({"w": jnp.ones(2)})
    rates = fn.optim.learning_rates(state)
    assert {n: float(x) for n, x in rates.items()} == {
        "learning_rate": 0.5,
        "learning_rate#2": 0.25,
    }


@pytest.mark.parametrize("make", MAKERS)
def test_constants_and_schedules_have_states_of_one_structure(make):
    def shape(rate):
        state = make(rate).init({"w": jnp.ones(2)})
        return jax.tree.structure(state), jax.tree.map(lambda x: (x.shape, x.dtype), state)

    assert shape(0.1) == shape(SCHEDULE) == shape(np.float32(0.1)) == shape(jnp.float32(0.1))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("new", [0.01, SCHEDULE])
def test_a_run_restored_under_another_rate_takes_the_new_one(make, new, tmp_path):
    old, forked = make(0.1), make(new)
    run, _ = jax.jit(fn.train_step(OBJECTIVE, old))(start(old), DATA)
    fn.save(tmp_path / "run.safetensors", run)
    restored = fn.load(tmp_path / "run.safetensors", like=start(forked))
    expected = new if new == 0.01 else 0.3  # the schedule's, at the step that the run is at
    after, metrics = jax.jit(fn.train_step(OBJECTIVE, forked))(restored, DATA)
    np.testing.assert_allclose(metrics["learning_rate"], expected, rtol=1e-6)
    before, _ = jax.jit(fn.train_step(OBJECTIVE, old))(restored, DATA)
    moved, would = (
        np.asarray(r.params["head"]["bias"] - run.params["head"]["bias"]) for r in (after, before)
    )
    np.testing.assert_allclose(moved, would * expected / 0.1, rtol=1e-4, atol=1e-7)


def test_a_sweep_over_rates_is_one_vmap():
    def trained(rate):
        optimizer = fn.optim.sgd(rate)
        return fn.train_step(OBJECTIVE, optimizer)(start(optimizer), DATA)

    rates = jnp.float32([0.1, 0.01])
    runs, metrics = jax.jit(jax.vmap(trained))(rates)
    np.testing.assert_allclose(metrics["learning_rate"], rates)
    run, _ = jax.jit(trained)(rates[1])
    np.testing.assert_allclose(
        runs.params["head"]["bias"][1], run.params["head"]["bias"], rtol=1e-5
    )


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_no_rate_is_refused(make):
    for rate in ("0.1", None, True, jnp.ones(2)):
        with pytest.raises(TypeError, match=r"learning_rate must be a number or an optax schedule"):
            make(rate)
    for rate in (-0.1, np.nan, np.inf * -1):
        with pytest.raises(ValueError, match=r"learning_rate is .* expected 0 <= learning_rate"):
            make(rate)
    with pytest.raises(ValueError, match="weight_decay is -1"):
        make(0.1, weight_decay=-1)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"momentum is 1\.5"):
        fn.optim.sgd(0.1, momentum=1.5)
    with pytest.raises(ValueError, match="b2 is -1"):
        fn.optim.adamw(0.1, b2=-1)
