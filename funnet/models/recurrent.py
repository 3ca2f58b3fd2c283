"""Recurrent models of token sequences: a class for each, or a tag for each step."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet.layers.dropout import dropout
from funnet.layers.embed import embed
from funnet.layers.linear import dense
from funnet.layers.recurrent import lstm
from funnet.layers.recurrent_lifts import bidirectional, stacked
from funnet.scope import Scope, layer


@layer
def lstm_classifier(
    p: Scope,
    ids: jax.Array,
    classes: int,
    *,
    vocab: int,
    width: int = 128,
    depth: int = 1,
    lengths: ArrayLike | None = None,
    rate: float = 0.0,
) -> jax.Array:
    """A bidirectional LSTM, whose last states of both ways tell the class of a sequence.

    Args:
        p: the layer's scope.
        ids: (N, T) integers in 0..vocab-1.
        classes: how many.
        vocab: how many tokens there are.
        width: features of a token, and of each way's state.
        depth: how many LSTMs one upon the other.
        lengths: (N,) how many tokens of each sequence count.
        rate: of the dropout of tokens, between layers, and before the head.

    Returns:
        Logits (N, classes).
    """
    _, lasts = _encoded(p, ids, vocab, width, depth, lengths, rate)
    (ahead, _), (back, _) = lasts[-1]
    return dense(p["head"], dropout(p["out"], jnp.concatenate([ahead, back], -1), rate), classes)


@layer
def lstm_tagger(
    p: Scope,
    ids: jax.Array,
    tags: int,
    *,
    vocab: int,
    width: int = 128,
    depth: int = 1,
    lengths: ArrayLike | None = None,
    rate: float = 0.0,
) -> jax.Array:
    """A bidirectional LSTM with a tag for each step: logits (N, T, tags).

    Arguments as in `lstm_classifier`; steps past a length have the logits of an empty state.

    Reference: Huang, Xu and Yu 2015, https://arxiv.org/abs/1508.01991
    """
    outputs, _ = _encoded(p, ids, vocab, width, depth, lengths, rate)
    return dense(p["head"], dropout(p["out"], outputs, rate), tags)


def _encoded(p: Scope, ids, vocab: int, width: int, depth: int, lengths, rate: float):
    x = dropout(p["dropout"], embed(p["tokens"], ids, vocab, width), rate)
    return stacked(bidirectional(lstm), depth, rate)(p["lstm"], x, width, lengths=lengths)
