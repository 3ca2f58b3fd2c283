"""What a training prints: progress that fits its stream, and never ends a training."""

import io
import os
import re
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from toys import BATCHES, LINEAR_STEP, QUIET, Streamed, linear_start

import funnet as fn
from funnet.train.log import Log
from funnet.train.progress import Progress


def fit(steps, batches=BATCHES, **how):
    return fn.fit(LINEAR_STEP, linear_start(), batches, steps=steps, **{**QUIET, **how})


def test_progress_on_a_plain_stream_is_a_few_plain_lines(capsys):
    fit(10, progress=True, validate=lambda run: {"score": 0.25}, validate_every=5)
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
    fit(1200, Streamed(), progress=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 1,200/1,200  accuracy")


def test_quiet_is_quiet(capsys):
    fit(10, validate=lambda run: {"score": 0.25}, validate_every=5)
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_plain_stream_gets_a_line_every_ten_seconds_with_the_time_that_is_left(clock):
    stream = io.StringIO()
    with Log(None, 0, 1000, progress=True, stream=stream) as log:
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


@pytest.fixture(params=["rich", "plain"])
def painter(request, monkeypatch):
    """With rich, and as if it were not installed."""
    if request.param == "rich":
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    return request.param


def bare(text):
    """What is seen of a text: without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_terminal_gets_one_line_that_renews_itself_and_fits(clock, painter):
    reader, stream = terminal(columns=30)
    with Log(None, 0, 1000, progress=True, stream=stream) as log:
        for start in range(0, 1000, 100):
            clock[0] += 0.2
            log.steps_taken(start, 100, {"loss": np.full(100, 0.125)}, epoch=1.0)
        log.entry(1000, "validation", {"score": 0.5})
    text = bare(written(reader, stream))
    shown = re.findall(r"\r([^\r\n\x1b]*)\x1b\[K", text)
    assert len(shown) == 11  # the last is the line cleared for validation
    assert shown[0].startswith("step 100/1,000 (epoch 1.0)")
    assert all(len(line) < 30 for line in shown)
    assert text.endswith("step 1,000: validation score 0.5\n\n")


def test_a_wide_terminal_gets_a_bar_and_the_time_that_is_left(clock, painter):
    reader, stream = terminal(columns=120)
    progress = Progress(1000, True, stream)
    for step in (250, 500):
        clock[0] += 25
        progress.steps_taken(step, 2.0, lambda: {"loss": 0.125, "[red]odd[/red]": 3})
    text = written(reader, stream)
    last = bare(text).split("\r")[-1]
    assert last.startswith("step 500/1,000 (epoch 2.0)  ")
    assert last.endswith("loss 0.125  [red]odd[/red] 3  10 steps/s  0:50 left\x1b[K")
    assert last.count("━") == (16 if painter == "rich" else 0)
    assert ("\x1b[32m" + 8 * "━" + "\x1b" in text) == (painter == "rich")


def test_the_rate_is_of_this_process_alone(clock):
    stream = io.StringIO()
    with Log(None, 5000, 6000, progress=True, stream=stream) as log:
        for start in range(5000, 6000, 500):
            clock[0] += 20000
            log.steps_taken(start, 500, {"loss": np.ones(500)}, epoch=None)
    first, second = stream.getvalue().splitlines()
    assert first == "step 5,500/6,000  loss 1"
    assert second == "step 6,000/6,000  loss 1  0.025 steps/s  0:00 left"


def test_long_times_are_told_in_hours(clock):
    stream = io.StringIO()
    progress = Progress(1000, True, stream)
    for step in (1, 2):
        clock[0] += 11
        progress.steps_taken(step, None, dict)
    assert stream.getvalue().splitlines()[-1].endswith("0.091 steps/s  3:02:58 left")


def test_under_pytest_there_is_none_unless_it_is_asked_for(monkeypatch):
    assert not Progress(10).on
    assert Progress(10, True).on
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    assert Progress(10).on
    assert not Progress(10, False).on


def test_a_console_of_few_letters_gets_what_it_can_write():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Progress(10, True, stream).line("näme ━")
    assert stream.buffer.getvalue() == b"n?me ?\n"


def test_a_terminal_that_is_gone_does_not_end_the_training():
    reader, stream = terminal(columns=100)
    with Log(None, 0, 100, every=10, progress=True, stream=stream) as log:
        os.close(reader)
        for start in range(0, 100, 10):
            log.steps_taken(start, 10, {"loss": np.ones(10)}, epoch=None)
            log.progress.line("still here")
    assert log.at == 100
    assert not log.progress.on
    with pytest.raises(OSError, match="error"):
        stream.close()


def test_training_on_a_terminal_ends_its_line_even_when_it_fails(monkeypatch):
    reader, stream = terminal(columns=100)
    monkeypatch.setattr(sys, "stderr", stream)

    def forgetful(run, batch):
        return run, {"loss": jnp.float32(1)}

    fit(10, progress=True)
    with pytest.raises(ValueError, match="refused"):
        fn.fit(forgetful, linear_start(), BATCHES, steps=3, progress=True)
    monkeypatch.undo()
    text = bare(written(reader, stream))
    assert "step 10/10 (epoch 3.2)" in text
    assert text.endswith("\n")


class Console(io.StringIO):
    """A console that says it is a terminal, and has no file: as IDLE's."""

    def isatty(self):
        return True


def test_a_console_that_is_no_file_will_do(monkeypatch):
    console = Console()
    monkeypatch.setattr(sys, "stderr", console)
    run = fit(10, progress=True)
    monkeypatch.undo()
    assert int(run.step) == 10
    assert "step 10/10" in console.getvalue()


def test_a_process_without_a_console_trains_in_silence(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    run = fit(10, progress=True, validate=lambda run: {"score": 1})
    monkeypatch.undo()
    assert int(run.step) == 10
