"""`fn.sweep` trains what `fit` trains, each run for itself, whichever way it is done."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import (
    BATCHES,
    DATA,
    LINEAR,
    LINEAR_OBJECTIVE,
    MODEL,
    OBJECTIVE,
    Streamed,
    assert_close,
    assert_same,
)

import funnet as fn

STEPS, SEEDS, RATES = 30, (0, 5), (1e-3, 1e-2, 0.1)


def start(seed, learning_rate):
    """Dropout, batch norm and Adam, so that every part of a run changes."""
    optimizer = optax.adam(learning_rate)
    return fn.train_step(OBJECTIVE, optimizer), fn.Run.start(
        MODEL, optimizer, DATA["image"], seed=seed
    )


def linear(learning_rate, seed=0):
    optimizer = optax.sgd(learning_rate)
    return fn.train_step(LINEAR_OBJECTIVE, optimizer), fn.Run.start(
        LINEAR, optimizer, DATA["image"], seed=seed
    )


GRID = {"seed": SEEDS, "learning_rate": RATES}


@pytest.fixture(scope="module", params=["vmap", "map"])
def found(request):
    return fn.sweep(start, BATCHES, steps=STEPS, log_every=20, how=request.param, **GRID)


@pytest.fixture(scope="module")
def alone():
    """Three of the runs trained by `fit`, by their number in the grid."""
    told = {0: (0, 1e-3), 2: (0, 0.1), 4: (5, 1e-2)}
    return {i: fn.fit(*start(*pair), BATCHES, steps=STEPS) for i, pair in told.items()}


def test_each_run_is_the_one_that_fit_trains(found, alone):
    for i, run in alone.items():
        assert_close(found.run(i), run, rtol=1e-4, atol=1e-5)
        assert int(found.run(i).step) == STEPS


def test_the_grid_is_in_the_order_of_nested_loops(found):
    pairs = list(zip(*(x.tolist() for x in found.settings.values()), strict=True))
    assert pairs == [(seed, float(np.float32(rate))) for seed in SEEDS for rate in RATES]
    assert list(found.settings) == list(GRID)
    assert found.runs.seed.tolist() == [pair[0] for pair in pairs]


def test_it_says_how(found, request):
    assert found.how in request.node.name
    assert len(found) == 6
    assert str(found).startswith(f"6 runs, trained by {found.how}: as asked for\n")


def test_the_lines_are_means_of_the_steps_behind_them():
    kept = []
    step, run = linear(0.1)
    for i in range(STEPS):
        run, metrics = jax.jit(step)(run, jax.tree.map(jnp.asarray, BATCHES[i]))
        kept.append((float(metrics["loss"].total), float(metrics["loss"].count)))
    losses = np.array(kept)
    for fuse in (None, 7):
        found = fn.sweep(
            linear, BATCHES, steps=STEPS, how="map", log_every=20, fuse=fuse, learning_rate=0.1
        )
        assert found.steps.tolist() == [20, 30]
        for line, rows in enumerate([losses[:20], losses[20:]]):
            mean = rows[:, 0].sum() / rows[:, 1].sum()
            np.testing.assert_allclose(found.metrics["loss"][0, line], mean, rtol=1e-5)


@pytest.mark.parametrize("how", ["vmap", "map"])
def test_it_is_the_same_however_it_is_cut_and_fed(how):
    how = {"steps": 12, "how": how, "learning_rate": [0.1, 0.3]}
    whole = fn.sweep(linear, BATCHES, **how)
    for other in (
        fn.sweep(linear, BATCHES, fuse=5, **how),
        fn.sweep(linear, Streamed(), fuse=5, **how),
    ):
        assert_same(whole.runs, other.runs)
        assert_same(whole.metrics, other.metrics)


# A run that comes to grief


@pytest.mark.parametrize("how", ["vmap", "map"])
def test_a_run_that_diverges_harms_no_other(how):
    rates = [0.1, np.inf, np.nan, 0.3]
    found = fn.sweep(linear, BATCHES, steps=20, how=how, learning_rate=rates)
    calm = fn.sweep(linear, BATCHES, steps=20, how=how, learning_rate=[0.1, 0.3])
    assert_close(found.run(0), calm.run(0), rtol=1e-6)
    assert_close(found.run(3), calm.run(1), rtol=1e-6)
    assert found.refused[[0, 3]].tolist() == [0, 0]
    assert (found.refused[1:3] > 0).all()
    assert (np.asarray(found.runs.step) + found.refused).tolist() == [20] * 4


def test_a_refused_step_leaves_its_run_as_it_was():
    class Spoilt(Streamed):
        def __getitem__(self, step):
            batch = super().__getitem__(step)
            return {**batch, "image": batch["image"] * np.float32(np.nan if step == 3 else 1)}

    class Without(Streamed):
        def __getitem__(self, step):
            return super().__getitem__(step + (step >= 3))

    found = fn.sweep(linear, Spoilt(), steps=8, how="map", learning_rate=[0.1])
    other = fn.sweep(linear, Without(), steps=7, how="map", learning_rate=[0.1])
    assert_same(found.runs, other.runs)
    assert found.refused.tolist() == [1]


def test_runs_without_a_number_come_last_in_the_table():
    found = fn.sweep(linear, BATCHES, steps=20, how="vmap", learning_rate=[np.inf, 0.1])
    assert found.order().tolist() == [1, 0]


# Choosing


def test_it_chooses_by_measuring(monkeypatch, capsys):
    monkeypatch.setattr("funnet.train.sweep._Job._seconds", seconds({"vmap": 2.0, "map": 1.0}))
    found = fn.sweep(linear, BATCHES, steps=20, progress=True, learning_rate=[0.1, 0.2])
    assert found.how == "map"
    assert "2 runs by map: a step of all runs takes 2 s by vmap, 1 s by map" in (
        capsys.readouterr().err
    )
    monkeypatch.setattr("funnet.train.sweep._Job._seconds", seconds({"vmap": 1.0, "map": 2.0}))
    other = fn.sweep(linear, BATCHES, steps=20, learning_rate=[0.1, 0.2])
    assert other.how == "vmap"
    assert_close(found.runs, other.runs, rtol=1e-5)


def seconds(known):
    return lambda self, way, *, runs, given, steps: known[way] * steps


def test_a_short_sweep_compiles_one_program(monkeypatch):
    asked = []

    def short(self, way, **how):
        asked.append(way)
        return 1.0 if len(asked) == 1 else 1e-3

    monkeypatch.setattr("funnet.train.sweep._Job._seconds", short)
    found = fn.sweep(linear, BATCHES, steps=20, learning_rate=[0.1, 0.2])
    assert (found.how, found.why) == ("vmap", "too short to time both")
    assert set(asked) == {"vmap"}


def test_measuring_takes_no_step():
    how = {"steps": 12, "learning_rate": [0.1, 0.3]}
    found = fn.sweep(linear, BATCHES, **how)
    assert found.how in ("vmap", "map")
    assert_same(found.runs, fn.sweep(linear, BATCHES, **{**how, "how": found.how}).runs)


# Results


def test_validation_is_of_each_run_and_sorts_the_table():
    found = fn.sweep(
        linear,
        BATCHES,
        epochs=4,
        how="vmap",
        learning_rate=[0.01, 0.1, 0.3],
        validate=lambda run: fn.evaluate(LINEAR_OBJECTIVE, run, DATA),
    )
    one = fn.evaluate(LINEAR_OBJECTIVE, found.run(1), DATA)
    assert found.validation["accuracy"][1] == one["accuracy"]
    best = found.order(fn.highest("accuracy"))
    assert found.validation["accuracy"][best[0]] == found.validation["accuracy"].max()
    rows = found.table(fn.highest("accuracy")).splitlines()
    assert rows[0].split()[:2] == ["run", "learning_rate"]
    assert [int(row.split()[0]) for row in rows[1:]] == best.tolist()


def test_a_learning_rate_in_the_optimizer_state_varies_by_run_as_well():
    def injected(learning_rate):
        optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=learning_rate)
        return fn.train_step(LINEAR_OBJECTIVE, optimizer), fn.Run.start(
            LINEAR, optimizer, DATA["image"]
        )

    found = fn.sweep(injected, BATCHES, steps=10, how="vmap", learning_rate=[0.1, 0.3])
    plain = fn.sweep(linear, BATCHES, steps=10, how="vmap", learning_rate=[0.1, 0.3])
    assert_close(found.runs.params, plain.runs.params, rtol=1e-5)
    np.testing.assert_allclose(found.metrics["learning_rate"][:, -1], [0.1, 0.3], rtol=1e-6)


def test_there_is_no_run_beyond_the_last():
    found = fn.sweep(linear, BATCHES, steps=2, how="vmap", learning_rate=[0.1, 0.2])
    assert_same(found.run(-1), found.run(1))
    with pytest.raises(IndexError, match="run is 2, expected one of the 2 runs"):
        found.run(2)
    with pytest.raises(ValueError, match=r"expected fn.highest or fn.lowest of .*accuracy"):
        found.order(fn.highest("score"))


# What is refused


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({}, ValueError, "a sweep needs settings, the arguments of start"),
        ({"learning_rate": []}, ValueError, "learning_rate has no values"),
        ({"learning_rate": "adam"}, TypeError, "learning_rate is 'adam', expected a number"),
        ({"learning_rate": [0.1, None]}, TypeError, "expected a number or a flat sequence"),
        ({"learning_rate": [[1, 2], [3]]}, TypeError, "expected a number or a flat sequence"),
        ({"learning_rate": [[0.1]]}, TypeError, "expected a number or a flat sequence"),
        ({"learning_rate": 0.1, "how": "pmap"}, ValueError, "measure, vmap, map, got 'pmap'"),
        ({"learning_rate": 0.1, "epochs": 1}, ValueError, "give either epochs or steps"),
        ({"learning_rate": 0.1, "steps": 0}, ValueError, "steps is 0"),
        ({"learning_rate": 0.1, "fuse": 0}, ValueError, "fuse is 0"),
        ({"learning_rate": 0.1, "log_every": 0}, ValueError, "log_every is 0"),
        ({"width": 3}, TypeError, "unexpected keyword argument 'width'"),
    ],
)
def test_it_refuses(settings, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        fn.sweep(linear, BATCHES, **{"steps": 2, **settings})


def test_start_must_give_a_training():
    with pytest.raises(TypeError, match=r"start must return \(step, run\), it returned Run"):
        fn.sweep(lambda learning_rate: linear(learning_rate)[1], BATCHES, steps=2, learning_rate=1)
    with pytest.raises(TypeError, match=r"start must return \(step, run\)"):
        fn.sweep(
            lambda learning_rate: linear(learning_rate)[::-1], BATCHES, steps=2, learning_rate=1
        )


def test_a_setting_that_decides_a_shape_is_explained():
    def wide(width):
        model = fn.Model(fn.dense, features=int(width))
        optimizer = optax.sgd(0.1)
        return fn.train_step(LINEAR_OBJECTIVE, optimizer), fn.Run.start(
            model, optimizer, DATA["image"]
        )

    with pytest.raises(jax.errors.ConcretizationTypeError) as caught:
        fn.sweep(wide, BATCHES, steps=2, width=[3, 4])
    assert any("takes a sweep for each value" in note for note in caught.value.__notes__)
