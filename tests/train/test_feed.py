"""What a feed hands out: one step after another, read ahead within bounds, whatever the shapes."""

import dataclasses
import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from feeding import Numbers, given, idle, threads
from toys import BATCHES, LINEAR_STEP, QUIET, Streamed, assert_same, compilations, linear_start

import funnet as fn
from funnet.train import prefetch
from funnet.train.feed import Feed


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


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
