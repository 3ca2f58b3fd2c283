"""Losses: one number per example, computed in float32 or wider; the caller reduces.

A loss that has classes takes them along the last axis and gives one number per label; an
elementwise loss, of `(N, ...)`, gives the mean over every axis but the first. So
`loss.mean()` is the usual objective, and `(weight * loss).sum() / weight.sum()` that of a
padded batch. Shapes are never broadcast: see `funnet.checks`.
"""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from funnet import checks


def cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, label_smoothing: float = 0.0
) -> jax.Array:
    """Negative log-likelihood of the labels under `softmax(logits)`.

    `-sum_c q_c log softmax(logits)_c`, with `q = (1 - s) onehot(label) + s / C` for smoothing s.

    Args:
        logits: Floats `(..., C)`, unnormalised log-probabilities; -inf rules a class out.
        labels: Integers `(...)` in 0..C-1.
        label_smoothing: The share of probability spread evenly over all classes, in 0..1.

    Returns:
        Loss `(...)`, in nats. Under `jit` a label that is no class makes the loss NaN *and* the
        gradient of its row NaN, so that nothing trains on it unseen.

    Raises:
        TypeError: If the labels are no integers or the logits no floats.
        ValueError: If the shapes do not belong together, or, outside `jit`, a label is no class.

    References:
        Szegedy et al. 2015, "Rethinking the Inception Architecture", https://arxiv.org/abs/1512.00567

    >>> cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))
    Array([1.3862944, 1.3862944], dtype=float32)
    """
    labels, valid = checks.labels(labels, logits)
    checks.within("label_smoothing", label_smoothing, 0, 1)
    (logits,) = _widen(logits)
    peak, log_total = _log_sum_exp(logits)
    # A gather, though its gradient is a scatter: on CPU value and gradient took 8.3 us for
    # (256, 10) in a scan and 200 ms for (2048, 50257); comparing with an iota 9.7 and 250.
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    loss = log_total + (peak - picked)
    if not (checks.concrete(label_smoothing) and label_smoothing == 0):
        even = log_total + jnp.mean(peak[..., None] - logits, axis=-1)
        loss = (1 - label_smoothing) * loss + label_smoothing * even
    # A product, for a `where` would give such a row the gradient 0.
    return loss * jnp.where(valid, 1.0, jnp.nan)


def soft_cross_entropy(logits: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Cross-entropy of `softmax(logits)` with whole distributions, as of mixup or a teacher.

    `-sum_c targets_c log softmax(logits)_c`, where a class of probability 0 adds nothing even
    if its logit is -inf.

    Args:
        logits: Floats `(..., C)`, unnormalised log-probabilities.
        targets: Floats `(..., C)`, probabilities.

    Returns:
        Loss `(...)`, in nats.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes differ, or, outside `jit`, a target is outside 0..1.

    >>> soft_cross_entropy(jnp.zeros((1, 4)), jnp.full((1, 4), 0.25))
    Array([1.3862944], dtype=float32)
    """
    logits, targets = _floats(logits=logits, targets=targets)
    checks.probabilities("targets", targets)
    peak, log_total = _log_sum_exp(logits)
    gap = _weighted(targets, peak[..., None] - logits)
    return log_total * jnp.sum(targets, axis=-1) + jnp.sum(gap, axis=-1)


def binary_cross_entropy(logits: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Negative log-likelihood of yes-or-no targets under `sigmoid(logits)`.

    `-t log sigmoid(x) - (1 - t) log sigmoid(-x)`, the mean over every axis but the first.

    Args:
        logits: Floats `(N, ...)`, log-odds.
        targets: Booleans, integers or floats `(N, ...)` in 0..1.

    Returns:
        Loss `(N,)`, in nats.

    Raises:
        TypeError: If the logits are no floats.
        ValueError: If the shapes differ, or, outside `jit`, a target is outside 0..1.

    >>> binary_cross_entropy(jnp.zeros(2), jnp.array([True, False]))
    Array([0.6931472, 0.6931472], dtype=float32)
    """
    checks.floating("logits", logits)
    checks.same_shape(logits=logits, targets=targets)
    checks.probabilities("targets", targets)
    logits, targets = _widen(logits, targets)
    # Two terms keep their digits on both sides; softplus(x) - t * x cancels to 0 at x = 20.
    yes = _weighted(targets, jax.nn.softplus(-logits))
    no = _weighted(1 - targets, jax.nn.softplus(logits))
    return _per_example("logits", yes + no)


def mse(predictions: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Mean squared error, over every axis but the first.

    Args:
        predictions: Floats `(N, ...)`.
        targets: Floats `(N, ...)`.

    Returns:
        Loss `(N,)`, in the square of the targets' unit.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes differ.

    >>> mse(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 5.0]])).tolist()
    [4.5]
    """
    predictions, targets = _floats(predictions=predictions, targets=targets)
    return _per_example("predictions", jnp.square(predictions - targets))


def l1(predictions: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Mean absolute error, over every axis but the first.

    Args:
        predictions: Floats `(N, ...)`.
        targets: Floats `(N, ...)`.

    Returns:
        Loss `(N,)`, in the targets' unit.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes differ.

    >>> l1(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 5.0]])).tolist()
    [1.5]
    """
    predictions, targets = _floats(predictions=predictions, targets=targets)
    error = predictions - targets
    # JAX gives |e| the derivative 1 at e = 0; an exact hit should pull nowhere.
    return _per_example("predictions", error * jnp.sign(error))


