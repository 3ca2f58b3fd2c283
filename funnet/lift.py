"""The lifts: `repeat` scans a block over stacked parameters, `remat` recomputes its activations.

A lifted block is traced in a frame of its own, and whatever it collects (state, activations)
leaves the trace as an output, so both carry state, keys and taps through.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from funnet.describe import describe, split_arrays
from funnet.scope import Scope
from funnet.select import Turns

Layer = TypeVar("Layer", bound=Callable[..., Any])
FEW = 4  # turns laid out one after another: a loop would copy what each keeps for the gradient


def repeat(layer: Layer, n: int) -> Layer:
    """A layer applied `n` times over, its output the next turn's input; traced once.

    Compiled once, too, unless the turns are few. Parameters are stacked on a leading axis of length
    `n`; turn `i` draws what a layer called `str(i)` would. Other arguments are the same at each.

    Args:
        layer: a layer whose output has the shape and dtype of its first argument.
        n: how many turns, at least 1.

    Raises:
        ValueError: if a turn's output differs from its input in shape or dtype.

    >>> import funnet as fn
    >>> @fn.layer
    ... def deep(p, x):
    ...     return fn.repeat(fn.dense, 12)(p["blocks"], x, 64)
    >>> fn.Model(deep).shapes(jax.ShapeDtypeStruct((8, 64), "float32"))[0]["blocks"]["kernel"].shape
    (12, 64, 64)
    """
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"repeat needs a number of turns of at least 1, got n={n!r}")

    def repeated(p: Scope, x: Any, *args: Any, **settings: Any) -> Any:
        params, state, key, inside = p.block(stacked=True)
        base = p.key() if key is not None and p.at_home else None
        x = p.frame.cast(x)

        def turn(x: Any, given: tuple) -> tuple[Any, tuple]:
            index, params, state = given
            key = None if base is None else jax.random.fold_in(base, index)
            q = inside(params, state, key, Turns(len(p.path), n, index))
            y = layer(q, x, *args, **settings)
            if describe(y) != describe(x):
                what = f"{'.'.join(q.path)!r} takes {describe(x)} and gives {describe(y)}"
                raise ValueError(f"a repeated layer must give what it takes: {what}")
            return y, (q.frame.updates, q.frame.activations)

        if p.frame.building:
            return turn(x, (jnp.int32(0), params, state))[0]
        turns = (jnp.arange(n, dtype=jnp.int32), params, state)
        x, collected = jax.lax.scan(turn, x, turns, n, unroll=n <= FEW)
        p.absorb(*collected)
        return x

    return cast(Layer, repeated)


def remat(layer: Layer) -> Layer:
    """A layer whose activations are computed again in the backward pass instead of kept.

    >>> import funnet as fn
    >>> fn.remat(fn.dense).__name__
    'rematerialised'
    """

    def rematerialised(p: Scope, *args: Any, **settings: Any) -> Any:
        params, state, key, inside = p.block(stacked=False)
        arrays, rebuild = split_arrays((args, settings))

        def block(params: Any, state: Any, key: Any, arrays: list) -> tuple[Any, tuple]:
            args, settings = rebuild(arrays)
            q = inside(params, state, key)
            return layer(q, *args, **settings), (q.frame.updates, q.frame.activations)

        guard = all(turns.count <= FEW for turns in p.frame.turns)  # no loop keeps CSE from it
        run = block if p.frame.building else jax.checkpoint(block, prevent_cse=guard)
        y, collected = run(params, state, key, arrays)
        p.absorb(*collected)
        return y

    return cast(Layer, rematerialised)
