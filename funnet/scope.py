"""The scope: the place in the parameter tree where a layer lives.

A layer is a function whose first argument is a `Scope`. Through it the layer asks for parameters,
state and keys by name; its children's scopes are `p["name"]`.
"""

import dataclasses
import functools
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state
from jax.typing import ArrayLike, DTypeLike

from funnet.describe import abstract, describe
from funnet.draw import Initializer, Record, canonical
from funnet.frame import Frame, Place, Tag
from funnet.keys import named_key
from funnet.select import Path, Turns, replaced

Settings = ParamSpec("Settings")
Result = TypeVar("Result")
LayerFunction = Callable[Concatenate["Scope", Settings], Result]


@dataclasses.dataclass(eq=False, repr=False)
class Scope:
    """A place in the trees of parameters and state; a layer's first argument."""

    frame: Frame
    path: Path
    _params: Any
    _state: Any
    reusable: bool = False
    layer: str = ""  # the layer that lives here
    given: str = ""  # what it was given
    _names: dict[str, Any] = dataclasses.field(default_factory=dict)  # who took each
    _wrappers: dict[str, tuple[Callable, ...]] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Scope({'.'.join(self.path)!r})"

    @property
    def train(self) -> bool:
        """Whether this call trains."""
        return self.frame.train

    def __getitem__(self, name: str) -> "Scope":
        """The child scope called `name`; each name may be used once."""
        self._claim(name, f'p.shared("{name}")')
        return self._child(name, reusable=self.reusable)

    def shared(self, name: str) -> "Scope":
        """A child scope that may be used any number of times, for weights that are tied."""
        if self._names.get(name) != "shared":
            self._claim(name, f'p.shared("{name}") at each use')
            self._names[name] = "shared"
        return self._child(name, reusable=True)

    def param(
        self, name: str, shape: tuple[int, ...], init: Initializer, dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        """The parameter called `name`, or, while initialising, a stand-in of its shape.

        Raises:
            ValueError: if it is missing, or stored with another shape than the call needs.
        """
        self._claim(name, "one call of the layer per scope, or p.shared for weights that are tied")
        value = self._leaf("parameter", name, shape, init, dtype)
        for function in self._wrappers.get(name, ()):
            value = function(self, value)
            if (got := np.shape(value)) != tuple(shape):
                raise ValueError(f"{self._where(name)} is wrapped to shape {got}, expected {shape}")
        return self.frame.handed(name, value)

    def wrapped(self, name: str, function: Callable[["Scope", Any], Any]) -> "Scope":
        """This place, where the layer gets `function(p, value)` for its parameter called `name`.

        It holds here and in lifts, not for children; the function given first is applied first.
        """
        functions = (*self._wrappers.get(name, ()), function)
        return dataclasses.replace(self, _wrappers={**self._wrappers, name: functions})

    def variable(
        self, name: str, shape: tuple[int, ...], init: Initializer, dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        """The present value of the state called `name`; `update` sets the next."""
        self._claim(name, "one call of the layer per scope, or p.shared")
        self._stay_home("keeps state")
        if self._state is None:
            raise ValueError(
                f"{self._who()} keeps state ({self._where(name)}), and none was given: "
                "call model.apply(params, state, x), which returns (output, state)"
            )
        stored = self._leaf("variable", name, shape, init, dtype)
        return self.frame.updates.get((*self.path, name), stored)

    def update(self, name: str, value: ArrayLike) -> None:
        """Sets the next value of the state called `name`, kept in the dtype it has."""
        self._stay_home("updates state")
        path, new = (*self.path, name), jnp.asarray(value)
        stored = self.frame.state.get(path, (self._state or {}).get(name))
        if stored is None or new.shape != stored.shape:
            has = "is no variable of this layer" if stored is None else f"has shape {stored.shape}"
            raise ValueError(f"{self._where(name)} {has}; the update's shape is {new.shape}")
        if not self.frame.building:
            self.frame.updates[path] = new.astype(stored.dtype)

    def key(self) -> jax.Array:
        """A PRNG key of this path's own, another at each call; it draws row by row (`row_key`).

        Raises:
            ValueError: if the model was called without a key.
        """
        self._stay_home("draws random numbers")
        if self.frame.building:
            return jax.random.key(0)
        if self.frame.key is None:
            raise ValueError(
                f"{self._who()} draws random numbers, and no key was given: "
                "pass key=jax.random.key(0) to model.apply (or call it with train=False)"
            )
        return named_key(self.frame.key, self.frame.draw(self.path))

    def block(self, *, stacked: bool) -> tuple[Any, Any, jax.Array | None, Callable[..., "Scope"]]:
        """For lifts: this place's trees and key, and a function that opens it in its own frame."""
        if stacked and self._names and not self.reusable:
            self._twice("", "p.shared")
        home, path, frame = self.at_home, self.path, self.frame
        latest = {at: v for at, v in frame.updates.items() if at[: len(path)] == path}
        state = replaced(self._state, latest, len(path))

        def inside(params: Any, state: Any, key: jax.Array | None, *turns: Turns) -> Scope:
            inner = frame.inside(key, *turns)
            inner.trace = inner.trace if home else None  # in a loop of the caller's none is at home
            used = {} if stacked else self._names  # the layer stays: handed on, it is one place
            return dataclasses.replace(self, frame=inner, _params=params, _state=state, _names=used)

        self._names |= {"*": []} if stacked else {}
        return self._params, state, frame.key, inside

    def absorb(self, updates: dict[Path, Any], activations: dict[Path, list]) -> None:
        """Takes over what the frame of a lifted block has collected."""
        if updates or activations:
            self._stay_home("collects state or activations")
        self.frame.updates.update(updates)
        for path, values in activations.items():
            self.frame.activations.setdefault(path, []).extend(values)

    @property
    def at_home(self) -> bool:
        """Whether this code is traced where its frame was, and not in a loop of the caller's."""
        return get_opaque_trace_state() == self.frame.trace

    def _child(self, name: str, reusable: bool) -> "Scope":
        params = self._params.get(name, {}) if isinstance(self._params, Mapping) else {}
        known = self._state.get(name, {}) if isinstance(self._state, Mapping) else {}
        state = None if self._state is None else known
        return Scope(self.frame, (*self.path, name), params, state, reusable=reusable)

    def _claim(self, name: str, instead: str) -> None:
        """Refuses a bad name, and a second use, but for JAX tracing the body of a loop again."""
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"a name is a string without a dot, got {name!r} in {self._where()}")
        use = [] if self.at_home else [f for f, _ in traceback.walk_stack(None)][::-1]
        first = self._names.setdefault(name, use)
        if (first is use and "*" not in self._names) or self.reusable:
            return
        # Two traces of one loop part inside JAX; two loops part in the code that calls them.
        both = [f for f, g in zip(first, use, strict=False) if f is g]
        if not both or not both[-1].f_globals.get("__name__", "").startswith("jax."):
            self._twice(name, instead)

    def _twice(self, name: str, instead: str) -> NoReturn:
        raise ValueError(
            f"the name {self._where(name)} is used twice, so two layers would silently share its "
            f"parameters: give each a name of its own, or say that they share: {instead}"
        )

    def _leaf(self, kind: str, name: str, shape: Any, init: Initializer, dtype: DTypeLike) -> Any:
        """What is stored under `name`, or, while initialising, its record and a stand-in."""
        if not isinstance(shape, tuple | list):
            raise TypeError(f"the shape of {self._where(name)} must be a tuple, got {shape!r}")
        path, frame = (*self.path, name), self.frame
        record = Record(path, tuple(shape), np.dtype(dtype), canonical(init), frame.turns)
        if not frame.building:
            tree = self._params if kind == "parameter" else self._state
            return record.found(tree, kind, self._who(), self.given)
        known = (frame.params if kind == "parameter" else frame.state).setdefault(path, record)
        if known.shape != record.shape:
            shapes = f"{known.shape} and {record.shape}, given {self.given}"
            raise ValueError(f"{'.'.join(path)!r} is shared by calls that need {shapes}")
        return jnp.zeros(record.shape, record.dtype)

    def _stay_home(self, does: str) -> None:
        if not self.at_home:
            raise ValueError(
                f"{self._who()} {does} inside a scan, vmap, cond, grad or jit of your own, which "
                "it cannot leave: use fn.repeat(layer, n) or fn.remat(layer), or map model.apply"
            )

    def _where(self, name: str = "") -> str:
        return repr(".".join((*self.path, name) if name else self.path) or "the top")

    def _who(self) -> str:
        return f"{self.layer or 'the layer'} at {self._where()}"


def layer(function: LayerFunction[Settings, Result]) -> LayerFunction[Settings, Result]:
    """Gives a function its place: a named scope, a note on errors, a tap and a summary row.

    The function's first argument is a `Scope`; the rest are arrays and settings. A layer that
    hands its own scope on to another one is one place with it, under the outer name.

    >>> import funnet as fn
    >>> @fn.layer
    ... def mlp(p, x, width, classes):
    ...     return fn.dense(p["out"], fn.relu(fn.dense(p["hidden"], x, width)), classes)
    >>> fn.Model(mlp, width=32, classes=10)
    Model(mlp, width=32, classes=10)
    """

    @functools.wraps(function)
    def call(p: Scope, /, *args: Any, **settings: Any) -> Result:
        if not isinstance(p, Scope):
            raise TypeError(
                f"{function.__name__} is a layer: its first argument is a scope, not "
                f'{describe([p]) or type(p).__name__}. Write {function.__name__}(p["name"], ...) '
                f"inside a layer, or fn.Model({function.__name__}, ...) at the top"
            )
        return function(p, *args, **settings) if p.layer else _placed(function, p, args, settings)

    return cast(LayerFunction[Settings, Result], call)


def _placed(function: Callable, p: Scope, args: tuple, settings: dict) -> Any:
    frame, name, outer = p.frame, function.__name__, p.frame.place
    args, settings = given = frame.cast((args, settings))
    p.layer, p.given, frame.place = name, describe(given), p.path
    place = frame.places.setdefault(p.path, Place(p.path, name, frame.turns))
    try:
        with jax.named_scope(Tag.of(place, outer)):
            output = frame.patched(p.path, function(p, *args, **settings))
    except Exception as error:
        error.add_note(f"in {'.'.join(p.path) or 'the top'} ({name}), given {p.given}")
        raise
    finally:
        p.layer, frame.place = "", outer
    place.output = jax.tree.map(abstract, output) if frame.building else None
    if frame.wants(p.path):
        p._stay_home(f"({name}) is tapped")
        frame.activations.setdefault(p.path, []).append(output)
    return output
