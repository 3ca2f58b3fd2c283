"""What is removed and what stays, and readers in other processes while a training prunes."""

import os
import threading

import pytest
from kept import NEW, OLD, same, two_kept

from funnet.store import checkpoints, durable
from funnet.store.checkpoints import TENSORS, Checkpoints


@pytest.fixture
def kept(tmp_path):
    return two_kept(tmp_path / "kept")


def names(kept):
    return [path.name for path in kept.paths()]


def test_the_newest_stay_and_those_of_chosen_steps(kept):
    for step in (300, 300, 400, 500):
        kept.write(step, NEW, {})
    kept.prune(2, also=(100, 300, 999))
    assert names(kept) == ["00000100", "00000300.2", "00000400", "00000500"]
    kept.prune(9)
    kept.prune(1)
    assert names(kept) == ["00000500"]
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        kept.prune(0)
    assert os.listdir(kept.folder) == ["00000500"]


def test_steps_are_in_the_order_of_numbers(kept):
    for step in (10**8, 99_999_999, *([200] * 10)):
        kept.write(step, NEW, {})
    assert names(kept)[1:4] == ["00000200", "00000200.2", "00000200.3"]
    assert names(kept)[-3:] == ["00000200.11", "99999999", "100000000"]
    assert kept.newest().step == 10**8


def test_a_damaged_one_that_could_not_be_renamed_does_not_drive_out_whole_ones(kept):
    """Named as newer than all that is written later, it would be all that pruning keeps."""
    kept.write(900, NEW, {})
    (kept.folder / "00000900" / TENSORS).unlink()
    training = Checkpoints(kept.folder)
    training.write(300, OLD, {})
    training.prune(1)
    assert names(kept) == ["00000300", "00000900"]
    with pytest.warns(UserWarning, match="00000900 is damaged"):
        assert same(kept.newest().arrays(), OLD)


def test_what_is_gone_already_need_not_be_removed(kept):
    durable.remove_folder(kept.folder / "00000300")
    assert names(kept) == ["00000100", "00000200"]


# Readers


def pruned_while_read(monkeypatch, change, times=1):
    """Before a checkpoint is read, its training writes and prunes."""
    usual, left = checkpoints.read, [times]

    def read(path):
        if left[0]:
            left[0] -= 1
            change(path)
        return usual(path)

    monkeypatch.setattr(checkpoints, "read", read)


def test_a_reader_goes_on_to_the_one_for_which_the_newest_was_pruned(kept, monkeypatch):
    def change(path):
        kept.write(300, OLD, {})
        kept.prune(1)

    pruned_while_read(monkeypatch, change)
    assert kept.newest().step == 300


def test_half_read_is_not_damaged(kept, monkeypatch):
    usual = durable.sha256

    def sha256(path):
        if path.parent.name == "00000200":
            kept.write(300, OLD, {})
            kept.prune(1)
        return usual(path)

    monkeypatch.setattr(durable, "sha256", sha256)
    assert kept.newest(aside=True).step == 300
    assert os.listdir(kept.folder) == ["00000300"]


def test_a_step_that_is_pruned_while_it_is_read_is_kept_no_more(kept, monkeypatch):
    pruned_while_read(monkeypatch, lambda path: kept.prune(1))
    with pytest.raises(ValueError, match=r"keeps no checkpoint of step 100: .*has 200"):
        kept.at(100)


def test_one_found_and_then_pruned_says_so(kept):
    found = kept.at(100)
    kept.prune(1)
    with pytest.raises(FileNotFoundError, match=r"00000100 was removed .* ask for the newest"):
        found.arrays()


def test_a_reader_that_is_always_too_late_ends(kept, monkeypatch):
    def change(path):
        durable.remove_folder(path)
        kept.write(left.pop(), NEW, {})

    monkeypatch.setattr(checkpoints, "RACES", 5)
    left = list(range(400, 300, -1))
    pruned_while_read(monkeypatch, change, times=-1)
    with pytest.raises(OSError, match="vanish faster than they can be read"):
        kept.newest()
    assert len(left) == 95


def test_a_reader_beside_a_training_that_prunes_always_finds_a_whole_one(kept):
    done, writer = threading.Event(), Checkpoints(kept.folder)

    def write():
        try:
            for step in range(300, 360):
                writer.write(step, NEW, {})
                writer.prune(1)
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    steps = [200]
    try:
        while not done.is_set():
            steps.append(kept.newest().step)
    finally:
        thread.join()
    assert steps == sorted(steps)
    assert kept.newest().step == 359
