"""Writing that a crash or a power cut cannot tear.

A file or folder is made under a name that nobody reads, flushed to disk, and renamed into place;
then the folder it stands in is flushed, so that the new name is on disk too. A reader finds what
was there before or what is there now. Names that begin with a dot and end in `.part` are work in
progress, or what is left of it.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

BLOCK = 2**20  # bytes read at a time


def flush(path: str | Path) -> None:
    """Makes sure that a file's bytes, or a folder's names, have reached the disk."""
    if os.name == "nt" and Path(path).is_dir():
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unfinished(path: Path) -> Path:
    """A name beside `path` that is nobody else's, for what is still being made."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[str]:
    """A new file beside `path` that takes its place if the block ends well, else vanishes."""
    temporary = unfinished(path)
    try:
        open(temporary, "xb").close()
        usual = os.stat(temporary).st_mode  # safetensors would keep the file from others
        yield str(temporary)
        os.chmod(temporary, usual)
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

    The block flushes the files it writes; the folder's names are flushed here.

    Raises:
        FileExistsError: if there is such a folder already, empty or not.
    """
    temporary = unfinished(path)
    try:
        os.mkdir(temporary)
        yield temporary
        flush(temporary)
        if os.path.lexists(path):
            raise FileExistsError(f"{path} is there already")
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(path.parent)


def remove_folder(path: Path) -> None:
    """Removes a folder; a reader finds it whole or not at all."""
    doomed = unfinished(path)
    os.rename(path, doomed)
    flush(path.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what a process that died has left unfinished in a folder."""
    for path in folder.glob(".*.part"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def make_folders(path: Path) -> None:
    """Makes a folder and those above it, on disk when the call returns."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for place in missing:
        flush(place.parent)
