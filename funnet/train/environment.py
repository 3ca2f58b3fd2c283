"""What a training ran on, and with which settings: plain facts for its folder's `run.json`.

No fact is worth a training: what cannot be found out is left out. None names the host, the user or
a home folder, so that a run's folder may be shown to others.
"""

import contextlib
import datetime
import getpass
import importlib.metadata
import os
import platform
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("funnet", "jax", "jaxlib", "optax", "numpy")
SECRET = re.compile(r"token|secret|password|passwd|api[-_]?key|credential", re.IGNORECASE)
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def environment() -> dict[str, Any]:
    """Versions, platform, devices, cores, memory, command, commit and start, as JSON has them.

    Returns:
        `python` and a version for each package; `platform`; `devices`, how many of each kind;
        `processes`; `cores` that may be used; `memory` in bytes; `command`, the words that started
        the process, without secrets; `commit`, what git has checked out in the working folder;
        `started`, the time now in UTC.

    >>> sorted(environment().keys() & {"python", "jax", "cores"})
    ['cores', 'jax', 'python']
    """
    facts: dict[str, Callable[[], Any]] = {
        "python": platform.python_version,
        **{name: lambda name=name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform,
        "devices": lambda: dict(Counter(device.device_kind for device in jax.devices())),
        "processes": jax.process_count,
        "cores": _cores,
        "memory": lambda: os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "command": lambda: [*_masked(_command())],
        "commit": lambda: _commit(Path.cwd()),
        "started": lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    found = {}
    for name, fact in facts.items():
        with contextlib.suppress(Exception):
            found[name] = fact()
    return {name: value for name, value in found.items() if value is not None}


def without_home(text: str) -> str:
    """The text with `~` for home folders, and without the names of user and host."""
    home = os.path.expanduser("~")
    if len(home) > 1:
        text = re.sub(re.escape(home) + r"(?![\w.-])", "~", text)
    text = re.sub(r"(?<![\w.])/(home|Users)/[^/\s:,;'\"]+", "~", text)
    for find, instead in ((getpass.getuser, "user"), (socket.gethostname, "host")):
        with contextlib.suppress(Exception):
            name = find()
            if len(name) > 2 and name not in ("root", "user", "host", "localhost"):
                text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", instead, text)
    return text


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _command() -> list[str]:
    program, *rest = sys.orig_argv
    return [Path(program).name, *rest]


def _masked(words: list[str]) -> Iterator[str]:
    """The words of a command without home folders, and `***` for what looks like a secret."""
    hide = False
    for word in words:
        option, equals, _ = word.partition("=")
        secret = word.startswith("-") and SECRET.search(option) is not None
        if hide and not word.startswith("-"):
            yield "***"
        else:
            yield f"{option}=***" if secret and equals else without_home(word)
        hide = secret and not equals


def _commit(folder: Path) -> str | None:
    """What the folder's `.git` says is checked out, read from its files; no git is run."""
    place = next((p / ".git" for p in (folder, *folder.parents) if (p / ".git").exists()), None)
    if place is None:
        return None
    if place.is_file():  # a worktree of a repository elsewhere
        place = place.parent / place.read_text().removeprefix("gitdir:").strip()
    head = (place / "HEAD").read_text().strip()
    common = place / "commondir"
    roots = [place, place / common.read_text().strip()] if common.is_file() else [place]
    if head.startswith("ref:"):
        name = head.removeprefix("ref:").strip()
        head = next((c for root in roots if (c := _reference(root, name)) is not None), "")
    return head if COMMIT.fullmatch(head) else None


def _reference(root: Path, name: str) -> str | None:
    """The commit of a branch: a file of its own, or a line among the packed ones."""
    if (root / name).is_file():
        return (root / name).read_text().strip()
    packed = root / "packed-refs"
    with contextlib.suppress(OSError), open(packed) as lines:
        return next((line.split()[0] for line in lines if line.split()[1:] == [name]), None)
    return None
