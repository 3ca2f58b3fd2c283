"""The sweep recipe: the three ways train the same runs, the rate is chosen, files are left."""

import json

import jax
import numpy as np
import optax
import pytest

import funnet as fn
from recipes import sweep


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A checked run: its settings and what it found."""
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    settings = sweep.Settings(check=True, seeds=2, folder=folder)
    return settings, sweep.main(settings)


def test_it_checks_its_claim_and_leaves_what_it_found(found):
    settings, numbers = found
    assert sorted(path.name for path in settings.folder.iterdir()) == ["results.json", "sweep.png"]
    assert json.loads((settings.folder / "results.json").read_text()) == numbers
    assert numbers["rate"] == 1e-2
    assert 0.87 <= numbers["accuracy"] <= 1
    assert numbers["how"] in ("vmap", "map")
    assert list(numbers["seconds"]) == ["sweep", "fit", "loop"]


def test_a_second_run_over_the_first_is_finished(found, monkeypatch, capsys):
    settings, numbers = found
    monkeypatch.setattr(fn, "sweep", None)
    assert sweep.main(settings) == numbers
    assert f"test accuracy at rate 0.01: {numbers['accuracy']:.2%}" in capsys.readouterr().out


def test_a_folder_of_another_sweep_is_refused(found):
    settings, _ = found
    other = sweep.Settings(check=True, seeds=3, folder=settings.folder)
    with pytest.raises(ValueError, match=r"folder is .* which holds another sweep: .*'seeds': 2"):
        sweep.main(other)


def test_the_three_ways_train_the_same_runs(quick_compilation):
    data, _ = fn.data.digits()
    batches, model = fn.data.batches(data, 32), fn.Model(sweep.net)

    def start(seed, learning_rate):
        optimizer = optax.adam(learning_rate)
        run = fn.Run.start(model, optimizer, data["image"], seed=seed)
        return fn.train_step(fn.classification(model), optimizer), run

    grid = {"seed": [3, 4], "learning_rate": [1e-2]}
    swept = fn.sweep(start, batches, steps=5, **grid)
    others = sweep.ways(start, batches, 5, grid)
    for train in others.values():
        for i, run in enumerate(train()):
            same = jax.tree.map(lambda a, b: np.allclose(a, b, 1e-4, 1e-5), run, swept.run(i))
            assert all(jax.tree.leaves(same))


def test_the_first_time_is_apart_from_the_least_of_the_others(monkeypatch):
    clock = iter([0, 5, 10, 11, 20, 24, 30, 32])
    monkeypatch.setattr(sweep.time, "perf_counter", lambda: next(clock))
    assert sweep.timed({"it": lambda: None}, rounds=3) == {"it": [5, 1]}


def test_the_network_is_the_one_that_the_recipe_names():
    params, _ = fn.Model(sweep.net).shapes(jax.ShapeDtypeStruct((1, 8, 8, 1), np.uint8))
    kernels = [params["mlp"][name]["kernel"].shape for name in ("hidden0", "head")]
    assert kernels == [(64, 32), (32, 10)]
