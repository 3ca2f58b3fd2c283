"""A folder that one process at a time writes into.

The lock is the operating system's own on a file in the folder, so it ends with the process that
holds it, however that dies; the file only tells who that is.
"""

import contextlib
import json
import os
import platform
import time
import warnings
from pathlib import Path

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None


class Lock:
    """Holds `folder` for this process from `take` to `release`."""

    def __init__(self, folder: Path):
        self.path, self.handle = folder / "lock", -1

    def take(self) -> None:
        """Takes the folder.

        Raises:
            BlockingIOError: if a living process, or another training in this one, has it.
            OSError: if the folder cannot be written.
        """
        self._open()
        try:
            _lock(self.handle)
        except BlockingIOError:
            holder = _told(self.handle)
            self._close()
            raise BlockingIOError(
                f"{self.path.parent} is being written by {holder}: wait for it, or give this "
                "training another folder"
            ) from None
        except OSError as error:  # a file system without locks
            alone = "see to it that only one process writes into the folder"
            warnings.warn(f"{self.path} cannot be locked ({error}): {alone}", stacklevel=2)
        _tell(self.handle)

    def release(self) -> None:
        """Gives the folder back; the file stays, for who deletes it may delete another's lock."""
        if self.handle >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self.handle, 0)
                _unlock(self.handle)  # for a child, too, that is only now leaving it to its parent
            self._close()

    def _open(self) -> None:
        if self.handle >= 0:
            raise BlockingIOError(f"{self.path.parent} is being written by this very training")
        self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        _held.add(self)

    def _close(self) -> None:
        handle, self.handle = self.handle, -1
        _held.discard(self)
        os.close(handle)


_held: set[Lock] = set()


def _leave_to_parent() -> None:
    """In a forked child: a lock that a child holds too would outlive its owner."""
    for lock in _held:
        handle, lock.handle = lock.handle, -1  # or the child's release would hit another file
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _tell(handle: int) -> None:
    """Writes who holds the lock; a disk too full for it is met by the first save."""
    who = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%FT%T%z")}
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(who).encode() + b"\n")


def _lock(handle: int) -> None:
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    os.lseek(handle, 2**30, os.SEEK_SET)  # a byte that nobody reads
    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        raise BlockingIOError(*error.args) from None


def _unlock(handle: int) -> None:
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_UN)


def _told(handle: int) -> str:
    """Who the file says holds the lock."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        who = json.loads(os.read(handle, 4096))
        return f"process {who['process']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
