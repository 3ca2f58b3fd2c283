"""CTC against all alignments, with lengths, where none is possible, and what it refuses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from jax.test_util import check_grads
from pulls import value_and_gradient

from funnet import losses

pytestmark = pytest.mark.usefixtures("quick_compilation")

LABELS = np.array([[1, 1, 2], [2, 3, 3], [3, 1, 1], [1, 2, 3]])
TIMES, SIZES = np.array([6, 4, 5, 7]), np.array([3, 2, 1, 0])


def draw(*shape, seed=0):
    return (2 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def spelt(path, blank):
    """What an alignment spells: repetitions merged, then blanks dropped."""
    return [c for c, _ in itertools.groupby(path) if c != blank]


def by_enumeration(logits, labels, blank):
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    steps, classes = log_p.shape
    paths = itertools.product(range(classes), repeat=steps)
    costs = [
        log_p[np.arange(steps), list(path)].sum()
        for path in paths
        if spelt(path, blank) == list(labels)
    ]
    return -scipy.special.logsumexp(costs) if costs else np.inf


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("text", ["", "a", "b", "aa", "ab", "aba", "abb", "aaa"])
def test_it_is_the_sum_over_all_alignments(text, blank):
    a, b = (c for c in range(3) if c != blank)
    labels = [{"a": a, "b": b}[c] for c in text]
    logits = draw(1, 5, 3)
    found = losses.ctc(logits, np.array(labels, int).reshape(1, -1), blank=blank)
    np.testing.assert_allclose(found, [by_enumeration(logits[0], labels, blank)], rtol=1e-5)


def test_where_nothing_is_ruled_out_it_is_that_of_optax():
    logits = draw(4, 7, 4)
    pads = [np.arange(n) >= x[:, None] for n, x in [(7, TIMES), (3, SIZES)]]
    expected = optax.losses.ctc_loss(logits, pads[0] * 1.0, LABELS, pads[1] * 1.0)
    found = losses.ctc(logits, LABELS, logit_lengths=TIMES, label_lengths=SIZES)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_all_lengths_are_whole_by_default():
    logits = draw(4, 7, 4)
    whole = losses.ctc(
        logits, LABELS, logit_lengths=np.full(4, 7), label_lengths=np.full(4, 3, np.uint8)
    )
    np.testing.assert_array_equal(losses.ctc(logits, LABELS), whole)


def test_gradients_with_lengths_are_finite_differences():
    with jax.enable_x64(True):
        logits = jnp.asarray(draw(4, 7, 4), jnp.float64)
        loss = lambda x: losses.ctc(x, LABELS, logit_lengths=TIMES, label_lengths=SIZES)  # noqa: E731
        check_grads(jax.jit(loss), (logits,), order=2, atol=1e-5, rtol=1e-5, eps=1e-5)


def test_a_row_of_the_gradient_sums_to_nothing():
    _, gradient = value_and_gradient(losses.ctc, draw(4, 7, 4), LABELS)
    np.testing.assert_allclose(gradient.sum(-1), np.zeros((4, 7)), atol=1e-5)


# Padding.


@jax.jit
def with_lengths(logits, labels):
    return value_and_gradient(
        lambda x: losses.ctc(x, labels, logit_lengths=TIMES, label_lengths=SIZES), logits
    )


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e38])
def test_garbage_beyond_the_lengths_changes_no_bit(garbage):
    logits, labels = draw(4, 7, 4), LABELS.copy()
    expected, slopes = with_lengths(logits, labels)
    logits[np.arange(7) >= TIMES[:, None]] = garbage
    labels[np.arange(3) >= SIZES[:, None]] = -99
    found, gradient = with_lengths(logits, labels)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(gradient, slopes)
    assert not np.asarray(gradient)[np.arange(7) >= TIMES[:, None]].any()
    # Outside jit, where values are looked at, nothing there is refused either.
    losses.ctc(logits, labels, logit_lengths=TIMES, label_lengths=SIZES)


def test_more_padding_changes_nothing():
    logits, labels = draw(4, 7, 4), LABELS
    expected, slopes = with_lengths(logits, labels)
    logits = np.pad(logits, ((0, 0), (0, 4), (0, 0)), constant_values=np.nan)
    labels = np.pad(labels, ((0, 0), (0, 5)), constant_values=7)
    found, gradient = with_lengths(logits, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, :7], slopes, rtol=1e-5, atol=1e-7)
    assert not gradient[:, 7:].any()


def test_lengths_cut():
    logits = draw(1, 7, 4)
    found = losses.ctc(logits, LABELS[:1], logit_lengths=np.array([5]), label_lengths=np.array([2]))
    np.testing.assert_allclose(found, losses.ctc(logits[:, :5], LABELS[:1, :2]), rtol=1e-6)


# Where nothing is possible.


@pytest.mark.parametrize(
    ("text", "steps"), [([1, 2, 3], 3), ([1, 1], 3), ([1, 1, 1], 5), ([1, 2, 2], 4), ([], 0)]
)
def test_the_fewest_steps(text, steps):
    labels = np.array(text, int).reshape(1, -1)
    assert np.isfinite(losses.ctc(draw(1, steps, 4), labels)).all()
    if steps:
        np.testing.assert_array_equal(losses.ctc(draw(1, steps - 1, 4), labels), [np.inf])


def test_no_alignment_costs_infinity_and_pulls_nowhere():
    logits, labels = draw(2, 3, 4), np.array([[1, 1, 1], [1, 2, 3]])
    loss, gradient = value_and_gradient(losses.ctc, logits, labels)
    np.testing.assert_array_equal(np.isinf(loss), [True, False])
    assert not gradient[0].any()
    assert np.isfinite(gradient[1]).all()
    assert gradient[1].any()


def test_a_class_that_is_ruled_out():
    logits = draw(2, 5, 4)
    logits[..., 3] = -np.inf
    loss, gradient = value_and_gradient(losses.ctc, logits, np.array([[1, 2], [1, 3]]))
    expected = losses.ctc(logits[:1, :, :3], np.array([[1, 2]]))
    np.testing.assert_allclose(loss, [expected[0], np.inf], rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert not gradient[..., 3].any()


def test_the_blank_may_be_ruled_out_too():
    logits = draw(2, 3, 4)
    logits[..., [0, 3]] = -np.inf
    loss, gradient = value_and_gradient(losses.ctc, logits, np.array([[1, 2], [1, 3]]))
    log_p = scipy.special.log_softmax(logits[0].astype(np.float64), axis=-1)
    paths = [log_p[[0, 1, 2], path].sum() for path in ([1, 1, 2], [1, 2, 2])]
    np.testing.assert_allclose(loss, [-scipy.special.logsumexp(paths), np.inf], rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_a_nan_within_the_length_is_not_hidden():
    for spoilt in (np.nan, np.inf):
        logits = draw(2, 5, 4)
        logits[0, 2, 1] = spoilt
        np.testing.assert_array_equal(np.isnan(losses.ctc(logits, LABELS[:2, :2])), [True, False])


def test_long_sequences_are_stable():
    steps = 500
    logits, labels = 100 * draw(1, steps, 5), 1 + np.arange(200)[None] % 4
    loss, gradient = value_and_gradient(losses.ctc, logits, labels)
    expected = optax.losses.ctc_loss(logits, np.zeros((1, steps)), labels, np.zeros((1, 200)))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


# What is refused.


def test_labels_are_classes_but_not_the_blank():
    for wrong in (-1, 4, 300):
        with pytest.raises(ValueError, match=rf"labels\[0, 1\] is {wrong}, .*0 <= labels <= 3"):
            losses.ctc(draw(1, 5, 4), np.array([[1, wrong]]))
    with pytest.raises(ValueError, match="labels holds 2, which is the blank"):
        losses.ctc(draw(1, 5, 4), np.array([[1, 2]]), blank=2)
    with pytest.raises(ValueError, match="blank is 4, expected 0 <= blank <= 3"):
        losses.ctc(draw(1, 5, 4), np.array([[1, 2]]), blank=4)


def test_lengths_are_within_the_axes():
    for name, most in (("logit_lengths", 7), ("label_lengths", 3)):
        for wrong in (-1, most + 1):
            lengths = np.array([1, 1, wrong, 1])
            message = rf"{name}\[2\] is {wrong}, expected 0 <= {name} <= {most}"
            with pytest.raises(ValueError, match=message):
                losses.ctc(draw(4, 7, 4), LABELS, **{name: lengths})
        with pytest.raises(ValueError, match=rf"{name} has shape \(4, 1\), .*\(4,\)"):
            losses.ctc(draw(4, 7, 4), LABELS, **{name: np.ones((4, 1), int)})
        with pytest.raises(TypeError, match=f"{name} must be integers"):
            losses.ctc(draw(4, 7, 4), LABELS, **{name: np.ones(4)})


@pytest.mark.parametrize(
    ("wrong", "hit"),
    [
        ({"logit_lengths": np.array([7, 8, 7, -1])}, [1, 3]),
        ({"label_lengths": np.array([3, 4, -1, 0])}, [1, 2]),
        ({"labels": np.array([[1, 0, 2], [1, 4, 2], [1, 2, 3], [-1, 1, 2]])}, [0, 1, 3]),
        ({"labels": np.array([[0] * 3] * 4), "label_lengths": np.array([0, 1, 0, 2])}, [1, 3]),
    ],
)
def test_under_jit_they_make_loss_and_gradient_nan(wrong, hit):
    @jax.jit
    def loss_and_gradient(logits, given):
        given = {"labels": LABELS} | given
        return value_and_gradient(lambda x: losses.ctc(x, **given), logits)

    loss, gradient = loss_and_gradient(draw(4, 7, 4), wrong)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(loss)), hit)
    rows = np.isnan(gradient).reshape(4, -1)
    np.testing.assert_array_equal(np.flatnonzero(rows.all(1)), hit)
    np.testing.assert_array_equal(np.flatnonzero(rows.any(1)), hit)


def test_a_wide_label_does_not_wrap_to_a_class():
    with jax.enable_x64(True):
        loss = jax.jit(losses.ctc)(np.zeros((2, 3, 3)), np.array([[2**32 + 1], [1]]))
    np.testing.assert_array_equal(np.isnan(loss), [True, False])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32, np.int64])
def test_labels_of_any_integers(dtype):
    logits, labels = draw(2, 5, 300), np.array([[1, 100], [127, 3]])
    expected = losses.ctc(logits, labels)
    np.testing.assert_array_equal(losses.ctc(logits, labels.astype(dtype)), expected)
    found = jax.jit(losses.ctc)(logits, labels.astype(dtype))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("logits", "labels"), [((5, 4), (2,)), ((2, 5, 4), (2,)), ((2, 5, 4), (3, 2)), ((5, 4), (5, 2))]
)
def test_shapes_must_belong_together(logits, labels):
    with pytest.raises(ValueError, match=r"logits has shape .*\(N, T, C\) and \(N, L\); add"):
        losses.ctc(np.zeros(logits), np.ones(labels, int))


def test_dtypes_are_not_guessed():
    with pytest.raises(TypeError, match="labels must be integers"):
        losses.ctc(draw(1, 5, 4), np.ones((1, 2)))
    with pytest.raises(TypeError, match="logits must be floating point"):
        losses.ctc(np.ones((1, 5, 4), int), np.ones((1, 2), int))


def test_empty_axes():
    assert losses.ctc(draw(0, 5, 4), np.ones((0, 2), int)).shape == (0,)
    no_labels = losses.ctc(draw(2, 5, 4), np.ones((2, 0), int))
    np.testing.assert_allclose(
        no_labels, -np.asarray(jax.nn.log_softmax(draw(2, 5, 4)))[..., 0].sum(1), rtol=1e-5
    )
    np.testing.assert_array_equal(losses.ctc(draw(1, 0, 4), np.ones((1, 0), int)), [0])
