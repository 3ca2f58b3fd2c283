"""Loaders of grain: the same batches, positions that resume, ends and elements that are refused."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet.train.feed import Feed

grain = pytest.importorskip("grain")

COUNT, SIZE = 22, 4
READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


class Examples:
    """A data source of grain, with the wide dtypes that NumPy makes by default."""

    def __len__(self):
        return COUNT

    def __getitem__(self, i):
        return {"x": np.full(3, i / 4), "label": np.int64(i)}

    def __repr__(self):  # by which grain knows it again
        return "Examples"


def mapped(epochs=None):
    return grain.MapDataset.source(Examples()).shuffle(seed=3).repeat(epochs).batch(SIZE)


def iterated(epochs=None):
    examples = grain.MapDataset.source(Examples()).shuffle(seed=3).repeat(epochs)
    return examples.to_iter_dataset(READ).filter(lambda x: x["label"] % 5 > 0).batch(SIZE)


def windowed(epochs=None):
    return grain.experimental.WindowShuffleIterDataset(iterated(epochs), window_size=3, seed=1)


def loaded(epochs=None):
    sampler = grain.samplers.IndexSampler(
        COUNT, grain.sharding.NoSharding(), shuffle=True, num_epochs=epochs, seed=1
    )
    batch = grain.transforms.Batch(SIZE)
    return grain.DataLoader(
        data_source=Examples(), sampler=sampler, operations=[batch], read_options=READ
    )


KINDS = {"map": mapped, "iter": iterated, "window": windowed, "loader": loaded}


@pytest.fixture(params=KINDS)
def make(request):
    return KINDS[request.param]


def plain(make, steps):
    """The labels that grain itself gives."""
    iterator = iter(make())
    return [next(iterator)["label"].tolist() for _ in range(steps)]


def labels(source, steps):
    return [source[step]["label"].tolist() for step in steps]


def test_batches_are_grain_s_own_in_dtypes_that_a_device_takes(make):
    source = fn.data.from_grain(make())
    assert labels(source, range(9)) == plain(make, 9)
    batch = source[9]
    assert {name: (x.shape, x.dtype.name) for name, x in batch.items()} == {
        "x": ((SIZE, 3), "float32"),
        "label": ((SIZE,), "int32"),
    }


def test_steps_may_be_asked_for_in_any_order(make):
    source = fn.data.from_grain(make())
    expected = plain(make, 9)
    for step in (7, 3, 8, 0, 0):
        assert source[step]["label"].tolist() == expected[step]


@pytest.mark.parametrize("kind", ["iter", "window", "loader"])
def test_a_training_that_was_killed_goes_on_with_the_batch_that_would_have_come(kind):
    make, expected, met, text = KINDS[kind], plain(KINDS[kind], 20), [], ""
    with Feed(fn.data.from_grain(make()), 20) as feed:
        while len(met) < 9:
            arrays, rows, steps = feed.take(len(met), 4)
            met += [arrays["label"][rows + i].tolist() for i in range(steps)]
        reader = feed._reader
        with reader._changed:  # all is read ahead that there is
            assert reader._changed.wait_for(lambda: reader.read == reader.stop, 20)
        text = json.dumps(feed.position(len(met)))  # and nothing else is left of it
    with Feed(fn.data.from_grain(make()), 20) as feed:
        feed.seek(len(met), json.loads(text))
        while len(met) < 20:
            arrays, rows, steps = feed.take(len(met), 4)
            met += [arrays["label"][rows + i].tolist() for i in range(steps)]
    assert met == expected


def test_a_position_of_the_loader_is_its_own_state_as_text():
    source, iterator = fn.data.from_grain(loaded()), iter(loaded())
    for step in range(3):
        assert source.position(step) == iterator.get_state().decode()
        source[step], next(iterator)
    state = source.position(3)
    assert source.position(1) != state  # by going back, and forth again
    assert source.position(3) == state


def test_any_step_of_a_map_dataset_is_reached_and_it_needs_no_position():
    source = fn.data.from_grain(mapped())
    assert source[100_000]["label"].shape == (SIZE,)
    assert not hasattr(source, "position")


def counting(run, batch):
    return run.next(params=run.params + batch["label"].sum()), {}


def started(step=0):
    return fn.Run(jnp.int32(0), {}, (), jnp.int32(step), jnp.uint32(0))


def test_fit_trains_on_it(make):
    run = fn.fit(counting, started(), fn.data.from_grain(make()), steps=13, progress=False)
    assert int(run.params) == np.sum(plain(make, 13))


def test_a_training_that_was_cut_goes_on_in_the_same_loader(make):
    source, run = fn.data.from_grain(make()), started()
    for steps in (4, 5, 13):
        run = fn.fit(counting, run, source, steps=steps, progress=False)
    again = fn.fit(counting, started(), source, steps=13, progress=False)
    assert int(run.params) == int(again.params) == np.sum(plain(make, 13))


@pytest.mark.parametrize("kind", ["map", "iter", "loader"])
def test_a_loader_that_ends_too_soon_says_at_which_step(kind):
    many = len(list(KINDS[kind](1)))
    with pytest.raises(IndexError, match=f"ends before step {many}: it has {many}") as caught:
        fn.fit(counting, started(), fn.data.from_grain(KINDS[kind](1)), steps=20, progress=False)
    assert int(caught.value.run.step) == many
    assert "num_epochs=None" in str(caught.value)
    assert f"while batch {many} was read" in caught.value.__notes__


def of(elements):
    return grain.MapDataset.source(elements)


WRONG = {
    "single examples": (of([{"x": np.ones(2), "label": 3}]), TypeError, r"'label'.*\.batch\(size"),
    "no dicts": (of([np.ones(2)]), TypeError, r"dicts of arrays, but element 0 .*\.map\("),
    "strings": (of([{"x": np.array(["a"])}]), TypeError, "'x'.*array of numbers"),
    "NaN": (of([{"x": np.array([1, np.nan])}]), ValueError, "'x'.*finite, but row 1 holds nan"),
    "wide labels": (of([{"label": np.array([2**40])}]), ValueError, "'label'.*row 0 holds"),
    "filtered": (of([1, 2]).filter(lambda x: x > 1), TypeError, "dicts of arrays"),
}


@pytest.mark.parametrize("case", WRONG)
def test_elements_that_are_no_batches_are_refused(case):
    dataset, error, words = WRONG[case]
    for source in (dataset, dataset.repeat().map(lambda x: x)):
        with pytest.raises(error, match=words):
            fn.data.from_grain(source)[0]


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        ([1, 2], "got list: see grain.load"),
        (iter([1]), "got list_iterator: give what it is an iterator of"),
    ],
)
def test_what_is_no_loader_is_refused(loader, words):
    with pytest.raises(TypeError, match=words):
        fn.data.from_grain(loader)


def test_without_grain_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"pip install 'funnet\[grain\]'"):
        fn.data.from_grain([])
