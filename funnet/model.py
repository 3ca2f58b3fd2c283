"""A model: a layer closed at the top of the tree, as a pair of pure functions over plain trees."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from funnet.describe import on_device, split_arrays
from funnet.draw import Record, draw, shapes
from funnet.frame import Frame
from funnet.keys import checked_key, row_key
from funnet.scope import Scope
from funnet.select import patterns, picks, replaced, unmatched
from funnet.summary import Summary, summarise

Trees = tuple[dict[str, Any], dict[str, Any]]


class Model:
    """A layer with its settings, as pure functions `init` and `apply` over nested dicts.

    Args:
        layer: a function of a scope, arrays and settings, made with `fn.layer`.
        **settings: Python values handed to the layer at every call.

    >>> import funnet as fn, jax.numpy as jnp
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

        The layer is traced, not run; one jitted program draws each leaf from a key that depends on
        `key` and its own path. Inputs may be arrays or `ShapeDtypeStruct`s.
        """
        key = checked_key(key)
        params, state = draw(self.records(*inputs, **more), key)
        return params, state

    def shapes(self, *inputs: Any, **more: Any) -> Trees:
        """What `init` would give, as trees of `jax.ShapeDtypeStruct`; nothing is allocated."""
        params, state = self.records(*inputs, **more)
        return shapes(params), shapes(state)

    def records(self, *inputs: Any, **more: Any) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
        """All parameters, and all state, that the layer asks for: what `init` will draw."""
        frame = self.trace(*inputs, **more)
        return tuple(frame.params.values()), tuple(frame.state.values())

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
        """The output, and the outputs of chosen layers by dotted path; the rest is as in `apply`.

        Args:
            taps: patterns of the paths to return. A repeated layer gives its turns stacked on a
                leading axis, or one of them by index (`blocks.2.attention`); a shared layer that
                is called several times gives a tuple.
            patches: functions by pattern; each replaces the output of the layers it matches.

        Raises:
            ValueError: if a pattern matches no layer; the message lists the nearest paths.
        """
        frame = Frame(train=train, taps=patterns(taps), patches=dict(patches or {}))
        output = self._run(frame, params, state, key, inputs, more)
        for pattern in (*frame.taps, *frame.patches):
            if all(picks(pattern, p.path, p.turns) is None for p in frame.places.values()):
                raise ValueError(unmatched(pattern, [".".join(path) for path in frame.places]))
        return output, frame.captured()

    def summary(self, *inputs: Any, **more: Any) -> Summary:
        """A table by layer: output shape, parameters, bytes, multiply-adds; allocates nothing."""
        frame = self.trace(*inputs, **more)
        trees = shapes(frame.params.values()), shapes(frame.state.values())
        return summarise(self, self._run, list(frame.places.values()), *trees, inputs, more)

    def trace(self, *inputs: Any, **more: Any) -> Frame:
        """A frame with all that the layer asks for and calls; it is traced, not run."""
        leaves, rebuild = split_arrays((inputs, more))
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
        frame.key = None if key is None else row_key(key)
        inputs, more = on_device((inputs, more))
        return self.layer(Scope(frame, (), params, state), *inputs, **self.settings, **more)
