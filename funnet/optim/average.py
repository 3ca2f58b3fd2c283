"""Averages of parameters over the steps of a training."""

import dataclasses
from typing import Any, TypeVar

import jax
import optax

from funnet.checks import within
from funnet.optim.optimizer import Average, Optimizer, extended
from funnet.optim.paths import merged

AnyRun = TypeVar("AnyRun", bound=Any)


def average(optimizer: optax.GradientTransformation, decay: float = 0.999) -> Optimizer:
    """An optimizer that also keeps an exponential moving average of the parameters.

    After step `n`, `average = d * average + (1 - d) * params` with `d = min(decay, 1 - 1 / n)`: at
    first the plain mean of all parameters so far, in which those drawn at the start have no part,
    and from step `1 / (1 - decay)` on exponential. Training itself is not touched; see `averaged`.
    A step that `scale_loss` skips does not count.

    Args:
        optimizer: any optax optimizer. Only what it trains is averaged, in float32 at least.
        decay: how much of the average a step keeps, above 0 and below 1.

    Raises:
        ValueError: if `decay` is out of range, or the optimizer keeps an average already.

    References: Polyak and Juditsky 1992, https://doi.org/10.1137/0330046; the warm-up is that of
    Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780

    >>> import optax
    >>> optimizer, params = average(optax.sgd(1.0), 0.9), jnp.array([4.0])
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(jnp.ones(1), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> params.item(), state.average.params.item()
    (2.0, 2.5)
    """
    within("decay", decay, 0, 1)
    if decay in (0, 1):
        raise ValueError(f"decay is {decay}, expected 0 < decay < 1")
    if getattr(optimizer, "decay", None) is not None:
        raise ValueError("the optimizer keeps an average already: write average once")
    return extended(optimizer, decay=float(decay))


def averaged(run: AnyRun) -> AnyRun:
    """The run with the averaged parameters, for `fn.evaluate` and `fn.predict`.

    Frozen parameters are as they are, and so is model state: batch norm's running statistics are
    averages already, of the parameters that trained.

    Args:
        run: a run whose optimizer is one of `average`.

    Raises:
        ValueError: if its optimizer keeps no average, or several, or one of other parameters.

    >>> import optax
    >>> model, x = fn.Model(fn.dense, features=2), jnp.ones((3, 4))
    >>> run = fn.Run.start(model, fn.optim.average(optax.adam(1e-3), 0.99), x)
    >>> fn.predict(model, fn.optim.averaged(run), x).shape
    (3, 2)
    """
    leaves = jax.tree.leaves(run.optimizer_state, is_leaf=lambda x: isinstance(x, Average))
    found = [leaf.params for leaf in leaves if isinstance(leaf, Average)]
    if len(found) != 1:
        raise ValueError(
            f"the run's optimizer keeps {len(found) or 'no'} averages, expected one: start the run "
            "with fn.optim.average(optimizer, 0.999)"
        )
    try:
        params = merged(found[0], run.params)
    except ValueError as error:
        raise ValueError("the average in the run's optimizer is of other parameters") from error
    cast = jax.tree.map(lambda new, old: new.astype(old.dtype), params, run.params)
    return dataclasses.replace(run, params=cast)
