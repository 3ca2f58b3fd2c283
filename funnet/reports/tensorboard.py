"""A hook that writes a training's numbers where TensorBoard reads them."""

import os
import time
from pathlib import Path
from typing import Any


def tensorboard(folder: str | Path) -> "EventFile":
    """A hook for `fit(..., hooks=[...])` that writes TensorBoard's event files.

    Every plain number of a line becomes a scalar `kind/name`, such as `train/loss`. Vectors and
    matrices are passed over. What is written is out of the process at once, so a killed training
    loses nothing; one that goes on from an earlier step replaces what it had written after it.

    Args:
        folder: where to write, made if missing; `tensorboard --logdir folder` shows it.

    Returns:
        A function `hook(step, kind, numbers)`, with `flush()` (waits for the disk) and `close()`.

    Raises:
        ImportError: if TensorBoard is missing; the message says what to install.
    """
    return EventFile(Path(folder))


class EventFile:
    """A hook with an event file of its own, in TensorBoard's record format (no TensorFlow)."""

    def __init__(self, folder: Path):
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise ImportError(
                "fn.tensorboard needs TensorBoard: pip install 'funnet[tensorboard]'"
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        self.file = open(folder / name, "xb")  # noqa: SIM115
        self.writer, self.events, self.begun = RecordWriter(self.file), event_pb2, False
        self._write(file_version="brain.Event:2")

    def __call__(self, step: int, kind: str, numbers: dict[str, Any]) -> None:
        """Writes the plain numbers of a line."""
        if not self.begun:  # TensorBoard then forgets what an earlier process wrote from here on
            self._write(step=step, session_log={"status": "START"})
            self.begun = True
        plain = {n: x for n, x in numbers.items() if isinstance(x, bool | int | float)}
        found = [{"tag": f"{kind}/{n}", "simple_value": float(x)} for n, x in plain.items()]
        if found:
            self._write(step=step, summary={"value": found})

    def _write(self, **content: Any) -> None:
        event = self.events.Event(wall_time=time.time(), **content)
        self.writer.write(event.SerializeToString())
        self.file.flush()

    def flush(self) -> None:
        """Waits until the disk has all events."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self.file.close()
