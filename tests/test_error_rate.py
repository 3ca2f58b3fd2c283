"""Edit distances beside the textbook's table, and the error rate as their sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funnet import metrics


def levenshtein(a, b):
    """The table of Wagner and Fischer, entry by entry."""
    table = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            ways = (table[i, j] + (x != y), table[i, j + 1] + 1, table[i + 1, j] + 1)
            table[i + 1, j + 1] = min(ways)
    return table[len(a), len(b)]


def draw(seed, n=6):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 9, 2)
    a, b = (rng.integers(0, 3, (n, size)).astype(np.int32) for size in sizes)
    lengths = [rng.integers(0, size + 1, n).astype(np.int32) for size in sizes]
    expected = [levenshtein(x[:i], y[:j]) for x, y, i, j in zip(a, b, *lengths, strict=True)]
    return (a, b, *lengths), np.asarray(expected, np.int32)


@pytest.mark.parametrize("seed", range(30))
def test_it_is_the_table(seed):
    given, expected = draw(seed)
    for distance in (metrics.edit_distance, jax.jit(metrics.edit_distance)):
        found = distance(*given)
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, expected)


def test_words_and_their_distances():
    words = ["kitten", "sitting", "", "abc"]
    padded = np.array([[*word.encode()] + [0] * (7 - len(word)) for word in words], np.uint8)
    sizes = np.array([len(word) for word in words])
    for i, j, expected in [(0, 1, 3), (2, 3, 3), (3, 2, 3), (1, 1, 0)]:
        some = (padded[i : i + 1], padded[j : j + 1], sizes[i : i + 1], sizes[j : j + 1])
        assert metrics.edit_distance(*some).tolist() == [expected]


def test_the_rate_is_of_edits_to_labels():
    given, expected = draw(3)
    rate = metrics.error_rate(*given)
    assert rate.total.dtype == rate.count.dtype == jnp.int32
    assert (rate.total, rate.count) == (expected.sum(), given[3].sum())


def test_parts_add_up_and_padding_is_not_there():
    given, _ = draw(5)
    parts = [metrics.error_rate(*(x[s] for x in given)) for s in (slice(0, 2), slice(2, None))]
    whole, total = metrics.error_rate(*given), parts[0] + parts[1]
    assert (total.total, total.count) == (whole.total, whole.count)
    weight = np.array([1, 0, 2, 0, 0, 1])
    found = metrics.error_rate(*given, weight)
    rows = np.repeat(np.arange(6), weight)
    expected = metrics.error_rate(*(x[rows] for x in given))
    assert (found.total, found.count) == (expected.total, expected.count)


def test_wrong_input_meets_a_message():
    a, b, i, j = np.zeros((2, 3), int), np.zeros((2, 4), int), np.array([3, 3]), np.array([4, 4])
    with pytest.raises(ValueError, match=r"guesses has shape \(3,\) and labels has shape \(2, 4\)"):
        metrics.edit_distance(a[0], b, i, j)
    with pytest.raises(ValueError, match=r"guess_lengths\[1\] is 4, expected 0 <= guess_lengths"):
        metrics.edit_distance(a, b, np.array([3, 4]), j)
    with pytest.raises(ValueError, match=r"label_lengths has shape \(1,\), expected one for each"):
        metrics.edit_distance(a, b, i, j[:1])
    with pytest.raises(TypeError, match="labels must be integers, got float64"):
        metrics.edit_distance(a, b.astype(float), i, j)
    with pytest.raises(ValueError, match=r"weight has shape \(3,\), expected \(2,\)"):
        metrics.error_rate(a, b, i, j, np.ones(3))
