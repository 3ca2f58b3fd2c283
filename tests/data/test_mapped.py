"""Memory-mapped data: never read as a whole, checked as it is read, in bounded memory."""

import pathlib
import subprocess
import sys

import numpy as np
import optax
import pytest

import funnet as fn
from funnet.train.feed import Feed

ROOT = pathlib.Path(__file__).resolve().parents[2]


def stored(folder, **arrays):
    """The arrays as memory-mapped files."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in arrays}


ARRAYS = {
    "image": np.arange(60, dtype=np.float64).reshape(20, 3),
    "token": np.arange(20),
    "byte": np.arange(20, dtype=np.uint8),
    "label": np.arange(20, dtype=np.uint8) % 3,
}


def test_batches_are_those_of_the_same_data_in_memory(tmp_path):
    source, other = fn.data.batches(stored(tmp_path, **ARRAYS), 6), fn.data.batches(ARRAYS, 6)
    for step in range(9):
        batch, expected = source[step], other[step]
        assert batch.keys() == expected.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], expected[name], strict=True)
            assert not isinstance(batch[name], np.memmap)


def test_evaluation_is_that_of_the_same_data_in_memory(tmp_path):
    model = fn.Model(fn.dense, features=3)
    objective = fn.classification(model)
    run = fn.Run.start(model, optax.sgd(0.1), np.ones((1, 3), np.float32))
    data = {name: ARRAYS[name] for name in ("image", "label")}
    found = fn.evaluate(objective, run, stored(tmp_path, **data), batch_size=6)
    assert found == fn.evaluate(objective, run, data, batch_size=6)
    bad = {**data, "image": np.where(np.arange(60).reshape(20, 3) == 51, np.nan, data["image"])}
    with pytest.raises(ValueError, match="row 17 holds nan"):
        fn.evaluate(objective, run, stored(tmp_path, **bad), batch_size=6)


def test_they_stay_on_the_disk_though_they_would_fit(tmp_path):
    with Feed(fn.data.batches(stored(tmp_path, **ARRAYS), 6), 3) as feed:
        assert feed.data is None


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("x", np.array([1, 2, np.nan, 4]), r"data\['x'\] must be finite, but row 2 holds nan"),
        ("x", np.array([1, 2, 1e300, 4]), "must fit float32, but row 2 does not"),
        ("label", np.array([1, 2, 2**40, 4]), "must fit int32, but row 2 holds 1099511627776"),
    ],
)
def test_values_are_checked_as_they_are_read_and_named_by_their_row_in_the_data(
    name, array, words, tmp_path
):
    source = fn.data.batches(stored(tmp_path, **{name: array}), 1)
    at = next(step for step in range(4) if source.rows(step, 1) == 2)
    with pytest.raises(ValueError, match=words):
        source[at]
    assert source[at + 1][name].shape == (1,)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("x", np.array(["a", "b"]), "'x'.*array of numbers"),
        ("label", np.ones(2), "'label'.*must be integers"),
    ],
)
def test_what_it_is_is_checked_at_the_door(name, array, words, tmp_path):
    with pytest.raises(TypeError, match=words):
        fn.data.batches(stored(tmp_path, **{name: array}), 1)


MANY, WIDE = 800, 2**16  # rows and floats in one: 200 MiB
SCRIPT = """
import sys
import jax.numpy as jnp
import numpy as np
import funnet as fn
from funnet.train import prefetch

prefetch.STREAMED, prefetch.AHEAD = 2**22, 2**23

def kept(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024

class Watched:
    most = 0
    def __init__(self, source):
        self.source = source
    def __getitem__(self, step):
        batch = self.source[step]
        self.most = max(self.most, kept("RssAnon"))
        return batch

def step(run, batch):
    return run.next(params=run.params + batch["x"].sum()), {}

def trained(data, steps):
    source = Watched(fn.data.batches(data, 4))
    run = fn.Run(jnp.float32(0), {}, (), jnp.int32(0), jnp.uint32(0))
    run = fn.fit(step, run, source, steps=steps, progress=False)
    return source.most, float(run.params)

trained({"x": np.zeros((8, 2**16), np.float32)}, 5)  # compiles
before, peak = kept("RssAnon"), kept("VmHWM")
data = {"x": np.load(sys.argv[1], mmap_mode="r")}
_, few = trained(data, 5)
print(kept("VmHWM") - peak)  # pages of the file among them
most, total = trained(data, 200)
print(most - before)
print(total)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_file_is_trained_on_in_a_part_of_the_memory_that_it_would_take(tmp_path):
    path = tmp_path / "x.npy"
    array = np.lib.format.open_memmap(path, "w+", np.float32, (MANY, WIDE))  # sparse
    array[::100, 0] = 1
    del array
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    at_first, most, total = map(float, found.stdout.split())
    assert at_first < 64 * 2**20  # five batches of 1 MiB; the file was not read to check it
    assert most < 64 * 2**20  # in a whole epoch
    assert total == MANY / 100
