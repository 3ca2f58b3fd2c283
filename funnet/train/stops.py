"""Ctrl-C and SIGTERM while a training runs: the first one asks it to stop, a second Ctrl-C does."""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import jax

TWICE = 0.3  # seconds: what comes sooner is the same Ctrl-C, handed on by a parent process too


class Stops:
    """While entered, remembers a signal instead of letting it end the process.

    Handlers that are not Python's usual ones, and threads that may set none, are left alone.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.since = 0.0  # when it did
        self.at_once = False  # a second Ctrl-C came
        self._usual: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stops":
        usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        if threading.current_thread() is threading.main_thread():
            for number, handler in usual.items():
                if signal.getsignal(number) == handler:
                    self._usual[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        self._usual = {}
        if kind is None and self.asked is not None:  # it came too late for the training to see it
            raise self.error()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked, self.since = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self.since >= TWICE:
            self.at_once = True
            raise KeyboardInterrupt

    def error(self) -> BaseException:
        """What ends the training that was asked to stop, as the signal would have ended it."""
        if self.asked == signal.SIGTERM:
            return SystemExit(128 + signal.SIGTERM)
        return KeyboardInterrupt()


def wait(array: jax.Array) -> None:
    """Waits for an array in Python, where a signal is seen, not inside XLA, where none is."""
    pause = 1e-5
    try:
        while not _ready(array):
            time.sleep(pause)
            pause = min(pause * 2, 2e-3)
    except BaseException:
        _abandoned.append(array)
        raise


def _ready(array: Any) -> bool:
    """Whether it is computed; an array of another kind is waited for by its use."""
    return not hasattr(array, "is_ready") or array.is_ready()


_abandoned: list[jax.Array] = []  # what nobody waits for any more


@atexit.register
def _leave() -> None:
    """Ends the process as Ctrl-C does: XLA would first wait for what nobody waits for."""
    if all(_ready(array) for array in _abandoned):
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
