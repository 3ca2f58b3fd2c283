"""Ctrl-C and SIGTERM: the step ends, the run is saved, and the same command goes on."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest
from toys import BATCHES, QUIET, STEP, Streamed, assert_same, host, start

import funnet as fn
from funnet.store.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 24
USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


class Signalled(Streamed):
    """Batches of which one brings a signal, as soon as it is read."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def __getitem__(self, step):
        if step == 7:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(step)

    def identity(self):
        return BATCHES.identity()


def sending(*numbers, after):
    """Sends signals after so many steps."""

    def hook(step, kind, numbers_):
        if (step, kind) == (after, "train"):
            for number in numbers:
                os.kill(os.getpid(), number)

    return {"hooks": [hook], "log_every": 1, "fuse": 1}


def score(run):
    return {"score": int(run.step) % 5}


HOW = {"validate": score, "validate_every": 8, "log_every": 3, "save_every": 5}


def fit(folder, batches=BATCHES, **how):
    how = {"steps": STEPS, "folder": folder, **QUIET, **HOW, **how}
    return fn.fit(STEP, start(), batches, **how)


@pytest.fixture(scope="module")
def whole():
    return host(fit(None))


@pytest.fixture(autouse=True)
def usual(monkeypatch):
    """The handlers are Python's usual ones, before and after; signals may follow at once."""
    monkeypatch.setattr("funnet.train.stops.TWICE", 0)
    before = {number: signal.getsignal(number) for number in USUAL}
    for number, handler in USUAL.items():
        signal.signal(number, handler)
    yield
    after = {number: signal.getsignal(number) for number in USUAL}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == USUAL


def in_validation(number, patch):
    def validate(run):
        if int(run.step) == 8:
            os.kill(os.getpid(), number)
        return score(run)

    return {"validate": validate}


def while_saving(number, patch):
    write = Checkpoints.write

    def slow(self, step, *what):
        if step == 10:
            os.kill(os.getpid(), number)
        return write(self, step, *what)

    patch.setattr(Checkpoints, "write", slow)
    return {}


PLACES = {
    "the source": lambda number, patch: {"batches": Signalled(number)},
    "validation": in_validation,
    "a hook": lambda number, patch: sending(number, after=6),
    "a save": while_saving,
}
ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", USUAL, ids=lambda number: number.name)
def test_a_signal_lets_the_step_end_and_saves(tmp_path, whole, monkeypatch, number, place):
    with monkeypatch.context() as patch, pytest.raises(ENDS[number]) as caught:
        fit(tmp_path, **{"fuse": 2, **PLACES[place](number, patch)})
    if number == signal.SIGTERM:
        assert caught.value.code == 143
    run = caught.value.run
    at = int(run.step)
    assert (0 if place == "the source" else 6) <= at < STEPS
    note = f"it is saved in {tmp_path}: the same command goes on from step {at}"
    assert note in caught.value.__notes__
    assert_same(fn.restore(tmp_path, like=start()), run)
    assert_same(run, fn.fit(STEP, start(), BATCHES, steps=at, **QUIET))
    assert_same(fit(tmp_path), whole)


def test_a_signal_in_the_last_validation_ends_a_finished_training(tmp_path, whole):
    def validate(run):
        if int(run.step) == STEPS:
            os.kill(os.getpid(), signal.SIGTERM)
        return score(run)

    with pytest.raises(SystemExit) as caught:
        fit(tmp_path, validate=validate)
    assert_same(caught.value.run, whole)
    assert_same(fit(tmp_path, validate=pytest.fail), whole)


def test_a_signal_that_comes_when_all_is_done_is_not_swallowed(monkeypatch, whole):
    from funnet.train.log import Log

    end = Log.__exit__

    def late(self, *what):
        os.kill(os.getpid(), signal.SIGTERM)
        end(self, *what)

    monkeypatch.setattr(Log, "__exit__", late)
    with pytest.raises(SystemExit) as caught:
        fit(None)
    assert_same(caught.value.run, whole)


def test_without_a_folder_the_error_has_the_run(whole):
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(None, Signalled(signal.SIGINT))
    run = fn.fit(STEP, caught.value.run, BATCHES, steps=STEPS, **QUIET)
    assert_same(run, whole)


