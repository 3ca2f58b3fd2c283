"""Losses of elements `(N, ...)`: the mean over every axis but the first, weighted if so wished."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from funnet import checks
from funnet.losses.classes import focused
from funnet.losses.terms import above, alike, elements, kept, per_example, spread, weighted, widen


def binary_cross_entropy(
    logits: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """Negative log-likelihood of yes-or-no targets under `sigmoid(logits)`.

    `-t log sigmoid(x) - (1 - t) log sigmoid(-x)`, the mean over every axis but the first.

    Args:
        logits: Floats `(N, ...)`, log-odds.
        targets: Booleans, integers or floats `(N, ...)` in 0..1.
        weights: What each element counts, of the logits' shape or of their leading axes.

    Returns:
        Loss `(N,)`, in nats.

    Raises:
        TypeError: If the logits are no floats.
        ValueError: If the shapes do not belong together, or, outside `jit`, a target is outside
            0..1 or a weight negative.

    >>> binary_cross_entropy(jnp.zeros(2), jnp.array([True, False]))
    Array([0.6931472, 0.6931472], dtype=float32)
    """
    (logits, targets), weights = _yes_or_no(logits, targets, weights)
    # Two terms keep their digits on both sides; softplus(x) - t * x cancels to 0 at x = 20.
    yes = weighted(targets, jax.nn.softplus(-logits))
    no = weighted(1 - targets, jax.nn.softplus(logits))
    return per_example(yes + no, weights)


def binary_focal(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    gamma: float = 2.0,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Binary cross-entropy that counts easy elements less, for where nearly all are a clear no.

    `-t (1 - p)^gamma log p - (1 - t) p^gamma log(1 - p)` with `p = sigmoid(logits)`, the mean
    over every axis but the first.

    Args:
        logits: Floats `(N, ...)`, log-odds.
        targets: Booleans, integers or floats `(N, ...)` in 0..1.
        gamma: How much less, 0 or more; 0 is `binary_cross_entropy`.
        weights: What each element counts, of the logits' shape or of their leading axes.

    Returns:
        Loss `(N,)`, in nats.

    Raises:
        TypeError: If the logits are no floats.
        ValueError: If the shapes do not belong together, or, outside `jit`, a target is outside
            0..1, or gamma or a weight negative.

    References:
        Lin et al. 2017, "Focal Loss for Dense Object Detection", https://arxiv.org/abs/1708.02002

    >>> binary_focal(jnp.zeros(2), jnp.array([True, False]), gamma=1.0)
    Array([0.3465736, 0.3465736], dtype=float32)
    """
    checks.within("gamma", gamma, 0, jnp.inf)
    (logits, targets), weights = _yes_or_no(logits, targets, weights)
    yes = weighted(targets, focused(logits, gamma))
    no = weighted(1 - targets, focused(-logits, gamma))
    return per_example(yes + no, weights)


