"""Beam search: the likeliest continuations that a decoder with a cache gives, several side by side.

Each example keeps its best hypotheses, whether they have ended or not. One that has ended stays as
it is, and gives way only to better ones. With one beam this is greedy search, with enough of them
it is exhaustive.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet.checks import count, integer, within
from funnet.compiling import STEP, quick_jit
from funnet.model import Model
from funnet.models.generate import check_prompt, check_room


class Beams(NamedTuple):
    """What `beam_search` found, the best first."""

    tokens: jax.Array  # (N, beams, steps) int32, the end token from the first one on
    lengths: jax.Array  # (N, beams) int32: the tokens of each, with its end token
    scores: jax.Array  # (N, beams) float32, falling


class _Grown(NamedTuple):
    """Hypotheses of so many tokens."""

    size: jax.Array  # (): tokens of those that have not ended
    tokens: jax.Array  # (N, beams, steps)
    lengths: jax.Array  # (N, beams)
    chances: jax.Array  # (N, beams): the sum of their tokens' log-probabilities
    scores: jax.Array  # (N, beams)
    ended: jax.Array  # (N, beams)
    last: jax.Array  # (N, beams): the newest token
    state: Any  # the cache, (N, beams, ...)


def beam_search(
    model: Model,
    params: Mapping[str, Any],
    prompt: jax.Array,
    steps: int,
    *,
    end: int,
    beams: int = 4,
    penalty: float = 0.6,
    lengths: ArrayLike | None = None,
    **more: ArrayLike,
) -> Beams:
    """The best continuations of each prompt by up to `steps` tokens; the prompt is read once.

    A hypothesis `y` of `n` tokens, its end token included, scores
    `log P(y) / ((5 + n) / 6)**penalty`. At every step all continuations of the best hypotheses
    compete with those that have ended, and the best `beams` stay. It stops when all have ended.

    Args:
        model: gives logits (N, T, vocab) for ids (N, T), and keeps a cache with room for prompt
            and steps, as `fn.Model(fn.models.gpt, ..., cache=T + steps)` does, or one of `decode`.
        params: of that model, or of the same without a cache: they are the same.
        prompt: (N, T) integers, T at least 1; of a translation, its start token.
        steps: the most tokens that are added.
        end: the token that ends a sequence.
        beams: how many hypotheses each example has.
        penalty: 0 ranks by probability, which favours what is short; the higher, the longer.
        lengths: (N,) how many tokens of each prompt count, at least 1.
        **more: further arrays (N, ...) that the model takes by name, such as `memory` and
            `memory_lengths` of `decode`; all hypotheses of an example share its row.

    Returns:
        `tokens` (N, beams, steps) int32, `lengths` (N, beams) int32 and `scores` (N, beams), the
        best first. From the end token on, tokens are `end`; what had not ended has all `steps`.
        Where there are fewer sequences than beams, the rest score `-inf`.

    Raises:
        TypeError: if prompt or counts are no integers.
        ValueError: if the model keeps no cache, or it has no room; if `end` is no token, `penalty`
            is negative, or an array has not one row for each prompt.

    Reference: Wu et al. 2016, https://arxiv.org/abs/1609.08144 (equation 14)

    >>> import funnet as fn
    >>> shape = {"vocab": 11, "depth": 2, "width": 16, "heads": 2, "context": 32}
    >>> ids = jnp.array([[3, 1, 4]])
    >>> params, _ = fn.Model(fn.models.gpt, **shape).init(jax.random.key(0), ids)
    >>> decoder = fn.Model(fn.models.gpt, **shape, cache=32)
    >>> found = beam_search(decoder, params, ids, 5, end=0, beams=3)
    >>> found.tokens.shape, found.scores.shape
    ((1, 3, 5), (1, 3))
    """
    check_prompt(prompt)
    for name, number in {"steps": steps, "beams": beams}.items():
        count(name, number)
    count("end", end, least=0)
    within("penalty", penalty, 0, math.inf)
    check_room("beam_search", model, prompt, steps)
    if lengths is not None:
        within("lengths", lengths, 1, prompt.shape[1])
        integer("lengths", jnp.asarray(lengths))
        more = {"lengths": lengths, **more}
    for name, x in more.items():
        _check_rows(name, x, len(prompt))
    arrays = {name: jnp.asarray(x) for name, x in more.items()}
    weight = jnp.asarray(penalty, jnp.float32)
    return _searched(model, params, jnp.asarray(prompt), arrays, weight, steps, beams, end)


def _check_rows(name: str, x: Any, rows: int) -> None:
    shape = jnp.shape(x)
    if not shape or shape[0] != rows:
        raise ValueError(
            f"{name} must have one row for each of the {rows} prompts, got shape {shape}; settings "
            f"of the model belong into fn.Model(..., {name}=...)"
        )


@quick_jit(STEP, static_argnames=("model", "steps", "beams", "end"))
def _searched(model, params, prompt, more, penalty, steps: int, beams: int, end: int) -> Beams:
    read = functools.partial(_read, model, params)
    shapes = model.shapes(prompt[:1], **{name: x[:1] for name, x in more.items()})[1]
    state = jax.tree.map(lambda leaf: jnp.zeros((len(prompt), *leaf.shape), leaf.dtype), shapes)
    ends = jnp.full(len(prompt), prompt.shape[1] - 1, jnp.int32)
    if "lengths" in more:
        ends = more["lengths"] - 1
        more = {**more, "lengths": ends}
    if prompt.shape[1] > 1:  # the last token of each is read in the loop, as those that follow
        _, state = jax.vmap(read)(state, prompt[:, :-1], more)
    more = {name: x for name, x in more.items() if name != "lengths"}
    # One row of `more` serves all the beams of an example: what depends on it alone is not redone.
    read = jax.vmap(jax.vmap(read, (0, 0, None)))

    def step(now: _Grown) -> _Grown:
        ahead, state = read(now.state, now.last[..., None], more)
        return _grown(now._replace(state=state), ahead[:, :, 0], penalty, end)

    last = jnp.take_along_axis(prompt, ends[:, None], 1).astype(jnp.int32)
    found = jax.lax.while_loop(
        lambda now: (now.size < steps) & ~(now.ended | jnp.isneginf(now.scores)).all(),
        step,
        _begun(state, last, beams, steps, end),
    )
    return Beams(found.tokens, found.lengths, found.scores)


def _read(model: Model, params: Any, state: Any, ids: jax.Array, more: Any) -> Any:
    """One sequence read on: log-probabilities (T, vocab) of what follows, and the state."""
    more = {name: x[None] for name, x in more.items()}
    logits, state = model.apply(params, state, ids[None], **more)
    return jax.nn.log_softmax(logits[0].astype(jnp.float32)), state


def _begun(state: Any, last: jax.Array, beams: int, steps: int, end: int) -> _Grown:
    """Hypotheses without a token, of which one a row counts, lest all be the same."""
    rows = len(last)
    return _Grown(
        size=jnp.int32(0),
        tokens=jnp.full((rows, beams, steps), end, jnp.int32),
        lengths=jnp.zeros((rows, beams), jnp.int32),
        chances=jnp.full((rows, beams), -jnp.inf).at[:, 0].set(0),
        scores=jnp.zeros((rows, beams)),
        ended=jnp.zeros((rows, beams), bool),
        last=jnp.broadcast_to(last, (rows, beams)),
        state=jax.tree.map(lambda leaf: jnp.stack([leaf] * beams, 1), state),
    )


def _grown(now: _Grown, ahead: jax.Array, penalty: jax.Array, end: int) -> _Grown:
    """The best of what has ended and what goes on, with odds `ahead` (N, beams, vocab)."""
    rows, beams, vocab = ahead.shape
    within("end", end, 0, vocab - 1)
    stays = jnp.where(jnp.arange(vocab) == end, 0.0, -jnp.inf).astype(ahead.dtype)
    chances = now.chances[..., None] + jnp.where(now.ended[..., None], stays, ahead)
    lengths = now.lengths + jnp.where(now.ended, 0, 1)
    scores = chances / ((5 + lengths.astype(jnp.float32)) / 6)[..., None] ** penalty
    scores, best = jax.lax.top_k(scores.reshape(rows, -1), beams)
    parents, last = best // vocab, (best % vocab).astype(jnp.int32)
    kept = lambda x: x[jnp.arange(rows)[:, None], parents]  # noqa: E731
    return _Grown(
        size=now.size + 1,
        tokens=kept(now.tokens).at[:, :, now.size].set(last),
        lengths=kept(lengths),
        chances=jnp.take_along_axis(chances.reshape(rows, -1), best, 1),
        scores=scores,
        ended=last == end,
        last=last,
        state=jax.tree.map(kept, now.state),
    )
