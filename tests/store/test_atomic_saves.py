"""Saving is all or nothing: whatever fails, the old file stays and nothing is left over."""

import os
import threading

import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet.store import tensors

OLD, NEW = {"it": np.zeros(50_000, np.float32)}, {"it": np.ones(50_000, np.float32)}
FAILURES = [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()]


def half_written(error):
    """Writes half a file, then fails."""

    def write(arrays, path, facts):
        with open(path, "wb") as file:
            file.write(b"half" * 100)
        raise error

    return write


def failing(error):
    def fail(*args, **how):
        raise error

    return fail


PLACES = {
    "writing": lambda patch, error: patch.setattr(tensors, "save_file", half_written(error)),
    "flushing": lambda patch, error: patch.setattr(os, "fsync", failing(error)),
    "renaming": lambda patch, error: patch.setattr(os, "replace", failing(error)),
}


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", PLACES)
def test_a_save_that_fails_leaves_all_as_it_was(tmp_path, monkeypatch, place, error):
    file = tmp_path / "run.safetensors"
    fn.save(file, OLD)
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        PLACES[place](patch, error)
        with pytest.raises(type(error)):
            fn.save(file, NEW)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == [file.name]
    fn.save(file, NEW)
    assert fn.load(file)["it"][0] == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_first_save_that_fails_leaves_nothing(tmp_path, monkeypatch, place):
    with monkeypatch.context() as patch:
        PLACES[place](patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            fn.save(tmp_path / "run.safetensors", NEW)
    assert os.listdir(tmp_path) == []


def test_a_tree_that_is_refused_touches_no_file(tmp_path):
    with pytest.raises(TypeError):
        fn.save(tmp_path / "new" / "run.safetensors", {"it": "text"})
    assert os.listdir(tmp_path) == []


def test_a_reader_meets_the_old_file_or_the_new_one(tmp_path):
    file, done = tmp_path / "run.safetensors", threading.Event()
    fn.save(file, OLD)

    def write():
        for i in range(30):
            fn.save(file, (NEW, OLD)[i % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not done.is_set():
            found = np.asarray(fn.load(file)["it"])
            assert found.shape == (50_000,)
            assert (found == found[0]).all()
    finally:
        writer.join()
    assert os.listdir(tmp_path) == [file.name]


def test_a_full_disk_is_an_os_error_and_loses_nothing(tiny_disk):
    file = tiny_disk / "run.safetensors"
    fn.save(file, {"it": jnp.zeros(4_000)})
    before = file.read_bytes()
    with pytest.raises(OSError, match=r"(?i)space"):
        fn.save(file, NEW)
    assert file.read_bytes() == before
    assert os.listdir(tiny_disk) == [file.name]


def test_a_file_too_large_for_the_disk_is_an_os_error_and_loses_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    file = tmp_path / "run.safetensors"
    fn.save(file, {"it": jnp.zeros(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"(?i)too large"):
            fn.save(file, NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fn.load(file)["it"].shape == (3,)
    assert os.listdir(tmp_path) == [file.name]


def test_a_file_where_the_folder_should_be_is_an_os_error(tmp_path):
    (tmp_path / "runs").write_text("a file")
    for path in (tmp_path / "runs" / "it.safetensors", tmp_path / "runs" / "a" / "it.safetensors"):
        with pytest.raises(OSError, match="runs"):
            fn.save(path, NEW)
    assert (tmp_path / "runs").read_text() == "a file"
    assert os.listdir(tmp_path) == ["runs"]


def test_a_folder_where_the_file_should_be_is_an_os_error(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(OSError, match="runs"):
        fn.save(tmp_path / "runs", NEW)
    assert os.listdir(tmp_path) == ["runs"]
    assert os.listdir(tmp_path / "runs") == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_that_may_not_be_written_is_an_os_error(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            fn.save(tmp_path / "it.safetensors", NEW)
    finally:
        tmp_path.chmod(0o755)
