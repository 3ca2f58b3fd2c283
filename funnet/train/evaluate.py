"""`evaluate` measures and `predict` applies, over all examples exactly, by one program each."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.tree_util import DictKey, SequenceKey

from funnet.checks import count
from funnet.compiling import STEP, quick_jit
from funnet.data.batches import checked, gathered
from funnet.metrics import Mean
from funnet.model import Model
from funnet.train.log import is_metric, joined, summed, values
from funnet.train.objective import Objective
from funnet.train.run import Run


def evaluate(
    objective: Objective, run: Run, data: Mapping[str, Any], *, batch_size: int = 1000
) -> dict[str, Any]:
    """The objective's metrics over all examples, each counted exactly once.

    The last batch is padded to full size with rows of `batch["weight"]` zero, so one program
    serves all; an objective that does not look at the weight is refused if there is padding.

    Args:
        objective: as for `train_step`; here `train` is false and `key` is None.
        run: the run to measure.
        data: arrays by name, with one row for each example; memory-mapped ones are read batch by
            batch.
        batch_size: examples at a time.

    Returns:
        Numbers by name; matrices as nested lists.

    Raises:
        ValueError: if the data is empty or not finite, or the objective ignores a weight of zero.
        TypeError: if a metric is no sum that adds up.
    """
    data = checked(data, mapped=True)
    count("batch_size", batch_size)
    examples = len(next(iter(data.values())))
    size = min(batch_size, examples)
    found = []
    for start in range(0, examples, size):
        batch = _padded(data, start, size, examples)
        if start == 0:
            _check_objective(objective, run, batch, padded=examples % size > 0)
        found.append((_measure(objective, run.params, run.state, batch), batch["weight"].sum()))
    return values(functools.reduce(joined, [_total(*pair) for pair in found]))


def _total(measured: tuple[jax.Array, dict[str, Any]], rows: int) -> dict[str, Any]:
    """A batch's metrics in 64 bits, its loss among them."""
    loss, metrics = jax.device_get(measured)
    total = loss * rows if rows else np.zeros_like(loss)  # a mean of nothing is NaN
    return summed(jax.tree.map(lambda x: x[None], {"loss": Mean(total, rows), **metrics}))


def _check_objective(objective: Objective, run: Run, batch: dict[str, Any], padded: bool) -> None:
    traced = _measure.quick.trace(objective, run.params, run.state, batch)
    for name, metric in traced.out_info[1].items():
        if not is_metric(metric):
            raise TypeError(
                f"evaluate adds metrics up over batches, and metrics[{name!r}] is a plain number: "
                "return fn.metrics.mean(values, batch.get('weight')) from the objective"
            )
    leaves = jax.tree_util.tree_leaves_with_path((run.params, run.state, batch))
    place = next(i for i, (path, _) in enumerate(leaves) if path == WEIGHT)
    if padded and not _uses(traced.jaxpr.jaxpr, place):
        raise ValueError(
            "the last batch is padded to full size, and the objective ignores batch['weight'], so "
            "padding would count: average with fn.metrics.mean(values, batch.get('weight'))"
        )


def _uses(program: Any, place: int) -> bool:
    """Whether a traced program looks at its input number `place`, in jitted functions too."""
    var = program.invars[place]
    for eqn in program.eqns:
        (inner, *more) = [*jaxprs_in_params(eqn.params), None]
        nested = len(more) == 1 and len(inner.invars) == len(eqn.invars)
        for i in (i for i, x in enumerate(eqn.invars) if x is var):
            if not nested or _uses(inner, i):
                return True
    return any(x is var for x in program.outvars)


def predict(model: Model, run: Run, inputs: Any, *, batch_size: int = 1000) -> Any:
    """The model's outputs for all inputs, as NumPy arrays with one row for each.

    Args:
        model: the model.
        run: the run whose parameters and state to use.
        inputs: (N, ...), or a pytree of such arrays.
        batch_size: examples at a time; a last batch is padded, and its padding cut off again.
    """
    count("batch_size", batch_size)
    rows = [len(leaf) if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(inputs)]
    if not rows or len(set(rows)) > 1 or not rows[0]:
        raise ValueError(
            f"inputs must be arrays with the same number of rows, at least 1, got {rows}"
        )
    size, parts = min(batch_size, rows[0]), []
    for start in range(0, rows[0], size):
        take = functools.partial(_rows, start=start, size=size)
        output = _outputs(model, run.params, run.state, jax.tree.map(take, inputs))
        real = min(size, rows[0] - start)
        parts.append(jax.tree.map(lambda x, n=real: np.asarray(x)[:n], output))
    return jax.tree.map(lambda *each: np.concatenate(each), *parts)


WEIGHT = (SequenceKey(2), DictKey("weight"))  # its place in the arguments below


@quick_jit(STEP, static_argnums=0)
def _measure(objective: Objective, params: Any, state: Any, batch: Any) -> tuple[jax.Array, dict]:
    loss, (_, metrics) = objective(params, state, batch, train=False, key=None)
    return loss, metrics


@quick_jit(STEP, static_argnums=0)
def _outputs(model: Model, params: Any, state: Any, inputs: Any) -> Any:
    return model.apply(params, state, inputs)[0]


def _rows(array: Any, start: int, size: int) -> np.ndarray:
    """Rows from `start` on, the last one again where there are no more."""
    return _filled(np.asarray(array[start : start + size]), size)


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    """So many rows, the last one again where there are no more."""
    return np.pad(rows, ((0, size - len(rows)), *[(0, 0)] * (rows.ndim - 1)), mode="edge")


def _padded(data: Mapping[str, np.ndarray], start: int, size: int, examples: int) -> dict[str, Any]:
    """A batch of full size, its ids, and weight 1 for every row that is no padding."""
    ids = np.arange(start, start + size, dtype=np.int32)
    real = ids < examples
    batch = {name: _filled(gathered(name, x, ids[real]), size) for name, x in data.items()}
    weight = batch["weight"] * real if "weight" in batch else real.astype(np.int32)
    return {**batch, "id": ids, "weight": weight}
