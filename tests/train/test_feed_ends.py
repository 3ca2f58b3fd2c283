"""How a feed ends: errors at their step, no thread left, and positions that are right."""

import signal
import threading
import traceback

import numpy as np
import pytest
from feeding import PATIENT, Numbers, given, idle, threads
from toys import BATCHES, LINEAR_STEP, QUIET, Streamed, assert_same, linear_start

import funnet as fn
from funnet.train import prefetch
from funnet.train.feed import Feed


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


# Errors


def test_an_error_of_the_source_comes_up_as_itself_at_the_step_that_needs_it():
    error = OSError("the disk is gone")
    with Feed(Numbers(fails={5: error}), 9) as feed:
        feed.take(0, 1)
        idle(feed)  # the error is there already
        at = 1
        while at < 5:
            at += feed.take(at, 100)[2]
        assert at == 5
        with pytest.raises(OSError, match="the disk is gone") as caught:
            feed.take(5, 1)
    assert caught.value is error
    assert error.__notes__ == ["while batch 5 was read"]
    assert "__getitem__" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("fuse", [1, 3, None])
def test_the_steps_before_an_error_are_taken(kind, fuse):
    class Failing(Streamed):
        def __getitem__(self, step):
            if step == 5:
                raise kind("the source")
            return super().__getitem__(step)

    with pytest.raises(kind, match="the source") as caught:
        fn.fit(LINEAR_STEP, linear_start(), Failing(), steps=9, fuse=fuse, **QUIET)
    whole = fn.fit(LINEAR_STEP, linear_start(), BATCHES, steps=5, **QUIET)
    assert_same(caught.value.run, whole)
    assert "while batch 5 was read" in caught.value.__notes__


class Odd:
    def __init__(self, batch):
        self.batch = batch

    def __getitem__(self, step):
        return next(self.batch) if isinstance(self.batch, type(iter([]))) else self.batch


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (Odd([1, 2]), TypeError, r"batches\[0\] must be a dict of arrays by name, got list"),
        (Odd({"x": "text"}), TypeError, r"batches\[0\]\['x'\] must be an array of numbers, got <U"),
        (Odd({"x": [None]}), TypeError, r"'x'\] must be an array of numbers, got object"),
        (Odd(iter([])), IndexError, "batches end before step 0: give fit fewer steps"),
        (iter([]), TypeError, "list_iterator does not: write fn.data.batches"),
    ],
)
def test_what_gives_no_batches_is_named(source, error, words):
    with pytest.raises(error, match=words):
        fn.fit(LINEAR_STEP, linear_start(), source, steps=3, **QUIET)


def test_a_feed_gives_nothing_past_its_stop_or_its_end():
    feed = Feed(Numbers(), 3)
    with pytest.raises(ValueError, match="step is 3, expected step < 3"):
        feed.take(3, 1)
    feed.take(0, 1)
    feed.close()
    feed.close()
    with pytest.raises(ValueError, match="the feed is closed"):
        feed.take(1, 1)


# Ends


def test_ctrl_c_gets_through_to_who_waits_for_a_source_that_hangs(monkeypatch):
    monkeypatch.setattr(prefetch, "GRACE", 0.01)
    waiting, go_on = threading.Event(), threading.Event()

    class Hanging(Numbers):
        def __getitem__(self, step):
            assert step < 2 or go_on.wait(PATIENT)
            return super().__getitem__(step)

    def interrupt():
        assert waiting.wait(PATIENT)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    other, at, source = threading.Thread(target=interrupt), 0, Hanging()
    other.start()
    with Feed(source, 9) as feed:
        while at < 2:
            at += feed.take(at, 2)[2]
        with pytest.raises(KeyboardInterrupt):
            feed.take(2, 1 if waiting.set() else 2)
    other.join()
    (left,) = threads()  # that hangs, and ends when what it waits for does
    go_on.set()
    left.join(PATIENT)
    assert source.asked == [0, 1, 2]


def test_no_thread_is_left_when_validation_fails():
    def validate(run):
        assert threads()  # it reads on meanwhile, with 10**6 steps to go
        raise ZeroDivisionError

    how = {"validate": validate, "validate_every": 3}
    with pytest.raises(ZeroDivisionError):
        fn.fit(LINEAR_STEP, linear_start(), Streamed(), steps=10**6, **how, **QUIET)


# Sources that cannot reach any step


class Tape:
    """Gives one batch after another, as a file that is read on: the state is its own."""

    def __init__(self):
        self.state, self.sought = 17, []

    def __getitem__(self, step):
        self.state = self.state * 31 % 1009
        return {"x": np.full(2, self.state, np.int32)}

    def position(self, step):
        return {"state": self.state}

    def seek(self, step, position):
        self.sought.append(step)
        self.state = position["state"]


def tape(steps):
    source = Tape()
    return [source[i]["x"].tolist() for i in range(steps)]


def test_a_position_is_where_a_step_began_though_others_were_read_ahead():
    with Feed(Tape(), 50) as feed:
        assert feed.position(0) == {"state": 17}
        at = 0
        while at < 30:
            steps = feed.take(at, 7)[2]
            idle(feed)
            for step in range(at, at + steps + 1):
                resumed = Tape()
                resumed.seek(step, feed.position(step))
                assert resumed[step]["x"].tolist() == tape(step + 1)[-1]
            at += steps
        with pytest.raises(ValueError, match="step is 0, expected one of the steps taken last"):
            feed.position(0)


def test_a_feed_goes_on_from_a_position():
    with Feed(Tape(), 50) as feed:
        steps = feed.take(0, 5)[2]
        idle(feed)
        position = feed.position(steps)
        feed.seek(steps, position)  # though the thread was far ahead
        assert given(feed, feed.take(steps, 1))[0]["x"].tolist() == tape(steps + 1)[-1]
    with Feed(Tape(), 50) as feed:
        feed.seek(steps, position)
        assert feed.position(steps) == position
        assert given(feed, feed.take(steps, 1))[0]["x"].tolist() == tape(steps + 1)[-1]


def test_a_source_that_was_read_ahead_goes_back_to_where_the_training_stands():
    source = Tape()
    with Feed(source, 50) as feed:
        steps = feed.take(0, 3)[2]
        idle(feed)
    assert source[steps]["x"].tolist() == tape(steps + 1)[-1]


def test_after_an_error_it_goes_back_to_before_the_steps_that_may_not_have_been_taken():
    source = Tape()
    feed = Feed(source, 50)
    feed.take(feed.take(0, 1)[2], 3)
    feed.__exit__(KeyError, None, None)
    feed.__exit__(KeyError, None, None)
    assert source.sought == [1]
    assert source[1]["x"].tolist() == tape(2)[-1]


def test_sources_that_reach_any_step_have_no_position():
    with Feed(Streamed(), 9) as feed:
        feed.take(0, 3)
        assert feed.position(1) is None
        feed.seek(1, None)
        with pytest.raises(ValueError, match=r"position is \{'state': 3\}.*have no seek"):
            feed.seek(1, {"state": 3})
        feed.take(5, 1)  # and any step may be next
        assert feed.batch(5)["id"].tolist() == BATCHES[5]["id"].tolist()
