"""A training step: a pure function `step(run, batch) -> (run, metrics)`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from funnet import checks
from funnet.keys import row_key
from funnet.optim.optimizer import LossScale, Optimizer, State
from funnet.optim.paths import merged
from funnet.optim.rates import learning_rates
from funnet.train.accumulate import accumulated
from funnet.train.objective import Batch, Objective
from funnet.train.run import Run

Step = Callable[[Run, Batch], tuple[Run, dict[str, Any]]]


def train_step(
    objective: Objective, optimizer: optax.GradientTransformation, *, accumulate: int = 1
) -> Step:
    """The usual step: the gradient of the objective, handed to the optimizer.

    A guard on the device watches loss and gradient: where either is not finite (as with a label
    out of range, which makes the loss NaN) the step is refused, and the run comes back unchanged,
    its `step` too. `fit` then stops and says why. Under `fn.optim.scale_loss` a gradient that is
    not finite is a step that only halves the scale.

    With `accumulate=k` a batch is cut into `k` parts of consecutive rows, which go one after
    another in the memory of one. Loss, gradient, random numbers and metrics are those of the whole
    batch, but for rounding, where the loss is the mean whose count `metrics["loss"]` tells. What
    looks across examples sees those of a part: batch norm's statistics are each part's, its running
    ones move `k` times a step, and mixup mixes within a part.

    Args:
        objective: `objective(params, state, batch, *, train, key) -> (loss, (state, metrics))`.
        optimizer: an optax optimizer, the one that `Run.start` was given. What `fn.optim.freeze`
            says is frozen has no gradient computed.
        accumulate: into how many parts to cut a batch; it must divide the number of examples.

    Returns:
        `step(run, batch) -> (run, metrics)`, where metrics are the objective's, with `loss`,
        `gradient_norm` (the Euclidean norm over all trainable parameters, before any clipping), the
        optimizer's `learning_rate` if its state tells, by group if there are several, and
        `loss_scale` if the loss is scaled.

    Raises:
        ValueError: when called, if the batch cannot be cut so, or `metrics["loss"]` is no mean.
    """
    checks.count("accumulate", accumulate)

    def step(run: Run, batch: Batch) -> tuple[Run, dict[str, Any]]:
        scale = _loss_scale(optimizer, run.optimizer_state)
        params, frozen = _split(optimizer, run.params)
        gradient = _gradient(objective, frozen, scale)
        take = gradient if accumulate == 1 else accumulated(accumulate, gradient)
        (_, (loss, (state, metrics))), gradients = take(
            params, run.state, batch, row_key(run.key())
        )
        if scale is not None:
            gradients = jax.tree.map(lambda g: g / scale.astype(g.dtype), gradients)
        norm = optax.tree.norm(gradients)
        with jax.numpy_dtype_promotion("standard"):  # which optax counts on
            updates, kept = optimizer.update(gradients, run.optimizer_state, params)
        old = dataclasses.replace(run, params=params)  # what is frozen is not chosen between
        params = optax.apply_updates(params, updates)
        new = old.next(params=params, state=state, optimizer_state=kept)
        new = guarded(old, new, loss, _watched(norm, scale))
        told = {"gradient_norm": norm, **learning_rates(kept), **_told(scale)}
        return dataclasses.replace(new, params=merged(new.params, frozen)), {
            "loss": loss,
            **metrics,
            **told,
        }

    return step


def _split(optimizer: optax.GradientTransformation, params: Any) -> tuple[Any, Any]:
    """What is trained, and what is frozen."""
    if isinstance(optimizer, Optimizer):
        return optimizer.split(params)
    return params, jax.tree.map(lambda _: optax.MaskedNode(), params)


def _gradient(objective: Objective, frozen: Any, scale: jax.Array | None) -> Any:
    """The function `(params, state, batch, key)` of loss, the rest, and the scaled gradient."""

    def loss_of(params: Any, state: Any, batch: Batch, key: jax.Array) -> Any:
        given = merged(params, frozen)
        loss, rest = objective(given, state, batch, train=True, key=key)
        scaled = loss if scale is None else loss.astype(scale.dtype) * scale
        return scaled, (loss, rest)

    return jax.value_and_grad(loss_of, has_aux=True)


def _loss_scale(optimizer: optax.GradientTransformation, state: Any) -> jax.Array | None:
    """What the loss is multiplied by, if it is."""
    if isinstance(optimizer, Optimizer):
        if not isinstance(state, State):
            raise TypeError(
                "the run's optimizer state is of another optimizer than the step's: "
                "give fn.Run.start and fn.train_step the same one"
            )
        return state.loss_scale and state.loss_scale.scale
    nested = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, LossScale))
    if any(isinstance(x, LossScale) for x in nested):
        raise ValueError(
            "scale_loss is inside another optimizer, where the step does not see it: put it "
            "outermost, fn.optim.scale_loss(optax.chain(...))"
        )
    return None


def _watched(norm: jax.Array, scale: jax.Array | None) -> jax.Array:
    """What the guard looks at: an overflow is no error while the scale can be lowered."""
    return norm if scale is None else jnp.where(scale > 1, jnp.zeros_like(norm), norm)


def _told(scale: jax.Array | None) -> dict[str, jax.Array]:
    return {} if scale is None else {"loss_scale": scale}


def guarded(old: Run, new: Run, *watched: jax.Array) -> Run:
    """The new run where all watched numbers are finite, else the old one, as it was.

    A choice of whole trees: selecting leaf by leaf would be fused into the optimizer's arithmetic,
    and holds it up (measured: 3 % of a small CNN's step, 10 % of an MLP's).
    """
    sound = jnp.all(jnp.stack([jnp.isfinite(x).all() for x in watched]))
    return jax.lax.cond(sound, lambda: new, lambda: old)
