"""Writing beside the training: one job at a time on a thread, its error met by the next step."""

import threading
from collections.abc import Callable


class Saver:
    """Runs jobs on a thread, one at a time.

    A job's error is kept until `check` or `submit` raises it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is being done."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, job: Callable[[], None]) -> None:
        """Begins a job, when the one before is done.

        Raises:
            BaseException: what the job before has raised; this one is then not begun.
        """
        self.wait()
        self.check()
        self._thread = threading.Thread(target=self._run, args=[job], name="saver", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises the error of a job that has failed, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Waits for the job under way."""
        if self._thread is not None:
            while self._thread.is_alive():  # in short waits, between which a signal is seen
                self._thread.join(0.1)
            self._thread = None

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error
