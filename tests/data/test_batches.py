"""Batches: a pure, seekable stream that shows every example once an epoch, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet.data.batches import TOGETHER, Batches

DRAWN = np.random.default_rng(0)
SIZES = [(1, 1), (7, 7), (7, 1), (10, 4), (64, 63), (50, 16)]
SIZES += [(n, int(DRAWN.integers(1, n + 1))) for n in DRAWN.integers(2, 60, 14).tolist()]


def numbered(count):
    """Examples that can be told apart, in three dtypes."""
    rows = np.arange(count)
    return {
        "image": (rows[:, None] * np.ones((1, 3))).astype(np.float32),
        "byte": (rows % 256).astype(np.uint8),
        "label": rows % 3,
    }


def stream_of(count, size, *, seed=0, steps=None):
    batches = fn.data.batches(numbered(count), size, seed=seed)
    return batches.rows(0, batches.steps(3) if steps is None else steps).ravel()


@pytest.mark.parametrize(("count", "size"), SIZES)
def test_every_epoch_shows_every_example_exactly_once(count, size):
    stream = stream_of(count, size)
    for epoch in range(3):
        rows = stream[epoch * count : (epoch + 1) * count]
        np.testing.assert_array_equal(np.sort(rows), np.arange(count))


@pytest.mark.parametrize(("count", "size"), SIZES)
def test_a_batch_is_full_and_holds_the_rows_that_its_ids_name(count, size):
    data = numbered(count)
    batches = fn.data.batches(data, size)
    for step in (0, 1, 5, 12_345):
        batch = batches[step]
        assert batch.keys() == {"id", *data}
        assert batch["id"].shape == (size,)
        assert batch["id"].dtype == np.int32
        for name, array in data.items():
            np.testing.assert_array_equal(batch[name], array[batch["id"]])


def test_a_step_gives_the_same_batch_in_whatever_order_steps_are_asked_for():
    steps = [0, 7, 3, 1_000_000, 7, 0, 2, 999_999, 3]
    batches = fn.data.batches(numbered(10), 4, seed=5)
    met = [batches[step]["id"] for step in steps]
    for step, ids in zip(steps, met, strict=True):
        fresh = fn.data.batches(numbered(10), 4, seed=5)
        np.testing.assert_array_equal(fresh[step]["id"], ids)
        np.testing.assert_array_equal(batches[step]["id"], ids)


def counted(monkeypatch):
    """A list that grows by the number of each block of epochs whose order is drawn."""
    drawn, draw = [], Batches._permutations
    monkeypatch.setattr(
        Batches, "_permutations", lambda self, block: drawn.append(block) or draw(self, block)
    )
    return drawn


def test_any_step_costs_the_same_to_reach(monkeypatch):
    drawn = counted(monkeypatch)
    fn.data.batches(numbered(TOGETHER), 4)[0]
    assert drawn == [0]
    fn.data.batches(numbered(TOGETHER), 4)[1_000_000]
    assert drawn == [0, 4_000_000 // TOGETHER]


def test_reading_on_draws_each_epoch_once(monkeypatch):
    drawn = counted(monkeypatch)
    batches = fn.data.batches(numbered(TOGETHER), 400)
    for step in range(25):
        batches[step]
    assert drawn == list(range(10))


def test_small_data_sets_draw_many_epochs_together(monkeypatch):
    drawn, size = counted(monkeypatch), 8
    batches = fn.data.batches(numbered(size), size - 1)
    epochs = 3 * TOGETHER // size
    stream = np.concatenate([batches[step]["id"] for step in range(epochs * size // (size - 1))])
    assert drawn == [0, 1, 2]
    orders = stream[: len(stream) // size * size].reshape(-1, size)
    assert (np.sort(orders, axis=1) == np.arange(size)).all()
    assert len(np.unique(orders, axis=0)) > 0.9 * len(orders)
    firsts = np.bincount(orders[:, 0], minlength=size)
    assert np.square(firsts / len(orders) - 1 / size).sum() * len(orders) < 4


def test_a_batch_of_all_has_them_as_they_lie():
    batches = fn.data.batches(numbered(6), 6)
    assert batches.rows(7, 2).tolist() == [[*range(6)]] * 2
    assert batches.rows(0, 1).dtype == np.int32


@pytest.mark.parametrize("kind", [int, np.int32, np.int64, np.uint8, jnp.int32])
def test_a_step_may_be_any_integer(kind):
    batches = fn.data.batches(numbered(10), 4)
    np.testing.assert_array_equal(batches[kind(200)]["id"], batches[200]["id"])


@pytest.mark.parametrize("kind", [np.int32, jnp.int32])
def test_a_far_step_does_not_overflow(kind):
    batches = fn.data.batches(numbered(5000), 4096)
    np.testing.assert_array_equal(batches[kind(1_000_000)]["id"], batches[1_000_000]["id"])


def test_a_step_before_the_first_is_refused():
    with pytest.raises(IndexError, match=r"counted from 0, got -1"):
        fn.data.batches(numbered(10), 4)[-1]


def test_epochs_differ_and_look_random():
    stream = stream_of(50, 5).reshape(3, 50)
    assert not any((stream[i] == stream[j]).all() for i in range(3) for j in range(i))
    first = [stream_of(10, 1, seed=seed, steps=1)[0] for seed in range(500)]
    counts = np.bincount(first, minlength=10)
    assert ((counts - 50) ** 2 / 50).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_the_seed_is_the_order():
    np.testing.assert_array_equal(stream_of(50, 5, seed=1), stream_of(50, 5, seed=1))
    assert (stream_of(50, 5, seed=1) != stream_of(50, 5, seed=2)).any()


def test_a_seed_is_no_epoch():
    stream = [stream_of(50, 5, seed=seed).reshape(3, 50) for seed in range(4)]
    orders = {row.tobytes() for three in stream for row in three}
    assert len(orders) == 12


def test_the_order_does_not_depend_on_the_batch_size():
    np.testing.assert_array_equal(stream_of(30, 10, steps=9), stream_of(30, 6, steps=15))


@pytest.mark.parametrize(("count", "size"), SIZES[:6])
@pytest.mark.parametrize(("step", "steps"), [(0, 1), (0, 9), (3, 40), (1_000_000, 7)])
def test_rows_are_the_ids_of_the_steps(count, size, step, steps):
    batches = fn.data.batches(numbered(count), size)
    rows = batches.rows(step, steps)
    assert rows.shape == (steps, size)
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows, [batches[step + i]["id"] for i in range(steps)])


@pytest.mark.parametrize(
    ("count", "size", "epochs", "steps"),
    [
        (10, 4, 1, 3),
        (10, 5, 1, 2),
        (10, 10, 7, 7),
        (10, 1, 0.1 + 0.2, 3),  # 0.30000000000000004
        (10, 1, 0.25, 3),
        (60_000, 256, 0.75, 176),
        (10, 4, 0, 0),
        (1, 1, 5, 5),
    ],
)
def test_steps_are_the_fewest_that_show_so_many_epochs(count, size, epochs, steps):
    images = {"image": np.zeros((count, 1), np.uint8)}
    assert fn.data.batches(images, size).steps(epochs) == steps


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("float64", "float32"),
        ("float32", "float32"),
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        ("uint8", "uint8"),
        ("int16", "int16"),
        ("bool", "bool"),
        ("int64", "int32"),
        ("uint64", "int32"),
    ],
)
def test_entries_become_what_a_device_takes(given, kept):
    array = np.array([[0, 1], [1, 0]]).astype(jnp.dtype(given))
    entry = fn.data.batches({"it": array}, 2)[0]["it"]
    assert entry.dtype == jnp.dtype(kept)
    assert jnp.asarray(entry).dtype == jnp.dtype(kept)


@pytest.mark.parametrize("given", ["int64", "uint8", "int8", "uint32", "bool"])
def test_labels_become_int32(given):
    labels = np.array([1, 0, 1]).astype(given)
    batch = fn.data.batches({"label": labels}, 3)[0]
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], labels[batch["id"]])


def test_integers_up_to_the_limits_of_int32_pass():
    limits = np.array([-(2**31), 2**31 - 1])
    batch = fn.data.batches({"count": limits}, 2)[0]
    np.testing.assert_array_equal(batch["count"], limits[batch["id"]])


def test_lists_and_device_arrays_are_data_too():
    data = {"a": [[1.0, 2.0], [3.0, 4.0]], "label": jnp.array([0, 1])}
    batch = fn.data.batches(data, 2)[0]
    assert batch["a"].dtype == np.float32
    assert isinstance(batch["label"], np.ndarray)


def test_ids_of_ones_own_are_kept():
    batch = fn.data.batches({"id": np.array([70, 80, 90]), "label": np.array([7, 8, 9])}, 2)[0]
    np.testing.assert_array_equal(batch["id"], 10 * batch["label"])


def with_entry(name, array):
    return {"image": np.zeros((3, 2), np.uint8), name: array}


REFUSED = {
    "no dict": (np.ones((3, 2)), TypeError, "data must be a dict of arrays by name, got ndarray"),
    "a list": ([np.ones(3)], TypeError, "data must be a dict of arrays by name, got list"),
    "no entries": ({}, TypeError, "data must be a dict of arrays by name"),
    "no rows": ({"image": np.zeros((0, 2))}, ValueError, "data is empty: image"),
    "lengths": (with_entry("label", np.arange(2)), ValueError, "'image': 3, 'label': 2"),
    "float labels": (
        with_entry("label", np.array([0.0, 1, 2])),
        TypeError,
        r"data\['label'\] must be integers, got float64 \(row 0 .*label.astype\('int32'\)",
    ),
    "one-hot labels": (with_entry("label", np.eye(3)), TypeError, "must be integers, got float64"),
    "wide": (
        with_entry("token", np.array([1, 2**31, 3])),
        ValueError,
        r"data\['token'\] must fit int32, but row 1 holds 2147483648",
    ),
    "wide below": (
        with_entry("token", np.array([1, 2, -(2**31) - 1])),
        ValueError,
        "row 2 holds -2147483649",
    ),
    "wide unsigned": (
        with_entry("token", np.array([1, 2**63, 3], np.uint64)),
        ValueError,
        "row 1 holds 9223372036854775808",
    ),
    "wide labels": (with_entry("label", np.array([0, 1, 2**40])), ValueError, "'label'.* row 2"),
    "NaN": (
        with_entry("depth", np.array([[1, 2], [3, 4], [np.nan, 6]])),
        ValueError,
        r"data\['depth'\] must be finite, but row 2 holds nan",
    ),
    "infinity": (
        with_entry("depth", np.array([1, -np.inf, 3], np.float16)),
        ValueError,
        "row 1 holds -inf",
    ),
    "NaN in bfloat16": (
        with_entry("depth", jnp.array([1, jnp.nan, 3], jnp.bfloat16)),
        ValueError,
        "row 1 holds nan",
    ),
    "beyond float32": (
        with_entry("depth", np.array([1.0, 2.0, 1e300])),
        ValueError,
        "'depth'.* row 2",
    ),
    "strings": (with_entry("name", np.array(["x", "y", "z"])), TypeError, "'name'.*array of num"),
    "objects": (with_entry("name", np.array([None, 1, "z"], object)), TypeError, "object"),
    "complex": (with_entry("wave", np.ones(3, complex)), TypeError, "complex128"),
    "scalar": (with_entry("rate", 0.5), TypeError, r"'rate'.*one row for each.*shape \(\)"),
    "ragged": (with_entry("words", [[1, 2], [3], [4]]), ValueError, "words"),
    "keys": (with_entry("key", jax.random.split(jax.random.key(0), 3)), TypeError, "key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_data_is_refused_at_the_door(case):
    data, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        fn.data.batches(data, 1)


@pytest.mark.parametrize(
    ("size", "error", "words"),
    [
        (0, ValueError, "size is 0, expected 1 <= size <= 3"),
        (-2, ValueError, "size is -2"),
        (4, ValueError, "size is 4, expected 1 <= size <= 3"),
        (2.0, TypeError, r"size must be an integer, got 2.0; write int\(size\)"),
        ("2", TypeError, "size must be an integer, got '2'"),
        (None, TypeError, "size must be an integer"),
    ],
)
def test_bad_sizes_are_refused(size, error, words):
    with pytest.raises(error, match=words):
        fn.data.batches({"image": np.zeros((3, 2))}, size)


@pytest.mark.parametrize("seed", [-1, 1.5, "x", None])
def test_bad_seeds_are_refused_at_the_door(seed):
    with pytest.raises((ValueError, TypeError), match="seed"):
        fn.data.batches({"image": np.zeros((3, 2))}, 1, seed=seed)


def test_it_says_what_it_is():
    text = repr(fn.data.batches(numbered(10), 4, seed=3))
    assert text == "Batches(10 examples, size=4, seed=3)"
