"""The hook for TensorBoard: read back with its own reader, and whole whenever it is read."""

import sys

import numpy as np
import pytest

import funnet as fn
from funnet.train.log import Log


def scalars(folder):
    """What TensorBoard's reader finds: step and value by tag."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.fixture
def hook(tmp_path):
    pytest.importorskip("tensorboard")
    made = fn.tensorboard(tmp_path / "board")
    yield made
    made.close()


def test_numbers_are_there_at_once_under_kind_and_name(tmp_path, hook):
    with Log(None, 0, 4, every=2, hooks=[hook]) as log:
        metrics = {"loss": np.array([1.0, 2.0, 3.0, 5.0]), "vector": np.ones((4, 3))}
        log.steps_taken(0, 4, metrics, None)
        log.entry(4, "validation", {"accuracy": 0.5, "best": True, "matrix": [[1, 2]]})
    assert scalars(tmp_path / "board") == {
        "train/loss": [(2, 1.5), (4, 4.0)],
        "validation/accuracy": [(4, 0.5)],
        "validation/best": [(4, 1.0)],
    }
    hook.flush()


def test_a_training_that_goes_on_replaces_the_future_that_was_lost(tmp_path, hook):
    for step in (1, 2, 3):
        hook(step, "train", {"loss": float(step)})
    later = fn.tensorboard(tmp_path / "board")
    for step in (2, 3):
        later(step, "train", {"loss": 10.0 * step})
    later.close()
    assert scalars(tmp_path / "board") == {"train/loss": [(1, 1.0), (2, 20.0), (3, 30.0)]}


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(ImportError, match=r"pip install 'funnet\[tensorboard\]'"):
        fn.tensorboard(tmp_path)
