"""Disks that fail: a clear error that has the run, or a warning; what was saved stays."""

import contextlib
import errno
import os
import shutil
import subprocess
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import (
    BATCHES,
    LINEAR_STEP,
    QUIET,
    STEP,
    Streamed,
    assert_same,
    host,
    linear_start,
    start,
)

import funnet as fn
from funnet.store.checkpoints import Checkpoints
from funnet.store.lines import Lines

STEPS = 24


def score(run):
    return {"score": 1}


HOW = {"validate": score, "validate_every": 4, "log_every": 5, "save_every": 2, "fuse": 1}


def fit(folder, **how):
    how = {"batches": BATCHES, "steps": STEPS, "folder": folder, **QUIET, **HOW, **how}
    return fn.fit(STEP, start(), **how)


def newest(folder):
    return int(fn.restore(folder, like=start()).step)


@pytest.fixture(scope="module")
def whole():
    return host(fit(None))


def at(steps):
    """A validation that does something after some steps: `{8: fill}`."""

    def validate(run):
        steps.get(int(run.step), lambda: None)()
        return score(run)

    return {"validate": validate}


def mounted(place, *options):
    """A small disk in memory, where one may be mounted."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(["size=256k", *options]), "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        done = False
    if not done:
        pytest.skip("a disk may not be mounted here")


@pytest.fixture
def disk(tmp_path):
    """A folder on a small disk, and functions that fill it to the last byte and make room."""
    place = tmp_path / "disk"
    mounted(place)
    yield place / "run"
    subprocess.run(["umount", str(place)], check=True)


def write_on(file, size):
    """Writes until there is no room for so many bytes."""
    with contextlib.suppress(OSError):
        while True:
            file.write(bytes(size))


def filled(folder):
    """A function that fills the folder's disk to the last byte."""

    def fill():
        with open(folder.parent / "filler", "wb", buffering=0) as file:
            write_on(file, 4096)
            write_on(file, 1)

    return fill


def emptied(folder):
    return lambda: (folder.parent / "filler").unlink()


def test_a_full_disk_is_an_error_that_has_the_run_and_says_what_to_do(disk, whole):
    with pytest.raises(OSError, match=f"{disk} cannot be written: ") as caught:
        fit(disk, **at({8: filled(disk)}))
    message = str(caught.value)
    assert "No space left on device" in message
    assert "The whole checkpoints in it stay. Make it writable" in message
    assert "on_save_error='continue'" in message
    run = caught.value.run
    assert_same(run, fn.fit(STEP, start(), BATCHES, steps=int(run.step), **QUIET))
    assert 8 <= int(run.step) <= 12
    (note,) = [note for note in caught.value.__notes__ if "saved" in note]
    assert f"it could not be saved in {disk}" in note
    assert "the last checkpoint is of step 6" in note
    assert newest(disk) == 6
    emptied(disk)()
    assert_same(fit(disk), whole)


def test_a_full_disk_may_be_lived_with(disk, whole):
    with pytest.warns(UserWarning, match=r"No space left .*; the training goes on, and tries"):
        run = fit(disk, on_save_error="continue", **at({8: filled(disk)}))
    assert_same(run, whole)
    assert newest(disk) == 6
    emptied(disk)()
    assert_same(fit(disk), whole)


def test_a_training_saves_again_when_there_is_room(disk, whole):
    how = at({8: filled(disk), 16: emptied(disk)})
    with pytest.warns(UserWarning, match="No space left"):
        run = fit(disk, on_save_error="continue", keep=9, **how)
    assert_same(run, whole)
    assert newest(disk) == STEPS
    steps = [int(path.name) for path in sorted((disk / "checkpoints").iterdir())]
    assert steps[-4:] == [18, 20, 22, 24]
    assert not set(steps) & {10, 12, 14}


@pytest.mark.parametrize("on_save_error", ["stop", "continue"])
def test_a_disk_that_is_full_from_the_start(disk, whole, on_save_error):
    fit(disk, steps=8)
    filled(disk)()
    if on_save_error == "stop":
        with pytest.raises(OSError, match="cannot be written: ") as caught:
            fit(disk)
        assert int(caught.value.run.step) in (0, 8, 9)
    else:
        with pytest.warns(UserWarning, match="No space left"):
            assert_same(fit(disk, on_save_error="continue"), whole)
    assert newest(disk) == 8


@pytest.mark.parametrize("on_save_error", ["stop", "continue"])
def test_a_disk_that_may_only_be_read_is_an_error_at_the_start(tmp_path, on_save_error):
    mounted(tmp_path / "disk", "ro")
    try:
        for folder in (tmp_path / "disk", tmp_path / "disk" / "run"):
            with pytest.raises(
                OSError, match=r"Read-only file system\. Make it writable"
            ) as caught:
                fit(folder, on_save_error=on_save_error)
            assert_same(caught.value.run, start())
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_that_may_only_be_read_is_an_error_at_the_start(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match="cannot be written: Permission denied"):
            fit(tmp_path / "run")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("path", ["file", "file/run"])
def test_a_file_where_the_folder_should_be_is_an_error(tmp_path, path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=f"{tmp_path / path} cannot be written: ") as caught:
        fit(tmp_path / path)
    assert_same(caught.value.run, start())
    assert (tmp_path / "file").read_text() == "mine"


# Folders that vanish


def removed(folder):
    """A function that removes the folder, with whatever is being written there."""

    def remove():
        shutil.rmtree(folder.rename(folder.with_name("doomed")))

    return remove


