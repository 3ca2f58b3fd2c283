"""CIFAR-10 as a pack of JPEG images: a twelfth of the bytes, and not quite the published pixels.

A split is one `.npz` file of four arrays: `header`, the bytes with which every image begins;
`scans`, what follows it, image after image; `lengths`, the bytes of each scan; and `labels`.
Image i is the JPEG file `header + scan i + FF D9`. The rows of a pack lie class by class; they are
returned in an order drawn once for all, so that any stretch of them has a bit of every class.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from funnet.data.idx import MOST_EXAMPLES, Split, check_labels, damaged

NAMES = ("train.npz", "test.npz")
CAVEAT = "its pixels went through JPEG"

# What NumPy writes before the numbers of a vector. Read so, it can claim nothing that costs memory.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '[|<](u[124])', 'fortran_order': False, "
    rb"'shape': \(([0-9]{1,10}),\), \} *\n",
    re.DOTALL,
)
_DTYPES = {"header": "u1", "scans": "u1", "lengths": "u1 u2 u4", "labels": "u1"}
_MOST_BYTES = 1 << 28  # of a file's arrays; those of the published images are 15 million
_END_OF_IMAGE = b"\xff\xd9"
_SIDE, _BLOCK, _SEED = 32, 10_000, 20  # the order is that of binary files of 10,000, balanced each


def read_pack(train: Path, test: Path) -> tuple[Split, Split]:
    """Read CIFAR-10 from two packs of JPEG images.

    Args:
        train: the `.npz` file of the training images; any number of them.
        test: that of the test images.

    Returns:
        Train and test, each ``{"image": uint8 (N, 32, 32, 3), "label": int32 (N,)}``, writable.

    Raises:
        ImportError: Pillow, which decodes them, is not installed.
        ValueError: a file is damaged, or is not what its name says.
        OSError: a file cannot be read.
    """
    return _read_split(train), _read_split(test)


def _read_split(path: Path) -> Split:
    header, scans, lengths, labels = _arrays(path)
    _check(path, scans, lengths, labels)
    ends, order = np.cumsum(lengths, dtype=np.int64), _order(labels)
    images = np.empty((len(labels), _SIDE, _SIDE, 3), np.uint8)
    start, content = header.tobytes(), scans.tobytes()
    for place, row in enumerate(order):
        scan = content[ends[row] - int(lengths[row]) : ends[row]]
        images[place] = _decoded(path, int(row), start + scan + _END_OF_IMAGE)
    return {"image": images, "label": labels[order].astype(np.int32)}


def _arrays(path: Path) -> list[np.ndarray]:
    """The four arrays, by what the archive says of them never given more memory than they need."""
    with _sound_zip(path), zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        lacking = [name for name in _DTYPES if f"{name}.npy" not in members]
        if lacking:
            raise damaged(path, f"no {', '.join(lacking)} in it", ", ".join(_DTYPES))
        wanted = [members[f"{name}.npy"] for name in _DTYPES]
        size = sum(member.file_size for member in wanted)
        if size > _MOST_BYTES:
            raise damaged(path, f"arrays of {size} bytes", f"up to {_MOST_BYTES}")
        contents = [archive.read(member) for member in wanted]
    pairs = zip(_DTYPES.items(), contents, strict=True)
    return [_array(path, name, dtypes.split(), content) for (name, dtypes), content in pairs]


@contextmanager
def _sound_zip(path: Path) -> Iterator[None]:
    """Turn the several exceptions of an unsound archive into one ValueError that names it."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        expected = "a sound .npz file"
        raise damaged(path, f"an archive that cannot be read ({error})", expected) from error


def _array(path: Path, name: str, dtypes: list[str], content: bytes) -> np.ndarray:
    """A vector of unsigned integers, from the bytes of a `.npy` file."""
    header = _HEADER.match(content)
    dtype = header[1].decode() if header else ""
    if header is None or dtype not in dtypes:
        expected = f"a .npy file of one axis and dtype {' or '.join(dtypes)}"
        raise damaged(path, f"{name} that begins with {content[:70]!r}", expected)
    count, room = int(header[2]), len(content) - header.end()
    if room != count * np.dtype(dtype).itemsize:
        raise damaged(path, f"{name} of {room} bytes", f"{count} numbers of {dtype}, as it says")
    return np.frombuffer(content, f"<{dtype}", offset=header.end())


def _check(path: Path, scans: np.ndarray, lengths: np.ndarray, labels: np.ndarray) -> None:
    """Raise ValueError unless the arrays fit together."""
    if not 1 <= len(labels) <= MOST_EXAMPLES:
        raise damaged(path, f"{len(labels)} labels", f"between 1 and {MOST_EXAMPLES}")
    if len(lengths) != len(labels):
        raise damaged(path, f"{len(lengths)} lengths", f"{len(labels)}, one for each label")
    total = int(lengths.sum(dtype=np.int64))
    if total != len(scans):
        raise damaged(path, f"{len(scans)} bytes of scans", f"{total}, the sum of their lengths")
    check_labels(path, labels)


def _order(labels: np.ndarray) -> np.ndarray:
    """The rows in blocks of 10,000 in which all classes are as frequent, each block shuffled."""
    blocks = max(len(labels) // _BLOCK, 1)
    # RandomState's stream is frozen: the order is the same with every NumPy.
    random = np.random.RandomState(_SEED)
    classes = [random.permutation(np.flatnonzero(labels == c)) for c in range(10)]
    parts = [np.array_split(rows, blocks) for rows in classes]
    return np.concatenate(
        [random.permutation(np.concatenate([part[i] for part in parts])) for i in range(blocks)]
    )


def _decoded(path: Path, row: int, content: bytes) -> np.ndarray:
    """A JPEG file's pixels, (32, 32, 3); its size is looked at before it is given memory."""
    image = _pillow()
    try:
        with image.open(io.BytesIO(content), formats=["JPEG"]) as found:
            if (found.mode, *found.size) == ("RGB", _SIDE, _SIDE):
                return np.asarray(found)
            what = f"pixels {found.mode} of {found.width} x {found.height}"
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        what = f"no JPEG image ({type(error).__name__}: {error})"
    raise damaged(path, f"{what} in row {row}", f"an RGB one of {_SIDE} x {_SIDE}")


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "this copy of CIFAR-10 is JPEG images, which need Pillow: pip install 'funnet[recipes]'"
        ) from error
    return Image
