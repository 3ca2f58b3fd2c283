"""CIFAR-10's format, in files and in the archive: exact content, and all kinds of damage."""

import gzip
import io
import re
import tarfile

import numpy as np
import pytest
from made_files import assert_holds, drawn, flip, peak_while_refusing

from funnet.data import cifar
from funnet.data.sources import cifar10

BINS = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


def write_cifar(folder, counts=(3, 3, 3, 3, 3, 3)):
    """Files of drawn records; the arrays they stand for, built plane by plane."""
    folder.mkdir(parents=True, exist_ok=True)
    batches = [drawn(count, seed, (32, 32, 3)) for seed, count in enumerate(counts)]
    for name, (images, labels) in zip(BINS, batches, strict=True):
        pairs = zip(images, labels, strict=True)
        (folder / name).write_bytes(b"".join(record(*pair) for pair in pairs))
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images[:5]), np.concatenate(labels[:5]), images[5], labels[5]


def record(image, label):
    planes = [image[:, :, channel].astype(np.uint8).tobytes() for channel in range(3)]
    return bytes([label]) + b"".join(planes)


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_cifar10_reads_exactly_what_was_written(tmp_path, below):
    a, b, c, d = write_cifar(tmp_path / below, counts=(1, 2, 3, 4, 5, 6))
    train, test = cifar10(tmp_path)
    assert_holds(train, a, b)
    assert_holds(test, c, d)


def test_cifar10_lacks_are_those_of_the_layout_that_is_nearly_there(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin/data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_3\.bin\. "):
        cifar10(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found 0 bytes, expected a multiple of 3073"),
        (bytes(3072), "found 3072 bytes, expected a multiple of 3073"),
        (bytes(3073 * 2 + 1), "found 6147 bytes, expected a multiple of 3073"),
        (bytes(3073) + b"\x0a" + bytes(3072), "found label 10 in row 1, expected 0..9"),
    ],
)
@pytest.mark.parametrize("name", ["data_batch_4.bin", "test_batch.bin"])
def test_cifar10_damaged_file(tmp_path, name, content, message):
    write_cifar(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name}: {message}")):
        cifar10(tmp_path)


@pytest.fixture
def archive(monkeypatch, tmp_path):
    """An archive as published, but of 3 records a file; the arrays it stands for; its path."""
    monkeypatch.setattr(cifar, "_BATCH", 3)
    monkeypatch.setattr(cifar, "_ARCHIVE_LIMIT", 6 * 3 * 3073 + (1 << 20))
    arrays = write_cifar(tmp_path / "source")
    (tmp_path / "packed").mkdir()
    path = tmp_path / "packed/cifar-10-binary.tar.gz"
    contents = {name: (tmp_path / "source" / name).read_bytes() for name in reversed(BINS)}
    write_archive(path, contents)
    return path, contents, arrays


def write_archive(path, contents):
    with tarfile.open(path, "w:gz") as file:
        for name, content in {"readme.html": b"<html>", **contents}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            member.size = len(content or b"")
            file.addfile(member, io.BytesIO(content or b""))


def test_cifar10_archive_is_read_without_being_extracted(archive):
    path, _, (a, b, c, d) = archive
    train, test = cifar10(path.parent)
    assert_holds(train, a, b)
    assert_holds(test, c, d)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(3073 * 2), "found cifar-10-batches-bin/data_batch_2.bin of 6146 bytes, exp"),
        (bytes(3073 * 4), "found cifar-10-batches-bin/data_batch_2.bin of 12292 bytes, exp"),
        (None, "data_batch_2.bin as a link or special file, expected a regular file"),
        (b"\x0b" + bytes(3 * 3073 - 1), "found label 11 in row 0, expected 0..9"),
    ],
)
def test_cifar10_archive_with_a_damaged_member(archive, content, message):
    path, contents, _ = archive
    write_archive(path, {**contents, "data_batch_2.bin": content})
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        cifar10(path.parent)
    assert str(path) in str(caught.value)


def test_cifar10_archive_without_a_member(archive):
    path, contents, _ = archive
    del contents["data_batch_5.bin"]
    write_archive(path, contents)
    with pytest.raises(ValueError, match=r"found no data_batch_5\.bin in it, expected all six"):
        cifar10(path.parent)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: b"", "unsound tar archive"),
        (lambda c: b"<html>", "Not a gzipped file"),
        (lambda c: gzip.compress(b"not a tar archive" * 99), "unsound tar archive"),
        (lambda c: c[: len(c) // 2], "found a gzip file that breaks off"),
        (lambda c: c[:-4], "found a gzip file that breaks off"),
        (lambda c: flip(c, -5), "CRC check failed"),
        (lambda c: gzip.compress(gzip.decompress(c)[:20_000]), "unsound tar archive"),
    ],
)
def test_cifar10_damaged_archive(archive, damage, message):
    path = archive[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        cifar10(path.parent)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_cifar10_tar_bomb_is_not_unpacked(archive, kind):
    path = archive[0]
    member = tarfile.TarInfo("big")
    member.type, member.size = kind, 30_000_000
    path.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(member.size), 1))
    peak = peak_while_refusing(cifar10, path.parent, match="found a tar")
    assert peak < 2e6
