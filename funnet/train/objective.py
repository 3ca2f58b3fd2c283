"""Objectives: what a model is trained for, as a function of parameters, state and a batch.

An objective is `objective(params, state, batch, *, train, key) -> (loss, (state, metrics))`. Its
metrics are sums that add up over batches (`fn.metrics.Mean`, `Sum`), weighted by
`batch.get("weight")`, which is zero for the rows that pad a last batch to its full size.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from funnet import losses, metrics
from funnet.decode import ctc_greedy
from funnet.keys import named_key
from funnet.model import Model

Batch = Mapping[str, jax.Array]
Augment = Callable[[jax.Array, Any], Any]


class Objective(Protocol):
    """The loss of a batch, with the model's next state and the batch's metrics."""

    def __call__(
        self, params: Any, state: Any, batch: Batch, /, *, train: bool, key: jax.Array | None
    ) -> tuple[jax.Array, tuple[Any, dict[str, Any]]]:
        """Gives `(loss, (state, metrics))`."""
        ...


def classification(
    model: Model,
    *,
    input: str = "image",
    augment: Augment | None = None,
    label_smoothing: float = 0.0,
    **entries: str,
) -> Objective:
    """Mean cross-entropy of `model`'s logits with `batch["label"]`; metrics `loss`, `accuracy`.

    Args:
        model: gives logits (N, classes) for `batch[input]`, or (N, T, classes) for labels (N, T).
        input: the batch's entry that the model takes.
        augment: a function `(key, batch) -> batch` for training batches, see `fn.data.augment`.
            It may turn the labels into probabilities (N, classes).
        label_smoothing: as in `losses.cross_entropy`, in training only.
        **entries: further entries, by the names under which the model takes them, as
            `lengths="lengths"` for sequences of `fn.data.bucketed`.

    Raises:
        TypeError: if an entry's name is no string.
    """
    for name, entry in entries.items():
        if not isinstance(entry, str):
            raise TypeError(
                f"{name} must be the name of an entry of the batch, got {entry!r}: settings of the "
                f"model belong into fn.Model(..., {name}={entry!r})"
            )

    def objective(params: Any, state: Any, batch: Batch, /, *, train: bool, key: Any) -> Any:
        if train and augment is not None:
            batch = augment(named_key(key, "augment"), batch)
        more = {name: batch[entry] for name, entry in entries.items()}
        logits, state = model.apply(params, state, batch[input], train=train, key=key, **more)
        label, weight = batch["label"], batch.get("weight")
        if label.ndim == logits.ndim:
            loss = metrics.mean(losses.soft_cross_entropy(logits, label), weight)
            return loss.value, (state, {"loss": loss})
        smoothing = label_smoothing if train else 0.0
        values = losses.cross_entropy(logits, label, label_smoothing=smoothing)
        loss = metrics.mean(values, weight)
        found = {"loss": loss, "accuracy": metrics.accuracy(logits, label, weight)}
        return loss.value, (state, found)

    return objective


def regression(
    model: Model,
    *,
    input: str = "input",
    target: str = "target",
    loss: Callable[[Any, Any], jax.Array] = losses.mse,
) -> Objective:
    """Mean of `loss(model(batch[input]), batch[target])` over the batch; metric `loss`.

    Args:
        model: gives predictions of the targets' shape.
        input: the batch's entry that the model takes.
        target: the batch's entry that it should give.
        loss: one number for each example, such as `losses.mse`, `l1` or `huber`.
    """

    def objective(params: Any, state: Any, batch: Batch, /, *, train: bool, key: Any) -> Any:
        predictions, state = model.apply(params, state, batch[input], train=train, key=key)
        mean = metrics.mean(loss(predictions, batch[target]), batch.get("weight"))
        return mean.value, (state, {"loss": mean})

    return objective


def transcription(model: Model, *, input: str = "sound", blank: int = 0) -> Objective:
    """Mean CTC loss of sequences whose alignment with their labels is not known.

    Metrics `loss`, in nats a sequence, and `error_rate`, the greedy transcript's edits for each
    label: see `losses.ctc`, `metrics.error_rate`. Batches have `label` (N, L) and `count` (N,),
    how many of an example's labels count.

    Args:
        model: gives logits (N, T, classes) for `batch[input]`, the blank among the classes.
        input: the batch's entry that the model takes.
        blank: the class that stands for no label.
    """

    def objective(params: Any, state: Any, batch: Batch, /, *, train: bool, key: Any) -> Any:
        logits, state = model.apply(params, state, batch[input], train=train, key=key)
        label, count, weight = batch["label"], batch["count"], batch.get("weight")
        values = losses.ctc(logits, label, label_lengths=count, blank=blank)
        loss = metrics.mean(values, weight)
        said, many = ctc_greedy(logits, blank=blank)
        found = {"loss": loss, "error_rate": metrics.error_rate(said, label, many, count, weight)}
        return loss.value, (state, found)

    return objective
