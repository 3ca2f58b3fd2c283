"""Buckets: like lengths together, every example once an epoch, any step at once, few programs."""

import itertools
import re

import numpy as np
import pytest

import funnet as fn
from funnet.data.buckets import chosen

COUNT, SIZE = 103, 8
DRAWN = np.random.default_rng(0)
LENGTHS = DRAWN.integers(1, 30, COUNT)
WORDS = [np.arange(1, 1 + n) * (i + 1) for i, n in enumerate(LENGTHS)]
TAGS = [
    np.stack([np.full(n, i), np.arange(n)], 1).astype(np.float64) for i, n in enumerate(LENGTHS)
]
DATA = {"token": WORDS, "tag": TAGS, "label": np.arange(COUNT) % 3}


def bucketed(**how):
    return fn.data.bucketed(DATA, SIZE, **{"boundaries": (8, 16, 32), **how})


def seen(source, steps):
    """How often each example comes in the first steps."""
    ids = np.concatenate([source[i]["id"] for i in range(steps)])
    return np.bincount(ids, minlength=source.examples)


def test_a_batch_is_full_padded_to_its_boundary_and_holds_what_its_ids_name():
    source = bucketed()
    for step in (0, 1, 2, 3, 4, 5, 6, 7, 100, 12_345):
        batch = source[step]
        long = batch["token"].shape[1]
        below = {8: 0, 16: 8, 32: 16}[long]
        assert batch["token"].dtype == batch["lengths"].dtype == batch["id"].dtype == np.int32
        assert batch["tag"].dtype == np.float32
        assert batch["token"].shape == (SIZE, long)
        assert batch["tag"].shape == (SIZE, long, 2)
        for row, i in enumerate(batch["id"]):
            n = len(WORDS[i])
            assert below < n <= long
            assert (batch["lengths"][row], batch["label"][row]) == (n, i % 3)
            np.testing.assert_array_equal(batch["token"][row], np.pad(WORDS[i], (0, long - n)))
            np.testing.assert_array_equal(batch["tag"][row, :n], TAGS[i])
            assert not batch["tag"][row, n:].any()


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_after_so_many_epochs_every_example_has_been_seen_so_often_or_once_more(epochs):
    source = bucketed()
    steps = source.steps(epochs)
    times = seen(source, steps)
    assert set(times) <= {epochs, epochs + 1}
    assert times.sum() == steps * SIZE
    assert times.sum() - epochs * COUNT < SIZE * len(source.boundaries)


def test_in_every_bucket_s_stream_every_example_comes_exactly_once_an_epoch():
    source = bucketed()
    streams = {}
    for step in range(source.steps(5)):
        batch = source[step]
        streams.setdefault(batch["token"].shape[1], []).extend(batch["id"].tolist())
    for long, ids in streams.items():
        members = {i for i in set(ids) if len(WORDS[i]) <= long}
        for epoch in range(5):
            part = ids[epoch * len(members) : (epoch + 1) * len(members)]
            assert sorted(part) == sorted(members)


def test_a_step_gives_the_same_batch_in_whatever_order_steps_are_asked_for():
    steps = [0, 7, 3, 1_000_000, 7, 0, 999_999]
    source = bucketed(seed=5)
    for step, batch in [(step, source[step]) for step in steps]:
        fresh = bucketed(seed=5)[step]
        assert batch.keys() == fresh.keys()
        assert all(np.array_equal(batch[name], fresh[name]) for name in batch)


def test_any_step_costs_the_same_to_reach(monkeypatch):
    drawn, batches = [], fn.data.Batches
    draw = batches._permutations
    monkeypatch.setattr(
        batches, "_permutations", lambda self, block: drawn.append(block) or draw(self, block)
    )
    bucketed()[10_000_000]
    assert len(drawn) <= 2


def test_batches_of_buckets_are_interleaved_anew_each_epoch():
    source = bucketed()
    epochs = [range(source.steps(e), source.steps(e + 1)) for e in range(6)]
    orders = [tuple(source[i]["token"].shape[1] for i in steps) for steps in epochs]
    assert len(set(orders)) == 6
    changes = [sum(a != b for a, b in itertools.pairwise(order)) for order in orders]
    assert min(changes) >= 4  # one bucket after another would be 2


