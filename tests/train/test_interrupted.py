"""A training that ends in an exception leaves its run in its folder, to go on from."""

import json

import jax
import numpy as np
import pytest
from toys import BATCHES, LINEAR_STEP, linear_start

import funnet as fn

QUIET = {"progress": False}


def stop(run):
    raise KeyboardInterrupt


def test_an_interrupted_training_goes_on_from_its_folder(tmp_path):
    how = {"validate": stop, "validate_every": 4, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt) as caught:
        fn.fit(LINEAR_STEP, linear_start(), BATCHES, steps=9, **how, **QUIET)
    path = tmp_path / "interrupted.safetensors"
    assert any(str(path) in note for note in caught.value.__notes__)
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (line["step"], line["kind"]) == (4, "train")  # though a full line is of 100 steps
    run = fn.load(path, like=linear_start())
    assert int(run.step) == 4
    resumed = fn.fit(LINEAR_STEP, run, BATCHES, steps=9, **QUIET)
    whole = fn.fit(LINEAR_STEP, linear_start(), BATCHES, steps=9, **QUIET)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_a_folder_that_cannot_be_written_hides_no_error(tmp_path, monkeypatch):
    def full(path, tree):
        raise OSError("no space left")

    monkeypatch.setattr("funnet.train.fit.save", full)
    how = {"validate": stop, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt) as caught:
        fn.fit(LINEAR_STEP, linear_start(), BATCHES, steps=4, **how, **QUIET)
    assert int(caught.value.run.step) == 4


def test_a_training_that_ends_well_leaves_nothing_of_the_kind(tmp_path):
    fn.fit(LINEAR_STEP, linear_start(), BATCHES, steps=4, folder=tmp_path, **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
