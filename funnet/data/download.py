"""Where the files of a data set are: looked for on this machine, else downloaded with checks.

A `Source` describes a data set; `load` finds its files and reads them. A download is written
under a name of its own beside its place, compared with its checksum, and only then given its
name: nothing half-written or false can ever be found under it, whoever is interrupted and
however many processes download at once.
"""

import gzip
import hashlib
import http.client
import os
import stat
import sys
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from funnet.data.idx import BLOCK

_TIMEOUT = 20.0  # seconds without an answer
_PACKET = 1 << 16  # bytes received at a time


@dataclass(frozen=True)
class Layout:
    """One way the files of a data set may lie in a folder.

    Attributes:
        names: the files; all of them must be there.
        read: given their paths in that order, returns the data: train and test, or a text.
        subfolder: where they are, below the folder.
        packed: whether each may also be there gzipped, with ``.gz`` after its name.
        caveat: what sets its content apart from the data set as it was published, if anything.
    """

    names: tuple[str, ...]
    read: Callable[..., Any]
    subfolder: str = ""
    packed: bool = False
    caveat: str = ""


@dataclass(frozen=True)
class Download:
    """A file to fetch: its name, its published size in bytes and its MD5.

    Where ``unpacked`` is set, the MD5 is of the bytes inside the gzip file, and it is their
    number: mirrors that compressed the same content anew are then as good.
    """

    name: str
    size: int
    md5: str
    unpacked: int = 0


@dataclass(frozen=True)
class Source:
    """A data set: its name, how its files may lie, what to download, and from where."""

    name: str
    layouts: tuple[Layout, ...]
    downloads: tuple[Download, ...]
    mirrors: tuple[str, ...]


def load(
    source: Source, folder: str | os.PathLike[str] | None = None, *, download: bool = True
) -> Any:
    """Read a data set from the first place that has its files, downloading them if none has.

    Args:
        source: what to look for.
        folder: the only place to look, where given. Else ``$FUNNET_DATA/<name>``, then the
            user's cache ``$XDG_CACHE_HOME/funnet/<name>`` (``~/.cache/funnet/<name>``).
        download: whether files found nowhere are downloaded into the cache.

    Returns:
        What the source's layout reads: train and test, or a text.

    Raises:
        FileNotFoundError: no place has the files and no mirror gave them; lists all of these.
        ValueError: files were found but are damaged.
        OSError: a folder cannot be read, or the cache cannot be written.
    """
    if folder is not None:
        return _load_given(source, folder)
    tried, place = [], Path()
    for place in _places(source.name):
        if found := _find(source, place):
            return found.read(*_present(found, place).values())
        tried.append(f"{place}: {_lack(source, place)}")
    if not download:
        raise FileNotFoundError(_explain(source, [*tried, "no download, as download=False"], place))
    _fill_cache(source, place, tried)
    return _load_given(source, place)


def caveat(source: Source, folder: str | os.PathLike[str] | None = None) -> str:
    """The caveat of the layout that `load` finds, empty if there is none or nothing is found."""
    places = _places(source.name) if folder is None else [_as_path(folder)]
    found = next(filter(None, (_find(source, place) for place in places)), None)
    return found.caveat if found else ""


def _load_given(source: Source, folder: str | os.PathLike[str]) -> Any:
    path = _as_path(folder)
    if found := _find(source, path):
        return found.read(*_present(found, path).values())
    below = path / source.name
    hint = f"pass folder={str(below)!r}" if _find(source, below) else "leave folder out"
    raise FileNotFoundError(
        f"folder={str(path)!r}: {_lack(source, path)}. A given folder is the only place where "
        f"{source.name} is looked for: {hint}, or place {_names(source)} in it."
    )


def _as_path(folder: str | os.PathLike[str]) -> Path:
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"folder must be a path or None, got {folder!r}: pass e.g. 'data/mnist'")
    if not os.fspath(folder):
        raise ValueError("folder is an empty path: pass '.' for this folder, None to search")
    return Path(os.path.expanduser(folder))


def _places(name: str) -> Iterator[Path]:
    """Where to look, the cache last. Lazy: a found data set needs no cache and no home."""
    if given := os.environ.get("FUNNET_DATA"):
        yield _as_path(given) / name
    root = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(root):  # the XDG specification: a relative path is to be ignored
        root = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(root):
        raise FileNotFoundError(f"{name}: no home folder to cache data in: set FUNNET_DATA")
    yield Path(root) / "funnet" / name


def _find(source: Source, folder: Path) -> Layout | None:
    """The first layout all of whose files are in the folder."""
    whole = (x for x in source.layouts if len(_present(x, folder)) == len(x.names))
    return next(whole, None)


def _present(layout: Layout, folder: Path) -> dict[str, Path]:
    """The layout's files that are in the folder, by name, in order."""
    endings = ("", ".gz") if layout.packed else ("",)
    base = folder / layout.subfolder
    paths = {name: [base / (name + ending) for ending in endings] for name in layout.names}
    found = {name: next(filter(_is_file, each), None) for name, each in paths.items()}
    return {name: path for name, path in found.items() if path is not None}


