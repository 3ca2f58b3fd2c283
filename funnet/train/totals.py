"""Metrics of many steps as totals: a strict left fold in 64 bits, the same however it is cut.

NumPy's own sum adds pairwise, in an order that depends on how many steps came at once. Here each
step is added to the total of those before it, so a training that is cut has the same last bit.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from funnet.metrics import Mean, Sum


def is_metric(x: Any) -> bool:
    """Whether `x` is a metric that adds up."""
    return isinstance(x, Mean | Sum)


def summed(metrics: Any, before: Any = None) -> Any:
    """Metrics with a leading axis of at least one step, added up one after the other.

    Args:
        metrics: a tree of metrics; a plain number counts as one term of a mean.
        before: what was summed of earlier steps, to go on from.
    """
    return folded(terms_of(metrics), slice(None), before)


def terms_of(metrics: Any) -> Any:
    """Metrics with a leading axis of steps as what is added up, in 64 bits."""
    return jax.tree.map(_terms, metrics, is_leaf=is_metric)


def folded(terms: Any, part: slice, before: Any = None) -> Any:
    """A part of the terms, at least one step of them, added up; see `summed`."""
    if before is None or not _alike(terms, before):  # the step was changed: a line begins anew
        return jax.tree.map(lambda x: _folded(x[part]), terms)
    add = lambda x, total: _folded(np.concatenate([total[None], x[part]]))  # noqa: E731
    return jax.tree.map(add, terms, before)


def _terms(metric: Any) -> Any:
    if is_metric(metric):
        return jax.tree.map(_wide, metric)
    values = _wide(metric)
    return Mean(values, np.ones(len(values), np.int64))


def _wide(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.int64 if x.dtype.kind in "biu" else np.float64)


def _alike(terms: Any, before: Any) -> bool:
    """Whether totals belong to these terms, in names, kinds and shapes."""
    shapes = [jax.tree.map(lambda x: x.shape[1:], terms), jax.tree.map(np.shape, before)]
    return str(shapes[0]) == str(shapes[1])


def _folded(terms: np.ndarray) -> np.ndarray:
    """The last of the running sums, which NumPy takes from left to right."""
    return np.add.accumulate(terms, axis=0)[-1]


def values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as plain numbers (or nested lists) by name."""
    return {name: np.asarray(m.value).tolist() for name, m in metrics.items()}


def joined(first: Any, second: Any) -> Any:
    """Two sets of metrics, added up."""
    return jax.tree.map(lambda x, y: x + y, first, second, is_leaf=is_metric)


def spelt(numbers: Any) -> Any:
    """Numbers in dicts and lists as JSON has them: those that are none as nan, inf and -inf."""

    def word(x: Any) -> Any:
        return str(x) if isinstance(x, float) and not math.isfinite(x) else x

    return jax.tree.map(word, numbers)


KINDS = {"mean": Mean, "sum": Sum}


def stored(totals: Mapping[str, Any]) -> dict[str, Any]:
    """Totals by name as JSON has them, floats to the last bit."""
    kinds = {kind: name for name, kind in KINDS.items()}
    return {
        name: {"kind": kinds[type(m)], **{k: spelt(x.tolist()) for k, x in vars(m).items()}}
        for name, m in totals.items()
    }


def restored(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The totals that `stored` made JSON of."""
    return {
        name: KINDS[m["kind"]](**{k: _array(x) for k, x in m.items() if k != "kind"})
        for name, m in kept.items()
    }


def _array(numbers: Any) -> np.ndarray:
    return _wide(jax.tree.map(lambda x: float(x) if isinstance(x, str) else x, numbers))
