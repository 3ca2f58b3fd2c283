"""A model as a table by layer, from shapes alone.

Multiply-adds are counted in the traced program: each product and convolution carries the named
scopes of the layers around it, so no layer has a formula of its own to keep true.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxprs_in_params

from funnet.describe import describe, split_arrays
from funnet.frame import Place
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
        return "\n".join([self.model, *_aligned([head, *cells, ("total", "", "", *_counts(self))])])

    __repr__ = __str__


def summarise(
    model: Any, places: Sequence[Place], params: Any, state: Any, inputs: tuple, more: dict
) -> Summary:
    """The summary of a model from its places, its trees of shapes, and its inputs."""
    leaves, rebuild = split_arrays((inputs, more))

    def program(params: Any, state: Any, key: jax.Array, leaves: list) -> Any:
        inputs, more = rebuild(leaves)
        return model.apply(params, state, *inputs, key=key, **more)

    key = jax.eval_shape(jax.random.key, 0)
    jaxpr = jax.make_jaxpr(program)(params, state, key, leaves)
    return _summed(repr(model), places, params, state, jaxpr)


def _summed(
    model: str, places: Sequence[Place], params: Any, state: Any, program: ClosedJaxpr
) -> Summary:
    paths = {place.path for place in places}
    elements, size = Counter(), Counter()
    for name, leaf in [*flatten(params).items(), *flatten(state).items()]:
        owner = _owner(tuple(name.split(".")), paths)
        size[owner] += math.prod(leaf.shape) * leaf.dtype.itemsize
    for name, leaf in flatten(params).items():
        elements[_owner(tuple(name.split(".")), paths)] += math.prod(leaf.shape)
    work = Counter()
    for stack, count in _products(program.jaxpr):
        names = [part for name in stack for part in name.split(".")]
        owner = max((_owner(tuple(names[i:]), paths) for i in range(len(names) + 1)), key=len)
        work[owner] += count
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
    return Summary(model, tuple(rows), elements.total(), size.total(), work.total())


def _owner(path: Path, paths: set[Path]) -> Path:
    """The innermost layer at or above a path."""
    return next((path[:n] for n in range(len(path), 0, -1) if path[:n] in paths), ())


def _products(jaxpr: Any, above: tuple[str, ...] = (), times: int = 1) -> Iterator[tuple]:
    """Each product's named scopes and multiply-adds, loops counted as often as they turn."""
    for eqn in jaxpr.eqns:
        stack = (*above, *str(eqn.source_info.name_stack).split("/"))
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            lhs = eqn.invars[0].aval.shape
            yield (
                stack,
                times
                * math.prod(eqn.outvars[0].aval.shape)
                * math.prod(lhs[d] for d in contracted),
            )
        elif name == "conv_general_dilated":
            kernel, out = eqn.invars[1].aval.shape, params["dimension_numbers"].rhs_spec[0]
            yield (
                stack,
                times
                * math.prod(eqn.outvars[0].aval.shape)
                * math.prod(kernel)
                // max(kernel[out], 1),
            )
        elif name == "cond":
            costs = [list(_products(b.jaxpr, stack, times)) for b in params["branches"]]
            yield from max(costs, key=lambda cost: sum(count for _, count in cost))
        else:
            turns = params["length"] if name == "scan" else 1
            for inner in jaxprs_in_params(params):
                yield from _products(inner, stack, times * turns)


def _counts(x: Row | Summary) -> tuple[str, str, str]:
    return f"{x.parameters:,}", f"{x.bytes:,}", f"{x.multiply_adds:,}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines: three columns to the left, three counts to the right, rules between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            c.ljust(w) if i < 3 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return [lines[0], rule, *lines[1:-1], rule, lines[-1].rstrip()]
