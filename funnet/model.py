"""A model: a layer closed at the top of the tree, as a pair of pure functions over plain trees."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funnet.describe import abstract, is_array
from funnet.keys import checked_key, fold, words
from funnet.scope import Frame, Record, Scope
from funnet.select import Path, nest, patterns, picks, replaced, unmatched
from funnet.summary import Summary, summarise

Trees = tuple[dict[str, Any], dict[str, Any]]


class Model:
    """A layer with its settings, as pure functions `init` and `apply` over nested dicts.

    Args:
        layer: a function of a scope, arrays and settings, made with `fn.layer`.
        **settings: Python values handed to the layer at every call.

    >>> import funnet as fn
    >>> model = Model(fn.dense, features=3)
    >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> params["kernel"].shape, model(params, jnp.ones((2, 4))).shape
    ((4, 3), (2, 3))
    """

    def __init__(self, layer: Callable[..., Any], **settings: Any):
        if not callable(layer):
            raise TypeError(f"Model takes a layer, a function of a scope, got {layer!r}")
        self.layer, self.settings = layer, settings

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"Model({getattr(self.layer, '__name__', repr(self.layer))}{settings})"

    def init(self, key: jax.Array, *inputs: Any, **more: Any) -> Trees:
        """Parameters and state for inputs of these shapes: nested dicts of arrays.

        The layer is only traced; each parameter is drawn, in one jitted program for all, from a
        key that depends on `key` and its own path. Inputs may be arrays or `ShapeDtypeStruct`s.
        """
        frame = self._trace(inputs, more)
        records = (tuple(frame.params.values()), tuple(frame.state.values()))
        return _draw(records, checked_key(key))

    def shapes(self, *inputs: Any, **more: Any) -> Trees:
        """What `init` would give, as trees of `jax.ShapeDtypeStruct`; nothing is allocated."""
        frame = self._trace(inputs, more)
        return _nested(frame.params), _nested(frame.state)

    def apply(
        self,
        params: Mapping[str, Any],
        state: Mapping[str, Any] | None,
        *inputs: Any,
        train: bool = False,
        key: jax.Array | None = None,
        **more: Any,
    ) -> tuple[Any, Any]:
        """The layer's output and the next state.

        Args:
            params: the tree that `init` gave, or one like it.
            state: the state that `init` or the last step gave.
            *inputs: the layer's arrays.
            train: whether this call trains (dropout drops, batch norm uses the batch).
            key: for layers that draw random numbers.
            **more: further arrays and settings of the layer, by name.
        """
        frame = Frame(train=train)
        output = self._run(frame, params, state, key, inputs, more)
        return output, replaced(state, frame.updates)

    def __call__(
        self, params: Mapping[str, Any], *inputs: Any, key: jax.Array | None = None, **more: Any
    ) -> Any:
        """The output alone, of a model that keeps no state; `train=True` as in `apply`."""
        frame = Frame(train=more.pop("train", False))
        return self._run(frame, params, None, key, inputs, more)

    def capture(
        self,
        params: Mapping[str, Any],
        state: Mapping[str, Any] | None,
        *inputs: Any,
        taps: str | Iterable[str] = (),
        patches: Mapping[str, Callable[[Any], Any]] | None = None,
        train: bool = False,
        key: jax.Array | None = None,
        **more: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """The output, and the outputs of chosen layers by dotted path.

        Args:
            params: as in `apply`.
            state: as in `apply`; the next state is not returned.
            *inputs: as in `apply`.
            taps: patterns of the paths to return. A repeated layer gives its turns stacked on a
                leading axis, or one of them by index (`blocks.2.attention`); a shared layer that
                is called several times gives a tuple.
            patches: functions by pattern; each replaces the output of the layers it matches.
            train: as in `apply`.
            key: as in `apply`.
            **more: as in `apply`.

        Raises:
            ValueError: if a pattern matches no layer; the message lists the nearest paths.
        """
        frame = Frame(train=train, taps=patterns(taps), patches=dict(patches or {}))
        output = self._run(frame, params, state, key, inputs, more)
        for pattern in (*frame.taps, *frame.patches):
            if all(picks(pattern, p.path, p.turns) is None for p in frame.places.values()):
                raise ValueError(unmatched(pattern, [".".join(path) for path in frame.places]))
        return output, _by_path(frame)

    def summary(self, *inputs: Any, **more: Any) -> Summary:
        """A table by layer: path, output shape, parameters, bytes and multiply-adds.

        Nothing is allocated, so a model larger than memory can be summarised.
        """
        frame = self._trace(inputs, more)
        params, state = _nested(frame.params), _nested(frame.state)
        leaves, rebuild = _arrays((inputs, more))

        def program(params: Any, state: Any, key: jax.Array, leaves: list) -> Any:
            inputs, more = rebuild(leaves)
            return self.apply(params, state, *inputs, key=key, **more)

        jaxpr = jax.make_jaxpr(program)(params, state, jax.eval_shape(jax.random.key, 0), leaves)
        return summarise(repr(self), list(frame.places.values()), params, state, jaxpr)

    def _trace(self, inputs: tuple, more: dict) -> Frame:
        """A frame with a record of all that the layer asks for; the layer is traced, not run."""
        leaves, rebuild = _arrays((inputs, more))
        frames = []

        def build(leaves: list) -> None:
            inputs, more = rebuild(leaves)
            frames.append(Frame(building=True))
            self.layer(Scope(frames[0], (), {}, {}), *inputs, **self.settings, **more)

        jax.eval_shape(build, leaves)
        return frames[0]

    def _run(self, frame: Frame, params: Any, state: Any, key: Any, inputs: tuple, more: dict):
        for name, tree in {"params": params, "state": {} if state is None else state}.items():
            if not isinstance(tree, Mapping):
                raise TypeError(
                    f"{name} must be a dict of arrays, got {type(tree).__name__}: "
                    "write params, state = model.init(key, x), then model.apply(params, state, x)"
                )
        frame.key = None if key is None else checked_key(key)
        return self.layer(Scope(frame, (), params, state), *inputs, **self.settings, **more)


def _arrays(tree: Any) -> tuple[list, Callable[[list], Any]]:
    """The arrays of a tree as shapes, and a function that puts arrays back in their places."""
    leaves, structure = jax.tree.flatten(tree)
    where = [i for i, leaf in enumerate(leaves) if is_array(leaf)]

    def rebuild(arrays: list) -> Any:
        filled = list(leaves)
        for i, array in zip(where, arrays, strict=True):
            filled[i] = array
        return structure.unflatten(filled)

    return [abstract(leaves[i]) for i in where], rebuild


def _nested(records: dict[Path, Record]) -> dict[str, Any]:
    return nest({".".join(path): record.stored for path, record in records.items()})


@functools.partial(jax.jit, static_argnums=0)
def _draw(records: tuple[tuple[Record, ...], ...], key: jax.Array) -> Trees:
    """All trees, each leaf drawn from the key of its path; a repeated leaf turn by turn."""
    names = [name for tree in records for record in tree for name in _turn_names(record)]
    keys = jax.vmap(fold, (None, 0))(key, jnp.asarray(np.stack([words(n) for n in names] or [[0, 0]])))
    trees, start = [], 0
    for tree in records:
        leaves = {}
        for record in tree:
            count = len(_turn_names(record))
            leaves[".".join(record.path)] = _drawn(record, keys[start : start + count])
            start += count
        trees.append(nest(leaves))
    return tuple(trees)


def _drawn(record: Record, keys: jax.Array) -> jax.Array:
    def draw(key: jax.Array) -> jax.Array:
        return jnp.asarray(record.init(key, record.shape, record.dtype), record.dtype)

    value = jax.vmap(draw)(keys) if record.turns else draw(keys[0])
    if value.size != math.prod(record.stored.shape):
        raise ValueError(f"the initializer of {'.'.join(record.path)} gave shape {value.shape}, not {record.shape}")
    return value.reshape(record.stored.shape)


def _turn_names(record: Record) -> list[str]:
    """The dotted path, once for each turn of the repeats around it: `blocks.3.conv.kernel`."""
    names = []
    for indices in itertools.product(*(range(turn.count) for turn in record.turns)):
        parts = list(record.path)
        for order, (turn, index) in enumerate(zip(record.turns, indices, strict=True)):
            parts.insert(turn.depth + order, str(index))
        names.append(".".join(parts))
    return names


def _by_path(frame: Frame) -> dict[str, Any]:
    """The captured outputs under the names that the taps gave them."""
    found = {}
    for path, values in frame.activations.items():
        value = values[0] if len(values) == 1 else tuple(values)
        for tap in frame.taps:
            indices = picks(tap, path, frame.places[path].turns)
            if indices is not None:
                found[tap if indices else ".".join(path)] = jax.tree.map(lambda v, i=indices: v[i], value)
    return found
