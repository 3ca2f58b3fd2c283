"""A training's folder: its lock, its checkpoints, and the way back from them.

    run.json        what was asked for, and where it ran
    metrics.jsonl   the numbers, by `log.py`
    checkpoints/    see `funnet.store.checkpoints`
    lock            held by the process that trains

A checkpoint holds the run and, in its manifest, what is needed to go on as if nothing had happened.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
import optax

from funnet.store import durable
from funnet.store.checkpoints import Checkpoint, Checkpoints
from funnet.store.lock import Lock
from funnet.store.tensors import compare, named, on_host, rebuilt
from funnet.train.identity import Facts, differences
from funnet.train.run import Run

CHECKPOINTS = "checkpoints"


class Archive:
    """A training's folder, held for this process while entered.

    Args:
        folder: the folder, made if missing.
        facts: what every manifest says: `start`, `identity` and `settings`.
        keep: how many checkpoints to keep beside the best one.
    """

    def __init__(self, folder: Path, facts: Facts, keep: int):
        self.folder, self.facts, self.keep = folder, facts, keep
        self.checkpoints = Checkpoints(folder / CHECKPOINTS)
        self.lock = Lock(folder)
        self.saved = -1  # the step of the last checkpoint

    def __enter__(self) -> "Archive":
        durable.make_folders(self.folder)
        self.lock.take()
        try:
            durable.make_folders(self.checkpoints.folder)
            durable.sweep(self.folder)
            durable.sweep(self.checkpoints.folder)
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.lock.release()

    def last(self, given: int) -> Checkpoint | None:
        """The newest whole checkpoint, if it is of this training.

        Args:
            given: the step of the run that is to go on.

        Raises:
            ValueError: if it is of another training; says in what they differ, and what to do.
        """
        found = self.checkpoints.newest(aside=True)
        if found is None:
            return None
        if told := differences(found.facts["identity"], self.facts["identity"]):
            raise ValueError(
                f"{self.folder} holds checkpoints of another training: {'; '.join(told)}. Give "
                "this one another folder; to go on from where that one stands, start it with "
                f"fn.restore({str(self.folder)!r}, like=run)"
            )
        if found.facts["start"] < given < found.step:
            raise ValueError(
                f"{self.folder} holds this training up to step {found.step:,}, and the run that is "
                f"given stands at step {given:,}: give the folder's own first run to go on, or "
                "another folder to go another way from here"
            )
        self.facts["start"] = found.facts["start"]
        self.saved = found.step
        return found

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Writes `run.json`."""
        text = json.dumps(dict(facts), indent=1, allow_nan=False, default=str)
        durable.write_bytes(self.folder / "run.json", text.encode() + b"\n")

    def job(
        self, run: Run, facts: Mapping[str, Any], best: int | None, flush: Callable[[], None]
    ) -> Callable[[], None]:
        """What writes a checkpoint of the run, which must not change until it is done."""

        def write() -> None:
            arrays, step = on_host(run), int(run.step)
            flush()  # what the manifest counts on is on disk before it
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            whole = {"time": now, "versions": versions(), **self.facts, **facts}
            self.checkpoints.write(step, arrays, whole)
            self.saved = step
            self.checkpoints.prune(self.keep, () if best is None else (best,))

        return write


def versions() -> dict[str, str]:
    """The versions of what decides the bits."""
    return {m.__name__: m.__version__ for m in (jax, jaxlib, np, optax)}


def restored(checkpoint: Checkpoint, like: Any) -> Any:
    """The run in a checkpoint, in the structure of `like`.

    Raises:
        ValueError: if names, shapes or dtypes differ; lists what is missing, surplus or misshapen.
    """
    stored = checkpoint.arrays()
    if told := compare(stored, named(like)):
        raise ValueError(f"{checkpoint.path} does not match the run: {'; '.join(told)}")
    return rebuilt(stored, like)


def restore(folder: str | Path, like: Any, *, step: int | str | None = None) -> Any:
    """A run from a training's folder: the last one, a kept step's, or the best one.

    To go another way from there, give it to `fit` with another folder, and with whatever is to be
    different: `fit(train_step(objective, optax.adam(1e-4)), restore("runs/a", like=run, step=800),
    batches, steps=2000, folder="runs/b")`.

    Args:
        folder: what `fit` was given as its folder.
        like: a run of the same structure, such as a fresh `Run.start(...)`.
        step: the steps taken, `"best"`, or None for the newest checkpoint that is whole.

    Raises:
        FileNotFoundError: if the folder holds no checkpoint.
        ValueError: if that step is not kept, or its names, shapes or dtypes are not those of
            `like`: lists all that are missing, surplus or misshapen.
    """
    checkpoints = Checkpoints(Path(folder) / CHECKPOINTS)
    if isinstance(step, int | np.integer):
        return restored(checkpoints.at(int(step)), like)
    if step not in (None, "best"):
        raise ValueError(f"step must be a number, 'best' or None, got {step!r}")
    newest = checkpoints.newest()
    if newest is None:
        raise FileNotFoundError(f"{folder} holds no whole checkpoint of a training")
    if step is None:
        return restored(newest, like)
    best = newest.facts["progress"]["best"]
    if best is None:
        raise ValueError(f"{folder} was trained without best=: give fit best=fn.highest(name)")
    return restored(checkpoints.at(best["step"]), like)
