"""A traced program as a list of operations, which can be run whole, in part, or one by one.

Calls are inlined. A loop or a branch with layers inside has programs of its own; without, it is
one operation. Every value knows the operation that made it and those that use it, wherever they
are, and every operation the call of the layer that it belongs to.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.extend.core import Literal, jaxprs_in_params

from funnet.frame import Tag, tags_of

CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call")
REMATS = ("remat2", "checkpoint")
AGAIN = "rematted_computation"  # JAX's named scope of what is computed again
MOVES = ("convert_element_type", "transpose", "reshape", "squeeze", "slice", "broadcast_in_dim")


@dataclasses.dataclass(eq=False)
class Value:
    """A value of the program. `same` are others that hold its numbers, in or out of a loop."""

    floating: bool
    maker: "Op | None" = None
    fixed: bool = False  # it depends on no input, so it is as it was written
    given: bool = False  # it is an input, perhaps cast or moved about
    literal: Any = None
    users: list["Op"] = dataclasses.field(default_factory=list)
    same: list["Value"] = dataclasses.field(default_factory=list)

    def everywhere(self) -> list["Value"]:
        """This value, and all that hold its numbers from here on."""
        found = {self: None}
        for value in (queue := [self]):
            fresh = [other for other in value.same if other not in found]
            found |= dict.fromkeys(fresh)
            queue += fresh
        return list(found)


@dataclasses.dataclass(eq=False)
class Op:
    """An operation, with the named scopes around it; `home` is the program that it is in."""

    name: str
    run: Callable[..., Sequence[Any]]
    params: dict[str, Any]
    inputs: list[Value]
    outputs: list[Value]
    scopes: tuple[Any, ...]
    home: "Program"
    position: int = -1
    calls: tuple[Any, ...] = ()  # tracebacks of the equation and of the calls around it
    bodies: tuple["Program", ...] = ()
    passing: bool = False  # it only hands its inputs on

    @functools.cached_property
    def tags(self) -> list[Tag]:
        """The layers' calls around it, the outermost first."""
        return [scope.name for scope in self.scopes if isinstance(scope.name, Tag)]

    @property
    def tag(self) -> Tag | None:
        """The layer's call that it belongs to."""
        return self.tags[-1] if self.tags else None

    @functools.cached_property
    def backward(self) -> bool:
        """Whether it belongs to the backward pass of its layer.

        A transposition within the layer is part of what the layer computes.
        """
        names = [scope.name for scope in self.scopes]
        last = next((i for i, n in enumerate(names) if n is self.tag), len(names))
        return "transpose" in names[:last] and AGAIN not in names

    @property
    def again(self) -> bool:
        """Whether it is computed a second time, to save memory."""
        return any(scope.name == AGAIN for scope in self.scopes)

    def inside(self) -> tuple["Program", ...]:
        """The programs of a loop or a branch, also where no layer is inside."""
        return self.bodies or tuple(_bodies(self))


class Level(NamedTuple):
    """A loop or branch on the way to a value, and which turn or branch of it."""

    op: Op
    turn: int


@dataclasses.dataclass(eq=False)
class Program:
    """Operations in their order."""

    around: Op | None = None  # the loop or branch that this is the body of
    inputs: list[Value] = dataclasses.field(default_factory=list)
    outputs: list[Value] = dataclasses.field(default_factory=list)
    ops: list[Op] = dataclasses.field(default_factory=list)

    def everything(self) -> Iterator[Op]:
        """The operations, those of loops and branches too."""
        for op in self.ops:
            yield op
            for body in op.bodies:
                yield from body.everything()

    def levels(self) -> list[Op]:
        """The loops and branches around this program, the outermost first."""
        return [] if self.around is None else [*self.around.home.levels(), self.around]


def program_of(closed: Any) -> Program:
    """The program of a `jax.make_jaxpr`; its inputs are the constants, then the arguments."""
    program, jaxpr = Program(), closed.jaxpr
    constants = [_value(var, fixed=True) for var in jaxpr.constvars]
    arguments = [_value(var, given=True) for var in jaxpr.invars]
    program.inputs = [*constants, *arguments]
    program.outputs = _inline(program, jaxpr, constants, arguments)
    return program


def _value(var: Any, **more: Any) -> Value:
    return Value(jnp.issubdtype(var.aval.dtype, jnp.inexact), **more)


