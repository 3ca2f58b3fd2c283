"""The power may be cut at any moment: what was committed stays, and no half of anything is taken.

What is written is recorded change by change, and after each change every way is tried in which a
disk may have lost, kept or reordered what was not flushed (`power.py`). That this finds a loss
where there is one is shown by leaving out or moving each flush and each rename in turn.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kept import NEW, OLD, same
from power import BYTES, Recorder, outcomes, put

import funnet as fn
from funnet.store import durable, tensors
from funnet.store.checkpoints import Checkpoints, read

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no POSIX system")


@dataclasses.dataclass
class Scene:
    """Something that is written.

    Attributes:
        before: makes what is there before, given the folder.
        write: writes, given the folder and a function that notes that something is done.
        check: given a folder as it is after a power cut, and what was done, finds all in order.
    """

    before: Callable
    write: Callable
    check: Callable


def write_200(root, done):
    kept = Checkpoints(root)
    kept.write(200, NEW, {"told": "new"})
    done("new")
    kept.prune(1)
    done("pruned")


def check_200(root, done, old=100):
    kept = Checkpoints(root)
    for path in kept.paths():
        read(path)  # no name stands for what is not whole
    found = kept.newest()
    told, numbers, step = ("new", NEW, 200) if "new" in done else ("old", OLD, old)
    if found.facts["told"] != told:
        assert not done
        told, numbers, step = "new", NEW, 200
    assert (found.facts["told"], found.step) == (told, step)
    assert same(found.arrays(), numbers)
    assert "pruned" not in done or kept.paths() == [found.path]
    durable.sweep(root)
    assert not list(root.glob(".*"))


def write_first(root, done):
    durable.make_folders(root / "runs" / "a")
    done("folders")
    Checkpoints(root / "runs" / "a").write(200, NEW, {"told": "new"})
    done("new")


def check_first(root, done):
    assert "folders" not in done or (root / "runs" / "a").is_dir()
    kept = Checkpoints(root / "runs" / "a")
    if kept.paths() or "new" in done:
        assert [path.name for path in kept.paths()] == ["00000200"]
        assert same(kept.newest().arrays(), NEW)


def write_file(root, done, name="run.safetensors"):
    fn.save(root / name, NEW)
    done("new")


def check_file(root, done):
    found = tensors.read(root / "run.safetensors")
    assert same(found, NEW) or (not done and same(found, OLD))


def check_new_file(root, done):
    file = root / "runs" / "a" / "run.safetensors"
    if file.exists() or "new" in done:
        assert same(tensors.read(file), NEW)


def write_json(root, done):
    durable.write_bytes(root / "run.json", b"the new one")
    done("new")


def check_json(root, done):
    found = (root / "run.json").read_bytes()
    assert found == b"the new one" or (not done and found == b"old")


SCENES = {
    "a checkpoint": Scene(
        lambda root: Checkpoints(root).write(100, OLD, {"told": "old"}), write_200, check_200
    ),
    "a step again": Scene(
        lambda root: Checkpoints(root).write(200, OLD, {"told": "old"}),
        write_200,
        functools.partial(check_200, old=200),
    ),
    "the first": Scene(lambda root: None, write_first, check_first),
    "a file": Scene(lambda root: fn.save(root / "run.safetensors", OLD), write_file, check_file),
    "a new file": Scene(
        lambda root: None,
        functools.partial(write_file, name="runs/a/run.safetensors"),
        check_new_file,
    ),
    "a text": Scene(lambda root: (root / "run.json").write_bytes(b"old"), write_json, check_json),
}


class Trial:
    """A scene played in a folder of its own and recorded, and what a power cut does to it."""

    def __init__(self, scene, tmp_path, patch):
        self.scene, self.place = scene, tmp_path / "outcomes"
        root = tmp_path / "root"
        for folder in (root, self.place):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        with patch.context() as here:
            here.setattr(durable, "_sync", lambda handle: os.fsync(handle))
            scene.before(root)
            with Recorder(root, here) as self.recorder:
                scene.write(root, self.recorder.mark)

    def done(self, moment):
        return {what for what, at in self.recorder.marks.items() if at <= moment}

    def losses(self):
        """What is wrong after some power cut, as text; each outcome is looked at once."""
        met = set()
        for moment, disk in self.recorder.moments():
            for tree in outcomes(disk):
                outcome = repr((tree, sorted(self.done(moment))))
                if outcome not in met:
                    met.add(outcome)
                    yield from self.wrong(tree, moment)

    def wrong(self, tree, moment):
        """What is wrong with one outcome: nothing, or one text."""
        place = self.place / "outcome"
        put(tree, place)
        try:
            self.scene.check(place, self.done(moment))
        except (Exception, Warning) as error:
            yield f"after {moment} changes {tree}: {error!r}"
        finally:
            shutil.rmtree(place)


@pytest.fixture(params=SCENES)
def scene(request):
    return SCENES[request.param]


def test_a_power_cut_loses_nothing_that_was_committed(scene, tmp_path, monkeypatch):
    trial = Trial(scene, tmp_path, monkeypatch)
    assert "new" in trial.recorder.marks
    assert list(trial.losses()) == []


def test_nor_does_one_that_chance_has_chosen(scene, tmp_path, monkeypatch):
    trial = Trial(scene, tmp_path, monkeypatch)
    first, last = trial.recorder.before, len(trial.recorder.changes)

    @hypothesis.settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @hypothesis.given(st.integers(first, last), st.randoms(use_true_random=False))
    def check(moment, chance):
        disk = next(disk for i, disk in trial.recorder.moments() if i == moment)
        names, files = disk.doubts()
        happened = [chance.random() < 0.5 for _ in range(names)]
        bytes_of = {file: chance.choice(list(BYTES.values())) for file in files}
        assert list(trial.wrong(disk.left(happened, bytes_of), moment)) == []

    check()


# That a loss would be found


def watched_flushes(root, patch, skipped=None):
    """How many flushes there are below a folder, of which one is left out; a list, as they come."""
    usual, met = durable.flush, []

    def flush(path):
        if Path(path) == root or root in Path(path).parents:
            met.append(path)
            if len(met) - 1 == skipped:
                return
        usual(path)

    patch.setattr(durable, "flush", flush)
    return met


def test_every_flush_is_needed(scene, tmp_path, monkeypatch):
    def play(skipped):
        with monkeypatch.context() as patch:
            quiet = dataclasses.replace(scene, before=lambda root: start(root, patch))
            met = []

            def start(root, patch):
                scene.before(root)
                met.append(watched_flushes(root, patch, skipped))

            trial = Trial(quiet, tmp_path, monkeypatch)
        return trial, met[0]

    _, flushes = play(None)
    assert flushes
    for i, path in enumerate(flushes):
        trial, _ = play(i)
        assert next(trial.losses(), None), f"flush {i}, of {path}, could be left out unnoticed"


def late(patch):
    """Files are flushed once they have their name."""
    held = []

    def flush(path):
        handle = os.open(path, os.O_RDONLY)
        if ".part" in Path(path).name or ".part" in Path(path).parent.name:
            held.append(handle)
            return
        for each in [handle, *held]:
            os.fsync(each)
            os.close(each)
        held.clear()

    patch.setattr(durable, "flush", flush)


def in_place(patch):
    """Files are written under the name they are to have."""

    @contextlib.contextmanager
    def replacing(path):
        yield str(path)
        durable.flush(path)
        durable.flush(path.parent)

    @contextlib.contextmanager
    def new_folder(path):
        os.mkdir(path)
        yield path
        for place in (*path.iterdir(), path, path.parent):
            durable.flush(place)

    patch.setattr(durable, "replacing", replacing)
    patch.setattr(tensors, "replacing", replacing)
    patch.setattr(durable, "new_folder", new_folder)


def removed_file_by_file(patch):
    patch.setattr(durable, "remove_folder", shutil.rmtree)


def removed_first(patch):
    """The old one goes before the new one is there."""
    usual = Checkpoints.write

    def write(self, step, arrays, facts):
        for path in self.paths():
            durable.remove_folder(path)
        return usual(self, step, arrays, facts)

    patch.setattr(Checkpoints, "write", write)


def unlinked_first(patch):
    """The old file goes before the new one takes its place."""
    usual = os.replace

    def replace(old, new):
        Path(new).unlink(missing_ok=True)
        usual(old, new)

    patch.setattr(os, "replace", replace)


KEPT, FILE = ["a checkpoint", "a step again"], ["a file", "a text"]
MISTAKES = {
    late: [*KEPT, *FILE, "the first", "a new file"],
    in_place: [*KEPT, *FILE, "the first", "a new file"],
    removed_file_by_file: KEPT,
    removed_first: KEPT,
    unlinked_first: FILE,
}


@pytest.mark.parametrize(
    ("mistake", "name"),
    [pair for mistake, names in MISTAKES.items() for pair in itertools.product([mistake], names)],
)
def test_every_mistake_in_the_order_is_found(mistake, name, tmp_path, monkeypatch):
    scene = SCENES[name]
    with monkeypatch.context() as patch:

        def before(root):
            scene.before(root)
            mistake(patch)

        trial = Trial(dataclasses.replace(scene, before=before), tmp_path, monkeypatch)
    assert next(trial.losses(), None)


def test_a_disk_that_flushes_no_folders_can_be_written_to(tmp_path, monkeypatch):
    usual = os.fsync

    def fsync(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(22, "Invalid argument")
        usual(handle)

    monkeypatch.setattr(durable, "_sync", fsync)
    fn.save(tmp_path / "runs" / "it.safetensors", NEW)
    assert same(tensors.read(tmp_path / "runs" / "it.safetensors"), NEW)


@pytest.mark.parametrize("number", [5, 28], ids=["broken", "full"])
def test_a_flush_that_fails_is_an_error_that_names_the_place(tmp_path, monkeypatch, number):
    kept = Checkpoints(tmp_path)
    kept.write(100, OLD, {})

    def fsync(handle):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_sync", fsync)
        with pytest.raises(OSError, match=str(tmp_path)):
            kept.write(200, NEW, {})
    assert os.listdir(tmp_path) == ["00000100"]
