"""What a training tells: exact lines in `metrics.jsonl`, and progress that fits its stream."""

import io
import os
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import BATCHES, LINEAR_STEP, QUIET, Streamed, linear_start

import funnet as fn
from funnet.metrics import Mean, Sum
from funnet.train import log as log_module
from funnet.train.log import Log


def blank(step=0):
    return fn.Run({}, {}, (), jnp.int32(step), jnp.uint32(0))


def told(lines, folder):
    """The lines, without the one thing that no two trainings share."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(folder)]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A training's metrics, step by step, as numbers in 64 bits."""
    folder = tmp_path_factory.mktemp("single")
    fit(folder, steps=23, log_every=1, fuse=1)
    return folder


def fit(folder, run=None, batches=BATCHES, **how):
    run = linear_start() if run is None else run
    return fn.fit(LINEAR_STEP, run, batches, folder=folder, **{**QUIET, **how})


@pytest.mark.parametrize("fuse", [1, 3, 64, None])
@pytest.mark.parametrize("every", [1, 5, 10, 23, 100])
def test_a_line_is_the_mean_of_its_steps_however_they_are_fused(
    tmp_path, single, lines, every, fuse
):
    fit(tmp_path, steps=23, log_every=every, fuse=fuse)
    steps = told(lines, single)
    assert [line["step"] for line in steps] == list(range(1, 24))
    ends = sorted({*range(every, 24, every), 23})
    assert [line["step"] for line in lines(tmp_path)] == ends
    for begin, line in zip([0, *ends], lines(tmp_path), strict=False):
        part = steps[begin : line["step"]]
        assert line["kind"] == "train"
        for name in ("loss", "accuracy", "gradient_norm"):
            mean = np.mean([one[name] for one in part])
            np.testing.assert_allclose(line[name], mean, rtol=1e-12, err_msg=name)


def test_the_lines_do_not_depend_on_the_fusing_to_the_last_digit(tmp_path, lines):
    for fuse in (1, 7, None):
        fit(tmp_path / str(fuse), steps=23, log_every=10, fuse=fuse)
    assert told(lines, tmp_path / "1") == told(lines, tmp_path / "7")
    assert told(lines, tmp_path / "1") == told(lines, tmp_path / "None")


def test_numbers_are_right_from_the_first_step(single, lines):
    _, expected = jax.jit(LINEAR_STEP)(linear_start(), BATCHES[0])
    first = lines(single)[0]
    np.testing.assert_allclose(first["loss"], expected["loss"].value, rtol=1e-5)
    np.testing.assert_allclose(first["gradient_norm"], expected["gradient_norm"], rtol=1e-5)
    np.testing.assert_allclose(first["accuracy"], expected["accuracy"].value, rtol=1e-6)


def test_seconds_grow_and_the_order_of_fields_is_for_readers(tmp_path, lines):
    fit(tmp_path, steps=23, log_every=5)
    seconds = [line["seconds"] for line in lines(tmp_path)]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[-1] < 600
    assert all(list(line)[:3] == ["step", "kind", "seconds"] for line in lines(tmp_path))


def test_a_training_that_goes_on_goes_on_writing(tmp_path, single, lines):
    run = fit(tmp_path, steps=12, log_every=5)
    fit(tmp_path, run, steps=23, log_every=5)
    assert [line["step"] for line in lines(tmp_path)] == [5, 10, 12, 15, 20, 23]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    third = [line["loss"] for line in lines(single)][12:15]
    np.testing.assert_allclose(lines(tmp_path)[3]["loss"], np.mean(third), rtol=1e-12)


def test_a_training_from_step_0_puts_what_is_there_aside(tmp_path, lines):
    for steps in (3, 4, 5):
        fit(tmp_path / "run", steps=steps)
    names = ("metrics.1.jsonl", "metrics.2.jsonl", "metrics.jsonl")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == list(names)
    assert [lines(tmp_path / "run", name)[0]["step"] for name in names] == [3, 4, 5]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(None, steps=3)
    fit("runs/here", steps=3)
    assert [str(p) for p in pathlib.Path().rglob("*.jsonl")] == ["runs/here/metrics.jsonl"]


