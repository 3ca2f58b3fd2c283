"""A training's folder: its lock, its checkpoints, and the way back from them.

    run.json        what was asked for, and where it ran
    metrics.jsonl   the numbers, by `log.py`
    report.html     all that as a page
    checkpoints/    see `funnet.store.checkpoints`
    lock            held by the process that trains

A checkpoint holds the run and, in its manifest, what is needed to go on as if nothing had happened.
"""

import errno
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from funnet.store import durable
from funnet.store.checkpoints import RACES, Checkpoint, Checkpoints, Vanished
from funnet.store.lines import parsed
from funnet.store.lock import Lock
from funnet.store.tensors import compare, named, on_host, rebuilt
from funnet.train.hooks import of_hook
from funnet.train.identity import Facts, differences, same_program
from funnet.train.run import Run

T = TypeVar("T")
CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"


class Archive:
    """A training's folder, held for this process while entered.

    Args:
        folder: the folder, made if missing.
        facts: what every manifest says: `start`, `identity` and `settings`.
        keep: how many checkpoints to keep beside the best one.
        go_on: whether a training is to go on when nothing can be written.
    """

    def __init__(self, folder: Path, facts: Facts, keep: int, go_on: bool = False):
        self.folder, self.facts, self.keep, self.go_on = folder, facts, keep, go_on
        self.checkpoints = Checkpoints(folder / CHECKPOINTS)
        self.lock = Lock(folder)
        self.saved = -1  # the step of the last checkpoint
        self.found = -1  # and of the one that was there before

    def __enter__(self) -> "Archive":
        try:
            durable.make_folders(self.folder)
            self.lock.take()
        except BlockingIOError:
            raise
        except OSError as error:
            raise unwritable(self.folder, error) from error
        try:
            durable.make_folders(self.checkpoints.folder)
            durable.sweep(self.folder)
            durable.sweep(self.checkpoints.folder)
        except BaseException as error:
            self.lock.release()
            if isinstance(error, OSError):
                raise unwritable(self.folder, error) from error
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.lock.release()

    def writes(self, write: Callable[[], T]) -> T | None:
        """Does `write`; where that cannot be done, warns if the training is to go on all the same.

        Raises:
            OSError: else; it says what stays and what to do.
        """
        try:
            return write()
        except OSError as error:
            if of_hook(error):
                raise
            if not self.go_on:
                raise unwritable(self.folder, error, True) from error
            then = "the training goes on, and tries again at the next save"
            warnings.warn(f"{_reason(self.folder, error, True)}; {then}", stacklevel=2)
        return None

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
        stored, own = found.facts["identity"], self.facts["identity"]
        if told := differences(stored, own):
            raise ValueError(_another(self.folder, told, stored["leaves"] == own["leaves"]))
        if found.facts["start"] < given < found.step:
            raise ValueError(
                f"{self.folder} holds this training up to step {found.step:,}, and the run that is "
                f"given stands at step {given:,}: give the folder's own first run to go on, or "
                "another folder to go another way from here"
            )
        if not same_program(stored, own):
            made = ", ".join(f"{n} {v}" for n, v in stored["versions"].items())
            warnings.warn(
                f"{found.path} was made with {made}, where the step is another program: "
                "the training goes on, and not to the same bits",
                stacklevel=2,
            )
        if given == found.facts["start"] and found.facts["begin"] != self.facts["begin"]:
            warnings.warn(
                f"{self.folder} was begun with other parameters than those that are given: the "
                "training goes on with its own. To begin with these give it another folder",
                stacklevel=2,
            )
        self.facts |= {name: found.facts[name] for name in ("start", "begin")}
        self.saved = self.found = found.step
        return found

    def forget_validation(self, step: int) -> None:
        """Takes a step's validation, which is done again, out of the metrics."""
        path = self.folder / METRICS
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [x for x in lines if not _is(parsed(x), step, "validation")]
        if kept != lines:
            durable.write_bytes(path, b"".join(kept))

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Writes `run.json`."""
        text = json.dumps(dict(facts), indent=1, allow_nan=False, default=str)
        durable.write_bytes(self.folder / "run.json", text.encode() + b"\n")

    def show(self) -> None:
        """Writes `report.html`, as well as that can be done: it is not to end a training.

        Where nothing came to be saved, as with a finished one, the page that is there stays.
        """
        if self.saved == self.found:
            return
        from funnet.reports import page  # needed when a training has ended, and not small

        try:
            page.write(self.folder)
        except OSError:
            pass  # a disk that takes nothing has been told of
        except Exception as error:
            warnings.warn(f"{self.folder} has no report: {error}", stacklevel=2)

    def job(
        self, run: Run, facts: Mapping[str, Any], best: int | None, flush: Callable[[], None]
    ) -> Callable[[], None]:
        """What writes a checkpoint of the run, which must not change until it is done."""

        def write() -> None:
            arrays, step = on_host(run), int(run.step)
            self._look()
            flush()  # what the manifest counts on is on disk before it
            whole = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **self.facts, **facts}
            self.checkpoints.write(step, arrays, whole)
            self.saved = step
            self.checkpoints.prune(self.keep, () if best is None else (best,))

        return write

    def _look(self) -> None:
        """Sees to it that the folder is the one whose lock is held, not one made anew since."""
        if not os.path.samestat(os.fstat(self.lock.handle), os.stat(self.lock.path)):
            raise FileNotFoundError(errno.ENOENT, "it was removed, and made anew by another")


def unwritable(folder: Path, error: OSError, had: bool = False) -> OSError:
    """The error of a folder that cannot be written: what stays, and what to do."""
    stays = "The whole checkpoints in it stay. " if (folder / CHECKPOINTS).is_dir() else ""
    return OSError(
        error.errno or errno.EIO,
        f"{_reason(folder, error, had)}. {stays}Make it writable, or give another folder, and run "
        "the same command again. A training under way goes on without it with "
        "on_save_error='continue'",
    )


def _reason(folder: Path, error: OSError, had: bool) -> str:
    gone = had and isinstance(error, FileNotFoundError) and not folder.exists()
    return f"{folder} cannot be written: {'it is gone' if gone else error.strerror or error}"


def _another(folder: Path, told: list[str], alike: bool) -> str:
    """What to say of a folder that holds another training."""
    lines = "".join(f"\n  {line}" for line in told)
    cure = "Give this one another folder"
    if alike:
        cure += f"; to go on from that one, begin with fn.restore({str(folder)!r}, like=run)"
    return f"{folder} holds another training:{lines}\n{cure}"


def _is(line: Mapping[str, Any] | None, step: int, kind: str) -> bool:
    return line is not None and (line["step"], line["kind"]) == (step, kind)


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
    for _ in range(RACES):
        try:
            return restored(_wanted(checkpoints, step), like)
        except Vanished:  # a training that goes on beside has pruned it
            continue
    raise OSError(f"{folder}: its checkpoints vanish faster than they can be read")


def _wanted(checkpoints: Checkpoints, step: int | str | None) -> Checkpoint:
    """The checkpoint that `restore` is asked for."""
    if isinstance(step, int | np.integer):
        return checkpoints.at(int(step))
    if step not in (None, "best"):
        raise ValueError(f"step must be a number, 'best' or None, got {step!r}")
    newest = checkpoints.newest()
    if newest is None:
        raise FileNotFoundError(f"{checkpoints.folder} holds no whole checkpoint")
    if step is None:
        return newest
    best = newest.facts["progress"]["best"]
    if best is None:
        raise ValueError(
            f"{checkpoints.folder} is of a training without best=: give fit best=fn.highest(name)"
        )
    return checkpoints.at(best["step"])
