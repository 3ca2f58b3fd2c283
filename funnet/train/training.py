"""A training under way: steps, and what is due between them: validations, saves, stops."""

import dataclasses
import errno
import functools
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta as Time
from typing import Any

from funnet.store.tensors import save
from funnet.train.archive import Archive
from funnet.train.best import Best, Progress
from funnet.train.log import Log, plain
from funnet.train.loop import Chunk, Feed, advance, copied, with_run
from funnet.train.refusal import refusal, unsound
from funnet.train.run import Run
from funnet.train.saver import Saver
from funnet.train.step import Step
from funnet.train.stops import Stops
from funnet.train.totals import spelt

SKIPS = 100  # refused steps in a row that are passed over, and no more


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to happen when; see `fit`."""

    stop: int
    validate: Callable[[Run], Mapping[str, Any]] | None
    validate_every: int
    save_every: int | Time
    best: Best | None
    patience: int | None
    on_nonfinite: str
    on_save_error: str
    fuse: int | None

    def pause(self, at: int) -> int:
        """The next step at which something is due."""
        every = [self.validate_every] if self.validate is not None else []
        every += [self.save_every] if isinstance(self.save_every, int) else []
        return min([self.stop, *((at // n + 1) * n for n in every)])


class Training:
    """The run of one call of `fit`, and all that accompanies it.

    Args:
        step: the step to take.
        run: where to begin; its buffers are donated.
        progress: what an earlier process had to remember.
        plan: what is to happen when.
        feed: gives the batches.
        log: is told the numbers.
        stops: knows whether a signal asks to stop.
        archive: keeps the checkpoints; None for a training without a folder.
    """

    def __init__(
        self,
        step: Step,
        run: Run,
        progress: Progress,
        plan: Plan,
        feed: Feed,
        log: Log,
        stops: Stops,
        archive: Archive | None,
    ):
        self.step, self.run, self.progress, self.plan = step, run, progress, plan
        self.feed, self.log, self.stops, self.archive = feed, log, stops, archive
        self.at = int(run.step)
        self.saver, self.saved_at = Saver(), time.monotonic()
        self.saved_step = -1 if archive is None else archive.saved  # or being saved
        self.skips = 0  # in a row

    def run_through(self) -> Run:
        """Takes the steps that are left; whatever ends that early has the run, and saves it."""
        try:
            self._take_steps()
        except BaseException as error:
            with_run(error, self.run)
            if kept := self._rescue():
                error.add_note(kept)
            raise
        return self.run

    def _take_steps(self) -> None:
        plan = self.plan
        if self.saved_step < self.at:
            self._save()
        self._pause()  # for a training that was cut before its last validation
        while self.at < plan.stop and not self.progress.over:
            skip = plan.on_nonfinite == "skip"
            target = plan.pause(self.at)
            chunks = advance(self.step, self.run, self.feed, target, plan.fuse, skip)
            for run, chunk in chunks:
                self.run = run
                self._taken(chunk)
            self._pause()
        self.saver.wait()
        self._check()

    def _rescue(self) -> str:
        """Saves the run if it is not yet saved; what to say of it. Never raises an error."""
        if self.archive is None or self.stops.at_once:
            return ""
        folder = self.archive.folder
        try:
            self.saver.wait()
            if self.archive.saved < self.at:
                self._job()()
        except Exception as error:
            kept = f"the last whole checkpoint is of step {max(self.archive.saved, 0):,}"
            return f"it could not be saved in {folder} ({error}); {kept}"
        return f"and is saved in {folder}: the same command goes on from step {self.at:,}"

    def _save(self) -> None:
        """Begins to save the run as it is now; an error is met after the next steps."""
        if self.archive is not None:
            self._check()
            try:
                self.saver.submit(self._job())
            except OSError as error:
                self._failed(error)
            self.saved_at, self.saved_step = time.monotonic(), self.at

    def _job(self) -> Callable[[], None]:
        assert self.archive is not None
        progress, best = self.progress, self.progress.best
        facts = {
            "progress": dataclasses.asdict(progress),
            "metrics": progress.metrics,
            "log": self.log.state(),
            "position": self.feed.position(self.at),
        }
        step = None if best is None else best["step"]
        return self.archive.job(copied(self.run), facts, step, self.log.flush)

    def _taken(self, chunk: Chunk) -> None:
        """What is to be done after each dispatch."""
        skip, refused = self.plan.on_nonfinite == "skip", chunk.refused
        if skip:
            self._count_skips(chunk)
        taken = len(refused) if skip or not refused[-1] else len(refused) - 1
        self.at = chunk.start + taken
        self._tell(chunk, taken)
        if taken < len(refused) or self.skips >= SKIPS:
            raise self._refused(chunk)
        self._check()
        if self.stops.asked is not None:
            raise self.stops.error()
        if self._time_to_save() and not self.saver.busy:
            self._save()

    def _time_to_save(self) -> bool:
        every = self.plan.save_every
        return isinstance(every, Time) and time.monotonic() - self.saved_at >= every.total_seconds()

    def _tell(self, chunk: Chunk, taken: int) -> None:
        epoch, skipped = self.feed.epoch(self.at), chunk.refused[:taken]
        tell = functools.partial(self.log.steps_taken, epoch=epoch, skipped=skipped)
        self._written(lambda: tell(chunk.start, taken, chunk.metrics))

    def _count_skips(self, chunk: Chunk) -> None:
        for i, refused in enumerate(chunk.refused):
            self.skips = self.skips + 1 if refused else 0
            if refused and not unsound(chunk, i):
                self.skips = SKIPS  # nothing was wrong with it: a step that never moves on

    def _refused(self, chunk: Chunk) -> ValueError:
        at, why = chunk.end - 1, self.plan.on_nonfinite == "explain"
        batch = self.feed.batch(at)
        error = refusal(self.step, self.run, batch, chunk, why)
        if self.skips >= SKIPS:
            error.add_note(f"{self.skips} steps in a row are passed over, and no more")
        if why and self.archive is not None:
            path = self.archive.folder / f"refused-{at:08d}.safetensors"
            save(path, dict(batch))
            error.add_note(f"its batch is in {path}, for fn.load")
        return error

    def _pause(self) -> None:
        """A validation and a save, where they are due."""
        plan, at = self.plan, self.at
        improved = self._validated() if self._validation_is_due() else False
        every = plan.save_every
        due = at == plan.stop or self.progress.over or (isinstance(every, int) and at % every == 0)
        if improved or (due and self.saved_step < at):
            self._save()

    def _validation_is_due(self) -> bool:
        due = self.at == self.plan.stop or self.at % self.plan.validate_every == 0
        known = max(self.progress.validated, 0)
        return self.plan.validate is not None and due and self.at > known

    def _validated(self) -> bool:
        """Validates; whether it was the best so far."""
        assert self.plan.validate is not None
        numbers = plain(self.plan.validate(copied(self.run)))  # of a copy, which may be kept
        self._written(lambda: self.log.entry(self.at, "validation", numbers))
        improved = self.progress.validation(self.at, spelt(numbers), self.plan.best)
        patience = self.plan.patience
        self.progress.over = patience is not None and self.progress.stale >= patience
        return improved

    def _check(self) -> None:
        """Meets the error of a save that has failed."""
        self._written(self.saver.check)

    def _written(self, write: Callable[[], None]) -> None:
        """Writes, and does as the user chose where that cannot be done."""
        try:
            write()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        folder = "" if self.archive is None else f" in {self.archive.folder}"
        what = f"the training cannot write{folder}: {error.strerror or error}"
        if self.plan.on_save_error == "continue":
            warnings.warn(f"{what}; it goes on, and tries again at the next save", stacklevel=2)
            return
        cure = "its whole checkpoints stay. Make room, or give another folder, and run the same "
        cure += "command again; on_save_error='continue' lets a training go on without"
        raise OSError(error.errno or errno.EIO, f"{what}; {cure}") from error
