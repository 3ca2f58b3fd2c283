"""Dynamic loss scaling, for gradients that would be too small for float16."""

import math

import optax

from funnet.checks import count, within
from funnet.optim.optimizer import Optimizer, Scaling, extended


def scale_loss(
    optimizer: optax.GradientTransformation, initial: float = 2.0**15, *, interval: int = 2000
) -> Optimizer:
    """An optimizer whose loss is multiplied before the gradient is taken, and the gradient divided.

    A step whose gradient overflows changes no parameter and no slot, and halves the factor (which
    stays at least 1); it is a step all the same. After `interval` sound ones the factor doubles.
    `fn.train_step` does the multiplying and reports `loss_scale`. A loss that is itself not finite
    is refused as ever, and so is a gradient that is not at a factor of 1. Goes outermost, with
    `freeze` and `average` in any order.

    Args:
        optimizer: any optax optimizer.
        initial: the first factor, at least 1; a power of two loses no bits.
        interval: sound steps after which the factor doubles.

    Raises:
        TypeError: if `interval` is no integer.
        ValueError: if a setting is out of range.

    Reference: Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740

    >>> import optax
    >>> optimizer, params = scale_loss(optax.sgd(1.0), 2.0**10), jnp.zeros(2)
    >>> overflow = jnp.array([1.0, jnp.inf])
    >>> updates, state = optimizer.update(overflow, optimizer.init(params), params)
    >>> updates.tolist(), state.loss_scale.scale.item()
    ([0.0, 0.0], 512.0)
    """
    within("initial", initial, 1, math.ldexp(1.0, 127))
    return extended(optimizer, scaling=Scaling(float(initial), count("interval", interval)))
