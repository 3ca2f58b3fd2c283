"""2,000 damaged files: each an error that names it, or the right answer, and never much memory."""

import contextlib
import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
from kept import NEW, same

import funnet as fn
from funnet.data import cifar, idx
from funnet.interop import tensors as interop
from funnet.store import checkpoints, manifest, tensors
from funnet.store.checkpoints import Checkpoints, Damaged

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

EXAMPLES = {
    "load": 400,
    "load, of another hand": 200,
    "interop": 200,
    "idx": 200,
    "idx.gz": 200,
    "idx in gz": 100,
    "cifar": 100,
    "cifar archive": 200,
    "cifar in archive": 100,
    "checkpoint's tensors": 100,
    "checkpoint's manifest": 100,
    "manifest": 100,
}
assert sum(EXAMPLES.values()) == 2_000

MEMORY = 2**28  # bytes that a reader may ask for beyond what the process has
BOMB = gzip.compress(bytes(2**29), 6)  # half a MiB that unpacks to twice that memory
RECORDS = 3  # in each file of a small CIFAR-10


# Good files


def write_tensors(path):
    fn.save(path, {"a": {"b": np.arange(12.0, dtype=np.float32).reshape(3, 4)}, "c": np.int8([1])})


def write_of_another_hand(path):
    from safetensors.numpy import save_file

    save_file({"a": np.arange(6, dtype=np.int32), "b": np.ones((2, 2), np.float16)}, path)


def idx_bytes():
    images = np.random.default_rng(0).integers(0, 255, (5, 4, 3), np.uint8)
    return struct.pack(">4B3I", 0, 0, 8, 3, 5, 4, 3) + images.tobytes()


def records(seed):
    drawn = np.random.default_rng(seed).integers(0, 255, (RECORDS, 3073), np.uint8)
    drawn[:, 0] %= 10
    return drawn.tobytes()


def tar_bytes():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for i, name in enumerate((*cifar.TRAIN_NAMES, cifar.TEST_NAME)):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(records(i))
            archive.addfile(member, io.BytesIO(records(i)))
    return file.getvalue()


def write_checkpoint(folder):
    Checkpoints(folder).write(100, NEW, {"told": ["facts", {"more": 1.5}]})


def packed(content):
    return gzip.compress(content, 1, mtime=0)


# Damage: a function of bytes


def at(content, part):
    return int(part * len(content))


def flipped(part, bits):
    def damage(content):
        place = min(at(content, part), len(content) - 1)
        return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]

    return damage


def cut(part):
    return lambda content: content[: at(content, part)]


def inserted(part, more):
    return lambda content: content[: at(content, part)] + more + content[at(content, part) :]


def repeated(part, size, times):
    def damage(content):
        place = at(content, part)
        return content[:place] + content[place : place + size] * times + content[place + size :]

    return damage


def lying(place, kind, number):
    """A number in a header that is another."""

    def damage(content):
        false = struct.pack(kind, number % 256 ** struct.calcsize(kind))
        return content[:place] + false + content[place + len(false) :]

    return damage


def words(old, new):
    """A word of a header that is another."""
    return lambda content: content.replace(old, new, 1)


def size_lie(content):
    """A tar header that tells of another size, with its checksum in order."""
    header = bytearray(content[:512].ljust(512, b"\0"))
    header[124:136] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[512:]


parts = st.floats(0, 1, exclude_max=True)
numbers = st.one_of(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, -1]), st.integers(0, 2**64))
WORDS = [b"F32", b"I8", b"F16", b"BOOL", b"F8_E4M3", b"C64", b"[3,4]", b"[12]", b"[0,48]", b"[0,1]"]
WORDS += [b"[9999999999,4]", b'"a"', b'"a.b"', b'"c"', b"__metadata__", b"dtype", b"shape"]
WORDS += [b"funnet.sha256", b"null", b"[[]]", b"100", b'"name"', b'"files"', b"1e999"]
damages = st.lists(
    st.one_of(
        st.builds(flipped, parts, st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 255])),
        st.builds(cut, parts),
        st.builds(inserted, parts, st.binary(min_size=1, max_size=9)),
        st.builds(inserted, st.sampled_from([0.0, 1.0]), st.just(BOMB)),
        st.builds(repeated, parts, st.integers(1, 700), st.sampled_from([0, 2, 3, 50])),
        st.builds(lying, st.integers(0, 20), st.sampled_from(["<Q", "<I", ">I", "<H"]), numbers),
        st.just(size_lie),
        st.builds(words, st.sampled_from(WORDS), st.sampled_from(WORDS)),
    ),
    min_size=1,
    max_size=3,
)


def damaged(content, changes):
    for change in changes:
        content = change(content) if content else content
    return content


# Reading


