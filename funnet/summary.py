"""A model as a table by layer, from shapes alone.

Multiply-adds are counted in the traced program: each product and convolution carries the named
scopes of the layers around it, so no layer has a formula of its own to keep true.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state, jaxprs_in_params

from funnet.describe import aligned, describe, split_arrays
from funnet.frame import Frame, Place, tags_of
from funnet.select import Path, flatten


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer. Its counts are its own: those of the layers inside it are in their rows."""

    path: str
    layer: str
    output: str
    parameters: int
    bytes: int
    multiply_adds: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """A model's rows and totals; `print` shows them as a table.

    `bytes` counts parameters and state; `multiply_adds` those of one forward pass of the inputs.
    """

    model: str
    rows: tuple[Row, ...]
    parameters: int
    bytes: int
    multiply_adds: int

    def __str__(self) -> str:
        head = ("path", "layer", "output", "parameters", "bytes", "multiply-adds")
        cells = [(r.path, r.layer, r.output, *_counts(r)) for r in self.rows]
        lines = aligned([head, *cells, ("total", "", "", *_counts(self))], left=3)
        return "\n".join([self.model, *lines[:-1], lines[1], lines[-1]])

    __repr__ = __str__


def summarise(
    model: Any, run: Callable, places: list[Place], params: Any, state: Any, inputs: Any, more: Any
) -> Summary:
    """The summary of a model from what it asks for, its places, and a trace of `run`."""
    paths = {place.path for place in places}
    if () not in paths:  # a lift, or a function that is no layer, is at the top
        places = [Place((), "", ()), *places]
    elements, size = Counter(), Counter()
    for kind, tree in (("params", params), ("state", state)):
        for name, leaf in flatten(tree).items():
            owner, count = _owner(tuple(name.split(".")), paths), math.prod(leaf.shape)
            size[owner] += count * leaf.dtype.itemsize
            elements[owner] += count if kind == "params" else 0
    work = _work(run, params, state, inputs, more)
    rows = [
        Row(
            ".".join(place.path) or ".",
            place.layer + "".join(f" ×{turn.count}" for turn in place.turns),
            describe(place.output),
            elements[place.path],
            size[place.path],
            work[place.path],
        )
        for place in places
    ]
    return Summary(repr(model), tuple(rows), elements.total(), size.total(), work.total())


def _work(run: Callable, params: Any, state: Any, inputs: Any, more: Any) -> Counter[Path]:
    """Multiply-adds by path, of a traced program."""
    leaves, rebuild = split_arrays((inputs, more))
    frame = Frame()

    def program(params: Any, state: Any, key: jax.Array, leaves: list) -> Any:
        frame.trace = get_opaque_trace_state()
        return run(frame, params, state, key, *rebuild(leaves))

    key = jax.eval_shape(jax.random.key, 0)
    jaxpr = jax.make_jaxpr(program)(params, state, key, leaves)
    work: Counter[Path] = Counter()
    for path, count in _products(jaxpr.jaxpr):
        work[path] += count
    return work


def _owner(path: Path, paths: set[Path]) -> Path:
    """The innermost layer at or above a path."""
    return next((path[:n] for n in range(len(path), 0, -1) if path[:n] in paths), ())


def _products(jaxpr: Any, owner: Path = (), times: int = 1) -> Iterator[tuple[Path, int]]:
    """Each product's place and multiply-adds, loops counted as often as they turn."""
    for eqn in jaxpr.eqns:
        tags = tags_of(eqn)
        here = tags[-1].path if tags else owner
        name, params = eqn.primitive.name, eqn.params
        if name in ("dot_general", "conv_general_dilated"):
            yield here, times * math.prod(eqn.outvars[0].aval.shape) * _depth(eqn)
        elif name == "cond":
            branches = params["branches"]
            if params.get("branches_platforms"):  # one form a platform, the plain one last
                branches = branches[-1:]
            costs = [list(_products(b.jaxpr, here, times)) for b in branches]
            yield from max(costs, key=lambda cost: sum(count for _, count in cost))
        else:
            turns = params["length"] if name == "scan" else 1
            for inner in jaxprs_in_params(params):
                yield from _products(inner, here, times * turns)


def _depth(eqn: Any) -> int:
    """The multiply-adds behind one number of a product or a convolution."""
    lhs, rhs = (var.aval.shape for var in eqn.invars)
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == "dot_general":
        return math.prod(lhs[axis] for axis in numbers[0][0])
    return math.prod(rhs) // max(rhs[numbers.rhs_spec[0]], 1)


def _counts(x: Row | Summary) -> tuple[str, str, str]:
    return f"{x.parameters:,}", f"{x.bytes:,}", f"{x.multiply_adds:,}"