def test_a_folder_that_is_gone_is_an_error_that_has_the_run(tmp_path, whole):
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=f"{folder} cannot be written: it is gone") as found:
        fit(folder, **at({8: removed(folder)}))
    run = found.value.run
    assert 8 <= int(run.step) <= 12
    assert not folder.exists()
    assert_same(fn.fit(STEP, run, BATCHES, steps=STEPS, **QUIET), whole)


def test_a_folder_that_is_gone_may_be_lived_with(tmp_path, whole):
    folder = tmp_path / "run"
    with pytest.warns(UserWarning, match="it is gone; the training goes on"):
        run = fit(folder, on_save_error="continue", **at({8: removed(folder)}))
    assert_same(run, whole)
    assert not folder.exists()


def test_a_folder_that_comes_back_is_saved_in_again(tmp_path, whole):
    folder, away = tmp_path / "run", tmp_path / "away"
    how = at({8: lambda: folder.rename(away), 16: lambda: away.rename(folder)})
    with pytest.warns(UserWarning, match="it is gone"):
        assert_same(fit(folder, on_save_error="continue", **how), whole)
    assert newest(folder) == STEPS
    assert_same(fn.restore(folder, like=start()), whole)


def test_a_folder_that_another_training_has_made_anew_is_left_to_it(tmp_path, whole):
    folder = tmp_path / "run"

    def taken_over():
        removed(folder)()
        fn.fit(LINEAR_STEP, linear_start(), BATCHES, steps=1, folder=folder, **QUIET)

    with pytest.raises(FileNotFoundError, match="it was removed, and made anew by another"):
        fit(folder, **at({8: taken_over}))
    assert int(fn.restore(folder, like=linear_start()).step) == 1


def test_one_training_at_a_time_writes_into_a_folder(tmp_path, whole):
    met = []

    def second():
        with pytest.raises(BlockingIOError, match=f"{tmp_path} is being written by") as caught:
            fit(tmp_path)
        assert_same(caught.value.run, start())
        met.append(caught.value)

    assert_same(fit(tmp_path, **at({8: second})), whole)
    assert len(met) == 1
    assert_same(fit(tmp_path), whole)


# Single writes that fail


def failing(patch, where, name, when):
    """Lets a method fail at some of its calls, counted from 0."""
    usual, calls = getattr(where, name), []

    def method(self, *what):
        calls.append(what)
        if len(calls) - 1 in when:
            raise OSError(errno.ENOSPC, "No space left on device")
        return usual(self, *what)

    patch.setattr(where, name, method)


def test_metrics_that_cannot_be_written_are_an_error(tmp_path, whole, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, Lines, "write", [1])
        with pytest.raises(OSError, match="cannot be written: No space left") as caught:
            fit(tmp_path)
    assert int(caught.value.run.step) == 5
    assert_same(fit(tmp_path), whole)


def test_metrics_that_cannot_be_written_may_be_lived_with(tmp_path, whole, monkeypatch, lines):
    failing(monkeypatch, Lines, "write", [1])
    with pytest.warns(UserWarning, match="No space left"):
        assert_same(fit(tmp_path, on_save_error="continue"), whole)
    told = [(line["step"], line["kind"]) for line in lines(tmp_path)]
    assert told[:3] == [(4, "validation"), (8, "validation"), (10, "train")]
    assert newest(tmp_path) == STEPS


@pytest.mark.parametrize("lost", range(13))
def test_whichever_save_fails_the_last_one_is_there(tmp_path, whole, monkeypatch, lost):
    failing(monkeypatch, Checkpoints, "write", [lost])
    how = {"steps": 10, "on_save_error": "continue"}
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        run = fit(tmp_path, **how)
    assert len(met) == (lost <= 5)
    assert newest(tmp_path) == (8 if lost == 5 else 10)
    assert int(run.step) == 10


def test_a_last_save_that_fails_is_tried_again_and_told(tmp_path, whole, monkeypatch):
    failing(monkeypatch, Checkpoints, "write", [12])
    with pytest.raises(OSError, match="No space left") as caught:
        fit(tmp_path)
    assert_same(caught.value.run, whole)
    assert any("it is saved in" in note for note in caught.value.__notes__)
    assert_same(fit(tmp_path, validate=pytest.fail), whole)


def test_a_refusal_is_told_though_its_batch_cannot_be_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Bad(Streamed):
        def __getitem__(self, step):
            batch = super().__getitem__(step)
            return {**batch, "image": batch["image"] * (np.inf if step == 3 else 1)}

    for patched in (False, True):
        if patched:
            monkeypatch.setattr("funnet.train.training.save", full)
        with pytest.raises(ValueError, match="step 3 was refused") as caught:
            fit(tmp_path / str(patched), batches=Bad(), on_nonfinite="explain")
        kept = [note for note in caught.value.__notes__ if "its batch is in" in note]
        assert len(kept) == (not patched)
    batch = fn.load(tmp_path / "False" / "refused-00000003.safetensors")
    assert not jnp.isfinite(batch["image"]).all()


def test_a_run_that_no_file_can_hold_is_an_error_that_names_the_leaf(tmp_path):
    def step(run, batch):
        return run.next(), {}

    run = fn.Run({"wave": jnp.zeros(3, jnp.complex64)}, {}, (), jnp.int32(0), jnp.uint32(0))
    with pytest.raises(TypeError, match=r"params\.wave must be an array of numbers") as caught:
        fn.fit(step, run, BATCHES, steps=9, folder=tmp_path, on_save_error="continue", **QUIET)
    assert jax.tree.structure(caught.value.run) == jax.tree.structure(run)
