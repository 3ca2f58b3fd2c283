"""All layers, each with an input. A new layer enters by one line; `test_laws` does the rest."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import funnet as fn


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer, its settings, and an input: normal numbers, or ids below `ids`.

    Of a layer that takes `lengths`, those say how many steps of each example count.
    """

    layer: Callable[..., Any]
    shape: tuple[int, ...]
    settings: dict[str, Any]
    ids: int | None = None
    lengths: tuple[int, ...] | None = None

    def call(self, p: fn.Scope, x: Any, lengths: Any = None) -> Any:
        """The layer on inputs that all have a first axis of examples."""
        more = {} if lengths is None else {"lengths": lengths}
        return self.layer(p, x, **more, **self.settings)

    @property
    def more(self) -> tuple:
        """What goes in beside `x`."""
        return () if self.lengths is None else (np.asarray(self.lengths, np.int32),)

    def x(self, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        if self.ids is None:
            return rng.normal(size=self.shape).astype(np.float32)
        return rng.integers(0, self.ids, self.shape).astype(np.int32)


def row(layer, *shape, ids=None, lengths=None, **settings):
    return Row(layer, shape, settings, ids, lengths)


@fn.layer
def block(p, x):
    """State, keys and parameters; it gives what it takes."""
    y = fn.batch_norm(p["norm"], fn.dense(p["dense"], x, x.shape[-1]))
    return x + fn.dropout(p["drop"], fn.tanh(y), 0.5)


@fn.layer
def composite(p, images, classes):
    x = fn.tanh(fn.batch_norm(p["norm"], fn.conv(p["conv"], images, 4, 3)))
    x = fn.global_avg_pool(fn.max_pool(x, 2))
    return fn.dense(p["head"], fn.dropout(p["drop"], fn.layer_norm(p["last"], x), 0.3), classes)


@fn.layer
def tied(p, ids, vocab):
    return fn.unembed(p.shared("t"), fn.embed(p.shared("t"), ids, vocab, 4), vocab)


@fn.layer
def cell(p, x, kind, hidden):
    """A cell's step from a state of ones, or from a pair of them."""
    state = jnp.ones((len(x), hidden), x.dtype)
    return kind(p, x, (state, state) if kind is fn.lstm_cell else state)


PARTLY = np.arange(12).reshape(4, 3) % 4 > 0


@fn.layer
def masked_norm(p, x):
    """Batch norm where some positions of each example count, the same of as many as there are."""
    return fn.batch_norm(p, x, mask=jnp.asarray(PARTLY)[: len(x)])


@fn.layer
def looks_back(p, x):
    """Attention to a context of another width and number of steps, made of `x`."""
    context = jnp.sin(jnp.concatenate([x, x[:, :2]], 1)[..., ::2])
    return fn.attention(p, x, heads=2, context=context)


@fn.layer
def masked_attention(p, x):
    """Attention where a step sees its neighbours, and the last one nothing at all."""
    seen = np.tri(x.shape[1], k=1, dtype=bool)
    seen[-1] = False
    return fn.attention(p, x, heads=2, mask=seen)


def of_array(function):
    """A function without parameters as a layer."""
    return lambda p, x, **settings: function(x, **settings)


TABLE = {
    "dense": row(fn.dense, 4, 3, 6, features=3),
    "conv 1": row(fn.conv, 4, 7, 3, features=4, kernel_size=3),
    "conv 2": row(fn.conv, 4, 5, 4, 3, features=4, kernel_size=3),
    "conv 3": row(fn.conv, 4, 3, 4, 3, 2, features=4, kernel_size=2),
    "strided conv": row(fn.conv, 4, 6, 5, 5, features=4, kernel_size=3, stride=2),
    "dilated conv": row(fn.conv, 4, 6, 3, features=4, kernel_size=2, dilation=2, padding="valid"),
    "grouped conv": row(fn.conv, 4, 5, 4, features=6, kernel_size=3, groups=2),
    "depthwise conv": row(fn.conv, 4, 5, 3, features=6, kernel_size=3, groups=3),
    "conv_transpose 1": row(fn.conv_transpose, 4, 4, 3, features=5, kernel_size=3, stride=2),
    "conv_transpose 2": row(
        fn.conv_transpose, 4, 3, 2, 3, features=2, kernel_size=4, stride=2, padding=1
    ),
    "conv_transpose 3": row(fn.conv_transpose, 4, 2, 3, 2, 2, features=3, kernel_size=2),
    "grouped conv_transpose": row(
        fn.conv_transpose, 4, 3, 4, features=6, kernel_size=3, stride=2, groups=2
    ),
    "pointwise conv": row(fn.conv, 4, 3, 3, 3, features=4, kernel_size=1),
    "max_pool": row(of_array(fn.max_pool), 4, 5, 6, 2, window=3, stride=2, padding=1),
    "avg_pool": row(of_array(fn.avg_pool), 4, 5, 6, 2, window=3, stride=2, padding="same"),
    "adaptive_avg_pool": row(of_array(fn.adaptive_avg_pool), 4, 5, 6, 2, size=(3, 4)),
    "adaptive_max_pool": row(of_array(fn.adaptive_max_pool), 4, 5, 6, 2, size=(3, 4)),
    "flatten": row(of_array(fn.flatten), 4, 3, 2),
    "normalise": row(of_array(fn.normalise), 4, 3, 2, mean=0.5, std=2.0),
    "space_to_depth": row(of_array(fn.space_to_depth), 4, 4, 6, 2, block=2),
    "pixel_shuffle": row(of_array(fn.pixel_shuffle), 4, 2, 3, 8, factor=2),
    "resize": row(of_array(fn.resize), 4, 5, 3, 2, size=(3, 4)),
    "cubic resize": row(of_array(fn.resize), 4, 5, 2, size=7, method="cubic"),
    "log_mel": row(of_array(fn.log_mel), 3, 40, rate=8, mels=3, window=16, hop=6, floor=1.0),
    "global_avg_pool": row(of_array(fn.global_avg_pool), 3, 4, 2, lengths=(2, 4, 1)),
    "global_max_pool": row(of_array(fn.global_max_pool), 3, 4, 2, lengths=(2, 4, 1)),
    "batch_norm": row(fn.batch_norm, 8, 5),
    "batch_norm of sequences": row(fn.batch_norm, 3, 4, 2, lengths=(2, 4, 1)),
    "masked batch_norm": row(masked_norm, 4, 3, 2),
    "layer_norm": row(fn.layer_norm, 4, 3, 5),
    "rms_norm": row(fn.rms_norm, 4, 3, 5),
    "group_norm": row(fn.group_norm, 4, 3, 2, 6, groups=2),
    "group_norm of vectors": row(fn.group_norm, 4, 6, groups=2),
    "instance_norm": row(fn.instance_norm, 4, 3, 2, 3),
    "weight_norm": row(fn.weight_norm(fn.dense), 4, 5, features=3),
    "weight_norm of conv": row(fn.weight_norm(fn.conv), 4, 5, 3, features=4, kernel_size=2),
    "spectral_norm": row(fn.spectral_norm(fn.dense), 4, 5, features=3),
    "spectral_norm of conv": row(fn.spectral_norm(fn.conv), 4, 5, 3, features=4, kernel_size=2),
    "spectral_norm of repeat": row(fn.spectral_norm(fn.repeat(fn.dense, 3)), 4, 3, features=3),
    "repeat of weight_norm": row(fn.repeat(fn.weight_norm(fn.dense), 3), 4, 3, features=3),
    "dropout": row(fn.dropout, 4, 6, rate=0.5),
    "spatial_dropout": row(fn.spatial_dropout, 4, 3, 6, rate=0.5),
    "stochastic_depth": row(fn.stochastic_depth, 6, 3, rate=0.5),
    "gaussian_noise": row(fn.gaussian_noise, 4, 6, std=0.3),
    "embed": row(fn.embed, 4, 6, ids=7, vocab=7, features=3),
    "unembed": row(fn.unembed, 4, 3, 5, vocab=7),
    "rnn": row(fn.rnn, 3, 4, 2, lengths=(2, 4, 1), hidden=3),
    "lstm": row(fn.lstm, 3, 4, 2, lengths=(2, 4, 1), hidden=3),
    "gru": row(fn.gru, 3, 4, 2, lengths=(2, 4, 1), hidden=3),
    "reversed lstm": row(fn.lstm, 3, 4, 2, lengths=(2, 4, 1), hidden=3, reverse=True),
    "gru of whole sequences": row(fn.gru, 3, 4, 2, hidden=3),
    "rnn_cell": row(cell, 4, 2, kind=fn.rnn_cell, hidden=3),
    "lstm_cell": row(cell, 4, 2, kind=fn.lstm_cell, hidden=3),
    "gru_cell": row(cell, 4, 2, kind=fn.gru_cell, hidden=3),
    "bidirectional": row(fn.bidirectional(fn.gru), 3, 4, 2, lengths=(2, 4, 1), hidden=3),
    "stacked": row(fn.stacked(fn.lstm, 3, 0.5), 3, 4, 2, lengths=(2, 4, 1), hidden=3),
    "attention": row(fn.attention, 3, 4, 6, lengths=(2, 4, 1), heads=2),
    "attention of whole sequences": row(fn.attention, 3, 4, 6, heads=3, bias=False),
    "causal attention": row(fn.attention, 3, 4, 6, lengths=(2, 4, 1), heads=2, causal=True),
    "grouped attention": row(fn.attention, 3, 4, 8, heads=4, kv_heads=2, causal=True),
    "window attention": row(fn.attention, 3, 5, 6, lengths=(2, 5, 1), heads=2, window=2),
    "rotary attention": row(fn.attention, 3, 4, 8, heads=2, rotary=10.0, causal=True),
    "alibi attention": row(fn.attention, 3, 4, 6, lengths=(2, 4, 1), heads=2, alibi=True),
    "cross-attention": row(looks_back, 3, 4, 6),
    "masked attention": row(masked_attention, 3, 4, 6),
    "rotary": row(of_array(fn.rotary), 3, 4, 2, 6, positions=np.arange(4)),
    "position_embed": row(fn.position_embed, 3, 4, 2, most=20),
    "position_embed of lengths": row(fn.position_embed, 3, 4, 2, lengths=(2, 4, 1), most=20),
    "tied": row(tied, 4, 6, ids=7, vocab=7),
    "repeat": row(fn.repeat(block, 3), 8, 4),
    "remat": row(fn.remat(block), 8, 4),
    "composite": row(composite, 4, 6, 6, 3, classes=3),
}
