"""Metrics: the sum of the parts is the metric of the whole, and what the parts are."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funnet import metrics

CASES = range(4)


def draw(seed, examples=23, classes=5):
    """Logits with ties, labels, and weights of which some are zero."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-3, 4, (examples, classes)).astype(np.float32)
    labels = rng.integers(0, classes, examples).astype(np.int32)
    return logits, labels, rng.integers(0, 3, examples).astype(np.float32)


def cut(seed, *arrays):
    """Batches of unequal size in a drawn order, one of them empty."""
    sizes = np.random.default_rng(seed).permutation([0, 1, 8, 14])
    return zip(*(np.split(x, np.cumsum(sizes)[:-1]) for x in arrays), strict=True)


def add_up(parts):
    return functools.reduce(operator.add, parts)


def in_top_k(logits, labels, k):
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return (order == labels[:, None]).any(axis=1)


METRICS = {
    "mean": lambda x, y, w=None: metrics.mean(x.max(axis=1), w),
    "accuracy": metrics.accuracy,
    "top_k": lambda x, y, w=None: metrics.top_k(x, y, 3, w),
    "confusion_matrix": metrics.confusion_matrix,
}
COMPILED = {name: jax.jit(metric) for name, metric in METRICS.items()}
each_metric = pytest.mark.parametrize("name", METRICS)
each_case = pytest.mark.parametrize("seed", CASES)


