"""Losses of policies: what makes good choices likelier and bad ones less likely."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet import checks
from funnet.losses.terms import floats, per_example


def clipped_policy(
    log_probabilities: ArrayLike, before: ArrayLike, advantages: ArrayLike, *, clip: float = 0.2
) -> jax.Array:
    """The clipped surrogate of proximal policy optimisation, as a loss.

    `-min(r a, max(1 - clip, min(r, 1 + clip)) a)` with `r = exp(log_probabilities - before)`, the
    mean over every axis but the first. Where the policy has not changed yet, its gradient is that
    of `-a log_probabilities`; once a choice is likelier (or, if bad, less likely) than before by
    the factor that `clip` allows, there is none.

    Args:
        log_probabilities: Floats `(N, ...)`, of the choices made, under the policy that trains.
        before: Floats `(N, ...)`, the same under the policy that made them.
        advantages: Floats `(N, ...)`, how much better each was than expected; see `fn.advantages`.
        clip: How far the ratio `r` is led from 1, above 0 and below 1.

    Returns:
        Loss `(N,)`.

    Raises:
        TypeError: If an argument is no float array.
        ValueError: If the shapes differ, or clip is out of range.

    References:
        Schulman et al. 2017, https://arxiv.org/abs/1707.06347

    >>> clipped_policy(jnp.log(jnp.array([0.9])), jnp.log(jnp.array([0.5])), jnp.ones(1)).tolist()
    [-1.2000000476837158]
    """
    checks.within("clip", clip, 0, 1)
    if clip in (0, 1):
        raise ValueError(f"clip is {clip}, expected 0 < clip < 1")
    given = {"log_probabilities": log_probabilities, "before": before, "advantages": advantages}
    log_probabilities, before, advantages = floats(**given)
    ratio = jnp.exp(log_probabilities - before)
    near = jnp.clip(ratio, 1 - clip, 1 + clip)
    return per_example(-jnp.minimum(ratio * advantages, near * advantages), None)
