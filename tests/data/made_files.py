"""What tests of files share: data sets of drawn content, made without the readers under test."""

import gzip
import hashlib
import tracemalloc

import numpy as np
import pytest

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
NAMES += ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IMAGES, LABELS = NAMES[0], NAMES[1]


def idx(values):
    """The bytes of an IDX file, made independently of the reader."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def drawn(count, seed=0, size=(28, 28)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *size)), rng.integers(0, 10, count)


def write_mnist(folder, *, train=5, test=3, seed=0, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = drawn(train, seed) + drawn(test, seed + 1)
    for name, values in zip(NAMES, arrays, strict=True):
        write(folder / name, idx(values), packed=packed)
    return arrays


def write(path, content, *, packed=True):
    path = path.with_name(path.name + ".gz") if packed else path
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def flip(content, place):
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def md5(content):
    return hashlib.md5(content).hexdigest()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_holds(split, images, labels):
    assert split.keys() == {"image", "label"}
    assert (split["image"].dtype, split["label"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(split["image"], images)
    np.testing.assert_array_equal(split["label"], labels)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in split.values())


def peak_while_refusing(load, *args, match):
    """The most bytes allocated at a time by a call that must raise ValueError."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=match):
            load(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