def assert_same_bits(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


class TestAddingUp:
    @each_case
    @each_metric
    def test_unequal_batches_are_the_whole(self, name, seed):
        logits, labels, weight = draw(seed)
        metric, compiled = METRICS[name], COMPILED[name]
        whole, parts = metric(logits, labels), cut(seed, logits, labels)
        assert_same_bits(add_up(compiled(x, y) for x, y in parts), whole)
        whole, parts = metric(logits, labels, weight), cut(seed, logits, labels, weight)
        assert_same_bits(add_up(compiled(x, y, w) for x, y, w in parts), whole)

    @each_case
    @each_metric
    def test_padding_is_not_there(self, name, seed):
        logits, labels, _ = draw(seed)
        rng = np.random.default_rng(seed)
        padding = rng.choice([np.nan, np.inf, 9.0], (4, 5)).astype(np.float32)
        padded = np.concatenate([logits, padding])
        weight = np.arange(27) < 23
        expected = METRICS[name](logits, labels)
        # Not compiled: XLA makes `nan * weight` a choice where the weight is a boolean.
        result = METRICS[name](padded, np.pad(labels, (0, 4)), weight)
        assert_same_bits(result, expected)

    @each_metric
    def test_on_the_host_too(self, name):
        logits, labels, weight = draw(0)
        part = METRICS[name](logits, labels, weight)
        host = jax.tree.map(lambda x: np.asarray(x, np.float64), part)
        for total in (host + host, host + part, part + host):
            assert all(isinstance(x, np.ndarray | np.float64) for x in jax.tree.leaves(total))
            np.testing.assert_allclose(total.total, 2 * np.asarray(part.total))
        ours = np.asarray((part + part).value)
        np.testing.assert_allclose(np.asarray((host + host).value), ours, rtol=1e-6)

    def test_the_host_counts_beyond_32_bits(self):
        large = metrics.Mean(np.int64(2**40), np.int64(2**41))
        total = large + metrics.Mean(jnp.int32(1), jnp.int32(1))
        assert (total.total, total.count) == (2**40 + 1, 2**41 + 1)
        assert total.value == (2**40 + 1) / (2**41 + 1)

    @each_metric
    def test_inside_jit_and_scan(self, name):
        logits, labels, weight = draw(1, examples=24)
        metric = METRICS[name]
        batches = [x.reshape(4, 6, *x.shape[1:]) for x in (logits, labels, weight)]
        first = jax.eval_shape(metric, *(x[0] for x in batches))
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
        step = lambda total, batch: (total + metric(*batch), None)  # noqa: E731
        total, _ = jax.jit(lambda batches: jax.lax.scan(step, zero, batches))(batches)
        assert_same_bits(total, COMPILED[name](logits, labels, weight))

    def test_means_and_sums_do_not_mix(self):
        with pytest.raises(TypeError, match="unsupported operand"):
            _ = metrics.Mean(1, 1) + metrics.Sum(1)
        with pytest.raises(TypeError, match="unsupported operand"):
            _ = metrics.Sum(1) + 1


class TestMean:
    def test_of_nothing_is_nan(self):
        for zero in (jnp.int32(0), jnp.float32(0), np.int64(0), np.float64(0), 0):
            assert np.isnan(metrics.Mean(zero, zero).value)
        assert np.isnan(metrics.mean(jnp.zeros(0)).value)
        assert np.isnan(metrics.mean(jnp.ones(3), jnp.zeros(3)).value)

    def test_is_the_weighted_mean(self):
        rng = np.random.default_rng(0)
        values, weight = rng.normal(size=50), rng.uniform(size=50)
        result = metrics.mean(values, weight)
        assert result.total.dtype == result.count.dtype == jnp.float32
        np.testing.assert_allclose(result.value, np.average(values, weights=weight), rtol=1e-5)
        np.testing.assert_allclose(metrics.mean(values).value, values.mean(), rtol=1e-5)

    def test_axes_after_the_first_are_averaged(self):
        values = np.arange(24.0).reshape(2, 3, 4)
        result = metrics.mean(values, np.array([1, 3]))
        np.testing.assert_allclose(result.value, (5.5 + 3 * 17.5) / 4)
        assert result.count == 4

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_half_precision_sums_in_float32(self, dtype):
        values = jnp.ones(5000, dtype)  # bfloat16 would stop at 256, float16 at 2048
        for result in (metrics.mean(values), metrics.mean(values, values)):
            assert result.total.dtype == jnp.float32
            assert (result.total, result.count) == (5000, 5000)
        assert metrics.mean(jnp.ones((2, 5000), dtype)).total == 2

    def test_float64_is_kept(self):
        with jax.enable_x64(True):
            result = metrics.mean(np.array([0.1, 0.2]), np.ones(2, np.float32))
            assert result.value.dtype == np.float64
            np.testing.assert_allclose(result.value, 0.15, rtol=1e-15)

    @pytest.mark.parametrize("weight", [None, np.array([1, 2, 0]), np.array([True, True, False])])
    def test_whole_numbers_stay_whole(self, weight):
        result = metrics.mean(np.array([True, False, True]), weight)
        assert result.total.dtype == result.count.dtype == jnp.int32
        assert result.value.dtype == jnp.float32

    def test_no_gradient_comes_from_padding(self):
        def objective(x):
            return metrics.mean(jnp.log(x), jnp.array([1.0, 0.0])).value

        gradient = jax.grad(objective)(jnp.array([2.0, -1.0]))
        np.testing.assert_array_equal(gradient, [0.5, 0.0])

    def test_a_nan_that_counts_is_seen(self):
        assert np.isnan(metrics.mean(jnp.array([jnp.nan, 1.0]), jnp.ones(2)).value)

    def test_weights_are_checked(self):
        with pytest.raises(ValueError, match=r"weight has shape \(3, 1\), expected \(3,\)"):
            metrics.mean(np.zeros(3), np.ones((3, 1)))
        with pytest.raises(ValueError, match=r"weight\[1\] is -2.0, expected 0 <= weight"):
            metrics.mean(np.zeros(2), np.array([1.0, -2.0]))
        assert np.isnan(jax.jit(metrics.mean)(np.ones(2), np.array([3.0, -1.0])).value)
        with pytest.raises(ValueError, match=r"values has shape \(\), expected a first axis"):
            metrics.mean(np.float32(1))


class TestTopK:
    @each_case
    @pytest.mark.parametrize("k", [1, 2, 5])
    def test_is_a_stable_sort(self, seed, k):
        logits, labels, weight = draw(seed)
        correct = in_top_k(logits, labels, k)
        result = metrics.top_k(logits, labels, k)
        assert result.total.dtype == result.count.dtype == jnp.int32
        assert (result.total, result.count) == (correct.sum(), len(labels))
        result = metrics.top_k(logits, labels, k, weight)
        assert (result.total, result.count) == ((correct * weight).sum(), weight.sum())

    @each_case
    def test_accuracy_is_the_argmax(self, seed):
        logits, labels, _ = draw(seed)
        expected = (logits.argmax(axis=1) == labels).mean()
        np.testing.assert_allclose(metrics.accuracy(logits, labels).value, expected, rtol=1e-6)

    def test_of_equals_never_more_than_k(self):
        for k in (1, 2, 3):
            assert metrics.top_k(np.zeros((3, 3)), np.arange(3), k).total == k

    def test_infinities_are_ordered(self):
        logits = np.array([[-np.inf, np.inf, 0.0]] * 3)
        for k, total in [(1, 1), (2, 2), (3, 3)]:
            assert metrics.top_k(logits, np.arange(3), k).total == total

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_a_row_with_nan_is_wrong(self, place):
        logits = np.array([[0.0, 5.0, 1.0]] * 3)
        logits[2, place] = np.nan
        for k in (1, 2, 3):
            assert metrics.top_k(logits, np.ones(3, int), k).total == 2

    def test_sequences_are_averaged_within_an_example(self):
        logits = np.eye(3)[np.array([[0, 1], [2, 2]])]
        result = metrics.accuracy(logits, np.array([[0, 0], [2, 2]]))
        assert (result.total, result.count) == (1.5, 2)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_half_precision_and_narrow_labels(self, dtype):
        logits, labels, _ = draw(3)
        expected = metrics.accuracy(logits, labels)
        result = metrics.accuracy(jnp.asarray(logits, dtype), labels.astype(np.uint8))
        assert_same_bits(result, expected)

    def test_k_is_checked(self):
        logits, labels, _ = draw(0)
        for k in (0, 6):
            with pytest.raises(ValueError, match=rf"k is {k}, expected 1 <= k <= 5"):
                metrics.top_k(logits, labels, k)
        with pytest.raises(TypeError, match=r"k must be an integer, got 2.0"):
            metrics.top_k(logits, labels, 2.0)


class TestConfusion:
    @each_case
    def test_counts_pairs(self, seed):
        logits, labels, weight = draw(seed)
        expected = np.zeros((5, 5))
        for row, label, w in zip(logits, labels, weight, strict=True):
            expected[label, row.argmax()] += w
        np.testing.assert_array_equal(
            metrics.confusion_matrix(logits, labels, weight).value, expected
        )
        matrix = metrics.confusion_matrix(logits, labels).value
        assert matrix.dtype == jnp.int32
        assert matrix.sum() == len(labels)
        assert jnp.trace(matrix) == metrics.accuracy(logits, labels).total

    def test_a_row_with_nan_is_counted_nowhere(self):
        logits = np.array([[np.nan, 1.0], [0.0, 1.0]])
        matrix = metrics.confusion_matrix(logits, np.array([0, 1])).value
        np.testing.assert_array_equal(matrix, [[0, 0], [0, 1]])

    def test_of_sequences_is_an_error_with_its_cure(self):
        with pytest.raises(ValueError, match=r"logits has shape \(2, 3, 4\), expected \(N, C\)"):
            metrics.confusion_matrix(np.zeros((2, 3, 4)), np.zeros((2, 3), int))


class TestLabels:
    @pytest.mark.parametrize("name", ["accuracy", "top_k", "confusion_matrix"])
    @pytest.mark.parametrize("wrong", [-1, 5])
    def test_no_class_is_an_error_or_counted_wrong(self, name, wrong):
        logits, labels, _ = draw(0)
        labels[3] = wrong
        with pytest.raises(ValueError, match=rf"labels\[3\] is {wrong}, expected 0 <= labels <= 4"):
            METRICS[name](logits, labels)
        right = np.arange(len(labels)) != 3
        expected = COMPILED[name](logits[right], labels[right])
        result = COMPILED[name](logits, labels)
        np.testing.assert_array_equal(result.total, expected.total)

    @pytest.mark.parametrize("name", ["accuracy", "top_k", "confusion_matrix"])
    def test_shapes_and_dtypes_are_checked(self, name):
        logits, labels, _ = draw(0)
        with pytest.raises(ValueError, match=r"labels has shape \(23, 1\).*labels\[\.\.\., 0\]"):
            METRICS[name](logits, labels[:, None])
        with pytest.raises(TypeError, match="labels must be integers, got float32"):
            METRICS[name](logits, labels.astype(np.float32))


class TestScikitLearn:
    @each_case
    def test_agrees(self, seed):
        reference = pytest.importorskip("sklearn.metrics")
        rng = np.random.default_rng(seed)
        logits, labels = rng.normal(size=(23, 5)).astype(np.float32), rng.permutation(23) % 5
        weight = rng.integers(0, 3, 23)
        expected = reference.confusion_matrix(labels, logits.argmax(1), sample_weight=weight)
        np.testing.assert_array_equal(
            metrics.confusion_matrix(logits, labels, weight).value, expected
        )
        for k in (1, 3, 4):
            expected = reference.top_k_accuracy_score(labels, logits, k=k, sample_weight=weight)
            np.testing.assert_allclose(
                metrics.top_k(logits, labels, k, weight).value, expected, 1e-6
            )
