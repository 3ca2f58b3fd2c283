"""MNIST's format: exact content, and all kinds of damage."""

import gzip
import re

import numpy as np
import pytest
from made_files import (
    IMAGES,
    LABELS,
    assert_holds,
    drawn,
    flip,
    idx,
    peak_while_refusing,
    write,
    write_mnist,
)

from funnet.data.sources import fashion_mnist, mnist


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("load", [mnist, fashion_mnist])
def test_mnist_reads_exactly_what_was_written(tmp_path, load, packed):
    a, b, c, d = write_mnist(tmp_path, packed=packed)
    train, test = load(str(tmp_path))
    assert_holds(train, a[..., None], b)
    assert_holds(test, c[..., None], d)


def test_mnist_reads_a_folder_that_is_partly_packed(tmp_path):
    arrays = write_mnist(tmp_path)
    (tmp_path / f"{IMAGES}.gz").unlink()
    write(tmp_path / IMAGES, idx(arrays[0]), packed=False)
    assert_holds(mnist(tmp_path)[0], arrays[0][..., None], arrays[1])


@pytest.mark.parametrize(("load", "below"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST")])
def test_torchvision_folder_is_read(tmp_path, load, below):
    arrays = write_mnist(tmp_path / below / "raw")
    assert_holds(load(tmp_path)[0], arrays[0][..., None], arrays[1])


def test_reading_says_nothing(tmp_path, capfd):
    write_mnist(tmp_path)
    mnist(tmp_path)
    assert capfd.readouterr() == ("", "")


FIVE = drawn(5)[0]
HEADER = bytes([0, 0, 8, 3])


def sizes(*numbers):
    return HEADER + b"".join(number.to_bytes(4, "big") for number in numbers)


DAMAGED_CONTENT = {
    "empty": (b"", "found 0 bytes, expected an IDX header of 16 bytes"),
    "half a header": (HEADER + b"\0\0", "found 6 bytes, expected an IDX header of 16 bytes"),
    "labels": (idx(drawn(5)[1]), "found magic number 00000801, expected 00000803"),
    "floats": (b"\0\0\x0d\3" + idx(FIVE)[4:], "found magic number 00000d03, expected 00000803"),
    "a web page": (b"<html>not here</html>", "found magic number 3c68746d, expected 00000803"),
    "27x28": (idx(FIVE[:, 1:]), "found examples of shape (27, 28), expected shape (28, 28)"),
    "no images": (idx(FIVE[:0]), "found a header of 0 examples, expected between 1 and"),
    "2^31 images": (sizes(2**31, 28, 28), "found a header of 2147483648 examples, expected betw"),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", DAMAGED_CONTENT)
def test_damaged_images(tmp_path, kind, packed):
    content, message = DAMAGED_CONTENT[kind]
    write_mnist(tmp_path, packed=packed)
    path = write(tmp_path / IMAGES, content, packed=packed)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")) as caught:
        mnist(tmp_path)
    assert "replace it by an intact copy" in str(caught.value)


@pytest.mark.parametrize(
    ("packed", "change", "message"),
    [
        (True, -1, "found 3919 bytes after the header, expected 3920, as it says (5, 28, 28)"),
        (True, 1, "found more than 3920 bytes after the header, expected 3920"),
        (False, -1, "found 3935 bytes, expected 3936, as its header says"),
        (False, 1, "found 3937 bytes, expected 3936, as its header says"),
    ],
)
def test_more_or_fewer_bytes_than_the_header_says(tmp_path, packed, change, message):
    write_mnist(tmp_path, packed=packed)
    content = (idx(FIVE) + b"\0")[: 16 + 3920 + change]
    path = write(tmp_path / IMAGES, content, packed=packed)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        mnist(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[: len(c) // 2], "found a gzip file that breaks off, expected one with its"),
        (lambda c: c[:-8], "found a gzip file that breaks off, expected one with its end"),
        (lambda c: gzip.decompress(c), "take .gz off its name"),
        (lambda c: flip(c, -5), "found bytes that cannot be unpacked (CRC check failed"),
        (lambda c: c[:200] + bytes(200) + c[400:], "found bytes that cannot be unpacked"),
        (lambda c: c + b"rubbish", "found bytes that cannot be unpacked (Not a gzipped file"),
        (lambda c: c[:10] + b"\xff" + c[11:], "found bytes that cannot be unpacked (Error -3"),
    ],
)
def test_damaged_gzip(tmp_path, damage, message):
    write_mnist(tmp_path)
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        mnist(tmp_path)
    assert str(path) in str(caught.value)


def test_as_many_labels_as_images(tmp_path):
    write_mnist(tmp_path)
    path = write(tmp_path / LABELS, idx(drawn(4)[1]))
    expected = f"{path}: found 4 labels, expected 5, one for each image in {IMAGES}.gz"
    with pytest.raises(ValueError, match=re.escape(expected)):
        mnist(tmp_path)


def test_label_that_is_no_class(tmp_path):
    write_mnist(tmp_path)
    path = write(tmp_path / LABELS, idx(np.array([0, 9, 3, 10, 12])))
    with pytest.raises(
        ValueError, match=re.escape(f"{path}: found label 10 in row 3, expected 0..9")
    ):
        mnist(tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_false_header_is_given_no_memory(tmp_path, packed):
    write_mnist(tmp_path, packed=packed)
    content = sizes(9_999_999, 28, 28) + bytes(1000)  # within bounds, but 8 GB
    write(tmp_path / IMAGES, content, packed=packed)
    assert peak_while_refusing(mnist, tmp_path, match="7839999232|7839999216") < 2e6


def test_gzip_bomb_is_not_unpacked(tmp_path):
    write_mnist(tmp_path)
    bomb = gzip.compress(idx(FIVE) + bytes(30_000_000), 1)
    (tmp_path / f"{IMAGES}.gz").write_bytes(bomb)
    assert peak_while_refusing(mnist, tmp_path, match="found more than 3920 bytes") < 2e6
