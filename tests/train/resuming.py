"""What the tests of resuming share: a training with validations, cut at will."""

import json

import pytest
from toys import (
    BATCHES,
    QUIET,
    STEP,
    Streamed,
    host,
    start,
)

import funnet as fn

STEPS = 24
SCORES = (1, 3, 2, 5, 4, 4, 3)  # of the validations, every four steps


class Cut(Exception):
    """What ends a training early."""


def score(run):
    return {"score": SCORES[int(run.step) // 4]}


HOW = {"validate": score, "validate_every": 4, "best": fn.highest("score"), "log_every": 5}


def fit(folder, step=STEP, run=None, batches=BATCHES, **how):
    run = start() if run is None else run
    return fn.fit(step, run, batches, **{"steps": STEPS, "folder": folder, **QUIET, **HOW, **how})


def cut(folder, at, batches=BATCHES, **how):
    """A training that is lost at some step, as by a power cut: nothing is saved at the end."""

    class Failing(Streamed):
        def __getitem__(self, step):
            if step == at:
                raise Cut
            return batches[step]

        def identity(self):
            return batches.identity()

    how = {"save_every": 5, "fuse": 1, **how}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("funnet.train.training.Training._rescue", lambda self: self.saver.wait())
        with pytest.raises(Cut):
            fit(folder, batches=Failing(), **how)


def told(folder, name="metrics.jsonl"):
    """The lines of the metrics, without the seconds."""
    found = [json.loads(text) for text in (folder / name).read_text().splitlines()]
    return [{name: x for name, x in line.items() if name != "seconds"} for line in found]


def steps_in(folder):
    return [int(path.name.split(".")[0]) for path in sorted((folder / "checkpoints").iterdir())]


def last(folder):
    return sorted((folder / "checkpoints").iterdir())[-1]


def undisturbed(tmp_path_factory):
    """A training that was never disturbed: its folder and its run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, host(fit(folder, keep=9, save_every=5))
