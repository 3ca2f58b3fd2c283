"""Multi-head attention: self, cross, grouped, causal, windowed, and with a cache for generation."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet import initializers
from funnet.checks import array, count, positive
from funnet.layers import position
from funnet.layers.linear import dense
from funnet.layers.sequence import masked, steps_of
from funnet.ops import attention as ops
from funnet.scope import Scope, layer


@layer
def attention(
    p: Scope,
    x: jax.Array,
    *,
    heads: int,
    kv_heads: int | None = None,
    context: jax.Array | None = None,
    causal: bool = False,
    window: int | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    rotary: float | None = None,
    alibi: bool = False,
    bias: bool = True,
    cache: int | None = None,
) -> jax.Array:
    """Each step of `x` as a mean of what others hold, weighted by how well queries meet keys.

    `softmax(q k^T / sqrt(D) + b) v` for each head, D = C / heads, then a dense layer. Scores that
    would be large are computed in blocks of queries, so that memory grows with T, not with T * S.
    The softmax is there to look at as the tap `weights` of this place, (N, heads, T, S).

    Args:
        p: the layer's scope.
        x: (N, T, C) of a floating dtype.
        heads: how many heads; they divide C.
        kv_heads: how many heads keys and values have, dividing `heads`; by default as many.
        context: (N, S, C') what to attend to; by default `x` itself, S = T.
        causal: a step sees itself and earlier steps only.
        window: a step sees only what is less than so many steps away.
        lengths: (N,) how many steps of the context (of `x`, where there is none) count; what lies
            beyond is never seen, and where it is of `x`, it comes out as zero.
        mask: booleans of shape (T, S), (N, T, S) or (N, heads, T, S), sizes of 1 standing for any;
            true where a step is seen. A step that sees nothing attends to zeros. With a cache, S
            is its size.
        rotary: turns queries and keys by their positions, with this base (10,000 in the paper).
        alibi: biases scores by `-slope * distance`, with a slope for each head.
        bias: whether the dense layers have a bias.
        cache: the state keeps keys and values, with room for so many steps, and `x` goes on where
            the call before ended: a prompt of any length first, then single steps. Needs `causal`.

    Returns:
        (N, T, C). Under `jit` a step that has no room in the cache gives NaN.

    Parameters: `qkv` (`kernel` (C, (heads + 2 kv_heads) D), `bias`), or with a context `query` and
    `key_value`; and `out`. State, with `cache`: `key`, `value` (N, cache, kv_heads, D), `length`
    (N,) int32.

    Raises:
        TypeError: if `x` or `context` is not of a floating dtype, or `mask` is not boolean.
        ValueError: if heads, shapes, lengths or settings do not fit; outside `jit`, if the cache
            has no room.

    References: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; grouped queries: Ainslie et
    al. 2023, https://arxiv.org/abs/2305.13245; windows: Beltagy et al. 2020,
    https://arxiv.org/abs/2004.05150

    >>> import funnet as fn
    >>> model = fn.Model(fn.attention, heads=4, causal=True)
    >>> model.shapes(jnp.ones((2, 6, 32)))[0]["qkv"]["kernel"].shape
    (32, 96)
    >>> params, _ = model.init(jax.random.key(0), jnp.ones((2, 6, 32)))
    >>> model.capture(params, None, jnp.ones((2, 6, 32)), taps="weights")[1]["weights"].shape
    (2, 4, 6, 6)
    """
    kv_heads = _settled(x, context, heads, kv_heads, causal, window, rotary, cache)
    inside = None if lengths is None else steps_of(x if context is None else context, lengths)
    if inside is not None:
        x, context = (masked(x, inside), None) if context is None else (x, masked(context, inside))
    q, k, v = _projected(p, x, context, heads, kv_heads, bias)
    starts, full = (
        (None, None) if cache is None else position.advance(p, x, lengths, "cache", cache)
    )
    if rotary is not None:
        first = jnp.zeros(1, jnp.int32) if starts is None else starts
        places = (
            jnp.broadcast_to(position.positions(first, y.shape[1]), y.shape[:2]) for y in (q, k)
        )
        q, k = (position.rotary(y, at, base=rotary) for y, at in zip((q, k), places, strict=True))
    if cache is not None and starts is not None:
        k, v = (_kept(p, name, y, starts, cache) for name, y in (("key", k), ("value", v)))
    view = ops.View(
        starts=starts,
        causal=causal,
        window=window,
        lengths=None if lengths is None or cache is not None else jnp.asarray(lengths, jnp.int32),
        mask=_full_mask(mask, q, k),
        slopes=jnp.asarray(position.alibi_slopes(heads)) if alibi else None,
    )
    if p.frame.wants((*p.path, "weights")):
        weights(p["weights"], q, k, view)
    y = ops.attention(q, k, v, view)
    y = dense(p["out"], y.reshape(x.shape), x.shape[2], bias=bias)
    y = y if inside is None or context is not None else masked(y, inside)
    return y if full is None else jnp.where(full[:, None, None], jnp.nan, y)


@layer
def weights(p: Scope, q: jax.Array, k: jax.Array, view: ops.View) -> jax.Array:
    """What `attention` weighs values by, computed beside it where it is tapped."""
    return ops.attention_weights(q, k, view).astype(q.dtype)


def _settled(x, context, heads, kv_heads, causal, window, rotary, cache) -> int:
    """The number of heads for keys and values, once all settings are found to fit each other."""
    position.sequence("x", x)
    features, shared = x.shape[2], count("heads", heads)
    if features % heads:
        raise ValueError(f"heads must divide the width of x, got heads={heads} for {x.shape}")
    if kv_heads is not None:
        shared = count("kv_heads", kv_heads)
    if heads % shared:
        raise ValueError(f"kv_heads must divide heads, got kv_heads={shared}, heads={heads}")
    if window is not None:
        count("window", window)
    if rotary is not None:
        _base(rotary, features // heads)
    if context is not None:
        position.sequence("context", context)
        if len(context) != len(x) or context.dtype != x.dtype:
            raise ValueError(
                "context must have as many examples as x, and its dtype, got "
                f"{context.dtype}{context.shape} and {x.dtype}{x.shape}"
            )
    if cache is not None:
        count("cache", cache)
        if context is not None or not causal:
            raise ValueError("cache is for causal=True and no context: it keeps what came before")
        if x.shape[1] > cache:
            raise ValueError(f"cache has room for {cache} steps, and x has {x.shape[1]}: {x.shape}")
    return shared


def _base(rotary: float, size: int) -> None:
    """Refuses what is no base of angles, and heads whose features make no pairs."""
    positive("rotary", rotary)
    if rotary is True:
        raise ValueError("rotary is True, expected the base of the angles: write rotary=10_000.0")
    if size % 2:
        raise ValueError(f"rotary turns pairs of features, and a head has {size}: use other heads")


def _projected(p: Scope, x, context, heads: int, kv_heads: int, bias: bool):
    """Queries (N, T, heads, D), keys and values (N, S, kv_heads, D)."""
    size = x.shape[2] // heads
    if context is None:
        y = dense(p["qkv"], x, (heads + 2 * kv_heads) * size, bias=bias)
        y = y.reshape(*y.shape[:2], heads + 2 * kv_heads, size)
        return jnp.split(y, [heads, heads + kv_heads], axis=2)
    q = dense(p["query"], x, heads * size, bias=bias)
    kv = dense(p["key_value"], context, 2 * kv_heads * size, bias=bias)
    q, kv = q.reshape(*q.shape[:2], heads, size), kv.reshape(*kv.shape[:2], 2 * kv_heads, size)
    return q, *jnp.split(kv, 2, axis=2)


def _kept(p: Scope, name: str, new: jax.Array, starts: jax.Array, cache: int) -> jax.Array:
    """All of a sequence's keys or values so far; those of new steps are put where they belong."""
    shape = (len(new), cache, *new.shape[2:])
    old = p.variable(name, shape, initializers.zeros, new.dtype)
    rows = jnp.arange(len(new))[:, None]
    at = position.positions(starts, new.shape[1])
    whole = jnp.asarray(old).at[rows, at].set(new.astype(old.dtype), mode="drop")
    p.update(name, whole)
    return whole.astype(new.dtype)


def _full_mask(mask: ArrayLike | None, q: jax.Array, k: jax.Array) -> jax.Array | None:
    """The mask as (1 or N, 1 or heads, 1 or T, S)."""
    if mask is None:
        return None
    array("mask", mask)
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"mask must be boolean, true where a step is seen, got {mask.dtype}")
    (n, t, heads, _), s = q.shape, k.shape[1]
    whole = mask[:, None] if mask.ndim == 3 else mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    fits = mask.ndim in (2, 3, 4) and all(
        a in (1, b) for a, b in zip(whole.shape, (n, heads, t, s), strict=True)
    )
    if not fits:
        raise ValueError(
            f"mask must have shape (T, S), (N, T, S) or (N, heads, T, S), here N={n}, "
            f"heads={heads}, T={t}, S={s}, got {mask.shape}"
        )
    return jnp.broadcast_to(whole, (*whole.shape[:3], s))
