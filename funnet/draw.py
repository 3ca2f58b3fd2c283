"""Drawing trees: every leaf from a key of its own path, all in one jitted program.

A record says what was asked for. A leaf inside repeated blocks is stacked over their turns, and
each turn draws what a layer under the turn's index would draw: `blocks.3.conv.kernel`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funnet.compiling import DRAW, quick_jit
from funnet.keys import fold, words
from funnet.select import Path, Turns, nest, turned

Initializer = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Record:
    """A parameter or variable as it was asked for: enough to draw it."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    init: Initializer
    turns: tuple[Turns, ...] = ()

    @property
    def stored(self) -> jax.ShapeDtypeStruct:
        """Its place in the tree: repeated blocks are stacked on leading axes."""
        return jax.ShapeDtypeStruct((*(t.count for t in self.turns), *self.shape), self.dtype)

    def found(self, tree: Any, kind: str, who: str, given: str) -> Any:
        """The leaf of a tree (the dict it is in) that was asked for.

        Raises:
            ValueError: if it is missing, or stored with another shape than `who` needs.
        """
        tree, name, path = tree if isinstance(tree, Mapping) else {}, self.path[-1], self.path
        if name not in tree:
            raise ValueError(
                f"there is no {kind} {'.'.join(path)!r} of shape {self.shape}, which {who} needs; "
                f"stored beside it: {', '.join(tree) or 'nothing'}. "
                "Make the trees with params, state = model.init(key, x)"
            )
        has = getattr(tree[name], "shape", type(tree[name]).__name__)
        if has != self.shape:
            raise ValueError(
                f"the {kind} {'.'.join(path)!r} is stored with shape {has}, and {who} needs "
                f"{self.shape} for its input {given}: give it inputs of the width the model was "
                "initialised with, or initialise it anew with model.init"
            )
        return tree[name]

    @property
    def names(self) -> list[str]:
        """The dotted path, once for each turn."""
        turns = itertools.product(*(range(turn.count) for turn in self.turns))
        return [turned(self.path, self.turns, map(str, indices)) for indices in turns]


_KNOWN: dict[Any, Initializer] = {}


def canonical(init: Initializer) -> Initializer:
    """One function for all that have the same code and the same values closed over.

    An initializer made anew at each call, as in `kernel_init=normal(0.02)`, would otherwise be
    another one each time, and every `init` would compile again.
    """
    try:
        cells = tuple(cell.cell_contents for cell in getattr(init, "__closure__", None) or ())
        values = (init.__defaults__, tuple((init.__kwdefaults__ or {}).items()), init.__module__)
        return _KNOWN.setdefault((init.__code__, cells, values), init)
    except (AttributeError, TypeError, ValueError):
        return init  # no plain function, or one with a value that cannot be compared


def shapes(records: Iterable[Record]) -> dict[str, Any]:
    """The tree that the records make, as `jax.ShapeDtypeStruct`s."""
    return nest({".".join(record.path): record.stored for record in records})


@quick_jit(DRAW, static_argnums=0)
def draw(trees: tuple[tuple[Record, ...], ...], key: jax.Array) -> tuple[dict[str, Any], ...]:
    """A tree of arrays for each tuple of records."""
    names = [name for records in trees for record in records for name in record.names]
    pairs = np.stack([words(name) for name in names]) if names else np.zeros((0, 2), np.uint32)
    keys, taken = jax.vmap(fold, (None, 0))(key, jnp.asarray(pairs)), 0
    drawn = []
    for records in trees:
        leaves = {}
        for record in records:
            own = slice(taken, taken + len(record.names))
            leaves[".".join(record.path)], taken = _drawn(record, keys[own]), own.stop
        drawn.append(nest(leaves))
    return tuple(drawn)


def _drawn(record: Record, keys: jax.Array) -> jax.Array:
    def one(key: jax.Array) -> jax.Array:
        value = jnp.asarray(record.init(key, record.shape, record.dtype), record.dtype)
        if value.shape != record.shape:
            raise ValueError(
                f"the initializer of {'.'.join(record.path)!r} must give shape {record.shape}, "
                f"it gave {value.shape}"
            )
        return value

    if not record.turns:
        return one(keys[0])
    return jax.vmap(one)(keys).reshape(record.stored.shape)
