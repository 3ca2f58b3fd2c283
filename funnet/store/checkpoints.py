"""A folder of checkpoints: each one a folder with its tensors and a manifest, whole or not there.

    00000800/tensors.safetensors    the arrays by dotted path
    00000800/manifest.json          name, facts, and the SHA-256 of the tensors and of itself

A name is never written over: a step that is saved again is `00000800.2`, so that at every moment
the newest whole checkpoint stays whole. What is damaged is told apart from what does not fit.
"""

import dataclasses
import errno
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from funnet.store import durable, manifest, tensors
from funnet.store.manifest import Damaged

FORMAT = 1  # raised when an older reader would misread what is written
TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"
RACES = 100  # times that a reader begins anew because what it was to read was pruned
_NAME = re.compile(r"([0-9]{8,})(?:\.([0-9]+))?")


class Vanished(FileNotFoundError):
    """A checkpoint was pruned between being found and being read."""


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
        """The arrays by dotted path.

        Raises:
            Vanished: if it was pruned meanwhile, by the process that writes there.
        """
        try:
            return tensors.read(self.path / TENSORS)
        except FileNotFoundError:
            raise Vanished(
                f"{self.path} was removed since it was found, as a training does with its older "
                "checkpoints: ask for the newest again"
            ) from None


class Checkpoints:
    """The checkpoints in a folder; see the module."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._written: Path | None = None  # the last one, by this object

    def paths(self) -> list[Path]:
        """The checkpoints by name, oldest first; whether they are whole is not looked at."""
        try:
            found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found, key=_order)

    def write(self, step: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Path:
        """A new checkpoint, on disk when the call returns.

        Args:
            step: the steps taken.
            arrays: the arrays by dotted path.
            facts: what else is to be known, as JSON can hold it.

        Raises:
            TypeError, ValueError: if the facts are nothing that JSON can hold exactly.
            OSError: if it cannot be written; what was there before is untouched.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        path = self._free(step)
        with durable.new_folder(path) as place:
            file = place / TENSORS
            tensors.write(file, arrays, {})
            files = {TENSORS: {"bytes": durable.size(file), "sha256": durable.sha256(file)}}
            own = {"format": FORMAT, "name": path.name, "step": step, "files": files}
            (place / MANIFEST).write_bytes(manifest.sealed({**own, **facts, **own}))
        self._written = path
        return path

    def newest(self, *, aside: bool = False) -> Checkpoint | None:
        """The newest checkpoint that is whole, `None` where there is none.

        Args:
            aside: whether a damaged one is renamed, so that it is not met again.

        Warns:
            UserWarning: naming each damaged checkpoint that is passed over.
        """
        found, damaged = self._newest(self.paths)
        for path, error in damaged.items():
            moved = _put_aside(path) if aside and _is_seen(error) else ""
            _warn(path, error, moved)
        return found

    def at(self, step: int) -> Checkpoint:
        """The checkpoint made after so many steps.

        Raises:
            ValueError: if none is kept, or it is damaged; lists the steps that are kept.

        Warns:
            UserWarning: if the step was saved again, and that one is damaged and the first whole.
        """
        found, damaged = self._newest(lambda: [p for p in self.paths() if _order(p)[0] == step])
        if found is not None:
            for path, error in damaged.items():
                _warn(path, error)
            return found
        kept = dict.fromkeys(_order(path)[0] for path in self.paths() if path not in damaged)
        others = f"{self.folder} has {', '.join(f'{s:,}' for s in kept) or 'none'}"
        if damaged:
            what = "; ".join(str(error) for error in damaged.values())
            raise Damaged(f"the checkpoint of step {step:,} is damaged: {what}. Else {others}")
        raise ValueError(f"{self.folder} keeps no checkpoint of step {step:,}: {others}")

    def _newest(
        self, those: Callable[[], list[Path]]
    ) -> tuple[Checkpoint | None, dict[Path, Damaged]]:
        """The newest whole one of `those`, and what is wrong with the newer ones."""
        for _ in range(RACES):
            damaged: dict[Path, Damaged] = {}
            for path in reversed(those()):
                try:
                    return read(path), damaged
                except Damaged as error:
                    if not os.path.lexists(path):
                        break  # pruned since it was listed: there is a newer one
                    damaged[path] = error
            else:
                return None, damaged
        raise OSError(f"{self.folder}: its checkpoints vanish faster than they can be read")

    def prune(self, keep: int, also: Iterable[int] = ()) -> None:
        """Removes all but the newest `keep`, and the newest of each of the steps `also`.

        What is named as newer than the last one written here is left alone and not counted: it is
        damaged, or the training would have gone on from there.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        paths = self.paths()
        if self._written in paths:
            paths = paths[: paths.index(self._written) + 1]
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
        OSError: if memory or handles are short, which says nothing of it.
    """
    facts = manifest.read(path / MANIFEST)
    name, file = _claims(path, facts)
    if name != path.name:
        raise Damaged(f"{path}: by its manifest it was written as {name}")
    with manifest.reading(path / TENSORS):
        if (size := durable.size(path / TENSORS)) != file["bytes"]:
            raise Damaged(f"{path / TENSORS}: {size} bytes, not {file['bytes']} as written")
        if durable.sha256(path / TENSORS) != file["sha256"]:
            raise Damaged(f"{path / TENSORS}: its bytes are not those that were written")
    return Checkpoint(path, facts)


def _claims(path: Path, facts: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name under which a checkpoint was written, and what its file must be."""
    try:
        if facts["format"] > FORMAT:
            raise ValueError(f"{path} was made by a later version of funnet: install that")
        file = facts["files"][TENSORS]
        _ = file["bytes"], file["sha256"], facts["step"]
        return facts["name"], file
    except (KeyError, TypeError) as error:
        raise Damaged(f"{path / MANIFEST}: it is no checkpoint's manifest ({error})") from None


def _order(path: Path) -> tuple[int, int]:
    """The step, and which one of that step."""
    found = _NAME.fullmatch(path.name)
    return (int(found[1]), int(found[2] or 1)) if found else (-1, 1)


def _warn(path: Path, error: Damaged, moved: str = "") -> None:
    warnings.warn(f"{path} is damaged: passed over{moved} ({error})", stacklevel=3)


# What it means that a file is not there, or something else is: the disk has been read.
_SEEN = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)


def _is_seen(error: Damaged) -> bool:
    """Whether the damage was seen: what cannot be read today may be whole tomorrow."""
    cause = error.__cause__
    return not isinstance(cause, OSError) or cause.errno in _SEEN


def _put_aside(path: Path) -> str:
    """Renames a damaged checkpoint; what to say of it."""
    names = (path.with_name(f"{path.name}.damaged{i}") for i in ("", *range(2, RACES)))
    try:
        aside = next(name for name in names if not os.path.lexists(name))
        path.rename(aside)
    except (OSError, StopIteration):
        return ""
    return f", and now called {aside.name}"
