"""Freezing: leaves that stay as they are, at no cost in time or memory of training them."""

from collections.abc import Iterable

import optax

from funnet.optim.optimizer import Optimizer, extended
from funnet.optim.paths import merged as merged
from funnet.select import patterns as listed


def freeze(optimizer: optax.GradientTransformation, patterns: str | Iterable[str]) -> Optimizer:
    """An optimizer that leaves the parameters alone whose paths match.

    Said here once: `fn.Run.start` makes no slots for them, and `fn.train_step` takes no gradient of
    them, so that what lies below a frozen trunk costs a forward pass alone. Model state (batch
    norm's statistics) moves on as ever. Goes outermost: inside `optax.chain` its update refuses.

    Args:
        optimizer: any optax optimizer; patterns of its own groups may match what is frozen.
        patterns: one pattern of dotted paths or several.

    Raises:
        TypeError: if a pattern is no string.
        ValueError: when the optimizer is initialised, if a pattern matches no parameter, or they
            leave nothing to train; when it updates, if it is given a gradient of what is frozen.

    >>> import optax
    >>> params = {"head": {"bias": jnp.ones(1)}, "trunk": {"bias": jnp.ones(1)}}
    >>> optimizer = freeze(optax.adam(1e-3), "trunk.*")
    >>> [leaf.shape for leaf in jax.tree.leaves(optimizer.init(params))]
    [(), (1,), (1,)]
    """
    wanted = listed(patterns)
    if not all(isinstance(pattern, str) for pattern in wanted):
        raise TypeError(f"freeze takes patterns of dotted paths, got {patterns!r}")
    known = optimizer.frozen if isinstance(optimizer, Optimizer) else ()
    return extended(optimizer, frozen=tuple(dict.fromkeys((*known, *wanted))))
