"""A run cannot be lost: killed at any moment and started again, it comes to the same bits.

`FUNNET_KILLS=300 python -m pytest tests/train/test_kills.py -s` kills more often, and counts.
"""

import json
import multiprocessing
import os
import pathlib
import random
import time

import pytest
from doomed import SAVE, VALIDATE, train
from toys import assert_same, host, start

import funnet as fn

ROOT = pathlib.Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("FUNNET_KILLS", "20"))
STEPS = 50 * KILLS
WHEN = ("starting", *["training"] * 4, *["saving"] * 3, "ending", "training")
PATIENCE = 120  # seconds after which a process hangs

pytestmark = pytest.mark.skipif(os.name == "nt", reason="processes are killed by a signal")


class Process:
    """A training in another process."""

    def __init__(self, folder, cache, steps, *, whole=False, **how):
        context = multiprocessing.get_context("spawn" if whole else "forkserver")
        context.set_forkserver_preload(
            ["doomed"]
        )  # each process is a fork of one that has imported
        self.told, tell = context.Pipe(duplex=False)
        self.process = context.Process(target=train, args=(folder, cache, tell, steps), kwargs=how)
        self.process.start()
        tell.close()
        self.last = 0

    def wait_for(self, step=None):
        """Until it tells of a step (None: the first one); what is told when it ends is -1."""
        while self.last != -1:
            assert self.told.poll(PATIENCE), "it hangs"
            self.last = self.told.recv()
            if step is None or self.last >= step:
                return

    def kill(self):
        """Kills it; the last step it told of."""
        self.process.kill()
        self.process.join(PATIENCE)
        last = self.last
        while self.told.poll():
            try:
                last = max(last, self.told.recv())
            except EOFError:
                break
        return last

    def end(self):
        self.process.join(PATIENCE)
        return self.process.exitcode


def step_in(folder):
    """The step of the newest checkpoint, all of which are whole (a warning is an error)."""
    try:
        return int(fn.restore(folder, like=start()).step)
    except FileNotFoundError:
        return -1


def lines(folder):
    texts = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(text).items() if k != "seconds"} for text in texts]


def unfinished(folder):
    """Whether a save is under way, or was when its process was killed."""
    return any((folder / "checkpoints").glob(".*.part"))


def killed(folder, cache, draw, i, counts):
    """Starts a process and kills it; checks that the folder has what it may count on."""
    before, when, told = step_in(folder), WHEN[i % len(WHEN)], 0
    stop = STEPS if when != "ending" else max(before, 0) // VALIDATE * VALIDATE + 3 * VALIDATE
    how = {"fuse": draw.randint(1, 5), "seconds": 2e-3, "whole": i % 10 == 0}
    process = Process(folder, cache, min(stop, STEPS), **how)
    if when == "starting":
        time.sleep(draw.uniform(0, 2.0 if how["whole"] else 1.0))
    elif when == "training":
        process.wait_for()
        time.sleep(draw.uniform(0, 0.4))
    elif when == "saving":
        process.wait_for()
        patience = time.monotonic() + 2
        while not unfinished(folder) and time.monotonic() < patience:
            pass  # a save takes a few milliseconds
    else:
        process.wait_for(STEPS)
        time.sleep(draw.uniform(0, 0.05))
    told = process.kill()
    counts["in training"] += told > 0 or when in ("training", "saving")
    counts["in a save"] += unfinished(folder)
    after = step_in(folder)
    assert after >= max(before, told - 2 * SAVE), f"kill {i}: {told} steps, and {after} are saved"


def test_a_training_killed_at_any_moment_comes_to_the_same_bits(tmp_path, monkeypatch):
    paths = [str(ROOT), str(ROOT / "tests" / "train")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    draw, folder, cache = random.Random(0), tmp_path / "killed", tmp_path / "cache"
    counts = {"in training": 0, "in a save": 0}
    for i in range(KILLS):
        killed(folder, cache, draw, i, counts)
    print(f"{KILLS} kills, {counts}, at step {step_in(folder)} of {STEPS}")
    assert counts["in training"] >= KILLS // 2
    assert counts["in a save"] >= KILLS // 20 or KILLS < 100  # a few may miss by bad luck
    assert Process(folder, cache, STEPS).end() == 0
    whole = tmp_path / "whole"
    assert Process(whole, cache, STEPS, save_every=10**9).end() == 0
    for step in (None, "best"):
        runs = [host(fn.restore(place, like=start(), step=step)) for place in (folder, whole)]
        assert_same(*runs)
    assert int(runs[0].step) <= STEPS == step_in(folder)
    assert lines(folder) == lines(whole)
