"""Our side: every leaf of the trees, turn by turn, and the layers that they belong to."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from funnet import initializers
from funnet.draw import Record, shapes
from funnet.interop.conversions import Shape
from funnet.interop.rules import parameters
from funnet.model import Model
from funnet.select import Path, Turns, flatten, replaced


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Trees, a record of each leaf, and the layers by path where they are known."""

    trees: tuple[Any, ...]
    records: list[Record]
    layers: dict[Path, str]

    @property
    def slots(self) -> dict[str, Record]:
        """The leaves by dotted path, once for each turn."""
        return {name: record for record in self.records for name in record.names}

    def layer(self, record: Record) -> str:
        """The innermost layer that a leaf lies in, "" where layers are unknown."""
        above = (record.path[:n] for n in range(len(record.path) - 1, -1, -1))
        return next((self.layers[path] for path in above if path in self.layers), "")


def wanted(model: Any, like: Any, theirs: Iterable[str]) -> Wanted:
    """What `like` says of our side: trees of parameters and state, or example inputs.

    Raises:
        TypeError: if a leaf of a tree is no array.
        ValueError: if trees leave it open which axes are the turns of a repeat.
    """
    if isinstance(like, Mapping):
        return of_trees((like,), theirs)
    if isinstance(like, tuple | list) and [isinstance(t, Mapping) for t in like] == [True, True]:
        return of_trees(tuple(like), theirs)
    return of_inputs(model, like if isinstance(like, tuple) else (like,))


def of_inputs(model: Any, inputs: tuple) -> Wanted:
    """The model traced on inputs, which tell of its layers and its repeats.

    Raises:
        TypeError: if the model is none.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model must be an fn.Model, got {model!r}; write fn.Model(layer)")
    frame = model.trace(*inputs)
    params, state = frame.params.values(), frame.state.values()
    layers = {place.path: place.layer for place in frame.places.values()}
    return Wanted((shapes(params), shapes(state)), [*params, *state], layers)


def of_trees(trees: tuple, theirs: Iterable[str]) -> Wanted:
    """Trees alone: an index in PyTorch's names that a path of ours lacks counts turns."""
    leaves = {name: leaf for tree in trees for name, leaf in flatten(tree).items()}
    for name, leaf in leaves.items():
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{name} must be an array or a jax.ShapeDtypeStruct, got {type(leaf).__name__}; "
                "trees are those of model.init or model.shapes"
            )
    turns = _turns({name: tuple(leaf.shape) for name, leaf in leaves.items()}, theirs)
    return Wanted(trees, [_record(name, x, turns[name]) for name, x in leaves.items()], {})


def _record(name: str, leaf: Any, turns: tuple[Turns, ...]) -> Record:
    path, shape = tuple(name.split(".")), tuple(leaf.shape[len(turns) :])
    return Record(path, shape, np.dtype(leaf.dtype), initializers.zeros, turns)


def _turns(leaves: dict[str, Shape], theirs: Iterable[str]) -> dict[str, tuple[Turns, ...]]:
    """The turns of each leaf, as far as PyTorch's names have an index for them."""
    depths = {name: set() for name in leaves}
    for guess in dict.fromkeys(ours for name in theirs for ours in parameters(name)):
        for name, gone in _shortened(guess):
            if name in leaves and len(gone) <= len(leaves[name]):
                depths[name].add(gone)
    turns = {}
    for name, found in depths.items():
        if len(found) > 1 and () not in found:
            raise ValueError(
                f"it is open which index in PyTorch's names counts the turns of {name!r}: "
                "pass the model's example inputs as like"
            )
        turns[name] = tuple(map(Turns, min(found, default=()), leaves[name]))
    return turns


def _shortened(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name without some of its indices, and where in the rest each of them was."""
    words = name.split(".")
    indices = [i for i, word in enumerate(words) if word.isdigit()]
    for count in range(len(indices) + 1):
        for gone in itertools.combinations(indices, count):
            kept = ".".join(word for i, word in enumerate(words) if i not in gone)
            yield kept, tuple(i - order for order, i in enumerate(gone))


def values(ours: Wanted, trees: tuple) -> dict[str, np.ndarray]:
    """The leaves of trees, turn by turn.

    Raises:
        ValueError: if the trees are not those that the model asks for.
    """
    leaves = {name: np.asarray(x) for tree in trees for name, x in flatten(tree).items()}
    asks = {".".join(record.path): record.stored.shape for record in ours.records}
    for name in {**asks, **leaves}:
        has, needs = leaves[name].shape if name in leaves else None, asks.get(name)
        if has != needs:
            raise ValueError(
                f"params and state must be those of model.init for these inputs: {name!r} has "
                f"shape {has or 'none'}, expected {needs or 'none'}"
            )
    found = {}
    for record in ours.records:
        turns = leaves[".".join(record.path)].reshape(len(record.names), *record.shape)
        found |= zip(record.names, turns, strict=True)
    return found


def filled(ours: Wanted, arrays: Mapping[str, np.ndarray]) -> tuple:
    """The trees with other leaves, turns stacked."""
    leaves = {}
    for record in ours.records:
        turns = np.stack([arrays[name].astype(record.dtype) for name in record.names])
        leaves[record.path] = jnp.asarray(turns.reshape(record.stored.shape))
    known = [flatten(tree) for tree in ours.trees]
    own = [{path: x for path, x in leaves.items() if ".".join(path) in names} for names in known]
    return tuple(replaced(t, mine) for t, mine in zip(ours.trees, own, strict=True))
