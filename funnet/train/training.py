"""A training under way: steps, and what is due between them: validations, saves, stops."""

import contextlib
import dataclasses
import functools
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta as Time
from typing import Any

from funnet.store.tensors import save
from funnet.train.archive import Archive
from funnet.train.best import Best, Progress
from funnet.train.endings import with_run
from funnet.train.feed import Feed
from funnet.train.log import Log, plain
from funnet.train.loop import Chunk, advance, copied
from funnet.train.refusal import refusal
from funnet.train.run import Run
from funnet.train.saver import Saver
from funnet.train.step import Step
from funnet.train.stops import Stops

MANY = 32  # shapes of batches that go without a warning
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
    fuse: int | None
    thorough: bool

    @property
    def refusals(self) -> int:
        """How many refused steps in a row end the training."""
        return SKIPS if self.on_nonfinite == "skip" else 1

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
        self.row = 0  # steps refused in a row
        self.programs = 0  # that the steps are compiled to, one for each of the batches' shapes

    def run_through(self) -> Run:
        """Takes the steps that are left; whatever ends that early has the run, and saves it."""
        try:
            self._tell_of_folder()
            self._take_steps()
        except BaseException as error:
            with_run(error, self.run)
            if kept := self._rescue():
                error.add_note(kept)
                self._tell_of_stop(kept)
            raise
        return self.run

    def _take_steps(self) -> None:
        plan = self.plan
        if self.saved_step < self.at:
            self._save()
        self._pause()  # for a training that was cut before its last validation
        while self.at < plan.stop and not self._over():
            target = plan.pause(self.at)
            how = plan.fuse, plan.refusals, self.row, plan.thorough
            for run, chunk in advance(self.step, self.run, self.feed, target, *how):
                self.run = run
                self._taken(chunk)
            self._pause()
        self.saver.wait()
        self._check()
        self._heed()

    def _over(self) -> bool:
        """Whether patience has come to its end."""
        return self.plan.patience is not None and self.progress.stale >= self.plan.patience

    def _rescue(self) -> str:
        """Saves the run if it is not yet saved; what to say of it. Never raises an error."""
        if self.archive is None:
            return ""
        folder, why = self.archive.folder, ""
        try:
            self.saver.wait()
            if self.run.step.is_deleted():  # its buffers went into a step that broke
                raise RuntimeError("it was lost in a step")
            self.at = int(self.run.step)
            if self.archive.saved < self.at and not self.stops.at_once:
                self._job()()
        except BaseException as error:  # a signal, too: what ended the training comes first
            why = f" ({str(error) or type(error).__name__})"
        saved = self.archive.saved
        if saved >= self.at:
            return f"it is saved in {folder}: the same command goes on from step {self.at:,}"
        there = saved >= 0 and self.archive.checkpoints.folder.is_dir()
        last = f"the last checkpoint is of step {saved:,}" if there else "no checkpoint is there"
        if self.stops.at_once:
            return f"it was not waited for; in {folder} {last}"
        return f"it could not be saved in {folder}{why}; {last}"

    def _tell_of_folder(self) -> None:
        """Says that a training goes on, or is finished."""
        if self.archive is not None and self.archive.saved == self.at:
            over = self.at >= self.plan.stop or self._over()
            what = f"is finished: {self.at:,} steps" if over else f"goes on from step {self.at:,}"
            self._say(f"{self.archive.folder} {what}")

    def _tell_of_stop(self, kept: str) -> None:
        if self.stops.asked is not None:
            name = "Ctrl-C" if self.stops.asked == signal.SIGINT else self.stops.asked.name
            self._say(f"stopped by {name} at step {self.at:,}; {kept}")

    def _say(self, text: str) -> None:
        if self.log.progress.on:
            self.log.progress.line(text)

    def _save(self) -> None:
        """Begins to save the run as it is now; an error is met after the next steps."""
        if self.archive is not None:
            self.saver.wait()
            self._check()
            self.saver.submit(self._job())
            self.saved_at, self.saved_step = time.monotonic(), self.at

    def _job(self) -> Callable[[], None]:
        assert self.archive is not None
        best, log = self.progress.best, self.log.state()
        facts = {
            "progress": dataclasses.asdict(self.progress),
            "metrics": self.progress.metrics,
            "log": log if log["step"] == self.at else None,  # else an error came between
            "position": self.feed.position(self.at),
        }
        step = None if best is None else best["step"]
        return self.archive.job(copied(self.run), facts, step, self.log.flush)

    def _taken(self, chunk: Chunk) -> None:
        """What is to be done after each dispatch."""
        self.row, stopped = chunk.row, chunk.row >= self.plan.refusals
        taken = len(chunk.refused) - (stopped and self.plan.refusals == 1)
        self.at = chunk.start + taken
        self._tell(chunk, taken)
        if stopped:
            raise self._refused(chunk)
        self._count_programs()
        self._check()
        self._heed()
        if self._time_to_save() and not self.saver.busy:
            self._save()

    def _count_programs(self) -> None:
        """Tells of shapes that were not there before, each of which is compiled for."""
        before, self.programs = self.programs, self.feed.programs
        if self.programs > max(before, 1):
            self._say(f"step {self.at:,}: batches of {self.programs} shapes so far, each compiled")
        if before <= MANY < self.programs:
            warnings.warn(
                f"batches come in more than {MANY} shapes, and each is compiled: "
                "fn.data.bucketed pads sequences to few lengths",
                stacklevel=2,
            )

    def _heed(self) -> None:
        """Stops where a signal has asked for it."""
        if self.stops.asked is not None:
            raise self.stops.error()

    def _time_to_save(self) -> bool:
        """Whether it is; a step that is to be validated is saved after that."""
        every = self.plan.save_every
        if not isinstance(every, Time) or self._validation_is_due():
            return False
        return time.monotonic() - self.saved_at >= every.total_seconds()

    def _tell(self, chunk: Chunk, taken: int) -> None:
        epoch, skipped = self.feed.epoch(self.at), chunk.refused[:taken]
        tell = functools.partial(self.log.steps_taken, epoch=epoch, skipped=skipped)
        self._written(lambda: tell(chunk.start, taken, chunk.metrics))

    def _refused(self, chunk: Chunk) -> ValueError:
        at, why = chunk.end - 1, self.plan.on_nonfinite == "explain"
        error = refusal(self.step, self.run, self.feed, chunk, why)
        if self.plan.refusals > 1:
            error.add_note(f"{self.row} steps in a row were passed over, and no more are")
        if why and self.archive is not None:
            path = self.archive.folder / f"refused-{at:08d}.safetensors"
            with contextlib.suppress(Exception):  # nothing is to hide the refusal
                save(path, dict(error.batch))  # type: ignore[attr-defined]
                error.add_note(f"its batch is in {path}, for fn.load")
        return error

    def _pause(self) -> None:
        """A validation and a save, where they are due."""
        plan, at, every = self.plan, self.at, self.plan.save_every
        improved = False
        if self._validation_is_due():
            improved = self._validated() or self.saved_step == at  # which knows nothing of it
        due = at == plan.stop or self._over() or (isinstance(every, int) and at % every == 0)
        if improved or (due and self.saved_step < at):
            self._save()
        self._heed()

    def _validation_is_due(self) -> bool:
        due = self.at == self.plan.stop or self.at % self.plan.validate_every == 0
        known = max(self.progress.validated, 0)
        return self.plan.validate is not None and due and self.at > known

    def _validated(self) -> bool:
        """Validates; whether it was the best so far."""
        assert self.plan.validate is not None
        numbers = plain(self.plan.validate(copied(self.run)))  # of a copy, which may be kept
        improved = self.progress.validation(self.at, numbers, self.plan.best)
        self._written(lambda: self.log.entry(self.at, "validation", numbers))
        return improved

    def _check(self) -> None:
        """Meets the error of a save that has failed."""
        self._written(self.saver.check)

    def _written(self, write: Callable[[], None]) -> None:
        """Writes, and does as the user chose where that cannot be done."""
        if self.archive is None:
            write()
        else:
            self.archive.writes(write)