def test_the_seed_is_the_order():
    ids = [bucketed(seed=seed)[3]["id"].tolist() for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("epochs", [0, 0.5, 1, 1.5, 2.25])
def test_parts_of_epochs_lie_between(epochs):
    source = bucketed()
    whole = [source.steps(e) for e in (int(epochs), int(epochs) + 1)]
    assert whole[0] <= source.steps(epochs) <= whole[1]
    assert source.steps(epochs) >= epochs * COUNT / SIZE
    assert (source.size, source.examples) == (SIZE, COUNT)


# Padded arrays

PADDED = np.stack([np.pad(w, (0, 32 - len(w)), constant_values=-1) for w in WORDS])


@pytest.mark.parametrize("mapped", [False, True])
def test_padded_arrays_and_their_lengths_give_the_same_batches(mapped, tmp_path):
    array = PADDED
    if mapped:
        np.save(tmp_path / "token.npy", PADDED)
        array = np.load(tmp_path / "token.npy", mmap_mode="r")
    data = {"token": array, "lengths": LENGTHS, "label": DATA["label"]}
    source = fn.data.bucketed(data, SIZE, sequences="token", boundaries=(8, 16, 40))
    other = bucketed(boundaries=(8, 16, 40))
    for step in range(30):
        batch, expected = source[step], other[step]
        assert batch.keys() == expected.keys() - {"tag"}
        for name in batch:
            np.testing.assert_array_equal(batch[name], expected[name])
            assert batch[name].dtype == expected[name].dtype


# Boundaries


def held(lengths, ends):
    """What all examples hold, each padded to the next boundary."""
    return sum(min(e for e in ends if e >= n) for n in lengths)


def test_the_boundaries_chosen_are_the_best_of_all():
    lengths = np.array([1, 1, 2, 4, 4, 5, 9, 9, 9, 12, 13, 13])
    for size, many in ((1, 2), (2, 2), (2, 3), (3, 3)):
        values = sorted(set(lengths.tolist()))
        ways = [(*ends, 13) for ends in itertools.combinations(values[:-1], many - 1)]
        full = [
            ends
            for ends in ways
            if min(np.bincount(np.searchsorted(ends, lengths), minlength=many)) >= size
        ]
        best = min(held(lengths, ends) for ends in full)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("funnet.data.buckets.MOST", many)
            patch.setattr("funnet.data.buckets.SHARE", 0.0)
            found = chosen(lengths, size)
        assert held(lengths, found) == best
        assert len(found) <= many


@pytest.mark.parametrize(("spread", "buckets"), [(0.02, 1), (0.4, None), (0.8, 8)])
def test_as_few_boundaries_are_chosen_as_keep_padding_small(spread, buckets):
    lengths = np.random.default_rng(0).lognormal(4, spread, 20_000).astype(int) + 1
    ends = chosen(lengths, 32)
    assert len(ends) == (buckets or len(ends)) <= 8
    assert ends[-1] == lengths.max()
    padding, one = (1 - lengths.sum() / held(lengths, e) for e in (ends, ends[-1:]))
    assert padding < 0.1 or padding < one / 3


def test_the_share_of_padding_is_told():
    source = bucketed()
    assert source.padding == pytest.approx(1 - LENGTHS.sum() / held(LENGTHS, (8, 16, 32)))
    assert repr(source) == (
        f"Bucketed(103 examples, size=8, boundaries=(8, 16, 32), padding={source.padding:.0%}, "
        "seed=0)"
    )


@pytest.mark.parametrize(
    ("lengths", "ends", "kept"),
    [
        ([1, 2, 3, 4, 5, 6], (1, 3, 6), (3, 6)),  # one of 1: joined to the longer
        ([1, 2, 3, 4, 5, 9], (3, 6, 9), (3, 9)),  # one of 9: takes the shorter ones along
        ([1, 2, 3, 3, 3, 3], (3, 6, 9), (3,)),  # none longer than 3
        ([1, 1, 9, 9, 9, 9], (3, 6, 9), (3, 9)),
        ([1, 8], (3, 9), (9,)),
    ],
)
def test_buckets_that_cannot_fill_a_batch_are_joined(lengths, ends, kept):
    source = fn.data.bucketed({"x": [np.ones(n) for n in lengths]}, 2, boundaries=ends)
    assert source.boundaries == kept
    assert set(seen(source, source.steps(3))) <= {3, 4}


def test_runs_of_one_shape_are_rarely_longer_than_is_told():
    source = bucketed()
    order = [source[i]["token"].shape[1] for i in range(2000)]
    runs = [len(list(run)) for _, run in itertools.groupby(order)]
    assert np.mean(np.array(runs) > source.run_length) < 0.02
    assert fn.data.bucketed({"x": [np.ones(3)] * 9}, 2).run_length > 512


# What is refused

SHORT = [np.ones(2), np.ones(3), np.ones(4)]
REFUSED = {
    "no dict": (SHORT, {}, TypeError, "dict of entries by name, got list"),
    "no sequences": ({"x": np.ones((3, 2))}, {}, ValueError, "no sequences whose lengths"),
    "lengths without names": (
        {"x": np.ones((3, 2)), "lengths": np.ones(3, int)},
        {},
        ValueError,
        r"sequences is \(\), expected the names .* out of x",
    ),
    "a name that is none": (
        {"x": np.ones((3, 2)), "lengths": np.ones(3, int)},
        {"sequences": "y"},
        ValueError,
        "sequences is",
    ),
    "lengths too long": (
        {"x": np.ones((3, 2)), "lengths": np.array([1, 2, 3])},
        {"sequences": ("x",)},
        ValueError,
        "up to 2, the length of the padded arrays, got int32 .* up to 3",
    ),
    "floating lengths": (
        {"x": np.ones((3, 2)), "lengths": np.ones(3)},
        {"sequences": ("x",)},
        ValueError,
        "must be integers",
    ),
    "an empty one": ({"x": [*SHORT, np.ones(0)]}, {}, ValueError, "example 3 has 0 elements"),
    "too long": ({"x": SHORT}, {"boundaries": (2, 3)}, ValueError, "example 2 has 4 elements: add"),
    "falling": ({"x": SHORT}, {"boundaries": (4, 2)}, ValueError, "expected rising lengths"),
    "none": ({"x": SHORT}, {"boundaries": ()}, ValueError, "expected rising lengths"),
    "floats": ({"x": SHORT}, {"boundaries": (2.5,)}, TypeError, "boundaries must be an integer"),
    "zero": ({"x": SHORT}, {"boundaries": (0, 9)}, ValueError, "boundaries is 0"),
    "other lengths": ({"x": SHORT, "y": SHORT[::-1]}, {}, ValueError, "'x'.*'y'.*same lengths"),
    "other widths": (
        {"x": [np.ones((2, 3)), np.ones((2, 4))]},
        {},
        ValueError,
        r"differ in T alone.*\(2, 3\) and element 1 \(2, 4\)",
    ),
    "NaN": ({"x": [*SHORT, np.array([1, np.nan])]}, {}, ValueError, "row 3 holds nan"),
    "wide": ({"x": [[1], [2**40]]}, {}, ValueError, "row 1 holds"),
    "strings": ({"x": [["a"], ["b", "c"]]}, {}, TypeError, "'x'.*array of numbers"),
    "labels": ({"x": SHORT, "label": np.zeros(2, int)}, {}, ValueError, "3 sequences and 2 rows"),
    "size": ({"x": SHORT}, {"size": 4}, ValueError, "size is 4, expected 1 <= size <= 3"),
    "seed": ({"x": SHORT}, {"seed": -1}, ValueError, "seed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_put_into_buckets_is_refused_at_the_door(case):
    data, how, error, words = REFUSED[case]
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        fn.data.bucketed(data, **{"size": 1, **how})


def test_a_step_before_the_first_is_refused():
    with pytest.raises(IndexError, match=r"counted from 0, got -1"):
        bucketed()[-1]