@contextlib.contextmanager
def little_memory():
    """No more memory than so much; on Linux alone, where the process knows what it has."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
    except (ImportError, OSError):
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def found(read, path):
    """What a reader makes of a file: None where that is an error that names it."""
    try:
        with little_memory():
            return read(path)
    except (ValueError, OSError) as error:
        if str(path) not in str(error):
            raise AssertionError(f"no {path} in {error!r}") from error
        return None


def fuzzed(name, path, read, check, pack=lambda content: content, whole=None):
    """Damages a file many times, and checks what is read of it."""
    whole = path.read_bytes() if whole is None else whole

    @hypothesis.settings(
        max_examples=EXAMPLES[name],
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(damages)
    def run(changes):
        content = pack(damaged(whole, changes))
        path.write_bytes(content)
        result = found(read, path)
        if result is not None:
            check(content, result)

    run()


def loaded(path):
    return tensors.named(fn.load(path))


@pytest.mark.parametrize(
    ("name", "read"), [("load", loaded), ("interop", interop.read)], ids=["load", "interop"]
)
def test_files_with_a_digest(name, read, tmp_path):
    path = tmp_path / "it.safetensors"
    write_tensors(path)
    whole = read(path)

    def check(content, result):
        assert b"funnet.sha256" not in content or same(result, whole)

    fuzzed(name, path, read, check)


def test_files_of_another_hand(tmp_path):
    path = tmp_path / "it.safetensors"
    write_of_another_hand(path)

    def check(content, result):
        assert sum(np.asarray(x).nbytes for x in result.values()) <= len(content)

    fuzzed("load, of another hand", path, loaded, check)


def read_images(path):
    return idx.read_idx(path, 4, 3)


def assert_images(content, result):
    assert result.dtype == np.uint8
    assert result.shape[1:] == (4, 3)


def test_idx_files(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(idx_bytes())
    fuzzed("idx", path, read_images, assert_images)


def test_idx_files_that_are_packed(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(packed(idx_bytes()))
    whole = idx.read_idx(path, 4, 3)

    def check(content, result):
        np.testing.assert_array_equal(result, whole)

    fuzzed("idx.gz", path, read_images, check)


def test_idx_files_that_are_damaged_and_then_packed(tmp_path):
    path = tmp_path / "images.gz"
    fuzzed("idx in gz", path, read_images, assert_images, packed, idx_bytes())


def assert_splits(content, result):
    for split in result:
        assert split["image"].shape == (len(split["label"]), 32, 32, 3)
        assert split["label"].max() < 10


def test_cifar_files(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(records(0))
    fuzzed("cifar", path, lambda path: cifar.read_files(path, path), assert_splits)


@pytest.fixture
def small_archives(monkeypatch):
    monkeypatch.setattr(cifar, "_BATCH", RECORDS)
    monkeypatch.setattr(cifar, "_ARCHIVE_LIMIT", 6 * RECORDS * 3073 + 2**20)


@pytest.mark.usefixtures("small_archives")
def test_cifar_archives(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(packed(tar_bytes()))
    whole = cifar.read_archive(path)

    def check(content, result):
        assert all(same(split, right) for split, right in zip(result, whole, strict=True))

    fuzzed("cifar archive", path, cifar.read_archive, check)


@pytest.mark.usefixtures("small_archives")
def test_cifar_archives_that_are_damaged_and_then_packed(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    fuzzed("cifar in archive", path, cifar.read_archive, assert_splits, packed, tar_bytes())


@pytest.mark.parametrize("name", [checkpoints.TENSORS, checkpoints.MANIFEST])
def test_checkpoints(name, tmp_path):
    write_checkpoint(tmp_path)
    path = tmp_path / "00000100"
    right = checkpoints.read(path)

    def read(file):
        try:
            return checkpoints.read(path)
        except Damaged as error:
            raise ValueError(f"{file}: {error}") from error  # it names the folder, or a file there

    def check(content, result):
        assert result == right
        assert same(result.arrays(), NEW)

    fuzzed(f"checkpoint's {name.split('.')[0]}", path / name, read, check)


def test_manifests(tmp_path):
    path = tmp_path / "manifest.json"
    facts = {"step": 3, "name": "a", "numbers": [1, 2.5, None, True], "text": 'ü " \\ '}
    path.write_bytes(manifest.sealed(facts))

    def check(content, result):
        assert result == facts

    fuzzed("manifest", path, manifest.read, check)


def test_that_a_damage_taken_for_right_would_be_found(tmp_path):
    path = tmp_path / "it"
    path.write_bytes(b"0123456789")

    def check(content, result):
        assert result == b"0123456789"

    with pytest.raises(AssertionError):
        fuzzed("manifest", path, lambda path: path.read_bytes(), check)


def test_that_much_memory_would_be_found(tmp_path):
    pytest.importorskip("resource")
    path = tmp_path / "it.gz"
    path.write_bytes(BOMB)
    with pytest.raises(MemoryError):
        found(lambda path: gzip.decompress(path.read_bytes()), path)
