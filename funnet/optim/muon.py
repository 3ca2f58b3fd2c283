"""Muon for kernels of every layer: momentum whose singular values are all made about one."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import optax
from optax import contrib

from funnet.checks import count, within
from funnet.optim.groups import decayed
from funnet.optim.paths import map_paths
from funnet.optim.rates import Rate, injected
from funnet.select import matches, patterns


def muon(
    learning_rate: Rate,
    *,
    momentum: float = 0.95,
    iterations: int = 5,
    weight_decay: float = 0.0,
    stacked: str | Iterable[str] = (),
) -> optax.GradientTransformationExtraArgs:
    """The update is the nearest orthogonal matrix to the momentum, by Newton-Schulz iterations.

    A kernel is taken as a matrix from all its axes but the last to the last, a convolution's too,
    and its update has the spectral norm `learning_rate * sqrt(max(1, out / in))`. It is made for
    the matrices inside a network: tables, heads and biases go to another optimizer,
    `fn.optim.groups({"head.*": adam, "*.kernel": fn.optim.muon(0.02), "*": adam})`.

    Args:
        learning_rate: a number, or an optax schedule of the step; it goes into the metrics.
        momentum: how much of the momentum a step keeps; it is Nesterov's.
        iterations: of Newton and Schulz; three are enough for small networks.
        weight_decay: how much of a parameter a step takes away, times the learning rate.
        stacked: patterns of paths of repeated blocks, such as `"blocks.*"`, whose first axis
            counts the turns: each turn's kernel is a matrix of its own.

    Raises:
        TypeError: if the learning rate is neither a number nor a schedule.
        ValueError: if a setting is out of range, or, when it is initialised, a parameter that it is
            given is no matrix.

    Reference: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/

    >>> optimizer, params = fn.optim.muon(1.0), {"kernel": jnp.zeros((8, 4))}
    >>> gradients = {"kernel": jax.random.normal(jax.random.key(0), (8, 4))}
    >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    >>> sizes = jnp.linalg.svd(updates["kernel"])[1]
    >>> bool((sizes > 0.6).all() and (sizes < 1.4).all())
    True
    """
    within("momentum", momentum, 0, 1)
    within("weight_decay", weight_decay, 0, float("inf"))
    count("iterations", iterations)
    turned = patterns(stacked)

    def dimensions(params: Any) -> Any:
        return map_paths(lambda path, leaf: _dimensions(path, leaf, turned), params)

    def widened(updates: Any, _: Any) -> Any:
        return map_paths(lambda path, leaf: leaf * _width(path, leaf, turned), updates)

    def begun(params: Any) -> optax.EmptyState:
        dimensions(params)  # which refuses what is no matrix
        return optax.EmptyState()

    def make(learning_rate: Any) -> optax.GradientTransformation:
        return _promoting(
            contrib.scale_by_muon(
                ns_steps=iterations, beta=momentum, weight_dimension_numbers=dimensions
            ),
            optax.GradientTransformation(begun, optax.stateless(widened).update),
            optax.add_decayed_weights(weight_decay, decayed),
            optax.scale_by_learning_rate(learning_rate),
        )

    return injected(make, learning_rate)


def _promoting(*parts: optax.GradientTransformation) -> optax.GradientTransformation:
    """A chain whose updates may promote dtypes, which optax counts on."""
    chain = optax.chain(*parts)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)


def _dimensions(path: str, leaf: jax.Array, stacked: tuple[str, ...]) -> Any:
    """Which axes of a kernel go in, and which out."""
    first = int(any(matches(path, pattern) for pattern in stacked))
    if leaf.ndim < first + 2:
        raise ValueError(
            f"muon is for matrices, and {path!r} has shape {leaf.shape}: give it to another "
            'optimizer, fn.optim.groups({"*.kernel": fn.optim.muon(0.02), "*": optax.adam(1e-3)})'
        )
    return contrib.MuonDimensionNumbers(tuple(range(first, leaf.ndim - 1)), leaf.ndim - 1)


def _width(path: str, leaf: jax.Array, stacked: tuple[str, ...]) -> float:
    """What keeps the size of what comes out where it is more than goes in."""
    inputs = math.prod(leaf.shape[axis] for axis in _dimensions(path, leaf, stacked)[0])
    return math.sqrt(max(1, leaf.shape[-1] / inputs))
