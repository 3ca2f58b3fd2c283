"""The binary file format of CIFAR-10, in six files or in the archive they are published in.

A record is a label byte, then 32x32 bytes of red, of green and of blue, row by row; a file is
records and nothing else. The archive is read member by member in memory: nothing is extracted
to disk, and no member's name is ever used as a path.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import gzip
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from funnet.data.idx import MOST_EXAMPLES, Split, check_labels, damaged, sound_gzip

TRAIN_NAMES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_NAME = "test_batch.bin"

_RECORD = 1 + 3 * 32 * 32
_BATCH = 10_000  # records of each file in the published archive
_ARCHIVE_LIMIT = 6 * _BATCH * _RECORD + (1 << 20)  # the files, their tar headers and a read-me


def read_files(*paths: Path) -> tuple[Split, Split]:
    """Read CIFAR-10 from its binary files.

    Args:
        *paths: the training files in order, then the test file last. Any number of records each.

    Returns:
        Train and test, each ``{"image": uint8 (N, 32, 32, 3), "label": int32 (N,)}``, writable.

    Raises:
        ValueError: a file is damaged, or is not what its name says.
        OSError: a file cannot be read.
    """
    *train, test = paths
    return _read_split(train), _read_split([test])


def _read_split(paths: list[Path]) -> Split:
    counts = [_count(path, os.stat(path).st_size) for path in paths]
    split, start = _empty(sum(counts)), 0
    for path, count in zip(paths, counts, strict=True):
        _store(split, start, path, path.read_bytes())
        start += count
    return split


def read_archive(path: Path) -> tuple[Split, Split]:
    """Read CIFAR-10 from ``cifar-10-binary.tar.gz`` as it is published.

    Args:
        path: the archive, in which each file must hold exactly 10,000 records.

    Returns:
        Train and test, each ``{"image": uint8 (N, 32, 32, 3), "label": int32 (N,)}``, writable.

    Raises:
        ValueError: the archive is damaged, or is not what its name says.
        OSError: the archive cannot be read.
    """
    train, test = _empty(_BATCH * len(TRAIN_NAMES)), _empty(_BATCH)
    slots = {name: (train, i * _BATCH) for i, name in enumerate(TRAIN_NAMES)}
    slots[TEST_NAME] = (test, 0)
    for name, content in _members(path, set(slots)):
        _store(*slots.pop(name), Path(f"{path}:{name}"), content)
    if slots:
        raise damaged(path, f"no {', '.join(slots)} in it", "all six files of the binary version")
    return train, test


def _members(path: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the wanted members, each once, in the order of the archive."""
    wanted = set(names)
    try:
        with (
            sound_gzip(path),
            _BoundedGzip(path) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r:") as archive,
        ):
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in wanted:
                    wanted.remove(name)
                    yield name, _content(path, archive, member)
            _read_out(path, unpacked)
    except tarfile.TarError as error:
        raise damaged(path, f"an unsound tar archive ({error})", "a whole one") from error


def _read_out(path: Path, unpacked: gzip.GzipFile) -> None:
    """Reads to the end, where gzip compares its checksum with what was read."""
    while unpacked.read(_RECORD):
        if unpacked.tell() > _ARCHIVE_LIMIT:
            raise damaged(path, f"more than {_ARCHIVE_LIMIT} bytes", "the six files and no more")


def _content(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member) if member.isreg() and not member.issparse() else None
    if file is None:
        raise damaged(path, f"{member.name} as a link or special file", "a regular file")
    if member.size != _BATCH * _RECORD:
        raise damaged(path, f"{member.name} of {member.size} bytes", f"{_BATCH * _RECORD}")
    with file:
        return file.read()


class _BoundedGzip(gzip.GzipFile):
    """A gzip reader that refuses to unpack more than CIFAR-10 holds.

    tarfile reads and seeks as far as an archive's headers tell it to, and these may lie.
    """

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _BATCH * _RECORD:
            raise damaged(self.name, f"a tar entry of {size} bytes", f"up to {_BATCH * _RECORD}")
        return super().read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset > _ARCHIVE_LIMIT:
            raise damaged(self.name, f"a tar up to byte {offset}", f"up to {_ARCHIVE_LIMIT}")
        return super().seek(offset, whence)


def _count(path: Path, size: int) -> int:
    """Records in a file of ``size`` bytes."""
    count, rest = divmod(size, _RECORD)
    if rest or not 1 <= count <= MOST_EXAMPLES:
        raise damaged(path, f"{size} bytes", f"a multiple of {_RECORD}, the bytes of a record")
    return count


def _empty(count: int) -> Split:
    return {"image": np.empty((count, 32, 32, 3), np.uint8), "label": np.empty(count, np.int32)}


def _store(split: Split, start: int, path: Path, content: bytes) -> None:
    """Write the records of one file into ``split`` from row ``start`` on."""
    records = np.frombuffer(content, np.uint8).reshape(_count(path, len(content)), _RECORD)
    check_labels(path, records[:, 0])
    rows = slice(start, start + len(records))
    split["label"][rows] = records[:, 0]
    split["image"][rows] = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
