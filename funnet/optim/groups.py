"""Groups of parameters by path: other optimizers, other learning rates, other decay."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax

from funnet.optim.optimizer import Optimizer, extended
from funnet.optim.paths import first_matches, map_paths, paths
from funnet.select import shifts_or_scales

Tree = Any


def groups(
    optimizers: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    """Another optimizer for each group of parameters, the first pattern that matches taking a leaf.

    Args:
        optimizers: optax optimizers by pattern of dotted paths, the narrower patterns first.

    Returns:
        An optax optimizer over `optax.partition`; it composes as any does.

    Raises:
        TypeError: if the groups are no dict of optimizers by pattern.
        ValueError: if an optimizer is one of `freeze`, `average` or `scale_loss`, which go outside;
            when it is initialised, if a pattern matches nothing (the nearest paths are listed) or
            nothing that is left, or a leaf is matched by none.

    >>> import optax
    >>> optimizer = groups({"head.*": optax.sgd(1.0), "*": optax.sgd(0.1)})
    >>> params = {"head": {"bias": jnp.ones(1)}, "trunk": {"bias": jnp.ones(1)}}
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> updates["head"]["bias"].item(), round(updates["trunk"]["bias"].item(), 3)
    (-1.0, -0.1)
    """
    for pattern, optimizer in _checked("groups", optimizers).items():
        if isinstance(optimizer, Optimizer):
            raise ValueError(
                f"the group {pattern!r} has an optimizer of freeze, average or scale_loss, which "
                "go outermost: write fn.optim.freeze(fn.optim.groups({...}), patterns)"
            )
        if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
            raise TypeError(f"the group {pattern!r} needs an optax optimizer, got {optimizer!r}")

    def partition(tree: Tree) -> optax.GradientTransformationExtraArgs:
        found = first_matches(list(optimizers), tree)
        left = [path for path in paths(tree, masked=False) if found[path] is None]
        if left:
            raise ValueError(
                f'no group takes {", ".join(left)}: add "*": optimizer as the last group'
            )
        labels = map_paths(lambda path, _: found[path], tree)
        return optax.partition({p: optimizers[p] for p in _used(labels)}, labels)

    return _by_tree(partition)


def multiply(
    optimizer: optax.GradientTransformation, factors: Mapping[str, float]
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose updates are multiplied by path: multipliers of the learning rate.

    Decay that goes by the learning rate, as AdamW's does, is multiplied with it.

    Args:
        optimizer: any optax optimizer.
        factors: positive numbers by pattern of dotted paths; the first that matches counts, and
            what none matches is left as it is.

    Returns:
        An optimizer that is frozen, averaged and scaled as the one given is.

    Raises:
        TypeError: if the factors are no dict of numbers by pattern.
        ValueError: if a factor is not positive; when it is initialised, if a pattern matches
            nothing, or nothing that is left.

    >>> import optax
    >>> optimizer = multiply(optax.sgd(1.0), {"trunk.*": 0.1})
    >>> params = {"head": {"bias": jnp.ones(1)}, "trunk": {"bias": jnp.ones(1)}}
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> updates["head"]["bias"].item(), round(updates["trunk"]["bias"].item(), 3)
    (-1.0, -0.1)
    """
    for pattern, factor in _checked("multiply", factors).items():
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise TypeError(f"the factor of {pattern!r} must be a number, got {factor!r}")
        if not 0 < factor < math.inf:
            raise ValueError(
                f"the factor of {pattern!r} is {factor}, expected 0 < factor; "
                f"to keep parameters as they are write fn.optim.freeze(optimizer, {pattern!r})"
            )

    def partition(tree: Tree) -> optax.GradientTransformationExtraArgs:
        found = first_matches(list(factors), tree)
        labels = map_paths(lambda path, _: found[path] or "", tree)
        scales = {pattern: optax.scale(factor) for pattern, factor in factors.items()}
        known = {**scales, "": optax.identity()}
        return optax.partition({p: known[p] for p in _used(labels)}, labels)

    base = optimizer.base if isinstance(optimizer, Optimizer) else optimizer
    chained = optax.chain(base, _by_tree(partition))
    return extended(optimizer, base=chained) if isinstance(optimizer, Optimizer) else chained


def decayed(params: Tree) -> Tree:
    """Which parameters decay: all but biases and the scales of norms; a mask for optax.

    A leaf is known by its name, `bias` or `scale` or what ends in `_bias` or `_scale`, and not by
    how many axes it has: in a repeated block a bias has one more.

    Args:
        params: a tree of parameters.

    Returns:
        A tree of booleans.

    >>> import optax
    >>> optimizer = optax.lion(1e-4, mask=fn.optim.decayed)
    >>> fn.optim.decayed({"dense": {"bias": jnp.zeros(3), "kernel": jnp.zeros((4, 3))}})
    {'dense': {'bias': False, 'kernel': True}}
    """

    def decays(path: tuple, _: Any) -> bool:
        # A kernel may be a small tree of its own, whose fields have names that tell nothing.
        names = [str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey)]
        return not shifts_or_scales(names[-1]) if names else True

    return jax.tree_util.tree_map_with_path(decays, params)


def _checked(what: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not given or not all(isinstance(p, str) for p in given):
        raise TypeError(
            f'fn.optim.{what} takes a dict by pattern, such as {{"head.*": ..., "*": ...}}, '
            f"got {given!r}"
        )
    return given


def _used(labels: Tree) -> list[str]:
    """The labels that some leaf has: a group that is wholly frozen keeps no state."""
    return list(dict.fromkeys(jax.tree.leaves(labels)))


def _by_tree(make: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer that `make` gives for the tree that it is called with."""

    def update(updates: Tree, state: Any, params: Tree = None, **more: Any) -> tuple[Tree, Any]:
        return make(updates).update(updates, state, params, **more)

    return optax.GradientTransformationExtraArgs(lambda params: make(params).init(params), update)
