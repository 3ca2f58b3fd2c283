"""The file format of MNIST: IDX, plain or gzipped, with every claim checked before it is trusted.

An IDX file is two zero bytes, a type code, the number of dimensions, each dimension as a
big-endian 32-bit integer, then the values, last dimension fastest. The header is compared with
what the data set must look like before memory is set aside, so neither a false header nor a
gzip bomb costs more than the data it stands for.

Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998.
"""

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import numpy as np

Split = dict[str, np.ndarray]

MOST_EXAMPLES = 10_000_000
BLOCK = 1 << 20  # bytes read at a time
_DEFLATE_RATIO = 1032  # the most that deflate can unpack a byte to (zlib technical details)
_UINT8 = 8  # the IDX type code


def read_mnist(
    train_images: Path, train_labels: Path, test_images: Path, test_labels: Path
) -> tuple[Split, Split]:
    """Read the four files of MNIST, or of a data set made in its likeness.

    Args:
        train_images: IDX file of uint8 (N, 28, 28); a name that ends in ``.gz`` is unpacked.
        train_labels: IDX file of uint8 (N,), classes 0..9.
        test_images: as ``train_images``.
        test_labels: as ``train_labels``.

    Returns:
        Train and test, each ``{"image": uint8 (N, 28, 28, 1), "label": int32 (N,)}``, writable.

    Raises:
        ValueError: a file is damaged, or is not what its name says.
        OSError: a file cannot be read.
    """
    return _read_split(train_images, train_labels), _read_split(test_images, test_labels)


def _read_split(images_path: Path, labels_path: Path) -> Split:
    images, labels = read_idx(images_path, 28, 28), read_idx(labels_path)
    if len(images) != len(labels):
        expected = f"{len(images)}, one for each image in {images_path.name}"
        raise damaged(labels_path, f"{len(labels)} labels", expected)
    check_labels(labels_path, labels)
    return {"image": images[..., None], "label": labels.astype(np.int32)}


def read_idx(path: Path, *shape: int) -> np.ndarray:
    """Read an IDX file of bytes.

    Args:
        path: the file; gzipped if its name ends in ``.gz``.
        *shape: the dimensions of one example, ``28, 28`` for images and none for labels.

    Returns:
        A writable uint8 array of shape (N, *shape), 1 <= N <= 10,000,000.

    Raises:
        ValueError: the file is damaged, or holds something else.
        OSError: the file cannot be read.
    """
    with sound_gzip(path), _open(path) as file:
        found = _read_header(path, file, shape)
        size = math.prod(found)
        values = _read_values(file, size)
        more = bool(file.read(1))  # also makes gzip compare its checksum
    if more or len(values) != size:
        counted = f"more than {size}" if more else f"{len(values)}"
        raise damaged(path, f"{counted} bytes after the header", f"{size}, as it says {found}")
    return values.reshape(found)


def _open(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def _read_header(path: Path, file: BufferedIOBase, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions the file claims, once they are such that the file could hold them."""
    rank = 1 + len(shape)
    header = file.read(4 + 4 * rank)
    magic = bytes([0, 0, _UINT8, rank])
    if header[:4] != magic[: len(header)]:
        raise damaged(path, f"magic number {header[:4].hex()}", f"{magic.hex()}, IDX of bytes")
    if len(header) < 4 + 4 * rank:
        raise damaged(path, f"{len(header)} bytes", f"an IDX header of {4 + 4 * rank} bytes")
    count, *rest = (int(size) for size in np.frombuffer(header, ">u4", offset=4))
    if tuple(rest) != shape:
        raise damaged(path, f"examples of shape {tuple(rest)}", f"shape {shape}")
    if not 1 <= count <= MOST_EXAMPLES:
        raise damaged(path, f"a header of {count} examples", f"between 1 and {MOST_EXAMPLES}")
    _check_room(path, len(header) + count * math.prod(shape))
    return (count, *shape)


def _check_room(path: Path, claimed: int) -> None:
    """Refuse a header whose values cannot be in the file, before they are given memory."""
    size = os.stat(path).st_size
    if path.suffix != ".gz" and size != claimed:
        raise damaged(path, f"{size} bytes", f"{claimed}, as its header says")
    if claimed > size * _DEFLATE_RATIO:
        raise damaged(path, f"{size} bytes gzipped", f"room for {claimed}, as its header says")


def _read_values(file: BufferedIOBase, count: int) -> np.ndarray:
    """Up to ``count`` bytes, read in blocks straight into the array that is returned."""
    values, done = np.empty(count, np.uint8), 0
    while done < count and (got := file.readinto(values.data[done : done + BLOCK])):
        done += got
    return values[:done]


def check_labels(path: Path, labels: np.ndarray, classes: int = 10) -> None:
    """Raise ValueError, naming ``path``, if an integer in ``labels`` (N,) is no class."""
    if labels.max() >= classes:
        row = int(np.argmax(labels >= classes))
        raise damaged(path, f"label {labels[row]} in row {row}", f"0..{classes - 1}")


def damaged(path: Path | str, found: str, expected: str) -> ValueError:
    """The error for a file whose content is not what it must be."""
    return ValueError(
        f"{path}: found {found}, expected {expected}. The file is damaged or is not what its "
        "name says: replace it by an intact copy (in funnet's cache folder: delete it, and it "
        "is downloaded again)."
    )


@contextmanager
def sound_gzip(path: Path) -> Iterator[None]:
    """Turn the several exceptions of an unsound gzip file into one ValueError that names it."""
    try:
        yield
    except EOFError as error:
        raise damaged(path, "a gzip file that breaks off", "one with its end") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        expected = "a sound gzip file (if it is unpacked already, take .gz off its name)"
        raise damaged(path, f"bytes that cannot be unpacked ({error})", expected) from error
