"""A disk that is full, gone, or only to be read, is an error, and what was kept is whole."""

import contextlib
import os
import shutil

import numpy as np
import pytest
from kept import NEW, OLD, same, two_kept

import funnet as fn
from funnet.store import durable
from funnet.store.checkpoints import TENSORS, Checkpoints
from funnet.store.lock import Lock

LARGE = {"it": np.ones(50_000, np.float32)}


def assert_as_before(kept, beside=()):
    assert sorted(os.listdir(kept.folder)) == ["00000100", "00000200", *beside]
    assert same(kept.newest().arrays(), NEW)
    assert same(kept.at(100).arrays(), OLD)


def assert_goes_on(kept):
    durable.sweep(kept.folder)
    assert_as_before(kept)
    kept.write(300, OLD, {})
    kept.prune(1)
    assert os.listdir(kept.folder) == ["00000300"]
    assert same(kept.newest().arrays(), OLD)


@pytest.mark.parametrize(
    ("arrays", "facts"),
    [(LARGE, {}), (NEW, {"told": "x" * 200_000})],
    ids=["tensors", "manifest"],
)
def test_what_does_not_fit_on_the_disk_loses_nothing(disk, arrays, facts):
    kept = two_kept(disk.place)
    with pytest.raises(OSError, match=r"(?i)no space left.*00000300") as caught:
        kept.write(300, arrays, facts)
    assert caught.value.errno == 28
    assert_as_before(kept)
    assert_goes_on(kept)


def test_a_disk_without_a_byte_left_loses_nothing(disk):
    kept = two_kept(disk.place)
    fn.save(disk.place / "run.safetensors", OLD)
    with disk.full():
        for write in (
            lambda: kept.write(300, NEW, {}),
            lambda: fn.save(disk.place / "run.safetensors", NEW),
            lambda: durable.write_bytes(disk.place / "run.json", b"text"),
        ):
            with pytest.raises(OSError, match=r"(?i)no space left"):
                write()
        assert_as_before(kept, ["filler", "run.safetensors"])
    assert fn.load(disk.place / "run.safetensors")["n"] == 7
    (disk.place / "run.safetensors").unlink()
    assert_goes_on(kept)


def test_a_full_disk_can_be_pruned(disk):
    kept = two_kept(disk.place)
    with disk.full():
        kept.prune(1)
        assert sorted(os.listdir(disk.place)) == ["00000200", "filler"]


def test_a_disk_that_can_only_be_read_loses_nothing(disk):
    kept = two_kept(disk.place)
    with disk.read_only():
        for write in (
            lambda: kept.write(300, NEW, {}),
            lambda: kept.prune(1),
            lambda: fn.save(disk.place / "run.safetensors", NEW),
            lambda: durable.make_folders(disk.place / "a" / "b"),
            Lock(disk.place).take,
        ):
            with pytest.raises(OSError, match=rf"(?i)read-only.*{disk.place}"):
                write()
        assert_as_before(kept)
    assert_goes_on(kept)


def test_what_is_damaged_on_a_disk_that_can_only_be_read_keeps_its_name(disk):
    kept = two_kept(disk.place)
    (disk.place / "00000200" / TENSORS).write_bytes(b"")
    with disk.read_only(), pytest.warns(UserWarning, match=r"damaged: passed over \("):
        assert kept.newest(aside=True).step == 100


@contextlib.contextmanager
def files_up_to(size):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("arrays", "facts"),
    [(LARGE, {}), (NEW, {"told": "x" * 200_000})],
    ids=["tensors", "manifest"],
)
def test_a_file_larger_than_is_allowed_loses_nothing(tmp_path, arrays, facts):
    kept = two_kept(tmp_path / "kept")
    with files_up_to(50_000), pytest.raises(OSError, match=r"(?i)too large"):
        kept.write(300, arrays, facts)
    assert_goes_on(kept)


def test_a_folder_that_has_vanished_is_an_error(tmp_path):
    kept = two_kept(tmp_path / "kept")
    shutil.rmtree(kept.folder)
    with pytest.raises(FileNotFoundError, match="kept"):
        kept.write(300, NEW, {})
    kept.prune(1)
    durable.sweep(kept.folder)
    assert kept.newest() is None
    assert os.listdir(tmp_path) == []


def test_a_file_where_the_folder_should_be_is_an_error(tmp_path):
    place = tmp_path / "runs"
    place.write_text("a file")
    for folder in (place, place / "a"):
        for write in (
            lambda folder=folder: Checkpoints(folder).write(300, NEW, {}),
            lambda folder=folder: durable.make_folders(folder),
            Lock(folder).take,
        ):
            with pytest.raises(OSError, match=str(folder)):
                write()
    assert place.read_text() == "a file"
    assert os.listdir(tmp_path) == ["runs"]


def test_a_place_that_is_taken_is_an_error(tmp_path):
    place = tmp_path / "00000300"
    for make in (place.mkdir, lambda: (place.rmdir(), place.write_text("a file"))):
        make()
        with pytest.raises(FileExistsError, match="00000300"), durable.new_folder(place):
            pass
        assert os.listdir(tmp_path) == ["00000300"]


def test_what_was_left_unfinished_is_swept_and_nothing_else(tmp_path):
    kept = two_kept(tmp_path / "kept")
    for name in (".a.part", ".b.part/c"):
        (kept.folder / name).mkdir(parents=True)
    (kept.folder / ".c.part").write_text("half")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("whole")
    (kept.folder / ".d.part").symlink_to(tmp_path / "other")
    assert kept.newest().step == 200
    durable.sweep(kept.folder)
    assert_as_before(kept)
    assert (tmp_path / "other" / "file").read_text() == "whole"


@pytest.mark.parametrize("name", ["a" * 240, "ü" * 120])
def test_a_name_as_long_as_names_may_be_can_be_saved(tmp_path, name):
    fn.save(tmp_path / name, NEW)
    assert os.listdir(tmp_path) == [name]