def huber(predictions: ArrayLike, targets: ArrayLike, *, delta: float = 1.0) -> jax.Array:
    """Squared error near the target, absolute error far from it.

    `e^2 / 2` where `|e| <= delta`, else `delta (|e| - delta / 2)`, with e the error; the mean
    over every axis but the first.

    Args:
        predictions: Floats `(N, ...)`.
        targets: Floats `(N, ...)`.
        delta: The error at which the one becomes the other, in the targets' unit.

    Returns:
        Loss `(N,)`, in the square of the targets' unit.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes differ, or `delta` is not above zero.

    References:
        Huber 1964, "Robust Estimation of a Location Parameter", https://doi.org/10.1214/aoms/1177703732

    >>> huber(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
    [0.125, 2.5]
    """
    checks.positive("delta", delta)
    predictions, targets = _floats(predictions=predictions, targets=targets)
    return _per_example("predictions", optax.losses.huber_loss(predictions, targets, delta=delta))


def kl_divergence(log_predictions: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Divergence of predicted distributions from the true ones, `KL(targets || predictions)`.

    `sum_c t_c (log t_c - log p_c)`, where a class of probability t = 0 adds nothing.

    Args:
        log_predictions: Floats `(..., C)`, *log*-probabilities, as of `jax.nn.log_softmax`.
        targets: Floats `(..., C)`, probabilities.

    Returns:
        Loss `(...)`, in nats.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes differ, or, outside `jit`, a target is outside 0..1.

    >>> kl_divergence(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([[1.0, 0.0]]))
    Array([0.6931472], dtype=float32)
    """
    log_predictions, targets = _floats(log_predictions=log_predictions, targets=targets)
    checks.probabilities("targets", targets)
    # 1 stands in for 0 inside the log, else its derivative is infinite and 0 * inf is NaN.
    log_targets = jnp.log(jnp.where(targets > 0, targets, 1))
    return jnp.sum(_weighted(targets, log_targets - log_predictions), axis=-1)


def cosine(predictions: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Cosine distance, `1 - a.b / (|a| |b|)` along the last axis.

    Args:
        predictions: Floats `(..., D)`.
        targets: Floats `(..., D)`.

    Returns:
        Loss `(...)` in 0..2. The zero vector is at distance 1 from everything, with a finite
        gradient.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes differ.

    >>> cosine(jnp.array([[3.0, 0.0], [0.0, 0.0]]), jnp.array([[0.0, 2.0], [1.0, 1.0]])).tolist()
    [1.0, 1.0]
    """
    predictions, targets = _floats(predictions=predictions, targets=targets)
    return 1 - jnp.sum(_unit(predictions) * _unit(targets), axis=-1)


def _floats(**arrays: ArrayLike) -> list[jax.Array]:
    for name, x in arrays.items():
        checks.floating(name, x)
    checks.same_shape(**arrays)
    checks.examples(*next(iter(arrays.items())))
    return _widen(*arrays.values())


def _widen(*arrays: ArrayLike) -> list[jax.Array]:
    """All in one dtype, float64 if any of them is and float32 if not."""
    converted = [jnp.asarray(x) for x in arrays]
    wide = any(x.dtype == jnp.float64 for x in converted)
    return [x.astype(jnp.float64 if wide else jnp.float32) for x in converted]


def _per_example(name: str, x: jax.Array) -> jax.Array:
    checks.examples(name, x)
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def _log_sum_exp(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two numbers that add up to logsumexp, apart so that peak - logit loses no digits."""
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    return peak, jnp.log(jnp.sum(jnp.exp(logits - peak[..., None]), axis=-1))


def _weighted(weight: jax.Array, x: jax.Array) -> jax.Array:
    """`weight * x` where 0 * inf is 0, gradients included."""
    return weight * jnp.where((weight == 0) & jnp.isinf(x), 0, x)


def _unit(x: jax.Array) -> jax.Array:
    # The largest entry goes first, lest squares overflow or vanish. It may count as a constant:
    # the direction of x does not depend on it, and so neither does any derivative.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    x = x / jnp.where(largest > 0, largest, 1)
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))
