"""What a classifier gets wrong on test data, as plain numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funnet import checks
from funnet.reports.png import shown

WORST = 24  # mistakes that are shown
ASIDE = ("label", "id", "weight")  # entries of data that no model takes


@dataclasses.dataclass
class Mistake:
    """An example that was taken for another class, with the loss that this costs."""

    row: int
    true: str
    predicted: str
    confidence: float
    loss: float
    picture: np.ndarray | None


@dataclasses.dataclass
class Findings:
    """How a classifier does on test data."""

    classes: list[str]
    matrix: np.ndarray  # how often each class (row) was taken for each (column)
    totals: np.ndarray  # examples of each class, those without a prediction (NaN) among them
    examples: int
    wrong: int
    loss: float
    worst: list[Mistake]


def findings(
    logits: np.ndarray, data: Mapping[str, Any], classes: Sequence[str] | None = None
) -> Findings:
    """Compares what a classifier says of `data` with its labels.

    Args:
        logits: what it says, `(N, classes)`.
        data: arrays by name, among them `label` `(N,)` and what the logits are of.
        classes: a name for each class; by default their numbers.

    Raises:
        TypeError: if the labels are no integers.
        ValueError: if the data has no labels, an entry for the model cannot be told, labels and
            logits do not belong together, or there is not a name for each class.
    """
    inputs, labels = data[entry(data)], np.asarray(data["label"])
    logits = np.asarray(logits).astype(np.float64)
    if logits.ndim != 2:
        raise ValueError(f"the model gave {logits.shape}, a report needs logits (N, classes)")
    checks.labels(labels, jnp.asarray(logits, jnp.float32))
    names = _names(classes, logits.shape[1])
    losses, guesses, confidence = _judged(logits, labels)
    wrong = guesses != labels
    known = guesses >= 0
    matrix = np.zeros((len(names), len(names)), np.int64)
    np.add.at(matrix, (labels[known], guesses[known]), 1)
    order = np.argsort(-np.where(wrong, losses, -np.inf), kind="stable")[: min(WORST, wrong.sum())]
    pictures = _pictures(inputs, order)
    worst = [
        Mistake(
            row=int(i),
            true=names[labels[i]],
            predicted=names[guesses[i]] if guesses[i] >= 0 else "nothing (NaN)",
            confidence=float(confidence[i]),
            loss=float(losses[i]),
            picture=None if pictures is None else pictures[n],
        )
        for n, i in enumerate(order)
    ]
    finite = losses[np.isfinite(losses)]
    mean = float(finite.mean()) if len(finite) == len(losses) else float("nan")
    totals = np.bincount(labels, minlength=len(names))
    return Findings(names, matrix, totals, len(labels), int(wrong.sum()), mean, worst)


def _judged(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss, predicted class (-1 for a row with NaN) and its probability, for each example."""
    rows = np.arange(len(labels))
    void = np.isnan(logits).any(axis=1)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    guesses = np.where(void, -1, logits.argmax(axis=1))
    losses = -log_probabilities[rows, labels]
    confidence = np.exp(log_probabilities[rows, guesses])
    return np.where(np.isnan(losses), np.inf, losses), guesses, np.where(void, np.nan, confidence)


def entry(data: Mapping[str, Any]) -> str:
    """The name of the entry that a model takes.

    Raises:
        ValueError: if it cannot be told, or there is no `label`.
    """
    if not isinstance(data, Mapping) or "label" not in data:
        what = sorted(data) if isinstance(data, Mapping) else type(data).__name__
        raise ValueError(f"data must be a dict of arrays with a 'label' entry, got {what}")
    names = [name for name in data if name not in ASIDE]
    usual = [name for name in ("image", "input") if name in names] or names
    if len(usual) != 1 and "image" not in usual:
        raise ValueError(
            f"data must have one entry for the model beside 'label', got {names}; "
            "write {'input': ..., 'label': ...}"
        )
    return usual[0]


def _names(classes: Sequence[str] | None, count: int) -> list[str]:
    if classes is None:
        return [str(i) for i in range(count)]
    if len(classes) != count:
        raise ValueError(
            f"classes has {len(classes)} names, expected {count}: one for each column of logits"
        )
    return [str(name) for name in classes]


def _pictures(inputs: Any, rows: np.ndarray) -> np.ndarray | None:
    """The inputs at some rows as pictures, if that is what they are."""
    if len(jax.tree.leaves(inputs)) != 1 or np.ndim(inputs) != 4:
        return None
    if np.shape(inputs)[-1] not in (1, 3) or 0 in np.shape(inputs):
        return None
    return shown(np.stack([np.asarray(inputs[int(i)]) for i in rows])) if len(rows) else None