def _inline(
    program: Program,
    jaxpr: Any,
    constants: list,
    arguments: list,
    scopes: tuple = (),
    calls: tuple = (),
) -> list:
    """Adds a jaxpr's operations to the program; gives the values of its outputs."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def read(var: Any) -> Value:
        if isinstance(var, Literal):
            return _value(var, fixed=True, literal=var.val)
        return known[var]

    for eqn in jaxpr.eqns:
        given, around = [read(v) for v in eqn.invars], (*scopes, *eqn.source_info.name_stack.stack)
        name, params, lines = eqn.primitive.name, eqn.params, (eqn.source_info.traceback, *calls)
        if name in CALLS or name in REMATS:
            if name in REMATS and params["prevent_cse"] and params["differentiated"]:
                given = _held(program, given, around)
            inner = params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"]
            plain, values = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            pairs = zip(plain.constvars, values, strict=True)
            own = [_value(var, fixed=True, literal=x) for var, x in pairs]
            made = _inline(program, plain, own, given, around, lines)
        else:
            made = [_value(var) for var in eqn.outvars]
            _add(Op(name, _alone(jaxpr, eqn), params, given, made, around, program, calls=lines))
        known |= dict(zip(eqn.outvars, made, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _alone(jaxpr: Any, eqn: Any) -> Callable:
    """A function of the equation's inputs that computes it by itself."""
    free = [i for i, v in enumerate(eqn.invars) if not isinstance(v, Literal)]
    parts = {"invars": [eqn.invars[i] for i in free], "outvars": list(eqn.outvars)}
    one = jaxpr.replace(constvars=[], eqns=[eqn], **parts)
    return lambda *inputs: eval_jaxpr(one, (), *(inputs[i] for i in free))


def _held(program: Program, given: list[Value], scopes: tuple) -> list[Value]:
    """The inputs of what is to be computed again, held back so that XLA does it."""
    made = [Value(value.floating) for value in given]
    for value, copy in zip(given, made, strict=True):
        value.same.append(copy)
    run = lambda *inputs: jax.lax.optimization_barrier(inputs)  # noqa: E731
    _add(Op("barrier", run, {}, given, made, scopes, program, passing=True))
    return made


def _add(op: Op) -> None:
    op.position = len(op.home.ops)
    op.home.ops.append(op)
    for value in op.outputs:
        value.maker, value.fixed = op, all(given.fixed for given in op.inputs)
        moved = op.passing or op.name in MOVES
        value.given = moved and all(given.given or given.fixed for given in op.inputs)
    if op.name in ("scan", "cond") and _has_layers(op.params):
        op.bodies = tuple(_bodies(op))
    if not op.bodies and not op.passing:
        for value in op.inputs:
            value.users.append(op)


def _has_layers(params: dict[str, Any]) -> bool:
    return any(
        tags_of(eqn) or _has_layers(eqn.params)
        for jaxpr in jaxprs_in_params(params)
        for eqn in jaxpr.eqns
    )


def _bodies(op: Op) -> Iterator[Program]:
    """The body of a scan, or the branches of a cond, joined to the values outside."""
    if op.name not in ("scan", "cond"):
        return
    scan = op.name == "scan"
    for closed in [op.params["jaxpr"]] if scan else op.params["branches"]:
        body, given = Program(op), op.inputs if scan else op.inputs[1:]
        first, jaxpr = op.params.get("num_consts", 0), closed.jaxpr
        carried = range(first, first + op.params.get("num_carry", 0))
        for i, (var, outer) in enumerate(zip(jaxpr.invars, given, strict=True)):
            same = {} if i in carried else {"fixed": outer.fixed, "given": outer.given}
            body.inputs.append(_value(var, **same))
            outer.same.append(body.inputs[-1])
        pairs = zip(jaxpr.constvars, closed.consts, strict=True)
        own = [_value(var, fixed=True, literal=x) for var, x in pairs]
        body.outputs = _inline(body, jaxpr, own, body.inputs, op.scopes, op.calls)
        for inner, outer in zip(body.outputs, op.outputs, strict=True):
            inner.same.append(outer)
        for i, inner in zip(carried, body.outputs, strict=False):
            inner.same.append(body.inputs[i])
        yield body


Env = dict[Value, Any]


def read(env: Env, value: Value) -> Any:
    """A value's array."""
    return env[value] if value.literal is None else value.literal


