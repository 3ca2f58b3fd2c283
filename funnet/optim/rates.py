"""Learning rates that a run reports, and that a restored run takes from its new optimizer.

The rate is a hyperparameter in the optimizer's state (`optax.inject_hyperparams`), always as a
schedule, a constant too: so the state has the same structure for both, and what a state restored
from a file holds is only what was last used, never what is used next.
"""

import itertools
import numbers
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from funnet.checks import within
from funnet.optim.groups import decayed

Rate = float | jax.Array | optax.Schedule
Mask = Callable[[Any], Any]


def adamw(
    learning_rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    mask: Mask | None = decayed,
) -> optax.GradientTransformationExtraArgs:
    """`optax.adamw`, with decay off for biases and norms, and the learning rate in the metrics.

    Args:
        learning_rate: a number, or an optax schedule of the step.
        b1: how much of the first moment a step keeps.
        b2: how much of the second moment a step keeps.
        eps: added to the root of the second moment.
        weight_decay: how much of a parameter a step takes away, times the learning rate.
        mask: which parameters decay, a function of their tree; None for all.

    Raises:
        TypeError: if the learning rate is neither a number nor a schedule.
        ValueError: if a setting is out of range.

    Reference: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101

    >>> optimizer = fn.optim.adamw(optax.cosine_decay_schedule(1e-3, 1000), weight_decay=0.1)
    >>> state = optimizer.init({"kernel": jnp.ones((2, 2))})
    >>> {name: round(rate.item(), 6) for name, rate in fn.optim.learning_rates(state).items()}
    {'learning_rate': 0.001}
    """
    _settings(weight_decay, b1=b1, b2=b2)
    within("eps", eps, 0, np.inf)

    def make(learning_rate: Any) -> optax.GradientTransformation:
        return optax.adamw(
            learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask
        )

    return injected(make, learning_rate)


def sgd(
    learning_rate: Rate,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    mask: Mask | None = decayed,
) -> optax.GradientTransformationExtraArgs:
    """`optax.sgd` on the gradient plus `weight_decay` times the parameter, as in PyTorch.

    Args:
        learning_rate: a number, or an optax schedule of the step; it goes into the metrics.
        momentum: how much of the last update's direction a step keeps; at 0 no slot is kept.
        nesterov: whether to look ahead along the momentum.
        weight_decay: the decay, off for biases and norms by default.
        mask: which parameters decay, a function of their tree; None for all.

    Raises:
        TypeError: if the learning rate is neither a number nor a schedule.
        ValueError: if a setting is out of range.

    Reference: Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html

    >>> optimizer, params = fn.optim.sgd(0.1, weight_decay=0.5), {"kernel": jnp.ones(1)}
    >>> updates, _ = optimizer.update({"kernel": jnp.zeros(1)}, optimizer.init(params), params)
    >>> round(updates["kernel"].item(), 3)
    -0.05
    """
    _settings(weight_decay, momentum=momentum)

    def make(learning_rate: Any) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(weight_decay, mask)
        return optax.chain(decay, optax.sgd(learning_rate, momentum or None, nesterov))

    return injected(make, learning_rate)


def learning_rates(state: Any) -> dict[str, Any]:
    """The learning rates that an optimizer's state holds, by name, as last used.

    One is `learning_rate`; those of groups are called by their patterns, `learning_rate.head.*`.

    Args:
        state: the optimizer's state, of whatever optimizers of optax.

    >>> optimizer = fn.optim.groups({"head.*": fn.optim.sgd(0.5), "*": fn.optim.sgd(0.25)})
    >>> params = {"head": {"bias": jnp.ones(1)}, "trunk": {"bias": jnp.ones(1)}}
    >>> rates = fn.optim.learning_rates(optimizer.init(params))
    >>> {name: rate.item() for name, rate in sorted(rates.items())}
    {'learning_rate.*': 0.25, 'learning_rate.head.*': 0.5}
    """
    found: dict[str, Any] = {}
    for path, rate in optax.tree.get_all_with_path(state, "learning_rate", _is_rate):
        name = ".".join(("learning_rate", *_groups(path)))
        alike = sum(other == name or other.startswith(f"{name}#") for other in found)
        found[f"{name}#{alike + 1}" if alike else name] = rate
    return found


def _is_rate(path: tuple, value: Any) -> bool:
    held = len(path) > 1 and getattr(path[-2], "name", "") == "hyperparams"
    return held and isinstance(value, jax.Array | np.ndarray | float)


def _groups(path: tuple) -> list[str]:
    """The patterns of the groups that a path leads through."""
    pairs = itertools.pairwise(path)
    return [str(key.key) for at, key in pairs if getattr(at, "name", "") == "inner_states"]


def _settings(weight_decay: Any, **kept: Any) -> None:
    within("weight_decay", weight_decay, 0, np.inf)
    for name, value in kept.items():
        within(name, value, 0, 1)


def injected(make: Callable[[Any], Any], rate: Rate) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a learning rate, with the rate of each step in its state."""
    return optax.inject_hyperparams(make)(learning_rate=_schedule(rate))


def _schedule(rate: Any) -> optax.Schedule:
    if callable(rate):

        def scheduled(count: Any) -> Any:
            with jax.numpy_dtype_promotion("standard"):  # which optax counts on
                return rate(count)

        return scheduled
    number = float(rate) if _is_number(rate) else None
    if number is None and getattr(rate, "shape", None) != ():
        raise TypeError(
            f"learning_rate must be a number or an optax schedule, got {rate!r}: write 1e-3, "
            "or optax.cosine_decay_schedule(1e-3, steps)"
        )
    within("learning_rate", rate, 0, np.inf)
    # A Python number takes the dtype of the parameters; an array (as in a sweep) keeps its own.
    return optax.constant_schedule(rate if number is None else number)


def _is_number(x: Any) -> bool:
    return isinstance(x, numbers.Real | np.generic) and not isinstance(x, bool | np.bool_)
