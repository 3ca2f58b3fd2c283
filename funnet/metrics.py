"""Metrics as sums that add up: the metric of a whole is the sum of those of its parts.

A batch gives a `Mean` (a total and the number of examples behind it) or a `Sum`; `+` joins
them and `value` divides at the very end, so batches of unequal size, padded rows and several
devices (`jax.lax.psum` of the pair) need no care. Counts are int32 and add up to the last bit.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from funnet import checks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Mean:
    """A mean in the making: `total / count`, joined by `+`.

    The leaves may be JAX arrays or, for long sums on the host, NumPy's of 64 bits; where the
    two meet the sum is NumPy's.

    >>> (Mean(jnp.int32(3), jnp.int32(4)) + Mean(jnp.int32(0), jnp.int32(2))).value.item()
    0.5
    """

    total: Any
    count: Any

    def __add__(self, other: "Mean") -> "Mean":
        if not isinstance(other, Mean):
            return NotImplemented
        return jax.tree.map(_add, self, other)

    @property
    def value(self) -> Any:
        """`total / count` in floating point; NaN where nothing was counted."""
        on_device = isinstance(self.total, jax.Array) or isinstance(self.count, jax.Array)
        if not on_device:
            total, count = np.float64(self.total), np.float64(self.count)
            return total / np.where(count > 0, count, np.nan)
        total, count = jnp.asarray(self.total), jnp.asarray(self.count)
        dtype = jnp.result_type(float) if _whole(total) else total.dtype
        return total.astype(dtype) / jnp.where(count > 0, count.astype(dtype), jnp.nan)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
    """A sum in the making, of any shape, joined by `+`.

    >>> (Sum(jnp.array([1, 2])) + Sum(jnp.array([3, 4]))).value.tolist()
    [4, 6]
    """

    total: Any

    def __add__(self, other: "Sum") -> "Sum":
        if not isinstance(other, Sum):
            return NotImplemented
        return jax.tree.map(_add, self, other)

    @property
    def value(self) -> Any:
        """The total."""
        return self.total


def mean(values: ArrayLike, weight: ArrayLike | None = None) -> Mean:
    """The mean of one number per example, such as a loss.

    `sum_n weight_n values_n / sum_n weight_n`

    Args:
        values: Numbers `(N, ...)`; axes after the first are averaged within each example.
        weight: Numbers `(N,)`, zero for a padded row, whose value then does not matter, be it
            NaN. Without it every example counts 1.

    Returns:
        Total and count, each int32 if all that it adds are whole numbers or booleans, else
        float32 or wider. Under `jit` a negative weight makes them NaN, if it is a float.

    Raises:
        TypeError: If an argument is no array.
        ValueError: If the shapes do not belong together, or, outside `jit`, a weight is negative.

    >>> mean(jnp.array([1.0, 2.0, jnp.nan]), weight=jnp.array([1, 1, 0])).value.item()
    1.5
    """
    checks.examples("values", values)
    values = jnp.asarray(values)
    if values.ndim > 1:
        dtype = jnp.float64 if values.dtype == jnp.float64 else jnp.float32
        values = jnp.mean(values, axis=tuple(range(1, values.ndim)), dtype=dtype)
    if weight is None:
        dtype = _sum_dtype(values)
        return Mean(jnp.sum(values, dtype=dtype), jnp.asarray(len(values), jnp.int32))
    weight = _weight(weight, len(values))
    dtype = _sum_dtype(values, weight)
    count = jnp.sum(weight, dtype=_sum_dtype(weight))
    values, weight = values.astype(dtype), weight.astype(dtype)
    return Mean(jnp.sum(jnp.where(weight > 0, values, 0) * weight), count)


def accuracy(logits: ArrayLike, labels: ArrayLike, weight: ArrayLike | None = None) -> Mean:
    """The share of examples whose label has the largest logit, the first one of equals.

    Args:
        logits: Floats `(N, ..., C)`. A row that holds a NaN is wrong.
        labels: Integers `(N, ...)` in 0..C-1. Axes after the first are averaged within each
            example: flatten both arguments to weigh tokens alike.
        weight: Numbers `(N,)`, zero for a padded row. Without it every example counts 1.

    Returns:
        Correct and counted examples. Under `jit` a label that is no class is wrong.

    Raises:
        TypeError: If the labels are no integers or the logits no floats.
        ValueError: If the shapes do not belong together, or, outside `jit`, a label is no class
            or a weight is negative.

    >>> accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])).value.item()
    0.5
    """
    return top_k(logits, labels, 1, weight)


def top_k(logits: ArrayLike, labels: ArrayLike, k: int, weight: ArrayLike | None = None) -> Mean:
    """The share of examples whose label is among the k largest logits.

    Among equal logits the lower class comes first, so that never more than k classes qualify.

    Args:
        logits: Floats `(N, ..., C)`. A row that holds a NaN is wrong.
        labels: Integers `(N, ...)` in 0..C-1.
        k: How many guesses count, in 1..C.
        weight: Numbers `(N,)`, zero for a padded row. Without it every example counts 1.

    Returns:
        Correct and counted examples. Under `jit` a label that is no class is wrong.

    Raises:
        TypeError: If the labels are no integers, the logits no floats or `k` is no integer.
        ValueError: As `accuracy`, and if `k` is out of range.

    >>> top_k(jnp.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), jnp.array([1, 2]), 2).value.item()
    0.5
    """
    labels, valid = checks.labels(labels, logits)
    checks.count("k", k, np.shape(logits)[-1])
    checks.examples("labels", labels)
    logits = jnp.asarray(logits)
    label = labels[..., None]
    picked = jnp.take_along_axis(logits, label, axis=-1)
    earlier = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) < label
    rank = jnp.sum((logits > picked) | ((logits == picked) & earlier), axis=-1, dtype=jnp.int32)
    return mean((rank < k) & valid & ~jnp.isnan(logits).any(axis=-1), weight)


def confusion_matrix(logits: ArrayLike, labels: ArrayLike, weight: ArrayLike | None = None) -> Sum:
    """How often each class was taken for each: entry `[true, predicted]`.

    Args:
        logits: Floats `(N, C)`; the prediction is the largest, the first one of equals. A row
            that holds a NaN predicts nothing and is counted nowhere.
        labels: Integers `(N,)` in 0..C-1.
        weight: Numbers `(N,)`, zero for a padded row. Without it every example counts 1.

    Returns:
        A matrix `(C, C)`, int32 unless the weights are floats. Under `jit` a label that is no
        class is counted nowhere.

    Raises:
        TypeError: If the labels are no integers or the logits no floats.
        ValueError: As `accuracy`, and if the logits are not `(N, C)`.

    >>> confusion_matrix(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])).value.tolist()
    [[0, 0], [1, 1]]
    """
    labels, valid = checks.labels(labels, logits)
    logits = jnp.asarray(logits)
    if logits.ndim != 2:
        raise ValueError(
            f"logits has shape {logits.shape}, expected (N, C); write "
            "logits.reshape(-1, logits.shape[-1]) and labels.reshape(-1)"
        )
    examples, classes = logits.shape
    ones = jnp.ones(examples, jnp.int32)
    weight = ones if weight is None else _weight(weight, examples)
    counted = valid & ~jnp.isnan(logits).any(axis=-1)
    dtype = _sum_dtype(weight)
    empty = jnp.zeros((classes, classes), dtype)
    predicted = jnp.argmax(logits, axis=-1)
    return Sum(empty.at[labels, predicted].add(jnp.where(counted, weight.astype(dtype), 0)))


def edit_distance(
    guesses: ArrayLike, labels: ArrayLike, guess_lengths: ArrayLike, label_lengths: ArrayLike
) -> jax.Array:
    """The fewest insertions, deletions and substitutions from guesses to labels (Levenshtein).

    Args:
        guesses: Integers `(N, T)`, such as `fn.ctc_greedy` gives.
        labels: Integers `(N, L)`, compared with the guesses by their number alone.
        guess_lengths: Integers `(N,)` in 0..T, how many guesses count.
        label_lengths: Integers `(N,)` in 0..L, how many labels count.

    Returns:
        Distances `(N,)` int32.

    Raises:
        TypeError: If an argument holds no integers.
        ValueError: If the shapes do not belong together, or, outside `jit`, a length is out of
            range.

    >>> kitten, sitting = (np.frombuffer(w, np.uint8)[None] for w in (b"kitten", b"sitting"))
    >>> edit_distance(kitten, sitting, np.array([6]), np.array([7])).tolist()
    [3]
    """
    _transcripts(guesses, labels, guess_lengths, label_lengths)
    given = (guesses, labels, guess_lengths, label_lengths)
    return _distances(*(jnp.asarray(x, jnp.int32) for x in given))


@jax.jit  # one program, where this is called on its own
def _distances(
    guesses: jax.Array, labels: jax.Array, last: jax.Array, ends: jax.Array
) -> jax.Array:
    columns = jnp.arange(labels.shape[1] + 1, dtype=jnp.int32)

    def further(row: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        """The distances (N, L + 1) to each beginning of the labels, one guess later."""
        number, guess = step
        changed = row[:, :-1] + (guess[:, None] != labels).astype(jnp.int32)
        best = jnp.concatenate([row[:, :1] + 1, jnp.minimum(row[:, 1:] + 1, changed)], axis=1)
        # An insertion adds one a column: the least over all columns before, in one sweep.
        best = jax.lax.cummin(best - columns, axis=1) + columns
        return jnp.where(number < last[:, None], best, row), None

    numbers = jnp.arange(guesses.shape[1], dtype=jnp.int32)
    first = jnp.broadcast_to(columns, (len(labels), len(columns)))
    row, _ = jax.lax.scan(further, first, (numbers, guesses.T))
    return jnp.take_along_axis(row, ends[:, None], axis=1)[:, 0]


def error_rate(
    guesses: ArrayLike,
    labels: ArrayLike,
    guess_lengths: ArrayLike,
    label_lengths: ArrayLike,
    weight: ArrayLike | None = None,
) -> Mean:
    """Edits for each label: the word error rate where labels are words, else the character's.

    `sum_n weight_n edit_distance_n / sum_n weight_n label_lengths_n`; above 1 where more is said
    than there was to say.

    Args:
        guesses: Integers `(N, T)`, see `edit_distance`.
        labels: Integers `(N, L)`.
        guess_lengths: Integers `(N,)` in 0..T.
        label_lengths: Integers `(N,)` in 0..L.
        weight: Numbers `(N,)`, zero for a padded row. Without it every example counts 1.

    Returns:
        Edits and labels, int32 unless the weights are floats.

    Raises:
        TypeError, ValueError: As `edit_distance`, and if the weights do not fit.

    >>> one, two = np.array([[7, 7]]), np.array([2])
    >>> error_rate(one, np.array([[7, 8]]), two, two).value.item()
    0.5
    """
    edits = edit_distance(guesses, labels, guess_lengths, label_lengths)
    examples = len(edits)
    weight = jnp.ones(examples, jnp.int32) if weight is None else _weight(weight, examples)
    dtype = _sum_dtype(weight)
    weight, many = weight.astype(dtype), jnp.asarray(label_lengths).astype(dtype)
    return Mean(jnp.sum(edits.astype(dtype) * weight), jnp.sum(many * weight))


def _transcripts(guesses: Any, labels: Any, guess_lengths: Any, label_lengths: Any) -> None:
    checks.integer("guesses", guesses)
    checks.integer("labels", labels)
    if guesses.ndim != 2 or labels.ndim != 2 or len(guesses) != len(labels):
        raise ValueError(
            f"guesses has shape {guesses.shape} and labels has shape {labels.shape}, expected "
            "(N, T) and (N, L); add a missing batch axis with guesses[None] and labels[None]"
        )
    most = {"guess_lengths": guesses.shape[1], "label_lengths": labels.shape[1]}
    for (name, size), lengths in zip(most.items(), (guess_lengths, label_lengths), strict=True):
        checks.integer(name, lengths)
        if lengths.shape != (len(labels),):
            raise ValueError(
                f"{name} has shape {lengths.shape}, expected one for each row, ({len(labels)},)"
            )
        checks.within(name, lengths, 0, size)


def _weight(weight: ArrayLike, examples: int) -> jax.Array:
    checks.array("weight", weight)
    if np.shape(weight) != (examples,):
        raise ValueError(
            f"weight has shape {np.shape(weight)}, expected ({examples},): one for each example"
        )
    checks.within("weight", weight, 0, np.inf)
    weight = jnp.asarray(weight)
    return weight if _whole(weight) else jnp.where(weight >= 0, weight, jnp.nan)


def _whole(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_


def _sum_dtype(*arrays: jax.Array) -> Any:
    wide = any(x.dtype.itemsize == 8 for x in arrays)
    if all(map(_whole, arrays)):
        return jnp.int64 if wide else jnp.int32
    return jnp.float64 if wide else jnp.float32


def _add(a: Any, b: Any) -> Any:
    on_host = any(isinstance(x, np.ndarray | np.generic) for x in (a, b))
    if on_host and checks.concrete(a) and checks.concrete(b):
        return np.asarray(a) + np.asarray(b)
    return a + b
