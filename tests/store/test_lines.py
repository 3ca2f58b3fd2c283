"""The file `metrics.jsonl`: what stays of it, what goes, and what a full disk does to it."""

import json
import os

import numpy as np
import pytest

from funnet.store.durable import write_bytes
from funnet.store.lines import Lines, parsed
from funnet.train.log import Log


def line(step, kind="train", **more):
    return json.dumps({"step": step, "kind": kind, "seconds": step / 2, **more})


def texts(folder):
    return (folder / "metrics.jsonl").read_text().splitlines()


def opened(tmp_path, text, start, since=None):
    """The file that a training leaves which goes on from `start` and writes nothing."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(text.encode())
    file = Lines(path, start, start if since is None else since)
    file.close()
    return file, path.read_text()


def test_the_lines_of_a_lost_future_go(tmp_path):
    texts = [line(5), line(10), line(10, "validation"), line(15), line(20)]
    file, left = opened(tmp_path, "\n".join(texts) + "\n", 10)
    assert left == "\n".join(texts[:3]) + "\n"
    assert file.seconds == 5.0


def test_a_line_whose_steps_are_still_to_come_goes_but_no_other_kind(tmp_path):
    texts = [line(5), line(7), line(7, "validation")]
    _, left = opened(tmp_path, "\n".join(texts) + "\n", 7, since=5)
    assert left.splitlines() == [texts[0], texts[2]]


@pytest.mark.parametrize(
    "damage",
    ['{"step": 6, "ki', "\x00\x00\x00", "[1]", '{"step": true, "kind": "x"}', "[" * 100_000, "nan"],
    ids=["torn", "zeros", "list", "no step", "deep", "word"],
)
def test_what_is_no_line_goes(tmp_path, damage):
    _, left = opened(tmp_path, f"{line(5)}\n{damage}\n{line(6)}\n{damage}", 10)
    assert left == f"{line(5)}\n{line(6)}\n"


def test_a_whole_line_without_its_end_stays(tmp_path):
    assert opened(tmp_path, f"{line(5)}\n{line(6)}", 10)[1] == f"{line(5)}\n{line(6)}\n"


def test_a_file_that_needs_no_change_is_left_as_it_is(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(5) + "\n")
    before = path.stat()
    Lines(path, 5, 5).close()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_seconds_go_on_from_the_last_line(tmp_path):
    opened(tmp_path, f"{line(5)}\n", 5)
    with Log(tmp_path, 5, 9) as log:
        log.entry(6, "validation", {})
    seconds = [json.loads(text)["seconds"] for text in texts(tmp_path)]
    assert seconds[0] == 2.5
    assert 2.5 <= seconds[1] < 62.5


@pytest.mark.parametrize("seconds", ["soon", None, [1], "NaN"])
def test_seconds_that_are_none_do_not_matter(tmp_path, seconds):
    file, _ = opened(tmp_path, json.dumps({"step": 1, "kind": "train", "seconds": seconds}), 5)
    assert file.seconds == 0.0


def test_a_full_disk_leaves_whole_lines_and_raises(tmp_path):
    resource = pytest.importorskip("resource")
    log = Log(tmp_path, 0, 10)
    log.entry(1, "validation", {"score": 1})
    before = (tmp_path / "metrics.jsonl").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(OSError, match="large"):
            log.entry(2, "validation", {"score": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    log.entry(3, "validation", {"score": 3})
    log.flush()
    steps = [parsed(text)["step"] for text in texts(tmp_path)]
    assert steps == [1, 3]
    log.__exit__()


def test_steps_are_counted_though_their_line_cannot_be_written(tmp_path):
    log = Log(tmp_path, 0, 10, every=2)
    log.lines.file.close()
    with pytest.raises(ValueError, match="closed"):
        log.steps_taken(0, 5, {"loss": np.arange(1.0, 6.0)}, None)
    assert log.state()["step"] == 5
    assert log.sums["loss"].value == 5.0


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def refuse(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