def hinge(
    predictions: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """What predictions lack to lie beyond 1 on the target's side: `max(0, 1 - t y)`.

    The mean over every axis but the first.

    Args:
        predictions: Floats `(N, ...)`, scores.
        targets: Integers or floats `(N, ...)`, -1 or +1.
        weights: What each element counts, of the predictions' shape or of their leading axes.

    Returns:
        Loss `(N,)`.

    Raises:
        TypeError: If the predictions are no floats.
        ValueError: If the shapes do not belong together, or, outside `jit`, a target is neither
            -1 nor +1 or a weight negative.

    >>> hinge(jnp.array([0.25, 3.0]), jnp.array([1, 1])).tolist()
    [0.75, 0.0]
    """
    checks.floating("predictions", predictions)
    alike(predictions=predictions, targets=targets)
    weights = spread(weights, "predictions", predictions)
    targets = kept(targets, weights, 1)
    _signs("targets", targets)
    predictions, targets = widen(kept(predictions, weights), targets)
    return per_example(above(1 - targets * predictions), weights)


def margin_ranking(
    a: ArrayLike,
    b: ArrayLike,
    order: ArrayLike,
    *,
    margin: float = 0.0,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """What the scores of pairs lack to be in the right order: `max(0, margin - order (a - b))`.

    The mean over every axis but the first. A pair that just meets the margin costs nothing but
    is still pulled apart, as in PyTorch: so equal scores learn, though the margin is 0.

    Args:
        a: Floats `(N, ...)`, scores of the first of each pair.
        b: Floats `(N, ...)`, scores of the second.
        order: Integers or floats `(N, ...)`, +1 where the first should score higher, else -1.
        margin: By how much.
        weights: What each pair counts, of the scores' shape or of their leading axes.

    Returns:
        Loss `(N,)`.

    Raises:
        TypeError: If the scores are no floats.
        ValueError: If the shapes do not belong together, or, outside `jit`, an order is neither
            -1 nor +1 or a weight negative.

    >>> margin_ranking(jnp.array([2.0, 2.0]), jnp.array([3.0, 3.0]), jnp.array([1, -1])).tolist()
    [1.0, 0.0]
    """
    checks.floating("a", a)
    checks.floating("b", b)
    alike(a=a, b=b, order=order)
    weights = spread(weights, "a", a)
    order = kept(order, weights, 1)
    _signs("order", order)
    a, b, order = widen(kept(a, weights), kept(b, weights), order)
    missing = margin - order * (a - b)
    return per_example(jnp.where(missing < 0, 0, missing), weights)


def mse(
    predictions: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """Mean squared error, over every axis but the first.

    Args:
        predictions: Floats `(N, ...)`.
        targets: Floats `(N, ...)`.
        weights: What each element counts, of the predictions' shape or of their leading axes.

    Returns:
        Loss `(N,)`, in the square of the targets' unit.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes do not belong together, or, outside `jit`, a weight is negative.

    >>> mse(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 5.0]])).tolist()
    [4.5]
    >>> mse(jnp.ones((1, 2)), jnp.zeros((1, 2)), weights=jnp.array([[True, False]])).tolist()
    [1.0]
    """
    (predictions, targets), weights = elements(weights, predictions=predictions, targets=targets)
    return per_example(jnp.square(predictions - targets), weights)


def l1(
    predictions: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """Mean absolute error, over every axis but the first.

    Args:
        predictions: Floats `(N, ...)`.
        targets: Floats `(N, ...)`.
        weights: What each element counts, of the predictions' shape or of their leading axes.

    Returns:
        Loss `(N,)`, in the targets' unit.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes do not belong together, or, outside `jit`, a weight is negative.

    >>> l1(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 5.0]])).tolist()
    [1.5]
    """
    (predictions, targets), weights = elements(weights, predictions=predictions, targets=targets)
    error = predictions - targets
    # JAX gives |e| the derivative 1 at e = 0; an exact hit should pull nowhere.
    return per_example(error * jnp.sign(error), weights)


def huber(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    delta: float = 1.0,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Squared error near the target, absolute error far from it.

    `e^2 / 2` where `|e| <= delta`, else `delta (|e| - delta / 2)`, with e the error; the mean
    over every axis but the first.

    Args:
        predictions: Floats `(N, ...)`.
        targets: Floats `(N, ...)`.
        delta: The error at which the one becomes the other, in the targets' unit.
        weights: What each element counts, of the predictions' shape or of their leading axes.

    Returns:
        Loss `(N,)`, in the square of the targets' unit.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes do not belong together, `delta` is not above zero, or, outside
            `jit`, a weight is negative.

    References:
        Huber 1964, "Robust Estimation of a Location Parameter", https://doi.org/10.1214/aoms/1177703732

    >>> huber(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
    [0.125, 2.5]
    """
    checks.positive("delta", delta)
    (predictions, targets), weights = elements(weights, predictions=predictions, targets=targets)
    return per_example(optax.losses.huber_loss(predictions, targets, delta=delta), weights)


def _yes_or_no(logits: ArrayLike, targets: ArrayLike, weights: ArrayLike | None):
    checks.floating("logits", logits)
    alike(logits=logits, targets=targets)
    weights = spread(weights, "logits", logits)
    targets = kept(targets, weights)
    checks.probabilities("targets", targets)
    return widen(kept(logits, weights), targets), weights


def _signs(name: str, x: jax.Array) -> None:
    if not checks.concrete(x):
        return
    bad = np.abs(np.asarray(x).astype(np.float64)) != 1
    if bad.any():
        index = tuple(np.argwhere(bad)[0].tolist())
        raise ValueError(
            f"{name}[{', '.join(map(str, index))}] is {np.asarray(x)[index]}, expected -1 or +1; "
            f"for {name} of 0 and 1 write 2 * {name} - 1"
        )
