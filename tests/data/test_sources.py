"""The data sets' readers: exact content, where files are looked for, and all kinds of damage."""

import builtins
import gzip
import hashlib
import io
import os
import re
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from funnet.data import cifar
from funnet.data.sources import SOURCES, cifar10, digits, fashion_mnist, mnist

REAL = os.environ.get("FUNNET_DATA", "")
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
NAMES += ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IMAGES, LABELS = NAMES[0], NAMES[1]


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """No test sees the user's own data, or writes to the user's own cache."""
    monkeypatch.delenv("FUNNET_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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


def assert_holds(split, images, labels):
    assert split.keys() == {"image", "label"}
    assert (split["image"].dtype, split["label"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(split["image"], images)
    np.testing.assert_array_equal(split["label"], labels)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in split.values())


# --- MNIST ---------------------------------------------------------------------------------


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


# --- where files are looked for ------------------------------------------------------------


def test_search_order_is_folder_then_environment_then_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path / "data"))
    for count, folder in enumerate(("cache/funnet/mnist", "data/mnist", "given"), start=1):
        write_mnist(tmp_path / folder, train=count)
        assert len(mnist(download=False)[0]["label"]) == min(count, 2)
    assert len(mnist(tmp_path / "given")[0]["label"]) == 3


def test_cache_without_xdg_is_below_the_home_folder(monkeypatch, tmp_path):
    write_mnist(tmp_path / "home/.cache/funnet/mnist", train=7)
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert len(mnist(download=False)[0]["label"]) == 7


def test_found_data_needs_no_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(FileNotFoundError, match=r"no home folder .* set FUNNET_DATA"):
        mnist()
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    write_mnist(tmp_path / "mnist", train=7)
    assert len(mnist()[0]["label"]) == 7


def test_tilde_is_the_home_folder(monkeypatch, tmp_path):
    write_mnist(tmp_path / "home/mnist", train=7)
    assert len(mnist("~/mnist")[0]["label"]) == 7
    monkeypatch.setenv("FUNNET_DATA", "~")
    assert len(mnist(download=False)[0]["label"]) == 7


def test_each_data_set_has_a_place_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    write_mnist(tmp_path / "mnist", train=4)
    write_mnist(tmp_path / "fashion_mnist", train=6)
    assert (len(mnist()[0]["label"]), len(fashion_mnist()[0]["label"])) == (4, 6)


def test_given_folder_without_the_files_is_an_error_though_others_have_them(monkeypatch, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path / "data"))
    write_mnist(tmp_path / "data/mnist")
    given = tmp_path / "given"
    write_mnist(given)
    (given / f"{LABELS}.gz").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        mnist(given)
    assert f"folder={str(given)!r}: lacks {LABELS}[.gz]. A given folder" in str(caught.value)


def test_given_parent_folder_is_told_to_go_one_deeper(tmp_path):
    write_mnist(tmp_path / "mnist")
    with pytest.raises(FileNotFoundError, match=r"pass folder='.*mnist'"):
        mnist(tmp_path)


def test_given_folder_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent': no such folder"):
        mnist(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"file': is not a folder"):
        mnist(tmp_path / "file")


@pytest.mark.parametrize("folder", [3, b"data", ["data"]])
def test_folder_of_a_wrong_type(folder):
    with pytest.raises(TypeError, match=r"folder must be a path or None, got .*: pass e\.g\."):
        mnist(folder)


def test_empty_folder_name_is_not_this_folder(monkeypatch, tmp_path):
    write_mnist(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"folder is an empty path: pass '\.'"):
        mnist("")
    assert len(mnist(".")[0]["label"]) == 5


def test_folder_that_cannot_be_looked_into(monkeypatch, tmp_path):
    loop = tmp_path / "mnist"  # a link to itself: unreadable even to root, whom no mode stops
    loop.symlink_to(loop)
    with pytest.raises(OSError, match=r"expected a readable folder.*mnist"):
        mnist(loop)
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    write_mnist(tmp_path / "cache/funnet/mnist")
    with pytest.raises(OSError, match=r"expected a readable folder.*mnist"):
        mnist()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_and_file_without_permission(tmp_path):
    write_mnist(tmp_path / "a")
    (tmp_path / f"a/{LABELS}.gz").chmod(0)
    with pytest.raises(PermissionError, match=LABELS):
        mnist(tmp_path / "a")
    (tmp_path / "a").chmod(0)
    with pytest.raises(PermissionError, match="expected a readable folder"):
        mnist(tmp_path / "a")
    (tmp_path / "a").chmod(0o700)


def test_folder_in_place_of_a_file_is_no_file(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / IMAGES).mkdir()  # as some unpackers make them; the .gz is still there
    assert len(mnist(tmp_path)[0]["label"]) == 5
    (tmp_path / f"{IMAGES}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {IMAGES}"):
        mnist(tmp_path)


# --- damage --------------------------------------------------------------------------------

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


def flip(content, place):
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[: len(c) // 2], "found a gzip file that breaks off, expected one with its"),
        (lambda c: c[:-1], "found a gzip file that breaks off, expected one with its end"),
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


def test_damage_in_a_searched_folder_is_not_skipped(monkeypatch, tmp_path):
    monkeypatch.setenv("FUNNET_DATA", str(tmp_path))
    write_mnist(tmp_path / "cache/funnet/mnist")
    write_mnist(tmp_path / "mnist")
    path = write(tmp_path / "mnist" / IMAGES, b"")
    with pytest.raises(ValueError, match="found 0 bytes") as caught:
        mnist()
    assert str(path) in str(caught.value)


def peak_while_refusing(load, *args, match):
    """The most bytes allocated at a time by a call that must raise ValueError."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=match):
            load(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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


# --- CIFAR-10 ------------------------------------------------------------------------------

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


# --- digits --------------------------------------------------------------------------------


def test_digits_are_scikit_learns_in_order():
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    train, test = digits()
    assert train["image"].shape == (1437, 8, 8, 1)
    scaled = np.array([round(level * 255 / 16) for level in range(17)])
    images = scaled[bunch.images.astype(int)][..., None]
    assert_holds(train, images[:1437], bunch.target[:1437])
    assert_holds(test, images[-360:], bunch.target[-360:])
    assert images.min() == 0
    assert images.max() == 255


def test_digits_without_scikit_learn_says_what_to_install(monkeypatch):
    true_import = builtins.__import__

    def refuse(name, *args):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return true_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'funnet\[recipes\]'"):
        digits()


# --- the table, and the real data ----------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_entries_can_be_downloaded_and_then_found(name):
    source = SOURCES[name]
    downloaded = {item.name for item in source.downloads}
    endings = {True: ".gz", False: ""}
    wanted = [{n + endings[x.packed] for n in x.names} for x in source.layouts if not x.subfolder]
    assert downloaded in wanted
    assert all(len(bytes.fromhex(item.md5)) == 16 for item in source.downloads)
    assert all(url.startswith("http") and url.endswith("/") for url in source.mirrors)


@pytest.mark.skipif(not (Path(REAL) / "mnist").is_dir() or not REAL, reason="no FUNNET_DATA")
def test_real_mnist(monkeypatch):
    monkeypatch.setenv("FUNNET_DATA", REAL)
    train, test = mnist(download=False)
    assert train["image"].shape == (60000, 28, 28, 1)
    assert test["image"].shape == (10000, 28, 28, 1)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train["label"]).tolist() == counts
    content = idx(train["image"][..., 0])  # the published checksum is of the whole file
    assert hashlib.md5(content).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
