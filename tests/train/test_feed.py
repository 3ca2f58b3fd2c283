"""The feed: what is read ahead and what is not, shapes that differ, errors, positions, and ends."""

import dataclasses
import itertools
import json
import re
import signal
import threading
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import BATCHES, LINEAR_STEP, QUIET, Streamed, assert_same, compilations, linear_start

import funnet as fn
from funnet.train import prefetch
from funnet.train.feed import Feed

PATIENT = 20.0  # seconds after which what should come at once is taken to never come


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "funnet-prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


class Numbers:
    """One number a step, in shapes that change as `widths` say, and every step that was asked."""

    def __init__(self, widths=(1,), fails=()):
        self.widths, self.fails, self.asked = widths, dict(fails), []

    def width(self, step):
        return self.widths[step % len(self.widths)]

    def __getitem__(self, step):
        self.asked.append(step)
        if step in self.fails:
            raise self.fails[step]
        return {"x": np.full(self.width(step), step, np.int32)}


def given(feed, taken):
    """The batches that a dispatch would see."""
    source, rows, steps = taken
    return [feed.fetch(source, rows, jnp.int32(i)) for i in range(steps)]


def idle(feed):
    """Waits until the thread of a feed reads nothing more."""
    reader = feed._reader
    with reader._changed:
        assert reader._changed.wait_for(
            lambda: reader.read == reader.stop or reader.failure or not reader._fits(), PATIENT
        )


@pytest.fixture
def small(monkeypatch):
    """Blocks of at most four batches of four bytes."""
    monkeypatch.setattr(prefetch, "STREAMED", 16)
    monkeypatch.setattr(prefetch, "AHEAD", 32)


# What is handed out


@pytest.mark.parametrize("widths", [(1,), (1, 1, 1, 2, 2), (1, 2, 3), (0, 1)])
def test_steps_come_one_after_another_whatever_is_asked_for(widths, small):
    draw, source, at = np.random.default_rng(0), Numbers(widths), 3
    with Feed(source, 200) as feed:
        while at < 200:
            asked = int(draw.integers(1, 9))
            array, rows, steps = feed.take(at, asked)
            assert 1 <= steps <= min(asked, feed.most)
            assert array["x"].shape == (feed.most, source.width(at))
            for i in range(steps):
                assert source.width(at + i) == source.width(at)
                assert array["x"][rows + i].tolist() == [at + i] * source.width(at)
            at += steps
        assert feed.programs == len(set(widths))
    assert source.asked == list(range(3, 200))


def test_dispatches_are_as_long_as_asked_for_where_shapes_allow():
    source = Numbers((1, 1, 1, 2))
    with Feed(source, 100) as feed:
        feed.take(0, 1)
        idle(feed)
        assert [feed.take(at, 100)[2] for at in (1, 3, 4, 7)] == [2, 1, 3, 1]


def test_a_block_travels_once_for_all_the_dispatches_from_it():
    with Feed(Numbers(), 40) as feed:
        feed.take(0, 1)
        idle(feed)
        at, arrays = feed._reader.next, []
        for step in (at, at + 5, at + 10):
            arrays.append(feed.take(step, 5)[0]["x"])
        assert arrays[0] is arrays[1] is arrays[2]


def test_wide_numbers_become_what_a_device_holds_and_nothing_is_written_over():
    class Wide(Numbers):
        def __getitem__(self, step):
            return {"n": np.int64(step), "y": np.float64(step), "half": jnp.bfloat16(step)}

    with Feed(Wide(), 9) as feed:
        kept = list(itertools.chain(*[given(feed, feed.take(i, 1)) for i in range(9)]))
    for i, batch in enumerate(kept):
        dtypes = {name: x.dtype for name, x in batch.items()}
        assert dtypes == {"n": jnp.int32, "y": jnp.float32, "half": jnp.bfloat16}
        assert {float(x) for x in batch.values()} == {i}


def test_the_thread_puts_arrays_as_who_opened_it_would():
    class Wide(Numbers):
        def __getitem__(self, step):
            return {"n": np.full(2, 2**40 + step)}

    with jax.enable_x64(True), Feed(Wide(), 3) as feed:
        assert given(feed, feed.take(0, 1))[0]["n"].tolist() == [2**40] * 2
        idle(feed)
        assert feed.take(1, 2)[0]["n"].dtype == np.int64


def test_a_batch_that_was_taken_is_there_again_without_the_source():
    source = Numbers((1, 1, 2))
    with Feed(source, 6) as feed:
        for step in (0, 1):
            feed.take(step, 1)
        assert feed.batch(1)["x"].tolist() == [1]
        feed.take(2, 1)
        assert feed.batch(2)["x"].tolist() == [2, 2]
    assert source.asked == sorted(set(source.asked))


