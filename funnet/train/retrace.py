"""Operations computed one by one, each number knowing which others it was made of."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funnet.train.replay import Op, Program, Value

MOST_OPS = 20_000  # operations of a loop that are computed one by one; beyond, it is one


@dataclasses.dataclass(eq=False)
class Number:
    """An array, with the operation that made it and what that was given.

    Without an operation it only hands its inputs on, or, without any, was there before.
    """

    array: Any
    op: Op | None = None
    inputs: tuple["Number", ...] = ()
    fixed: bool = False  # written into the program

    @functools.cached_property
    def _host(self) -> np.ndarray:
        inexact = jnp.issubdtype(jnp.result_type(self.array), jnp.inexact)
        return np.asarray(self.array) if inexact else np.zeros(0)

    @functools.cached_property
    def nans(self) -> int:
        """How many are NaN."""
        return int(np.isnan(self._host).sum())

    @functools.cached_property
    def infs(self) -> int:
        """How many are infinite."""
        return int(np.isinf(self._host).sum())

    @property
    def bad(self) -> bool:
        """Whether any is not finite."""
        return self.nans + self.infs > 0

    @property
    def size(self) -> int:
        """How many there are."""
        return int(np.size(self.array))

    @functools.cached_property
    def finite_range(self) -> tuple[float, float] | None:
        """The least and the greatest that is finite; None for integers and booleans."""
        finite = np.real(self._host[np.isfinite(self._host)])
        return (float(finite.min()), float(finite.max())) if finite.size else None


def performed(ops: list[Op], known: dict[Value, Number]) -> dict[Value, Number]:
    """The numbers that operations give, computed in their order from those that are known."""
    for op in ops:
        known |= dict(
            zip(op.outputs, _perform(op, [_of(known, v) for v in op.inputs]), strict=True)
        )
    return known


def origin_of(number: Number) -> Number | None:
    """Where the bad numbers in it came from: the first operation that gave some.

    None where there are none, or only infinities that are written into the program.
    """
    if not number.bad:
        return None
    way = [number]
    while bad := [one for one in way[-1].inputs if one.bad]:
        way.append(min(bad, key=lambda one: (way[-1].nans > 0 and not one.nans, one.fixed)))
    if way[-1].fixed and not way[-1].nans:  # an infinity on purpose, until it makes a NaN
        way = [one for one in way if one.nans]
    made = [one for one in reversed(way) if one.op and not one.fixed]
    # What was bad before is only moved about, until it meets other numbers.
    given = bool(made) and all(one.bad for one in made[0].inputs if one.finite_range)
    met = [one for one in made if any(not i.bad and i.finite_range for i in one.inputs)]
    return next(iter(met if given and met else made), None)


def _of(known: dict[Value, Number], value: Value) -> Number:
    return known[value] if value.literal is None else Number(value.literal, fixed=True)


def _perform(op: Op, given: list[Number]) -> list[Number]:
    if op.passing:
        return given
    if op.name == "cond":
        branches = op.inside()
        branch = min(max(int(given[0].array), 0), len(branches) - 1)
        return _play(branches[branch], given[1:])
    if op.name == "scan":
        (body,) = op.inside()
        if 0 < op.params["length"] * len(body.ops) <= MOST_OPS:
            return _unrolled(op, body, given)
    arrays, fixed = op.run(*(one.array for one in given)), all(one.fixed for one in given)
    return [Number(array, op, tuple(given), fixed) for array in arrays]


def _play(body: Program, given: list[Number]) -> list[Number]:
    known = performed(body.ops, dict(zip(body.inputs, given, strict=True)))
    return [_of(known, value) for value in body.outputs]


def _unrolled(op: Op, body: Program, given: list[Number]) -> list[Number]:
    first, length = op.params["num_consts"], op.params["length"]
    second = first + op.params["num_carry"]
    carry, turns = given[first:second], range(length)
    made: dict[int, list[Number]] = {}
    for i in reversed(turns) if op.params["reverse"] else turns:
        outputs = _play(body, [*given[:first], *carry, *(_turn(x, i) for x in given[second:])])
        carry, made[i] = outputs[: len(carry)], outputs[len(carry) :]
    shapes = [var.floating for var in op.outputs[len(carry) :]]
    return [*carry, *(_stacked([made[i][j] for i in turns], made) for j in range(len(shapes)))]


def _turn(number: Number, i: int) -> Number:
    array = jax.lax.dynamic_index_in_dim(number.array, jnp.int32(i), 0, False)
    return Number(array, None, (number,), number.fixed)


def _stacked(numbers: list[Number], made: dict) -> Number:
    order = tuple(numbers[i] for i in made)
    return Number(jnp.stack([n.array for n in numbers]), None, order, all(n.fixed for n in numbers))