def test_a_second_ctrl_c_does_not_wait(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(tmp_path, **sending(signal.SIGINT, signal.SIGINT, after=12))
    note = f"it was not waited for; in {tmp_path} the last checkpoint is of step 10"
    assert note in caught.value.__notes__
    assert int(caught.value.run.step) == 12
    assert_same(fit(tmp_path), whole)


def test_one_ctrl_c_that_comes_twice_is_one(tmp_path, whole, monkeypatch):
    monkeypatch.setattr("funnet.train.stops.TWICE", 60)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(tmp_path, **sending(signal.SIGINT, signal.SIGINT, after=12))
    assert any(f"it is saved in {tmp_path}" in note for note in caught.value.__notes__)
    assert_same(fit(tmp_path), whole)


def test_ctrl_c_after_sigterm_does_not_wait(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, **sending(signal.SIGTERM, signal.SIGINT, after=12))


def test_a_stop_is_told_where_progress_is(tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit(tmp_path, **sending(signal.SIGTERM, after=7), progress=True)
    told = capsys.readouterr().err
    assert "stopped by SIGTERM at step 7; it is saved in" in told
    assert "the same command goes on from step 7" in told


def test_handlers_of_one_s_own_are_left_alone(tmp_path, whole):
    met = []
    before = signal.signal(signal.SIGTERM, lambda *_: met.append("SIGTERM"))
    try:
        assert_same(fit(tmp_path, Signalled(signal.SIGTERM)), whole)
        assert signal.getsignal(signal.SIGTERM) is not before
    finally:
        signal.signal(signal.SIGTERM, before)
    assert met == ["SIGTERM"]


def test_a_handler_of_one_s_own_that_raises_loses_only_the_time_since_the_last_save(
    tmp_path, whole
):
    def raising(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, raising)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            fit(tmp_path, **sending(signal.SIGINT, after=7))
    finally:
        signal.signal(signal.SIGINT, before)
    assert int(caught.value.run.step) == 7
    assert_same(fit(tmp_path), whole)


def test_a_thread_of_one_s_own_may_train(tmp_path, whole):
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(tmp_path)))
    thread.start()
    thread.join()
    assert_same(found[0], whole)


def test_no_thread_is_left(tmp_path):
    before = threading.active_count()
    for times in range(3):
        with contextlib.suppress(KeyboardInterrupt):
            fit(tmp_path / str(times), **sending(*[signal.SIGINT] * times, after=7))
        assert threading.active_count() == before


# In processes of their own

SCRIPT = """
import sys
import funnet as fn
from doomed import Slow
from test_stops import HOW, STEPS
from toys import BATCHES, STEP, start

class Told(Slow):
    def identity(self):
        return BATCHES.identity()

def hook(step, kind, numbers):
    if step == 6:
        print("six", flush=True)

how = {"steps": STEPS, "folder": sys.argv[1], "fuse": 1, "progress": True, **HOW}
fn.fit(STEP, start(), Told(0.2), hooks=[hook], **how)
"""
LONG = """
import sys, threading
import jax, jax.numpy as jnp
import funnet as fn
from toys import BATCHES

def step(run, batch):
    turns = jnp.where(run.step < 3, 1, 2**30)
    kernel = jax.lax.fori_loop(0, turns, lambda i, x: jnp.tanh(x @ x), run.params)
    return run.next(params=kernel), {}

def hook(step, kind, numbers):
    if step == 3:  # a second later the next step is under way
        threading.Timer(1, lambda: print("three", flush=True)).start()

run = fn.Run(jnp.ones((64, 64)), {}, (), jnp.int32(0), jnp.uint32(0))
how = {"folder": sys.argv[1], "save_every": 2, "fuse": 1, "progress": False}
fn.fit(step, run, BATCHES, steps=9, hooks=[hook], log_every=1, **how)
"""


def process(script, folder):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "train")])
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(running, word):
    assert any(line.strip() == word for line in running.stdout), running.stderr.read()


def test_processes_end_as_they_usually_do_and_go_on(tmp_path, whole):
    folders = {number: tmp_path / number.name for number in USUAL}
    running = {number: process(SCRIPT, folder) for number, folder in folders.items()}
    for number, one in running.items():
        wait_for(one, "six")
        one.send_signal(number)
    ends = {n: (one.communicate(timeout=120)[1], one.returncode) for n, one in running.items()}
    told, code = ends[signal.SIGINT]
    assert code == -signal.SIGINT
    assert "Traceback" in told
    assert "KeyboardInterrupt" in told
    assert f"it is saved in {folders[signal.SIGINT]}: the same command goes on" in told
    told, code = ends[signal.SIGTERM]
    assert code == 143
    assert "Traceback" not in told
    assert "stopped by SIGTERM at step" in told
    for folder in folders.values():
        assert 6 <= int(fn.restore(folder, like=start()).step) < STEPS
        assert_same(fit(folder), whole)


def test_a_second_ctrl_c_does_not_wait_for_a_step(tmp_path):
    running = process(LONG, tmp_path)
    try:
        wait_for(running, "three")
        while running.poll() is None:  # two that come at once may be seen as one
            running.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(timeout=0.5)
    finally:
        running.kill()
    told = running.communicate(timeout=60)[1]
    assert running.returncode == -signal.SIGINT
    assert f"it was not waited for; in {tmp_path} the last checkpoint is of step 2" in told