def test_lines_are_there_as_soon_as_they_are_known(tmp_path, lines):
    met = []
    fit(
        tmp_path,
        steps=6,
        log_every=2,
        validate=lambda run: met.append(len(lines(tmp_path))) or {"score": 1},
        validate_every=2,
    )
    assert met == [1, 3, 5]


# Kinds of numbers


def test_metrics_may_be_of_any_kind(tmp_path, lines):
    def step(run, batch):
        return run.next(), {
            "float": run.step * jnp.int32(3) / jnp.int32(2),
            "int": run.step,
            "bool": run.step > 1,
            "half": run.step.astype(jnp.bfloat16),
            "python": 0.5,
            "vector": jnp.stack([run.step, run.step**2]),
            "matrix": Sum(jnp.full((2, 2), run.step)),
            "mean": Mean(run.step, jnp.int32(2)),
            "large": Sum(jnp.int32(2**30)),
        }

    fn.fit(step, blank(), BATCHES, steps=4, folder=tmp_path, **QUIET)
    assert told(lines, tmp_path) == [
        {
            "step": 4,
            "kind": "train",
            "float": 2.25,
            "int": 1.5,
            "bool": 0.5,
            "half": 1.5,
            "python": 0.5,
            "vector": [1.5, 3.5],
            "matrix": [[6, 6], [6, 6]],
            "mean": 0.75,
            "large": 2**32,
        }
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_json_all_the_same(tmp_path, lines, value):
    def step(run, batch):
        return run.next(), {"odd": jnp.float32(value), "odds": jnp.full(2, value, jnp.float32)}

    how = {"validate": lambda run: {"odd": float(value)}}
    fn.fit(step, blank(), BATCHES, steps=4, folder=tmp_path, **how, **QUIET)
    assert [line["step"] for line in lines(tmp_path)] == [4, 4]


def test_a_metric_s_name_does_not_hide_the_step(tmp_path, lines):
    def step(run, batch):
        return run.next(), {"step": run.step + 100, "kind": run.step, "seconds": run.step}

    fn.fit(step, blank(), BATCHES, steps=4, folder=tmp_path, **QUIET)
    assert [(line["step"], line["kind"]) for line in lines(tmp_path)] == [(4, "train")]


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (1, 1),
        (0.5, 0.5),
        (True, True),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int32(3), 3),
        (np.bool_(True), True),
        (jnp.float32(0.5), 0.5),
        (jnp.bfloat16(0.5), 0.5),
        (np.array([1, 2]), [1, 2]),
        (jnp.ones((1, 2)), [[1, 1]]),
        ([1, [2.5]], [1, [2.5]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_validation_may_give_numbers_of_any_kind(tmp_path, lines, capsys, value, line):
    how = {"validate": lambda run: {"score": value}, "progress": True}
    fn.fit(lambda run, batch: (run.next(), {}), blank(), BATCHES, steps=2, folder=tmp_path, **how)
    assert told(lines, tmp_path)[-1] == {"step": 2, "kind": "validation", "score": line}
    printed = capsys.readouterr().err
    shown = "" if isinstance(line, list) else f"score {float(line):.4g}"
    assert f"step 2: validation {shown}" in printed


# Progress


def test_progress_on_a_plain_stream_is_a_few_plain_lines(capsys):
    fit(None, steps=10, progress=True, validate=lambda run: {"score": 0.25}, validate_every=5)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "\r" not in printed.err
    assert "\x1b" not in printed.err
    middle, last, end = printed.err.splitlines()
    assert middle == "step 5: validation score 0.25"
    assert end == "step 10: validation score 0.25"
    numbers = r"accuracy 0\.\d+  gradient_norm \S+  loss \d\S+"
    assert re.fullmatch(rf"step 10/10 \(epoch 3\.2\)  {numbers}(  .*left)?", last)


def test_progress_of_a_source_without_epochs_names_none(capsys):
    fit(None, batches=Streamed(), steps=1200, progress=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 1,200/1,200  accuracy")


def test_quiet_is_quiet(capsys):
    fit(None, steps=10, validate=lambda run: {"score": 0.25}, validate_every=5)
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    time = [1000.0]
    monkeypatch.setattr(log_module.time, "monotonic", lambda: time[0])
    return time


def test_a_plain_stream_gets_a_line_every_ten_seconds_with_the_time_that_is_left(clock):
    stream = io.StringIO()
    with Log(None, 0, 1000, stream=stream) as log:
        for start in range(0, 1000, 100):
            clock[0] += 4
            log.steps_taken(start, 100, {"loss": np.full(100, 0.125)}, epoch=start / 100)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "step 300/1,000 (epoch 2.0)  loss 0.125  25 steps/s  0:28 left",
        "step 600/1,000 (epoch 5.0)  loss 0.125  25 steps/s  0:16 left",
        "step 900/1,000 (epoch 8.0)  loss 0.125  25 steps/s  0:04 left",
        "step 1,000/1,000 (epoch 9.0)  loss 0.125  25 steps/s  0:00 left",
    ]


def terminal(columns):
    """Both ends of a terminal that is so wide: what is read, and a stream to write to."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, columns))
    return reader, os.fdopen(writer, "w")


def written(reader, stream):
    stream.close()
    text = b""
    while True:
        try:
            block = os.read(reader, 4096)
        except OSError:  # Linux says so at the end
            block = b""
        if not block:
            os.close(reader)
            return text.decode().replace("\r\n", "\n")
        text += block


def test_a_terminal_gets_one_line_that_renews_itself_and_fits(clock):
    reader, stream = terminal(columns=30)
    with Log(None, 0, 1000, stream=stream) as log:
        for start in range(0, 1000, 100):
            clock[0] += 0.2
            log.steps_taken(start, 100, {"loss": np.full(100, 0.125)}, epoch=1.0)
        log.entry(1000, "validation", {"score": 0.5})
    text = written(reader, stream)
    shown = re.findall(r"\r([^\r\n\x1b]*)\x1b\[K", text)
    assert len(shown) == 11  # the last is the line cleared for validation
    assert shown[0].startswith("step 100/1,000 (epoch 1.0)")
    assert all(len(line) < 30 for line in shown)
    assert text.endswith("step 1,000: validation score 0.5\n\n")


def test_training_on_a_terminal_ends_its_line_even_when_it_fails(monkeypatch):
    reader, stream = terminal(columns=100)
    monkeypatch.setattr(sys, "stderr", stream)

    def forgetful(run, batch):
        return run, {"loss": jnp.float32(1)}

    fit(None, steps=10, progress=True)
    with pytest.raises(ValueError, match="refused"):
        fn.fit(forgetful, blank(), BATCHES, steps=3)
    monkeypatch.undo()
    text = written(reader, stream)
    assert "step 10/10 (epoch 3.2)" in text
    assert text.endswith("\n")


class Console(io.StringIO):
    """A console that says it is a terminal, and has no file: as IDLE's."""

    def isatty(self):
        return True


def test_a_console_that_is_no_file_will_do(monkeypatch):
    console = Console()
    monkeypatch.setattr(sys, "stderr", console)
    run = fit(None, steps=10, progress=True)
    monkeypatch.undo()
    assert int(run.step) == 10
    assert "step 10/10" in console.getvalue()


def test_a_process_without_a_console_trains_in_silence(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    run = fit(None, steps=10, progress=True, validate=lambda run: {"score": 1})
    monkeypatch.undo()
    assert int(run.step) == 10
