"""Advantages: how much better a series of decisions went than was expected."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet import checks
from funnet.losses.terms import floats


def advantages(
    rewards: ArrayLike,
    values: ArrayLike,
    following: ArrayLike,
    over: ArrayLike,
    *,
    discount: float = 0.99,
    trace: float = 0.95,
) -> jax.Array:
    """Generalised advantage estimates, by one sweep from the last turn to the first.

    `a_t = d_t + discount * trace * a_{t+1}`, without the second term where an episode is over, with
    `d_t = rewards_t + discount * following_t - values_t`. What a critic should have said is
    `values + advantages`.

    Args:
        rewards: Floats `(T, ...)`, time first, as a scan stacks it.
        values: Floats `(T, ...)`, what the critic expected of all that was to come, at each turn.
        following: Floats `(T, ...)`, what it expects after each turn: 0 where the episode came to
            its end, the value of the last state where it was only cut off.
        over: Booleans `(T, ...)`, whether the next turn belongs to another episode.
        discount: What a reward is worth a turn later, in 0..1.
        trace: How far to believe rewards rather than values, in 0..1: 0 looks one turn ahead.

    Returns:
        `(T, ...)`, float32 or wider.

    Raises:
        TypeError: If an array is not of floats, or `over` not of booleans.
        ValueError: If shapes differ or have no axis of time, or a number is out of range.

    References:
        Schulman et al. 2016, https://arxiv.org/abs/1506.02438

    >>> zeros = jnp.zeros(3)
    >>> advantages(jnp.ones(3), zeros, zeros, zeros > 0, discount=0.5, trace=1.0).tolist()
    [1.75, 1.5, 1.0]
    """
    checks.within("discount", discount, 0, 1)
    checks.within("trace", trace, 0, 1)
    checks.array("over", over)
    over = jnp.asarray(over)
    if over.dtype != bool:
        raise TypeError(f"over must be boolean, true where an episode is over, got {over.dtype}")
    checks.same_shape(rewards=rewards, over=over)
    rewards, values, following = floats(rewards=rewards, values=values, following=following)
    surprise = rewards + discount * following - values

    def back(later: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        gain = now[0] + discount * trace * jnp.where(now[1], 0, later)
        return gain, gain

    none = jnp.zeros(surprise.shape[1:], surprise.dtype)
    return jax.lax.scan(back, none, (surprise, over), reverse=True)[1]
