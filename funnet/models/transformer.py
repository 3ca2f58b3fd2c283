"""Transformers, with the norm before each part: decoder (GPT-2), encoder-decoder, and of images.

Blocks are repeated, compiled once, their parameters stacked. A decoder made with `cache=` keeps
keys and values in its state: `model.apply(params, state, ids)` goes on where the last call ended.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet import checks, initializers
from funnet.layers.attention import attention
from funnet.layers.conv import conv
from funnet.layers.dropout import dropout
from funnet.layers.embed import embed, unembed
from funnet.layers.linear import dense
from funnet.layers.norm import layer_norm
from funnet.layers.position import position_embed
from funnet.lift import repeat
from funnet.scope import Scope, layer


@layer
def block(
    p: Scope,
    x: jax.Array,
    heads: int,
    *,
    context: jax.Array | None = None,
    context_lengths: ArrayLike | None = None,
    rate: float = 0.0,
    **settings: Any,
) -> jax.Array:
    """Attention, attention to the context if there is one, and two dense layers, each added to `x`.

    Args:
        p: the layer's scope.
        x: (N, T, C).
        heads: of each attention.
        context: (N, S, C') what the second attention attends to.
        context_lengths: (N,) how many steps of the context count.
        rate: of the dropout of what is added.
        **settings: of the first attention: `causal`, `lengths`, `rotary`, `cache` and others.

    Returns:
        As `x`.
    """
    y = attention(p["attention"], layer_norm(p["norm1"], x), heads=heads, **settings)
    x = x + dropout(p["dropout1"], y, rate)
    if context is not None:
        y = layer_norm(p["cross_norm"], x)
        y = attention(p["cross"], y, heads=heads, context=context, lengths=context_lengths)
        x = x + dropout(p["cross_dropout"], y, rate)
    return x + dropout(p["dropout2"], feed(p["feed"], layer_norm(p["norm2"], x)), rate)


@layer
def feed(p: Scope, x: jax.Array, times: int = 4) -> jax.Array:
    """Two dense layers, `times` as wide between them, and GELU."""
    hidden = jax.nn.gelu(dense(p["up"], x, times * x.shape[-1]))
    return dense(p["down"], hidden, x.shape[-1])


@layer
def gpt(
    p: Scope,
    ids: jax.Array,
    vocab: int,
    *,
    depth: int = 12,
    width: int = 768,
    heads: int = 12,
    context: int = 1024,
    lengths: ArrayLike | None = None,
    rate: float = 0.0,
    cache: int | None = None,
) -> jax.Array:
    """A decoder transformer, by default GPT-2 small; tokens and output share their table.

    Published weights come in through `fn.interop.from_torch` with `names=fn.interop.GPT2`.

    Args:
        p: the layer's scope.
        ids: (N, T) integers in 0..vocab-1.
        vocab: how many tokens there are.
        depth: how many blocks.
        width: features of a token.
        heads: of each attention.
        context: how many positions there are.
        lengths: (N,) how many tokens of each sequence count.
        rate: of every dropout.
        cache: the state keeps what came before, with room for so many tokens; see `generate`.

    Returns:
        Logits (N, T, vocab) of the next token.

    Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"

    >>> import funnet as fn
    >>> small = fn.Model(gpt, vocab=50_257)
    """
    shape = {"depth": depth, "width": width, "heads": heads, "context": context}
    more = {"lengths": lengths, "rate": rate, "cache": cache}
    return _decoded(p, p.shared("tokens"), ids, vocab, **shape, **more)


@layer
def transformer(
    p: Scope,
    source: jax.Array,
    target: jax.Array,
    vocab: int,
    *,
    source_lengths: ArrayLike | None = None,
    target_lengths: ArrayLike | None = None,
    rate: float = 0.0,
    **shape: int,
) -> jax.Array:
    """An encoder-decoder transformer: `decode(target, encode(source))`, on one tree of parameters.

    Args:
        p: the layer's scope.
        source: (N, S) integers in 0..vocab-1.
        target: (N, T) integers in 0..vocab-1, what came before each token that is to be told.
        vocab: how many tokens there are, of source and target together.
        source_lengths: (N,) how many tokens of each source count.
        target_lengths: (N,) how many tokens of each target count.
        rate: of every dropout.
        **shape: `depth`, `width`, `heads` and `context` of both halves, see `encode`.

    Returns:
        Logits (N, T, vocab).

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """
    memory = encode(p, source, vocab, lengths=source_lengths, rate=rate, **shape)
    more = {"memory_lengths": source_lengths, "lengths": target_lengths, "rate": rate}
    return decode(p, target, memory, vocab, **more, **shape)


@layer
def encode(
    p: Scope,
    ids: jax.Array,
    vocab: int,
    *,
    depth: int = 6,
    width: int = 512,
    heads: int = 8,
    context: int = 512,
    lengths: ArrayLike | None = None,
    rate: float = 0.0,
) -> jax.Array:
    """The encoder of `transformer`, which runs on its parameters: (N, S) to (N, S, width).

    Args:
        p: the layer's scope.
        ids: (N, S) integers in 0..vocab-1.
        vocab: how many tokens there are.
        depth: how many blocks.
        width: features of a token.
        heads: of each attention.
        context: how many positions there are.
        lengths: (N,) how many tokens count.
        rate: of every dropout.
    """
    x, p = embed(p.shared("tokens"), ids, vocab, width), p["encoder"]
    x = dropout(p["dropout"], position_embed(p["positions"], x, context), rate)
    x = repeat(block, depth)(p["blocks"], x, heads, lengths=lengths, rate=rate)
    return layer_norm(p["norm"], x)


@layer
def decode(
    p: Scope,
    ids: jax.Array,
    memory: jax.Array,
    vocab: int,
    *,
    memory_lengths: ArrayLike | None = None,
    depth: int = 6,
    width: int = 512,
    heads: int = 8,
    context: int = 512,
    lengths: ArrayLike | None = None,
    rate: float = 0.0,
    cache: int | None = None,
) -> jax.Array:
    """The decoder of `transformer`, which runs on its parameters: (N, T) to logits (N, T, vocab).

    Args:
        p: the layer's scope.
        ids: (N, T) integers in 0..vocab-1.
        memory: (N, S, width), what `encode` gave.
        vocab: how many tokens there are.
        memory_lengths: (N,) how many steps of the memory count.
        depth: how many blocks.
        width: features of a token.
        heads: of each attention.
        context: how many positions there are.
        lengths: (N,) how many tokens count.
        rate: of every dropout.
        cache: the state keeps what came before, with room for so many tokens.
    """
    shape = {"depth": depth, "width": width, "heads": heads, "context": context}
    more = {"lengths": lengths, "rate": rate, "cache": cache}
    seen = {"memory": memory, "memory_lengths": memory_lengths}
    return _decoded(p["decoder"], p.shared("tokens"), ids, vocab, **shape, **more, **seen)


@layer
def vit(
    p: Scope,
    images: jax.Array,
    classes: int,
    *,
    patch: int = 16,
    depth: int = 12,
    width: int = 768,
    heads: int = 12,
    rate: float = 0.0,
) -> jax.Array:
    """A vision transformer, by default ViT-B/16: patches as tokens, and one for the class.

    Args:
        p: the layer's scope.
        images: (N, H, W, C), `patch` dividing H and W.
        classes: how many.
        patch: side of a patch, in pixels.
        depth: how many blocks.
        width: features of a token.
        heads: of each attention.
        rate: of every dropout.

    Returns:
        Logits (N, classes).

    Raises:
        ValueError: if `patch` does not divide height and width.

    Reference: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929
    """
    checks.images("vit", images)
    if images.shape[1] % patch or images.shape[2] % patch:
        raise ValueError(f"patch must divide height and width, got {patch} for {images.shape}")
    x = conv(p["patches"], images, width, patch, stride=patch, padding="valid")
    x = x.reshape(len(x), -1, width)
    first = p.param("class_token", (1, 1, width), initializers.zeros).astype(x.dtype)
    x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, width)), x], 1)
    x = dropout(p["dropout"], position_embed(p["positions"], x, x.shape[1]), rate)
    x = repeat(block, depth)(p["blocks"], x, heads, rate=rate)
    return dense(p["head"], layer_norm(p["norm"], x)[:, 0], classes)


def _decoded(
    p: Scope,
    tokens: Scope,
    ids: jax.Array,
    vocab: int,
    *,
    depth: int,
    width: int,
    heads: int,
    context: int,
    lengths: ArrayLike | None,
    rate: float,
    cache: int | None,
    memory: jax.Array | None = None,
    memory_lengths: ArrayLike | None = None,
) -> jax.Array:
    """Causal blocks between tokens and scores of them, with a memory to look at or without.

    Raises:
        ValueError: if the cache has room for more steps than there are positions.
    """
    if cache is not None and cache > context:
        raise ValueError(f"cache must be at most context, got cache={cache}, context={context}")
    x = embed(tokens, ids, vocab, width)
    x = position_embed(p["positions"], x, context, lengths=lengths, cache=cache is not None)
    x = dropout(p["dropout"], x, rate)
    seen = {"context": memory, "context_lengths": memory_lengths}
    own = {"causal": True, "lengths": lengths, "cache": cache}
    x = repeat(block, depth)(p["blocks"], x, heads, rate=rate, **seen, **own)
    return unembed(tokens, layer_norm(p["norm"], x), vocab)
