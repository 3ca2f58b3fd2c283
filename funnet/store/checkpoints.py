"""A folder of checkpoints: each one a folder with its tensors and a manifest, whole or not there.

    00000800/tensors.safetensors    the arrays by dotted path
    00000800/manifest.json          step, facts, and the SHA-256 of the tensors and of itself

A name is never written over: a step that is saved again is `00000800.2`, so that at every moment
the newest whole checkpoint stays whole. What is damaged is told apart from what does not fit.
"""

import dataclasses
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from funnet.store import durable, manifest, tensors
from funnet.store.manifest import Damaged

FORMAT = 1  # raised when an older reader would misread what is written
TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"
_NAME = re.compile(r"(\d{8,})(?:\.(\d+))?")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes were found to be those that were written."""

    path: Path
    facts: dict[str, Any]

    @property
    def step(self) -> int:
        """The steps that were taken when it was made."""
        return self.facts["step"]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by dotted path."""
        return tensors.read(self.path / TENSORS)


class Checkpoints:
    """The checkpoints in a folder; see the module."""

    def __init__(self, folder: Path):
        self.folder = folder

    def paths(self) -> list[Path]:
        """The checkpoints by name, oldest first; whether they are whole is not looked at."""
        if not self.folder.is_dir():
            return []
        return sorted((p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)), key=_order)

    def write(self, step: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Path:
        """A new checkpoint, on disk when the call returns.

        Args:
            step: the steps taken.
            arrays: the arrays by dotted path.
            facts: what else is to be known, as JSON can hold it.

        Raises:
            OSError: if it cannot be written; what was there before is untouched.
        """
        path = self._free(step)
        with durable.new_folder(path) as place:
            file, leaf = place / TENSORS, place / MANIFEST
            tensors.write(file, arrays, {})
            files = {TENSORS: {"bytes": file.stat().st_size, "sha256": durable.sha256(file)}}
            durable.flush(file)
            own = {"format": FORMAT, "step": step, "files": files}
            leaf.write_bytes(manifest.sealed({**own, **facts, **own}))
            durable.flush(leaf)
            file.chmod(leaf.stat().st_mode)  # safetensors would keep it from others
        return path

    def newest(self, *, aside: bool = False) -> Checkpoint | None:
        """The newest checkpoint that is whole, `None` where there is none.

        Args:
            aside: whether a damaged one is renamed, so that it is not met again.

        Warns:
            UserWarning: naming each damaged checkpoint that is passed over.
        """
        for path in reversed(self.paths()):
            try:
                return read(path)
            except Damaged as error:
                moved = _put_aside(path) if aside else ""
                warnings.warn(f"{path} is damaged ({error}): passed over{moved}", stacklevel=2)
        return None

    def at(self, step: int) -> Checkpoint:
        """The checkpoint made after so many steps.

        Raises:
            ValueError: if none is kept, or it is damaged; lists the steps that are kept.
        """
        found = [path for path in self.paths() if _order(path)[0] == step]
        if not found:
            kept = ", ".join(f"{s:,}" for s in dict.fromkeys(_order(p)[0] for p in self.paths()))
            raise ValueError(
                f"{self.folder} keeps no checkpoint of step {step:,}; it has {kept or 'none'}"
            )
        return read(found[-1])

    def prune(self, keep: int, also: Iterable[int] = ()) -> None:
        """Removes all but the newest `keep`, and the newest of each of the steps `also`."""
        paths = self.paths()
        wanted = {
            max((p for p in paths if _order(p)[0] == s), key=_order, default=None) for s in also
        }
        for path in paths[:-keep]:
            if path not in wanted:
                durable.remove_folder(path)

    def _free(self, step: int) -> Path:
        """The name for a checkpoint of this step: its number, and a second one if that is taken."""
        taken = [n for s, n in map(_order, self.paths()) if s == step]
        return self.folder / (f"{step:08d}.{max(taken) + 1}" if taken else f"{step:08d}")


def read(path: Path) -> Checkpoint:
    """A checkpoint, once its manifest and its files are found to be as they were written.

    Raises:
        Damaged: if any bit of it is another, or a file is missing.
        ValueError: if it was made by a later version.
    """
    facts = manifest.read(path / MANIFEST)
    if facts["format"] > FORMAT:
        raise ValueError(f"{path} was made by a later version of funnet: install that")
    if facts["step"] != _order(path)[0]:
        raise Damaged(f"its name says another step than its manifest, {facts['step']}")
    for name, file in facts["files"].items():
        try:
            if durable.sha256(path / name) != file["sha256"]:
                raise Damaged(f"{name}: its bytes are not those that were written")
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from error
    return Checkpoint(path, facts)


def _order(path: Path) -> tuple[int, int]:
    """The step, and which one of that step."""
    found = _NAME.fullmatch(path.name)
    return (int(found[1]), int(found[2] or 1)) if found else (-1, 1)


def _put_aside(path: Path) -> str:
    """Renames a damaged checkpoint; what to say of it."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        if aside.exists():
            durable.remove_folder(aside)
        path.rename(aside)
    except OSError:
        return ""
    return f", and now called {aside.name}"
