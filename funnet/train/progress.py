"""What a training prints: one line that renews itself on a terminal, else a few plain lines."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO, cast

BAR = 16  # columns
Render = Callable[[int, int, str, str], str]  # step, steps, head and tail, as one line


class Progress:
    """The progress of a training up to `steps`, with its rate and the time that is left.

    Args:
        steps: the step at which the training ends.
        on: whether to print; None means yes, unless under pytest.
        stream: where to print, by default stderr. A terminal gets a line that renews itself, with
            a bar if `rich` is installed; anything else a plain line every ten seconds.
    """

    def __init__(self, steps: int, on: bool | None = None, stream: TextIO | None = None):
        self.steps = steps
        self.stream = cast(TextIO, sys.stderr if stream is None else stream)
        wanted = not _tested() if on is None else on
        self.on = wanted and self.stream is not None  # as it is without a console
        self.live = self.on and self.stream.isatty()
        self.render = _renderer(self.stream) if self.live else _plain
        self.shown = time.monotonic()
        self.first: tuple[int, float] | None = None  # step and time after the first dispatch

    def steps_taken(
        self, step: int, epoch: float | None, numbers: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Tells how far it is; `numbers` is asked only if something is printed."""
        now = time.monotonic()
        self.first = self.first or (step, now)  # what this process compiled and took before
        patience = 0.1 if self.live else 10.0
        if not self.on or (now - self.shown < patience and step < self.steps):
            return
        self.shown = now
        head = f"step {step:,}/{self.steps:,}"
        head += f" (epoch {epoch:.1f})" if epoch is not None else ""
        line = self.render(step, self.steps, head, f"{text(numbers())}  {self._rate(step, now)}")
        self._write(f"\r{line}\x1b[K" if self.live else f"{line}\n")

    def line(self, text: str) -> None:
        """A line that stays."""
        clear = "\r\x1b[K" if self.live else ""
        self._write(f"{clear}{text}\n")

    def close(self) -> None:
        """Leaves the line that renews itself."""
        if self.live:
            self._write("\n")

    def _write(self, text: str) -> None:
        """Prints; a terminal that is gone, or knows fewer letters, must not end a training."""
        encoding = getattr(self.stream, "encoding", None) or "utf8"
        try:
            self.stream.write(text.encode(encoding, "replace").decode(encoding))
            self.stream.flush()
        except (OSError, ValueError):
            self.on = self.live = False

    def _rate(self, step: int, now: float) -> str:
        first, begun = self.first or (step, now)
        if step <= first or now <= begun:
            return ""
        rate = (step - first) / (now - begun)
        return f"{_brief(rate)} steps/s  {_clock(int((self.steps - step) / rate))} left"


def _tested() -> bool:
    """Whether this very process runs a test; one that a test has started prints as ever."""
    return "pytest" in sys.modules and "PYTEST_CURRENT_TEST" in os.environ


def text(numbers: Mapping[str, Any]) -> str:
    """The plain numbers, in a few digits."""
    return "  ".join(f"{k} {v:.4g}" for k, v in numbers.items() if isinstance(v, float | int))


def _brief(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _clock(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _plain(step: int, steps: int, head: str, tail: str) -> str:
    return f"{head}  {tail}".rstrip()


def _renderer(stream: TextIO) -> Render:
    """A line that fits the terminal, however wide it is just now: by rich, or without colours."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return lambda *what: _plain(*what)[: _width(stream) - 1]
    console = Console(file=stream, force_jupyter=False, legacy_windows=False)

    def render(step: int, steps: int, head: str, tail: str) -> str:
        width = _width(stream) - 1
        done = BAR * step // max(steps, 1) if width > 100 else BAR
        bar = ("━" * done, "green"), ("━" * (BAR - done) + "  ", "bright_black")
        line = Text.assemble((head, "bold"), "  ", *(bar if width > 100 else ()), tail.rstrip())
        line.highlight_regex(r"\S+ left$", "cyan")
        line.truncate(width, overflow="ellipsis")
        with console.capture() as drawn:
            console.print(line, end="", soft_wrap=True)
        return drawn.get()

    return render


def _width(stream: TextIO) -> int:
    """Columns of the terminal; 80 of a console that does not tell."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
