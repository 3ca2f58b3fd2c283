"""Writing that a crash or a power cut cannot tear.

A file or folder is made under a name that nobody reads, flushed to disk, and renamed into place;
then the folder it stands in is flushed, so that the new name is on disk too. A reader finds what
was there before or what is there now. Names that begin with a dot and end in `.part` are work in
progress, or what is left of it.

A flush is the only order that a disk knows: of what has been done since, any part may be lost in
a power cut, and a later change may outlive an earlier one.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None

BLOCK = 2**20  # bytes read at a time


def flush(path: str | Path) -> None:
    """Makes sure that a file's bytes, or a folder's names, have reached the disk.

    Raises:
        OSError: if they have not, or nobody knows.
    """
    folder = os.path.isdir(path)
    if os.name == "nt" and folder:
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        _sync(handle)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise OSError(error.errno, error.strerror, str(path)) from None
        # Else it is a file system that flushes no folders, as some over a network.
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: its fsync leaves the bytes with the drive
    if full is not None:
        with contextlib.suppress(OSError):  # a drive that cannot
            fcntl.fcntl(handle, full)  # type: ignore[union-attr]
            return
    os.fsync(handle)


def unfinished(path: Path) -> Path:
    """A name beside `path` that is nobody else's, for what is still being made."""
    return path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex}.part")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Gives an error of the system the path, where it has none, as from a disk that is full."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[str]:
    """A new file beside `path` that takes its place if the block ends well, else vanishes."""
    temporary = unfinished(path)
    try:
        open(temporary, "xb").close()
        with _naming(path):
            yield str(temporary)
        flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    flush(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """A file with this content, on disk when the call returns; an older one is replaced whole."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new folder that is `path` if the block ends well, else vanishes.

    The files that the block puts there are flushed here, and so is the folder.

    Raises:
        FileExistsError: if there is such a folder already, empty or not.
    """
    temporary = unfinished(path)
    try:
        os.mkdir(temporary)
        with _naming(path):
            yield temporary
        for file in sorted(temporary.iterdir()):
            flush(file)
        flush(temporary)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "is there already", str(path))
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(path.parent)


def remove_folder(path: Path) -> None:
    """Removes a folder; a reader finds it whole or not at all. It may be gone already."""
    doomed = unfinished(path)
    try:
        os.rename(path, doomed)
    except FileNotFoundError:
        return
    flush(path.parent)  # else its files could be lost and its name stay
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what a process that died has left unfinished in a folder."""
    for path in folder.glob(".*.part"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def size(path: Path) -> int:
    """The bytes in a file.

    Raises:
        OSError: if it is none; a pipe or a device would be read for ever.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return found.st_size


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def make_folders(path: Path) -> None:
    """Makes a folder and those above it, on disk when the call returns.

    Those that are there already are flushed too, where that is allowed: the process that made
    them may have died before it could.
    """
    places = (path.absolute(), *path.absolute().parents)
    there = {place for place in places if place.exists()}
    path.mkdir(parents=True, exist_ok=True)
    for place in places:
        with contextlib.suppress(*([OSError] if place in there else [])):
            flush(place.parent)
