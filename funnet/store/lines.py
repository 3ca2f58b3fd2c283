"""The file `metrics.jsonl`: a line of JSON an entry, there at once, whole or not at all."""

import contextlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

from funnet.store.durable import write_bytes


class Lines:
    """The open file of a training that begins, or goes on, at some step.

    Args:
        path: the file; its folder is made if missing.
        start: the step at which the training begins. The lines up to it stay, and what comes after
            them (a torn last line, the lines of a future that was lost) goes.
        since: train lines later than this go too: their steps are still to be in a line.
        fresh: whether the training is a new one, which puts an earlier one's file aside.
    """

    def __init__(self, path: Path, start: int, since: int, *, fresh: bool = False):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.seconds = 0.0  # of training behind the last line that stayed
        if fresh:
            _put_aside(path)
        elif path.exists():
            self.seconds = _trimmed(path, start, since)
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, line: dict[str, Any]) -> None:
        """Adds a line; one that does not fit on the disk is taken back, and raises OSError."""
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        end = self.file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                self.file.truncate(end)
            raise

    def flush(self) -> None:
        """Waits until the disk has all lines."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


def _put_aside(path: Path) -> None:
    """Renames what an earlier training wrote to the first free of `metrics.1.jsonl`, and so on."""
    if path.exists():
        names = (path.with_suffix(f".{n}.jsonl") for n in itertools.count(1))
        path.rename(next(name for name in names if not name.exists()))


def _trimmed(path: Path, start: int, since: int) -> float:
    """Leaves the lines that belong to the training up to `start`; the seconds behind them."""
    before, kept, seconds = path.read_bytes(), [], 0.0
    for text in before.split(b"\n"):
        line = parsed(text)
        if line is not None and line["step"] <= (since if line["kind"] == "train" else start):
            kept.append(text + b"\n")
            found = line.get("seconds")
            seconds = found if isinstance(found, int | float) else seconds
    after = b"".join(kept)
    if after != before:
        write_bytes(path, after)
    return float(seconds)


def parsed(text: str | bytes) -> dict[str, Any] | None:
    """A line of the file, or None of what is none."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return None
    return line if isinstance(line.get("kind"), str) else None
