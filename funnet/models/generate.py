"""Token by token: sampling from a decoder that keeps a cache."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet.checks import count, integer, positive, within
from funnet.model import Model


def generate(
    model: Model,
    params: Mapping[str, Any],
    prompt: jax.Array,
    steps: int,
    *,
    lengths: ArrayLike | None = None,
    key: jax.Array | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> jax.Array:
    """Continues each prompt by `steps` tokens; the prompt is read once, then one token at a time.

    Args:
        model: gives logits (N, T, vocab) for ids (N, T), and keeps a cache with room for prompt
            and steps, as `fn.Model(fn.models.gpt, ..., cache=T + steps)` does.
        params: of that model, or of the same without a cache: they are the same.
        prompt: (N, T) integers, T at least 1.
        steps: how many tokens.
        lengths: (N,) how many tokens of each prompt count, at least 1; the model is then given
            `lengths` too.
        key: draws tokens by `softmax(logits / temperature)`; without one, the likeliest is taken.
        temperature: above zero; the lower, the surer.
        top_k: draws only among so many of the likeliest.

    Returns:
        (N, steps) int32.

    Raises:
        ValueError: if the model keeps no cache, or it has no room.

    >>> import funnet as fn
    >>> shape = {"vocab": 11, "depth": 2, "width": 16, "heads": 2, "context": 32}
    >>> ids = jnp.array([[3, 1, 4]])
    >>> params, _ = fn.Model(fn.models.gpt, **shape).init(jax.random.key(0), ids)
    >>> generate(fn.Model(fn.models.gpt, **shape, cache=32), params, ids, 5).shape
    (1, 5)
    """
    check_prompt(prompt)
    count("steps", steps)
    positive("temperature", temperature)
    check_room("generate", model, prompt, steps)
    if top_k is not None:
        count("top_k", top_k)
    if lengths is not None:
        within("lengths", lengths, 1, prompt.shape[1])
    more = {} if lengths is None else {"lengths": jnp.asarray(lengths)}
    heat = jnp.asarray(temperature, jnp.float32)
    return _generated(model, params, jnp.asarray(prompt), more, key, heat, steps, top_k)


def check_prompt(prompt: jax.Array) -> None:
    """Refuses what is not (N, T) integers, T at least 1."""
    integer("prompt", prompt)
    if prompt.ndim != 2 or prompt.shape[1] < 1:
        raise ValueError(f"prompt must have shape (N, T), T at least 1, got {prompt.shape}")


def check_room(what: str, model: Model, prompt: jax.Array, steps: int) -> None:
    """Refuses a model without a cache, or without room in it; `what` is who needs it."""
    room = model.settings.get("cache")
    if room is None:
        raise ValueError(
            f"{what} needs a model with a cache: fn.Model(fn.models.gpt, ..., cache=512)"
        )
    if prompt.shape[1] + steps > room + 1:  # what comes last is not read again
        raise ValueError(
            f"the cache has room for {room} tokens, and {prompt.shape[1]} of the prompt with "
            f"{steps} steps need {prompt.shape[1] + steps - 1}: make the model with a larger cache"
        )


@functools.partial(jax.jit, static_argnames=("model", "steps", "top_k"))
def _generated(model, params, prompt, more, key, temperature, steps: int, top_k: int | None):
    def drawn(logits: jax.Array, key: jax.Array | None) -> jax.Array:
        if key is None:
            return logits.argmax(-1).astype(jnp.int32)
        logits = logits.astype(jnp.float32) / temperature
        if top_k is not None:
            least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        return jax.random.categorical(key, logits).astype(jnp.int32)

    def step(carried, key):
        token, state = carried
        logits, state = model.apply(params, state, token[:, None])
        new = drawn(logits[:, 0], key)
        return (new, state), new

    shapes = model.shapes(prompt, **more)[1]
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    logits, state = model.apply(params, state, prompt, **more)
    ends = more["lengths"] - 1 if more else jnp.full(len(prompt), prompt.shape[1] - 1)
    last = jnp.take_along_axis(logits, ends[:, None, None], 1)[:, 0]
    keys = None if key is None else jax.random.split(key, steps)
    first = drawn(last, None if keys is None else keys[0])
    rest = None if keys is None else keys[1:]
    _, tokens = jax.lax.scan(step, (first, state), rest, steps - 1)
    return jnp.concatenate([first[None], tokens]).swapaxes(0, 1)