def test_data_on_the_device_needs_no_thread():
    with Feed(BATCHES, 30) as feed:
        source, rows, steps = feed.take(7, 5)
        assert (steps, feed.programs, threads()) == (5, 1, [])
        for i in range(5):
            batch = feed.fetch(source, jnp.asarray(rows), jnp.int32(i))
            assert_same(
                batch, {name: batch[name].dtype.type(x) for name, x in BATCHES[7 + i].items()}
            )
        assert_same(feed.batch(3), BATCHES[3])
        assert feed.position(3) is None


def test_the_thread_waits_for_no_block_to_be_used_up_to_read_the_next_one(small):
    """So host and device work at once: what is read while nobody takes anything."""
    source = Numbers()
    with Feed(source, 100) as feed:
        feed.take(0, 1)
        idle(feed)
        assert len(source.asked) > 4


@pytest.mark.parametrize(
    ("widths", "most"), [((1,), 3 + 8), ((4,), 2), ((100,), 1), ((1, 2, 3), 3), ((100, 200), 1)]
)
def test_what_is_read_ahead_is_bounded(widths, most, small):
    source, at = Numbers(widths), 0
    with Feed(source, 1000) as feed:
        for _ in range(20):
            at += feed.take(at, 2)[2]
            idle(feed)
            assert len(source.asked) - at <= most


def test_batches_that_are_small_are_not_read_ahead_without_end(monkeypatch):
    monkeypatch.setattr(prefetch, "ROWS", 5)
    source = Numbers((0, 1))
    with Feed(source, 1000) as feed:
        feed.take(0, 1)
        idle(feed)
        assert 5 <= len(source.asked) <= 12


@pytest.mark.parametrize(("begin", "stop"), [(0, 12), (7, 12), (10**6, 10**6 + 5)])
@pytest.mark.parametrize("fuse", [1, None])
def test_only_the_steps_that_are_taken_are_read_each_once(begin, stop, fuse):
    source = Streamed()
    run = dataclasses.replace(linear_start(), step=jnp.int32(begin))
    fn.fit(LINEAR_STEP, run, source, steps=stop, fuse=fuse, **QUIET)
    assert source.asked == list(range(begin, stop))


# Shapes that differ


@fn.layer
def tagger(p, tokens, lengths):
    x = fn.embed(p["embed"], tokens, 11, 4)
    mask = fn.sequence_mask(lengths, tokens.shape[1])
    return fn.dense(p["out"], jnp.where(mask[..., None], x, 0).sum(axis=1), 3)


TAGGER = fn.Model(tagger)


def tagging(run, batch):
    def loss(params):
        logits = TAGGER(params, batch["token"], batch["lengths"])
        return fn.losses.cross_entropy(logits, batch["label"]).mean()

    value, gradients = jax.value_and_grad(loss)(run.params)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, run.params, gradients)
    return run.next(params=params), {"loss": value}


def tagger_start():
    params, _ = TAGGER.init(jax.random.key(0), jnp.ones((1, 2), jnp.int32), jnp.ones(1, jnp.int32))
    return fn.Run(params, {}, (), jnp.int32(0), jnp.uint32(0))


def sequences():
    draw = np.random.default_rng(0)
    words = [draw.integers(0, 11, n) for n in draw.integers(1, 13, 60)]
    return {"token": words, "label": draw.integers(0, 3, 60)}


BUCKETS = fn.data.bucketed(sequences(), 4, boundaries=(4, 8, 12))


def test_a_program_is_compiled_for_each_bucket_and_the_fusing_changes_no_bit():
    runs = []
    with compilations() as compiled:
        for fuse in (1, 3, None):
            run = fn.fit(tagging, tagger_start(), BUCKETS, steps=11, fuse=fuse, **QUIET)
            runs.append(fn.fit(tagging, run, BUCKETS, steps=40, fuse=fuse, **QUIET))
    assert compiled.count("jit(_advance)") == 3
    for run in runs[1:]:
        assert_same(run, runs[0])


def test_programs_are_counted_and_too_many_are_warned_of(monkeypatch, capsys, tmp_path):
    how = {"folder": tmp_path, "epochs": 2, "fuse": 3}
    fn.fit(tagging, tagger_start(), BUCKETS, **how, progress=True)
    told = re.findall(r"batches of (\d) shapes so far, each compiled", capsys.readouterr().err)
    assert told == ["2", "3"]
    assert json.loads((tmp_path / "run.json").read_text())["steps_per_epoch"] == BUCKETS.steps(1)
    monkeypatch.setattr("funnet.train.training.MANY", 2)
    with pytest.warns(UserWarning, match=r"more than 2 shapes, .*: fn\.data\.bucketed"):
        fn.fit(tagging, tagger_start(), BUCKETS, epochs=1, **QUIET)


def test_training_on_buckets_is_the_steps_one_after_another():
    run, step = tagger_start(), jax.jit(tagging)
    for i in range(12):
        run, _ = step(run, BUCKETS[i])
    fitted = fn.fit(tagging, tagger_start(), BUCKETS, steps=12, **QUIET)
    for x, y in zip(jax.tree.leaves(run), jax.tree.leaves(fitted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


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
