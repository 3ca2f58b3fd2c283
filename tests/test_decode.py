"""CTC's greedy transcript beside the definition, written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn


def transcript(path, blank):
    return [int(label) for label, _ in itertools.groupby(path) if label != blank]


@pytest.mark.parametrize("seed", range(20))
def test_repetitions_are_merged_then_blanks_dropped(seed):
    rng = np.random.default_rng(seed)
    n, time, classes = rng.integers(1, 5), rng.integers(1, 12), rng.integers(2, 4)
    blank, logits = int(rng.integers(classes)), rng.normal(size=(n, time, classes))
    lengths = rng.integers(0, time + 1, n).astype(np.int32)
    decode = jax.jit(fn.ctc_greedy, static_argnames="blank")
    labels, count = decode(logits.astype(np.float32), lengths=lengths, blank=blank)
    assert labels.dtype == count.dtype == jnp.int32
    assert labels.shape == (n, time)
    for row, path, size, found in zip(labels, logits.argmax(-1), lengths, count, strict=True):
        assert row[:found].tolist() == transcript(path[:size], blank)
        assert (row[found:] == blank).all()


def test_without_lengths_all_steps_count():
    logits = jax.nn.one_hot(jnp.array([[1, 1, 0, 1, 2, 2]]), 3)
    labels, count = fn.ctc_greedy(logits)
    assert labels[0, : count[0]].tolist() == [1, 1, 2]


def test_what_is_beyond_a_length_is_not_looked_at():
    logits = jnp.full((1, 4, 3), jnp.nan).at[0, :2].set(jnp.array([0.0, 0.0, 1.0]))
    labels, count = fn.ctc_greedy(logits, lengths=jnp.array([2]))
    assert (labels.tolist(), count.tolist()) == ([[2, 0, 0, 0]], [1])


def test_wrong_input_meets_a_message():
    with pytest.raises(ValueError, match=r"logits has shape \(4, 3\), expected \(N, T, C\)"):
        fn.ctc_greedy(jnp.zeros((4, 3)))
    with pytest.raises(TypeError, match="logits must be floating point"):
        fn.ctc_greedy(jnp.zeros((1, 4, 3), jnp.int32))
    with pytest.raises(ValueError, match="blank is 3, expected 0 <= blank <= 2"):
        fn.ctc_greedy(jnp.zeros((1, 4, 3)), blank=3)
    with pytest.raises(ValueError, match=r"lengths\[0\] is 5"):
        fn.ctc_greedy(jnp.zeros((1, 4, 3)), lengths=jnp.array([5]))
