"""Lifts of recurrent layers: both ways at once, and one upon the other.

They take anything called as `lstm` is, each other included, so `stacked(bidirectional(lstm), 2)`
and `bidirectional(stacked(lstm, 2))` are both layers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from funnet.checks import count, within
from funnet.layers.dropout import dropout
from funnet.layers.recurrent import parted
from funnet.scope import Scope
from funnet.scope import layer as placed

Layer = Callable[..., tuple[jax.Array, Any]]


def bidirectional(layer: Layer) -> Layer:
    """A recurrent layer run both ways, each with parameters of its own, outputs side by side.

    Args:
        layer: a layer called as `lstm` is.

    Returns:
        A layer (p, x, hidden, *, lengths=None, initial=None), with child scopes `forward` and
        `backward`. It gives outputs (N, T, 2 · hidden), those of the way forward first, and the
        pair of both ways' last states; `initial` is such a pair.

    Reference: Schuster and Paliwal 1997, https://doi.org/10.1109/78.650093

    >>> import funnet as fn, jax.numpy as jnp
    >>> model = fn.Model(fn.bidirectional(fn.lstm), hidden=4)
    >>> params, _ = model.init(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> model(params, jnp.ones((2, 5, 3)))[0].shape
    (2, 5, 8)
    """

    def both(
        p: Scope,
        x: jax.Array,
        hidden: int,
        *,
        lengths: ArrayLike | None = None,
        initial: Any = None,
    ) -> Any:
        _, (first, second) = parted("initial", initial, ("forward", "backward"))
        ahead, end = layer(p["forward"], x, hidden, lengths=lengths, initial=first)
        back, start = layer(p["backward"], x, hidden, lengths=lengths, initial=second, reverse=True)
        return jnp.concatenate([ahead, back], -1), (end, start)

    return _named(f"bidirectional({_name(layer)})", both)


def stacked(layer: Layer, depth: int, rate: float = 0.0) -> Layer:
    """Recurrent layers one upon the other, each fed the outputs of the one below.

    Args:
        layer: a layer called as `lstm` is, or one that `bidirectional` gave.
        depth: how many, at least 1.
        rate: of the dropout between two layers, 0 to 1; after the last there is none.

    Returns:
        A layer called as `layer` is, with child scopes `layer0`, `layer1` and so on. It gives the
        outputs of the last one and a tuple of all their last states; `initial` is such a tuple.

    Raises:
        TypeError: if `depth` is no integer.
        ValueError: if `depth` is below 1, or `rate` is outside 0..1.

    >>> import funnet as fn, jax.numpy as jnp
    >>> model = fn.Model(fn.stacked(fn.bidirectional(fn.gru), 2), hidden=4)
    >>> params, _ = model.init(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> params["layer1"]["backward"]["input_kernel"].shape
    (8, 12)
    """
    names = [f"layer{i}" for i in range(count("depth", depth))]
    within("rate", rate, 0, 1)

    def stack(p: Scope, x: jax.Array, hidden: int, *, initial: Any = None, **settings: Any) -> Any:
        lasts = []
        _, states = parted("initial", initial, names)
        for name, state in zip(names, states, strict=True):
            if lasts and rate:
                x = dropout(p[f"dropout{len(lasts)}"], x, rate)
            x, last = layer(p[name], x, hidden, initial=state, **settings)
            lasts.append(last)
        return x, tuple(lasts)

    return _named(f"stacked({_name(layer)}, {depth})", stack)


def _name(layer: Layer) -> str:
    return getattr(layer, "__name__", repr(layer))


def _named(name: str, function: Layer) -> Layer:
    function.__name__ = name
    return placed(function)
