"""Scaled dot-product attention whose memory does not grow with queries times keys.

Which keys a query sees is computed from positions, never stored: `View` gives the mask and the
bias of any rows. On an NVIDIA GPU half precision goes to cuDNN's fused kernel. Elsewhere, where
the scores of all queries would be large, the queries go through in blocks, each computed again in
the backward pass, so that one block of scores is alive at a time.

Reference: Rabe and Staats 2021, https://arxiv.org/abs/2112.05682
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from funnet.ops.matmul import product

# Measured on a CPU, 8 sequences of 2,048 with 8 heads of 64, causal: whole, the scores take 2 GiB
# and value with gradient 27 s; in blocks of 2**23, 0.13 GiB and 13 s. At 512 both take the same.
LARGE = 1 << 24  # scores; from here on, 64 MiB in float32, queries go through in blocks
BLOCK = 1 << 23  # scores of a block, about


@dataclasses.dataclass(frozen=True)
class View:
    """Which keys (S of them, at positions 0, 1, ...) each query sees, and with what bias.

    Args:
        starts: (N,) the position of each sequence's first query; by default 0.
        causal: a query sees no later position.
        window: a query sees positions less than so many away.
        lengths: (N,) how many keys count.
        mask: (1 or N, 1 or H, 1 or T, S) booleans, true where a key is seen.
        slopes: (H,) of the bias `-slope * distance`.
    """

    starts: jax.Array | None = None
    causal: bool = False
    window: int | None = None
    lengths: jax.Array | None = None
    mask: jax.Array | None = None
    slopes: jax.Array | None = None

    def mask_of(self, rows: jax.Array, keys: int) -> jax.Array | None:
        """(1 or N, 1 or H, rows, keys): what the queries at `rows` see; None for everything."""
        gap, parts = self._gap(rows, keys), []
        if self.causal:
            parts.append(gap >= 0)
        if self.window is not None:
            parts.append((gap if self.causal else jnp.abs(gap)) < self.window)
        if self.lengths is not None:
            parts.append(jnp.arange(keys, dtype=jnp.int32) < self.lengths[:, None, None])
        parts = [part[:, None] for part in parts]
        if self.mask is not None:
            every = self.mask.shape[-2] == 1
            parts.append(self.mask if every else self.mask[:, :, rows])
        return functools.reduce(jnp.logical_and, parts) if parts else None

    def bias_of(self, rows: jax.Array, keys: int) -> jax.Array | None:
        """(1 or N, H, rows, keys), float32, or None for no bias."""
        if self.slopes is None:
            return None
        gap = jnp.abs(self._gap(rows, keys))[:, None].astype(jnp.float32)
        return -self.slopes[:, None, None] * gap

    @property
    def may_be_empty(self) -> bool:
        """Whether a query may see nothing at all."""
        return self.lengths is not None or self.mask is not None or self.window is not None

    def _gap(self, rows: jax.Array, keys: int) -> jax.Array:
        """(1 or N, rows, keys): how far each query is after each key."""
        starts = jnp.zeros(1, jnp.int32) if self.starts is None else self.starts
        return (starts[:, None] + rows)[:, :, None] - jnp.arange(keys, dtype=jnp.int32)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, view: View) -> jax.Array:
    """`softmax(q k^T / sqrt(D) + bias) v` over the keys that each query sees.

    Args:
        q: (N, T, H, D).
        k: (N, S, K, D), `K` dividing `H`: that many queries' heads share a key's.
        v: (N, S, K, D).
        view: which keys are seen.

    Returns:
        (N, T, H, D); zero where a query sees no key. The softmax is computed in float32 at least.
    """
    if _fused(q, k, view):
        plain = functools.partial(_by_rows, view=view)
        return lax.platform_dependent(
            q, k, v, cuda=functools.partial(_cudnn, view=view), default=plain
        )
    return _by_rows(q, k, v, view)


def _by_rows(q: jax.Array, k: jax.Array, v: jax.Array, view: View) -> jax.Array:
    n, queries, heads, _ = q.shape
    a_row = n * heads * k.shape[1]
    if a_row * queries < LARGE:
        return _rows(q, k, v, view, jnp.arange(queries, dtype=jnp.int32))
    size = max(1, min(queries, BLOCK // a_row))
    blocks = -(-queries // size)
    more = blocks * size - queries
    split = jnp.pad(q, ((0, 0), (0, more), (0, 0), (0, 0))).reshape(n, blocks, size, *q.shape[2:])
    rows = jnp.arange(blocks * size, dtype=jnp.int32)
    rows = jnp.minimum(rows, queries - 1).reshape(blocks, size)
    block = jax.checkpoint(lambda given: _rows(given[0], k, v, view, given[1]), prevent_cse=False)
    y = lax.map(block, (jnp.moveaxis(split, 1, 0), rows))
    return jnp.moveaxis(y, 0, 1).reshape(n, blocks * size, *q.shape[2:])[:, :queries]


def _rows(q: jax.Array, k: jax.Array, v: jax.Array, view: View, rows: jax.Array) -> jax.Array:
    mask, bias = view.mask_of(rows, k.shape[1]), view.bias_of(rows, k.shape[1])
    # Not JAX's own: its gradient takes a third longer on a CPU, its softmax in float64 is one in
    # float32, and in half precision it mixes dtypes, which strict promotion refuses.
    y = plain_attention(q, k, v, bias, mask)
    if mask is None or not view.may_be_empty:
        return y
    return jnp.where(jnp.swapaxes(mask.any(-1), 1, 2)[..., None], y, 0)


def plain_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Attention as the formula has it, scores and softmax in float32 at least.

    Args:
        q: (N, T, H, D).
        k: (N, S, K, D).
        v: (N, S, K, D).
        bias: added to the scores, of a shape that broadcasts to (N, H, T, S).
        mask: booleans, likewise; a query that sees nothing gets the mean of all values.
    """
    (n, queries, heads, size), (keys, shared) = q.shape, k.shape[1:3]
    scores = _scores(q, k, bias, mask)
    peak = lax.stop_gradient(scores.max(-1, keepdims=True, initial=-jnp.inf))
    powers = jnp.exp(scores - peak)
    total = powers.sum(-1, keepdims=True)
    # Divided after the product, where there are fewer numbers, unless a sum of many might overflow.
    late = keys > 0 and v.dtype == powers.dtype
    weights = powers if late else (powers / total).astype(v.dtype)
    weights = weights.reshape(n, shared, heads // shared * queries, keys)
    y = product(weights, v.swapaxes(1, 2)).reshape(n, heads, queries, size)
    return (y / total if late else y).swapaxes(1, 2)


def attention_weights(q: jax.Array, k: jax.Array, view: View) -> jax.Array:
    """What `attention` weighs values by, whole, for people to look at.

    Returns:
        (N, H, T, S), rows that add up to 1, or are zero where a query sees no key; float32 at
        least.
    """
    rows = jnp.arange(q.shape[1], dtype=jnp.int32)
    mask, bias = view.mask_of(rows, k.shape[1]), view.bias_of(rows, k.shape[1])
    weights = _weights(q, k, bias, mask)
    return weights if mask is None else jnp.where(mask.any(-1, keepdims=True), weights, 0)


def _weights(q: jax.Array, k: jax.Array, bias: jax.Array | None, mask: jax.Array | None):
    """`softmax(q k^T / sqrt(D) + bias)` (N, H, T, S), in float32 at least."""
    return jax.nn.softmax(_scores(q, k, bias, mask), axis=-1)


def _scores(q: jax.Array, k: jax.Array, bias: jax.Array | None, mask: jax.Array | None):
    """`q k^T / sqrt(D) + bias` (N, H, T, S), in float32 at least, lowest where nothing is seen."""
    (n, queries, heads, size), (keys, shared) = q.shape, k.shape[1:3]
    wide = jnp.float64 if q.dtype == jnp.float64 else jnp.float32
    groups = q.swapaxes(1, 2).reshape(n, shared, heads // shared * queries, size)
    across = jnp.moveaxis(k, 1, -1)  # the form in which the gradient turns nothing large
    if q.dtype == wide:
        scores = product(groups, across)
    else:
        scores = jnp.matmul(groups, across, preferred_element_type=wide)
    scores = scores.reshape(n, heads, queries, keys) / math.sqrt(size)
    scores = scores if bias is None else scores + bias.astype(wide)
    return scores if mask is None else jnp.where(mask, scores, jnp.finfo(wide).min)


def _fused(q: jax.Array, k: jax.Array, view: View) -> bool:
    """Whether cuDNN's kernel is at hand for this: half precision on an Ampere GPU or later."""
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    simple = view.starts is None and view.mask is None and view.slopes is None
    if not (half and simple and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128 and q.size and k.size):
        return False
    # With fewer queries than keys, libraries differ in which end causal is counted from; and with
    # lengths a window may leave a query nothing to see, which in cuDNN is undefined.
    if view.causal and q.shape[1] != k.shape[1]:
        return False
    if view.window is not None and (view.lengths is not None or not view.causal):
        return False
    if jax.default_backend() != "gpu":
        return False
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    return capability.replace(".", "").isdigit() and float(capability) >= 8


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, view: View) -> jax.Array:
    """By cuDNN's kernel, which has no forward-mode derivative."""
    # JAX's rule for mapping it wants every operand mapped or none, the cotangent too. This is a
    # one that is mapped where anything is; compiled, nothing is left of it.
    anything = jnp.isnan(jnp.stack([x[:, 0, 0, 0] for x in (q, k, v)])).any(0).astype(jnp.int32)
    none = 0 * (anything if view.lengths is None else anything + view.lengths)
    one = (1 + none).astype(q.dtype)[:, None, None, None]
    form = functools.partial(
        jax.nn.dot_product_attention,
        *(x * one for x in (q, k, v)),
        is_causal=view.causal,
        local_window_size=None if view.window is None else (view.window - 1, 0),
        implementation="cudnn",
    )
    if view.lengths is None:
        return one * form()
    # Without keys its softmax is undefined, gradients too: a length of 0 sees one key, for naught.
    lengths = jnp.maximum(view.lengths, 1) + none
    y = form(query_seq_lengths=q.shape[1] + none, key_value_seq_lengths=lengths)
    return jnp.where((view.lengths > 0)[:, None, None, None], one * y, 0)
