"""All layers, each with an input. A new layer enters by one line; `test_laws` does the rest."""

import dataclasses
from collections.abc import Callable
from typing import Any

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


TABLE = {
    "dense": row(fn.dense, 4, 3, 6, features=3),
    "conv 1": row(fn.conv, 4, 7, 3, features=4, kernel_size=3),
    "conv 2": row(fn.conv, 4, 5, 4, 3, features=4, kernel_size=3),
    "conv 3": row(fn.conv, 4, 3, 4, 3, 2, features=4, kernel_size=2),
    "strided conv": row(fn.conv, 4, 6, 5, 5, features=4, kernel_size=3, stride=2),
    "dilated conv": row(fn.conv, 4, 6, 3, features=4, kernel_size=2, dilation=2, padding="valid"),
    "grouped conv": row(fn.conv, 4, 5, 4, features=6, kernel_size=3, groups=2),
    "depthwise conv": row(fn.conv, 4, 5, 3, features=6, kernel_size=3, groups=3),
    "pointwise conv": row(fn.conv, 4, 3, 3, 3, features=4, kernel_size=1),
    "batch_norm": row(fn.batch_norm, 8, 5),
    "layer_norm": row(fn.layer_norm, 4, 3, 5),
    "dropout": row(fn.dropout, 4, 6, rate=0.5),
    "embed": row(fn.embed, 4, 6, ids=7, vocab=7, features=3),
    "unembed": row(fn.unembed, 4, 3, 5, vocab=7),
    "tied": row(tied, 4, 6, ids=7, vocab=7),
    "repeat": row(fn.repeat(block, 3), 8, 4),
    "remat": row(fn.remat(block), 8, 4),
    "composite": row(composite, 4, 6, 6, 3, classes=3),
}