def run(program: Program, inputs: Sequence[Any], watched: Collection[Value]) -> tuple[list, Env]:
    """The program's outputs, and whether all numbers of each watched value are finite.

    For a value inside of loops that is an array with an axis for each, the outermost first.
    """
    env, flags = dict(zip(program.inputs, inputs, strict=True)), {}
    for op in program.ops:
        _step(op, env, watched, flags)
    return [read(env, value) for value in program.outputs], flags


def _step(op: Op, env: Env, watched: Collection[Value], flags: Env) -> None:
    given = [read(env, value) for value in op.inputs]
    how = {"scan": _scan, "cond": _cond}[op.name] if op.bodies else None
    outputs, found = how(op, given, watched) if how else (op.run(*given), {})
    env |= dict(zip(op.outputs, outputs, strict=True))
    flags |= found
    flags |= {v: jnp.isfinite(env[v]).all() for v in op.outputs if v in watched}


def _scan(op: Op, given: list, watched: Collection[Value]) -> tuple[list, Env]:
    consts, carry, xs = _split(op, given)
    names: list[Value] = []

    def turn(carry: list, x: list) -> tuple:
        outputs, flags = run(op.bodies[0], [*consts, *carry, *x], watched)
        names[:] = flags
        return outputs[: len(carry)], (outputs[len(carry) :], list(flags.values()))

    length, reverse = op.params["length"], op.params["reverse"]
    carry, (ys, flags) = jax.lax.scan(turn, carry, xs, length, reverse)
    return [*carry, *ys], dict(zip(names, flags, strict=True))


def _cond(op: Op, given: list, watched: Collection[Value]) -> tuple[list, Env]:
    """A branch that is not taken is all finite."""
    index, *inputs = given
    shapes: Env = {}
    for body in op.bodies:
        shapes |= _shapes(body, inputs, watched)

    def branch(body: Program) -> Callable:
        def taken(*inputs: Any) -> tuple[list, list]:
            outputs, flags = run(body, inputs, watched)
            blank = {name: jnp.ones(shape, bool) for name, shape in shapes.items()}
            return outputs, list((blank | flags).values())

        return taken

    outputs, flags = jax.lax.switch(index, [branch(body) for body in op.bodies], *inputs)
    return outputs, dict(zip(shapes, flags, strict=True))


def _shapes(body: Program, inputs: list, watched: Collection[Value]) -> Env:
    names: list[Value] = []

    def flags(*inputs: Any) -> list:
        found = run(body, inputs, watched)[1]
        names[:] = found
        return list(found.values())

    found = jax.eval_shape(flags, *inputs)
    return {name: flag.shape for name, flag in zip(names, found, strict=True)}


def _split(op: Op, given: list) -> tuple[list, list, list]:
    """The inputs of a scan: constants, what is carried, and what is scanned over."""
    first = op.params["num_consts"]
    second = first + op.params["num_carry"]
    return given[:first], given[first:second], given[second:]


def reach(program: Program, inputs: Sequence[Any], levels: list[Level], wanted: list[Value]):
    """The wanted values, of the program at the end of the levels, at those turns and branches."""
    env = dict(zip(program.inputs, inputs, strict=True))
    for op, turn in levels:
        for earlier in op.home.ops[: op.position]:
            _step(earlier, env, (), {})
        given = [read(env, value) for value in op.inputs]
        body = op.bodies[turn if op.name == "cond" else 0]
        given = given[1:] if op.name == "cond" else _at_turn(op, given, turn)
        env = dict(zip(body.inputs, given, strict=True))
        program = body
    last = max([value.maker.position for value in wanted if value.maker], default=-1)
    for op in program.ops[: last + 1]:
        _step(op, env, (), {})
    return [read(env, value) for value in wanted]


def _at_turn(op: Op, given: list, index: int) -> list:
    """What the body of a scan is given at one turn: the turns before it are run."""
    consts, carry, xs = _split(op, given)
    reverse = op.params["reverse"]
    before = op.params["length"] - 1 - index if reverse else index

    def turn(carry: list, x: list) -> tuple[list, None]:
        outputs, _ = run(op.bodies[0], [*consts, *carry, *x], ())
        return outputs[: len(carry)], None

    earlier = [x[index + 1 :] if reverse else x[:index] for x in xs]
    carry = jax.lax.scan(turn, carry, earlier, before, reverse)[0]
    return [*consts, *carry, *(x[index] for x in xs)]