def _is_file(path: Path) -> bool:
    """As `Path.is_file`, but a folder that must not be looked into is an error, not a no."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        found = f"found no way to look ({error.strerror}), expected a readable folder"
        raise OSError(error.errno, found, str(path)) from error


def _lack(source: Source, folder: Path) -> str:
    """What is missing, by the layout of which most is there."""
    if not folder.is_dir():
        return "is not a folder" if folder.exists() else "no such folder"
    nearest = max(source.layouts, key=lambda layout: len(_present(layout, folder)))
    missing = [name for name in nearest.names if name not in _present(nearest, folder)]
    return "lacks " + ", ".join(name + "[.gz]" * nearest.packed for name in missing)


def _names(source: Source) -> str:
    return ", ".join(item.name for item in source.downloads)


def _explain(source: Source, tried: list[str], cache: Path) -> str:
    return "\n  ".join([f"{source.name} was not found. Tried:", *tried]) + (
        f"\nPlace {_names(source)} in {cache}; or set FUNNET_DATA to a folder in which "
        f"{source.name} is a folder that has the files; or pass that folder as folder."
    )


def _fill_cache(source: Source, cache: Path, tried: list[str]) -> None:
    """Download into the cache what it has not yet; one error for all that was tried."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for item in source.downloads:
            if not _is_file(cache / item.name):
                fetch(item, source.mirrors, cache)
    except ConnectionError as error:
        raise FileNotFoundError(_explain(source, [*tried, str(error)], cache)) from error
    except OSError as error:  # the disk: another mirror would not help
        error.add_note(_explain(source, [*tried, f"download to {cache}: {error}"], cache))
        raise


def fetch(item: Download, mirrors: tuple[str, ...], folder: Path) -> None:
    """Download one file into a folder, from the first mirror that gives the right content.

    Args:
        item: what to fetch.
        mirrors: addresses to which the file's name is added, tried in turn.
        folder: where the file is put; must exist. A file of that name there is replaced.

    Raises:
        ConnectionError: no mirror gave it; a line for each, its URL and its failure.
        OSError: the file cannot be written.
    """
    failures = []
    for mirror in mirrors:
        try:
            return _fetch_from(mirror + item.name, item, folder)
        except (ConnectionError, ValueError) as error:
            failures.append(f"{mirror}{item.name}: {error}")
    raise ConnectionError("\n  ".join(failures))


def _fetch_from(url: str, item: Download, folder: Path) -> None:
    # Not tempfile: its files are private to the user, and a cache may be a shared one.
    temporary = folder / f".{item.name}.{uuid.uuid4().hex}.part"
    try:
        with open(temporary, "xb") as file:
            _transfer(url, item, file)
            file.flush()
            os.fsync(file.fileno())
        _verify(temporary, item)
        os.replace(temporary, folder / item.name)
    finally:
        temporary.unlink(missing_ok=True)


def _transfer(url: str, item: Download, file: BinaryIO) -> None:
    """Copy what the URL gives into the file; at most twice the published size."""
    request = urllib.request.Request(url, headers={"User-Agent": "funnet"})
    with _network():
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    with response, _progress(url, item.size) as show:
        done, promised = 0, int(response.headers.get("Content-Length", -1))
        while block := _receive(response):
            done += len(block)
            if done > 2 * item.size:
                raise ValueError(f"found more than {2 * item.size} bytes, expected {item.size}")
            file.write(block)
            show(done)
    if promised not in (-1, done):
        raise ConnectionError(f"found {done} bytes, expected the {promised} it announced")


def _receive(response: http.client.HTTPResponse) -> bytes:
    with _network():
        return response.read(_PACKET)


@contextmanager
def _network() -> Iterator[None]:
    """Make all failures of the network ConnectionError, apart from those of the disk."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise ConnectionError(str(error) or type(error).__name__) from error


def _verify(path: Path, item: Download) -> None:
    """Raise ValueError unless the file has the checksum it must have."""
    digest, done = hashlib.md5(usedforsecurity=False), 0
    try:
        with gzip.open(path) if item.unpacked else open(path, "rb") as file:
            # One block too many is enough to make the checksum another: a gzip bomb ends here.
            while done <= (item.unpacked or 2 * item.size) and (block := file.read(BLOCK)):
                digest.update(block)
                done += len(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"found no sound gzip file ({error}), expected one") from error
    if digest.hexdigest() != item.md5:
        raise ValueError(f"found content of MD5 {digest.hexdigest()}, expected {item.md5}")


@contextmanager
def _progress(url: str, size: int) -> Iterator[Callable[[int], None]]:
    """A function that shows how many of ``size`` bytes are here: a bar, if someone watches."""
    stream, text = sys.stderr, f"funnet: downloading {url} ({size / 1e6:.1f} MB)"
    if stream is None or not stream.isatty():  # None: a process without a console
        if stream is not None:
            print(text, file=stream, flush=True)
        yield lambda done: None
        return
    try:
        yield lambda done: print(f"\r{text} {_bar(done / size)}", end="", file=stream, flush=True)
    finally:
        print(file=stream)


def _bar(part: float) -> str:
    filled = min(int(20 * part), 20)
    return f"[{'#' * filled}{'.' * (20 - filled)}] {min(part, 1):4.0%}"
