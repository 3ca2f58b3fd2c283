"""A frame: what all scopes of one call share, what came in and what is to go out.

Nothing of a call is kept anywhere else. State, taps and records leave a call as its results, so
the call may be jitted, differentiated and mapped like any other function.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state

from funnet.describe import abstract, describe
from funnet.draw import Record
from funnet.select import Path, Turns, picks, shifts_or_scales, turned


@dataclasses.dataclass
class Place:
    """A layer that was called: a row of a summary, and a place for taps."""

    path: Path
    layer: str
    turns: tuple[Turns, ...]
    output: Any = None


class Tag(str):
    """The named scope of a layer's call: the text that profiles show, and what it stands for.

    JAX keeps it as it is in the traced program. Its place can be read off there whatever layers
    are called, and no named scope of the caller's own is taken for a layer.
    """

    path: Path
    layer: str
    turns: tuple[Turns, ...]

    @classmethod
    def of(cls, place: Place, outer: Path) -> "Tag":
        """The tag of a place, its text counted from the layer around it where that is above."""
        inner = place.path[len(outer) :] if place.path[: len(outer)] == outer else place.path
        tag = cls(".".join(inner) or place.layer)
        tag.path, tag.layer = place.path, place.layer
        tag.turns = tuple(Turns(turn.depth, turn.count) for turn in place.turns)
        return tag


def tags_of(eqn: Any) -> list[Tag]:
    """The layers' calls around an equation of a traced program, the outermost first."""
    return [n.name for n in eqn.source_info.name_stack.stack if isinstance(n.name, Tag)]


@dataclasses.dataclass
class Frame:
    """What all scopes of one call share. A repeated or rematerialised block has its own."""

    key: jax.Array | None = None
    train: bool = False
    dtype: Any = None  # that layers compute in, where it is not their input's
    building: bool = False  # initialising: collect records, compute nothing
    taps: tuple[str, ...] = ()
    patches: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    turns: tuple[Turns, ...] = ()
    place: Path = ()  # of the layer now running
    trace: Any = dataclasses.field(default_factory=get_opaque_trace_state)
    params: dict[Path, Record] = dataclasses.field(default_factory=dict)
    state: dict[Path, Record] = dataclasses.field(default_factory=dict)
    places: dict[Path, Place] = dataclasses.field(default_factory=dict)
    updates: dict[Path, Any] = dataclasses.field(default_factory=dict)
    activations: dict[Path, list] = dataclasses.field(default_factory=dict)
    drawn: Counter = dataclasses.field(default_factory=Counter)

    def inside(self, key: jax.Array | None, *turns: Turns) -> "Frame":
        """The frame of a block traced on its own: it sees the same, and collects for itself."""
        fresh = {"trace": get_opaque_trace_state(), "updates": {}, "activations": {}}
        drawn = Counter() if turns else self.drawn
        return dataclasses.replace(self, key=key, turns=self.turns + turns, drawn=drawn, **fresh)

    def draw(self, path: Path) -> str:
        """The name of the next key that the layer at `path` draws."""
        self.drawn[path] += 1
        return ".".join((*path, f"#{self.drawn[path] - 1}"))

    def cast(self, tree: Any) -> Any:
        """The floating arrays of a tree in the dtype that layers compute in."""
        return tree if self.dtype is None else jax.tree.map(self._cast, tree)

    def handed(self, name: str, value: Any) -> Any:
        """A parameter as a layer gets it; biases and scales stay as they are stored."""
        return value if self.dtype is None or shifts_or_scales(name) else self._cast(value)

    def _cast(self, x: Any) -> Any:
        wanted = isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(self.dtype) if wanted else x

    def wants(self, path: Path) -> bool:
        """Whether some tap asks for the output of the layer at `path`."""
        return any(picks(tap, path, self.turns) is not None for tap in self.taps)

    def patched(self, path: Path, output: Any) -> Any:
        """The output of the layer at `path`, patched, in a repeat at the turns that are named."""
        for pattern, patch in self.patches.items():
            indices = picks(pattern, path, self.turns)
            if indices is None:
                continue
            new = patch(output)
            if indices and not self.building:
                if jax.tree.map(abstract, new) != jax.tree.map(abstract, output):
                    what = f"{describe(output)}, and gave {describe(new)}"
                    raise ValueError(
                        f"the patch of {pattern!r} must give what the layer did: {what}"
                    )
                turns = zip(self.turns, indices, strict=True)
                now = functools.reduce(jnp.logical_and, [turn.index == i for turn, i in turns])
                new = jax.tree.map(functools.partial(jnp.where, now), new, output)
            output = new
        return output

    def captured(self) -> dict[str, Any]:
        """The tapped outputs, under the names that the taps gave them."""
        found = {}
        for path, values in self.activations.items():
            value = values[0] if len(values) == 1 else tuple(values)
            for tap in self.taps:
                turns = self.places[path].turns
                turn = picks(tap, path, turns)
                if turn:
                    name = turned(path, turns, map(str, turn))
                    found[name] = jax.tree.map(lambda v, turn=turn: v[turn], value)
                elif turn is not None:
                    found[".".join(path)] = value
        return found
