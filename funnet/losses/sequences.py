"""Losses of sequences whose alignment with their labels is not known.

The recursion is optax's, which knows no infinity: what is ruled out goes in as a large finite
cost, and what comes out at such a cost is infinite.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from funnet import checks
from funnet.losses.terms import poisoned, widen

NEVER = -1e30  # log 0, for a finite number has a gradient; anything possible is far above


def ctc(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    logit_lengths: ArrayLike | None = None,
    label_lengths: ArrayLike | None = None,
    blank: int = 0,
) -> jax.Array:
    """Negative log-likelihood of label sequences, summed over all their alignments (CTC).

    An alignment gives each step of the logits a class such that, once repetitions are merged and
    then blanks dropped, the labels are left. Its probability is the product over the steps of
    `softmax(logits)`. What lies beyond a length is never looked at.

    Args:
        logits: Floats `(N, T, C)`, the blank among the classes; -inf rules a class out.
        labels: Integers `(N, L)` in 0..C-1, none of them the blank.
        logit_lengths: Integers `(N,)` in 0..T, how many steps count; by default all.
        label_lengths: Integers `(N,)` in 0..L, how many labels count; by default all.
        blank: The class that stands for no label.

    Returns:
        Loss `(N,)`, in nats, of whole sequences; PyTorch's mean divides each by its number of
        labels first. It is inf, with the gradient 0, where no alignment is possible: where the
        labels, and one blank between each two equal neighbours, are more than the steps. Under
        `jit` a length out of range, or a label that is no class or the blank, makes the loss
        NaN and its gradient too.

    Raises:
        TypeError: If the logits are no floats, or labels or lengths no integers.
        ValueError: If the shapes do not belong together, or, outside `jit`, a label or a length
            is out of range or a label the blank.

    References:
        Graves et al. 2006, "Connectionist Temporal Classification",
        https://doi.org/10.1145/1143844.1143891

    >>> ctc(jnp.zeros((1, 2, 3)), jnp.array([[1]]))  # "1 1", "1 _" or "_ 1" out of 9
    Array([1.0986123], dtype=float32)
    """
    _sequences(logits, labels)
    (examples, steps, classes), size = np.shape(logits), np.shape(labels)[1]
    blank = checks.count("blank", blank, classes - 1, least=0)
    times, times_fit = _lengths("logit_lengths", logit_lengths, examples, steps)
    sizes, sizes_fit = _lengths("label_lengths", label_lengths, examples, size)
    heard = jnp.arange(steps, dtype=jnp.int32) < times[:, None]
    inside = jnp.arange(size, dtype=jnp.int32) < sizes[:, None]
    labels, labels_fit = _labels(labels, inside, classes, blank)
    (logits,) = widen(logits)
    # Padding is set aside before anything is computed with it, lest NaN pass by the gradient.
    log_p = jax.nn.log_softmax(jnp.where(heard[..., None], logits, 0), axis=-1)
    log_p = jnp.where(log_p < NEVER, NEVER, log_p)
    # One step more, which is padding, for optax wants one at least.
    log_p = jnp.pad(log_p, ((0, 0), (0, 1), (0, 0)))
    silent = ~jnp.pad(heard, ((0, 0), (0, 1)))
    with jax.numpy_dtype_promotion("standard"):  # which optax counts on
        loss = optax.losses.ctc_loss(
            log_p,
            silent.astype(log_p.dtype),
            labels,
            1 - inside.astype(log_p.dtype),
            blank_id=blank,
            log_epsilon=NEVER,
        )
    loss = poisoned(loss, times_fit & sizes_fit & labels_fit)
    return jnp.where(loss > -NEVER / 2, jnp.inf, loss)


def _sequences(logits: Any, labels: Any) -> None:
    checks.floating("logits", logits)
    checks.integer("labels", labels)
    if logits.ndim != 3 or labels.ndim != 2 or len(logits) != len(labels):
        raise ValueError(
            f"logits has shape {logits.shape} and labels has shape {labels.shape}, expected "
            "(N, T, C) and (N, L); add a missing batch axis with logits[None] and labels[None]"
        )


def _lengths(name: str, lengths: Any, examples: int, most: int) -> tuple[jax.Array, jax.Array]:
    """The lengths (N,), safe to use, and which of them were in 0..most."""
    if lengths is None:
        return jnp.full(examples, most, jnp.int32), jnp.ones(examples, bool)
    checks.integer(name, lengths)
    if lengths.shape != (examples,):
        raise ValueError(
            f"{name} has shape {lengths.shape}, expected one for each sequence, ({examples},)"
        )
    checks.within(name, lengths, 0, most)
    lengths = _wide(lengths)
    fit = (lengths >= 0) & (lengths <= most)
    return jnp.where(fit, lengths, most).astype(jnp.int32), fit


def _labels(
    labels: Any, inside: jax.Array, classes: int, blank: int
) -> tuple[jax.Array, jax.Array]:
    """The labels, safe to use, and for each sequence whether those inside were labels."""
    if checks.concrete(labels) and checks.concrete(inside):
        counted = np.where(inside, labels, 0)
        checks.within("labels", counted, 0, classes - 1, why=f", for there are {classes} classes")
        if (counted[np.asarray(inside)] == blank).any():
            raise ValueError(
                f"labels holds {blank}, which is the blank, expected labels of the classes alone; "
                "if that is a class of yours give the blank another number, as blank=C - 1"
            )
    labels = _wide(labels)
    fit = (labels >= 0) & (labels < classes) & (labels != blank)
    safe = jnp.where(fit & inside, labels, 0).astype(jnp.int32)
    return safe, jnp.where(inside, fit, True).all(axis=-1)


def _wide(x: ArrayLike) -> jax.Array:
    """Integers of 32 bits or more, for 300 is no uint8; but 2**32 must not become 0."""
    x = jnp.asarray(x)
    return x.astype(jnp.int32) if x.dtype.itemsize < 4 else x
