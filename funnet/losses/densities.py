"""Losses of predicted densities: likelihoods of real numbers and counts, and their divergence."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet import checks
from funnet.losses.terms import (
    alike,
    elements,
    floats,
    kept,
    per_example,
    poisoned,
    spread,
    weighted,
    widen,
)


def gaussian_nll(
    mean: ArrayLike,
    targets: ArrayLike,
    var: ArrayLike,
    *,
    eps: float = 1e-6,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Negative log-likelihood of the targets under normal distributions, but for a constant.

    `(log v + (t - mean)^2 / v) / 2` with `v = max(var, eps)`, the mean over every axis but the
    first; the constant left out is `log(2 pi) / 2`. A variance below eps keeps the gradient that
    it would have at eps, so that it can grow again.

    Args:
        mean: Floats `(N, ...)`, predicted.
        targets: Floats `(N, ...)`.
        var: Floats `(N, ...)`, predicted variances, 0 or more.
        eps: The least variance counted with.
        weights: What each element counts, of the means' shape or of their leading axes.

    Returns:
        Loss `(N,)`, in nats. Under `jit` a negative variance gives NaN, in the gradient too.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes do not belong together, eps is not above zero, or, outside
            `jit`, a variance or a weight is negative.

    References:
        Nix and Weigend 1994, https://doi.org/10.1109/ICNN.1994.374138

    >>> gaussian_nll(jnp.array([1.0]), jnp.array([3.0]), jnp.array([1.0])).tolist()
    [2.0]
    """
    checks.positive("eps", eps)
    (mean, targets, var), weights = elements(weights, mean=mean, targets=targets, var=var)
    checks.within("var", var, 0, jnp.inf)
    floored = jnp.where(var < eps, eps + (var - jax.lax.stop_gradient(var)), var)
    floored = poisoned(floored, var >= 0)
    return per_example((jnp.log(floored) + jnp.square(mean - targets) / floored) / 2, weights)


def poisson_nll(
    log_rate: ArrayLike, targets: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """Negative log-likelihood of counts under Poisson distributions, but for a constant.

    `exp(x) - t x`, the mean over every axis but the first; what is left out, `log t!`, does not
    depend on the prediction. A count of 0 under a rate of 0, of logarithm -inf, costs nothing.

    Args:
        log_rate: Floats `(N, ...)`, logarithms of the counts expected.
        targets: Integers or floats `(N, ...)`, 0 or more.
        weights: What each element counts, of the rates' shape or of their leading axes.

    Returns:
        Loss `(N,)`, in nats.

    Raises:
        TypeError: If the log-rates are no floats.
        ValueError: If the shapes do not belong together, or, outside `jit`, a target or a weight
            is negative.

    >>> poisson_nll(jnp.array([0.0]), jnp.array([3])).tolist()
    [1.0]
    """
    checks.floating("log_rate", log_rate)
    alike(log_rate=log_rate, targets=targets)
    weights = spread(weights, "log_rate", log_rate)
    targets = kept(targets, weights)
    checks.within("targets", targets, 0, jnp.inf)
    log_rate, targets = widen(kept(log_rate, weights), targets)
    return per_example(jnp.exp(log_rate) - weighted(targets, log_rate), weights)


def gaussian_kl(mean: ArrayLike, log_var: ArrayLike) -> jax.Array:
    """Divergence of normal distributions from the standard one, `KL(N(mean, var) || N(0, 1))`.

    `sum (mean^2 + var - 1 - log var) / 2` over every axis but the first: the second term of a
    variational autoencoder's objective.

    Args:
        mean: Floats `(N, ...)`.
        log_var: Floats `(N, ...)`, logarithms of the variances.

    Returns:
        Loss `(N,)`, in nats.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes differ.

    References:
        Kingma and Welling 2014, "Auto-Encoding Variational Bayes", https://arxiv.org/abs/1312.6114

    >>> gaussian_kl(jnp.array([[2.0, 0.0]]), jnp.zeros((1, 2))).tolist()
    [2.0]
    """
    mean, log_var = floats(mean=mean, log_var=log_var)
    terms = jnp.square(mean) + (jnp.expm1(log_var) - log_var)
    return jnp.sum(terms, axis=tuple(range(1, terms.ndim))) / 2
