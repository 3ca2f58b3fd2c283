"""CIFAR-10 as packs of JPEG images: what Pillow decodes, in a mixed order; all kinds of damage."""

import builtins
import hashlib
import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_files import assert_holds, flip, peak_while_refusing
from PIL import Image
from test_cifar import write_cifar

import funnet as fn
from funnet.data import jpeg
from funnet.data.sources import cifar10

REAL = Path(os.environ.get("FUNNET_DATA", "none")) / "cifar10"


def jpegs(count, seed, size=(32, 32), mode="RGB"):
    """Images made by Pillow, of smooth content; with fixed tables their headers are alike."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    for image in small:
        file = io.BytesIO()
        Image.fromarray(image).resize(size).convert(mode).save(file, "JPEG", quality=75)
        yield file.getvalue()


def pack(count, seed, **how):
    """The arrays of a pack of `count` images, class by class, and its images as files."""
    files = list(jpegs(count, seed, **how))
    starts = {file[: file.index(b"\xff\xda")] for file in files}  # up to the start of the scan
    (start,) = starts
    scans = [file[len(start) : -2] for file in files]
    assert all(file.endswith(b"\xff\xd9") for file in files)
    arrays = {
        "header": np.frombuffer(start, np.uint8),
        "scans": np.frombuffer(b"".join(scans), np.uint8),
        "lengths": np.array([len(scan) for scan in scans], np.uint16),
        "labels": np.sort(np.arange(count) % 10).astype(np.uint8),
    }
    return arrays, files


def write_pack(folder, train=(23, 1), test=(11, 2), save=np.savez):
    folder.mkdir(parents=True, exist_ok=True)
    made = [pack(*train), pack(*test)]
    for name, (arrays, _) in zip(jpeg.NAMES, made, strict=True):
        save(folder / name, **arrays)
    return made


def pixels(files):
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def as_rows(images, labels):
    """Images with their labels, as a sorted list: the same whatever the order was."""
    return sorted(
        bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True)
    )


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_pack_holds_what_pillow_decodes(tmp_path, save):
    made = write_pack(tmp_path, save=save)
    for split, (arrays, files) in zip(cifar10(tmp_path), made, strict=True):
        found = as_rows(split["image"], split["label"])
        assert found == as_rows(pixels(files), arrays["labels"])
        assert_holds(split, split["image"], split["label"])


def test_the_order_is_mixed_and_the_same_every_time(tmp_path):
    write_pack(tmp_path, train=(200, 1))
    first, second = cifar10(tmp_path)[0], cifar10(tmp_path)[0]
    np.testing.assert_array_equal(first["image"], second["image"])
    assert len(set(first["label"][-60:].tolist())) == 10


def test_blocks_have_as_many_of_every_class(monkeypatch):
    monkeypatch.setattr(jpeg, "_BLOCK", 20)
    labels = np.repeat(np.arange(10, dtype=np.uint8), 10)
    order = jpeg._order(labels)
    assert sorted(order.tolist()) == list(range(100))
    counts = [np.bincount(labels[block]).tolist() for block in order.reshape(5, 20)]
    assert counts == [[2] * 10] * 5


def test_published_files_go_before_a_pack(tmp_path):
    write_pack(tmp_path)
    assert fn.data.caveat("cifar10", tmp_path) == "its pixels went through JPEG"
    images, labels, _, _ = write_cifar(tmp_path)
    assert_holds(cifar10(tmp_path)[0], images, labels)
    assert fn.data.caveat("cifar10", tmp_path) == ""


@pytest.mark.skipif(not (REAL / "test.npz").is_file(), reason="no pack in FUNNET_DATA")
def test_a_real_pack_has_the_order_of_its_unpacked_files():
    test = jpeg._read_split(REAL / "test.npz")
    planes = test["image"].transpose(0, 3, 1, 2).reshape(10_000, -1)
    records = np.concatenate([test["label"][:, None].astype(np.uint8), planes], axis=1)
    known = "5b1b860cc9e87753afde915a76f5e752ffc1a674311396de8250099c29b90c98"
    assert hashlib.sha256(records.tobytes()).hexdigest() == known


def test_the_caveat_is_of_what_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    assert fn.data.caveat("cifar10") == ""
    write_pack(tmp_path / "cifar10")
    assert fn.data.caveat("cifar10") == "its pixels went through JPEG"
    assert len(cifar10(download=False)[1]["label"]) == 11
    with pytest.raises(ValueError, match="name is 'cifar', expected one of"):
        fn.data.caveat("cifar")


def test_without_pillow_it_says_what_to_install(monkeypatch, tmp_path):
    write_pack(tmp_path)
    true_import = builtins.__import__

    def refuse(name, *args):
        if name.startswith("PIL"):
            raise ImportError(name)
        return true_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"need Pillow: pip install 'funnet\[recipes\]'"):
        cifar10(tmp_path)


@pytest.fixture
def damage(tmp_path):
    """A function that puts other arrays into the pack of the test images, and reads it."""
    arrays, _ = write_pack(tmp_path)[1]

    def read(match, **other):
        new = {name: value for name, value in {**arrays, **other}.items() if value is not None}
        np.savez(tmp_path / "test.npz", **new)
        with pytest.raises(ValueError, match=re.escape(match)) as caught:
            cifar10(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path / 'test.npz'}: found ")

    read.arrays = arrays
    return read


def test_arrays_that_are_lacking_or_of_another_kind(damage):
    damage(
        "no scans, labels in it, expected header, scans, lengths, labels", scans=None, labels=None
    )
    damage("labels that begins with", labels=np.zeros(11))
    damage("labels that begins with", labels=np.zeros((11, 1), np.uint8))
    damage("lengths that begins with", lengths=damage.arrays["lengths"].astype(np.int64))
    damage("header that begins with", header=np.array(["a"]))
    damage("header that begins with", header=np.array([{}]))  # of Python objects: never unpickled


def test_arrays_that_do_not_fit_together(damage):
    arrays = damage.arrays
    labels, lengths, scans = (arrays[name] for name in ("labels", "lengths", "scans"))
    damage("0 labels, expected between 1 and", labels=labels[:0], lengths=lengths[:0])
    damage("11 lengths, expected 10, one for each label", labels=labels[:10])
    damage(f"{len(scans) - 1} bytes of scans, expected {len(scans)}", scans=scans[:-1])
    damage(
        "label 10 in row 4, expected 0..9", labels=np.where(np.arange(11) == 4, 10, 1).astype("u1")
    )


def test_bytes_that_are_no_such_image(damage):
    damage("no JPEG image (UnidentifiedImageError", header=damage.arrays["header"][1:])
    damage("in row", header=np.zeros(0, np.uint8))
    lengths = np.zeros_like(damage.arrays["lengths"])
    damage("no JPEG image (", scans=np.zeros(0, np.uint8), lengths=lengths)
    damage("pixels RGB of 32 x 31 in row", **pack(11, 2, size=(32, 31))[0])
    damage("pixels L of 32 x 32 in row", **pack(11, 2, mode="L")[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: b"", "an archive that cannot be read"),
        (lambda c: b"<html>", "an archive that cannot be read"),
        (lambda c: c[: len(c) // 2], "an archive that cannot be read"),
        (lambda c: flip(c, 2000), "Bad CRC-32"),
    ],
)
def test_a_damaged_archive(tmp_path, change, message):
    write_pack(tmp_path)
    path = tmp_path / "train.npz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(f"{path}: found")) as caught:
        cifar10(tmp_path)
    assert message in str(caught.value)


def rewritten(path, name, content):
    """The archive with one member's content replaced."""
    with zipfile.ZipFile(path) as archive:
        members = {x: archive.read(x) for x in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, old in members.items():
            archive.writestr(each, content(old) if each == name else old)


def test_an_array_that_is_not_as_long_as_it_says(tmp_path):
    write_pack(tmp_path)
    rewritten(tmp_path / "train.npz", "labels.npy", lambda c: c + b"\0")
    with pytest.raises(ValueError, match="labels of 24 bytes, expected 23 numbers of u1"):
        cifar10(tmp_path)


def test_a_pack_that_unpacks_to_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(jpeg, "_MOST_BYTES", 5_000_000)
    write_pack(tmp_path)
    rewritten(tmp_path / "train.npz", "scans.npy", lambda c: c + bytes(30_000_000))
    assert peak_while_refusing(cifar10, tmp_path, match="expected up to 5000000") < 2e6
    huge = np.lib.format.header_data_from_array_1_0(np.zeros(1, np.uint8)) | {"shape": (10**9,)}
    with io.BytesIO() as file:
        np.lib.format.write_array_header_1_0(file, huge)
        claim = file.getvalue()
    write_pack(tmp_path)
    rewritten(tmp_path / "train.npz", "scans.npy", lambda c: claim)
    match = "scans of 0 bytes, expected 1000000000 numbers"
    assert peak_while_refusing(cifar10, tmp_path, match=match) < 2e6
