"""Which layer it was whose numbers stopped being finite first.

A step that was refused is taken again as a program that watches every value handed from one layer
to another: the first one that is not finite was made by the layer to blame. Then that layer alone
is computed operation by operation, and the bad number followed back to where it came from. Within
a layer numbers may be infinite on purpose, as in the mask of an attention, so they are not watched;
nor is an infinity blamed that is written into the program.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funnet.compiling import quick_jit
from funnet.describe import on_device
from funnet.frame import Tag
from funnet.select import dotted, turned
from funnet.train.replay import Level, Op, Program, Value, program_of, reach, run
from funnet.train.retrace import Number, origin_of, performed

# Measured on ResNet-18: each watched value is a reduction more to compile, for the CPU 3.7 s at
# this level and 14 s at the usual one. The program runs but once.
ONCE = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0}
MOST_LOOKS = 4  # at layers whose infinities turn out to be on purpose
MOST_NAMED = 3  # leaves in a message


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Where numbers stopped being finite; `str` of it is a sentence or two for people.

    Attributes:
        path: the layer's dotted path, with the turn of a repeated block in it (`blocks.3.conv`);
            empty for the model's own top layer, and outside of all layers.
        layer: the layer's function, such as `conv`; empty outside of all layers, which is to say
            in the objective or the optimizer.
        model: the outermost layer, which tells the networks of a GAN apart.
        backward: whether it happened in the backward pass.
        turn: of the repeated blocks around the layer, the outermost first.
        loop: of other loops around it, such as one over microbatches.
        primitive: the operation that gave the first such number.
        line: file and line of the caller's code that asked for it, if it did.
        size: how many numbers there are in the first value that is not finite.
        nans: how many of them are NaN.
        infs: how many are infinite.
        low: the least finite number that the operation was given.
        high: the greatest.
        leaves: paths in run and batch that were not finite before the step.
        found: whether anything was: a program compiled anew may round otherwise.
    """

    path: str = ""
    layer: str = ""
    model: str = ""
    backward: bool = False
    turn: tuple[int, ...] = ()
    loop: tuple[int, ...] = ()
    primitive: str = ""
    line: str = ""
    size: int = 0
    nans: int = 0
    infs: int = 0
    low: float | None = None
    high: float | None = None
    leaves: tuple[str, ...] = ()
    found: bool = True

    def __str__(self) -> str:
        return " ".join([*_leaves_told(self.leaves), _told(self)])


@dataclasses.dataclass(frozen=True)
class _Suspect:
    """A value that is not finite, at some turn of the loops around it."""

    value: Value
    levels: list[Level]

    @property
    def op(self) -> Op:
        assert self.value.maker is not None
        return self.value.maker

    def order(self) -> list[int]:
        """When it was computed, as a key to sort by."""
        places = []
        for op, turn in self.levels:
            backwards = op.name == "scan" and op.params["reverse"]
            places += [op.position, -turn if backwards else turn]
        return [*places, self.op.position]


def explain(step: Callable[[Any, Any], Any], run: Any, batch: Mapping[str, Any]) -> Explanation:
    """The first layer whose output, or whose gradient, was not finite in a training step.

    The step is traced, compiled once more with every value watched that a layer hands on, and run;
    then the layer at fault is computed by itself. That takes about as long as compiling the step.

    Args:
        step: a pure function `(run, batch) -> (run, metrics)`, jitted or not, such as
            `train_step` makes. Layers are found in loops over microbatches, in branches of a
            `jax.lax.cond` and in calls; a `while_loop` or `shard_map` counts as one operation.
        run: the run before that step.
        batch: the step's batch.

    Returns:
        An `Explanation`; `str` of it is a message.

    >>> import funnet as fn
    >>> @fn.layer
    ... def net(p, x):
    ...     return fn.dense(p["out"], jnp.log(fn.dense(p["hidden"], x, 4)), 3)
    >>> model, sgd = fn.Model(net), optax.sgd(0.1)
    >>> batch = {"image": jnp.ones((2, 5)), "label": jnp.array([0, 1])}
    >>> step = fn.train_step(fn.classification(model), sgd)
    >>> found = explain(step, fn.Run.start(model, sgd, batch["image"]), batch)
    >>> found.layer, found.primitive, found.backward
    ('net', 'log', False)
    """
    run, batch = on_device((run, batch))
    leaves = tuple(_not_finite({"batch": batch}, run))
    # What is drawn is drawn again, and alike; and the bad numbers are to come out.
    with jax.debug_key_reuse(False), jax.debug_nans(False), jax.debug_infs(False):
        closed = jax.make_jaxpr(step)(run, batch)
        program, inputs = program_of(closed), [*closed.consts, *jax.tree.leaves((run, batch))]
        suspects = _suspects(program, inputs)
        if leaves:  # what became of it before the first layer is of no interest
            suspects.sort(key=lambda suspect: suspect.op.tag is None)
        for suspect in suspects[:MOST_LOOKS]:
            number = _looked_at(program, inputs, suspect)
            origin = origin_of(number)
            if origin is not None or not number.bad:
                return _explanation(suspect, number, origin, leaves)
    return Explanation(found=False, leaves=leaves)


def _not_finite(*trees: Any) -> Iterator[str]:
    """The dotted paths of leaves with NaN or infinity."""
    for tree in trees:
        for path, leaf in jax.tree.leaves_with_path(tree):
            if not _finite(leaf):
                yield dotted(path)


def _finite(x: Any) -> bool:
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact) or not getattr(
        x, "is_fully_addressable", True
    ):
        return True
    return bool(np.isfinite(np.asarray(x)).all())


def _suspects(program: Program, inputs: list) -> list[_Suspect]:
    """The watched values and the results that are not finite, in the order of the program."""
    results = set(program.outputs)
    watched = [v for op in program.everything() for v in op.outputs if _handed_on(v, results)]
    outputs, flags = quick_jit(ONCE)(lambda inputs: _flagged(program, inputs, watched))(inputs)
    found = []
    for value, finite in zip(watched, jax.device_get(flags), strict=True):
        for turns in np.argwhere(~finite).tolist():
            found.append(_Suspect(value, _levels(value, turns)))
    pairs = zip(program.outputs, outputs, strict=True)
    ends = [_Suspect(v, []) for v, x in pairs if v.maker and not v.maker.bodies and not _finite(x)]
    return sorted([*found, *ends], key=_Suspect.order)


def _flagged(program: Program, inputs: list, watched: list[Value]) -> tuple[list, list]:
    outputs, flags = run(program, inputs, set(watched))
    return outputs, [flags[value] for value in watched]


def _handed_on(value: Value, results: set[Value]) -> bool:
    """Whether it goes from one layer's call to another's, into one, out of one or out of a loop."""
    op = value.maker
    if op is None or op.bodies or op.passing or op.again:
        return False
    if value.fixed or value.given or not value.floating:
        return False
    if op.tag is None and value in op.home.outputs and op.home.around:
        return True
    copies = value.everywhere()
    left = op.tag is not None and not results.isdisjoint(copies)
    return left or any(user.tag is not op.tag for copy in copies for user in copy.users)


def _levels(value: Value, turns: list[int]) -> list[Level]:
    """The loops and branches around a value, with the turns of the loops."""
    assert value.maker is not None
    homes, home = [], value.maker.home
    while home.around is not None:
        homes, home = [home, *homes], home.around.home
    left = iter(turns)
    return [
        Level(op, next(left) if op.name == "scan" else op.bodies.index(body))
        for body, op in ((home, home.around) for home in homes)
        if op is not None
    ]


def _looked_at(program: Program, inputs: list, suspect: _Suspect) -> Number:
    """The suspect's value, computed by itself, with the numbers that it came from."""
    ops = _own(suspect.op, suspect.value)
    made = {value for op in ops for value in op.outputs}
    wanted = [v for op in ops for v in op.inputs if v not in made and v.literal is None]
    wanted = list(dict.fromkeys(wanted))
    given = quick_jit(ONCE)(lambda inputs: reach(program, inputs, suspect.levels, wanted))(inputs)
    known = {v: Number(x, fixed=v.fixed) for v, x in zip(wanted, given, strict=True)}
    return performed(ops, known)[suspect.value]


def _own(last: Op, value: Value) -> list[Op]:
    """The operations of the same call of the same layer that the value depends on."""
    needed, ops = {value}, []
    for op in reversed(last.home.ops[: last.position + 1]):
        own = op.passing or (op.tag is last.tag and not op.bodies)
        if own and not needed.isdisjoint(op.outputs):
            needed.update(op.inputs)
            ops.append(op)
    return ops[::-1]


def _explanation(
    suspect: _Suspect, number: Number, origin: Number | None, leaves: tuple[str, ...]
) -> Explanation:
    op, tags = origin.op if origin else None, suspect.op.tags
    tag = tags[-1] if tags else None
    turn, loop = _turns(suspect.levels, tag)
    ranges = [one.finite_range for one in (origin.inputs if origin else ()) if one.finite_range]
    return Explanation(
        path=_path(tag, turn),
        layer=tag.layer if tag else "",
        model=tags[0].layer if tags else "",
        backward=suspect.op.backward,
        turn=turn,
        loop=loop,
        primitive=op.name if op else "",
        line=next(filter(None, map(_line, op.calls if op else ())), ""),
        size=number.size,
        nans=number.nans,
        infs=number.infs,
        low=min((low for low, _ in ranges), default=None),
        high=max((high for _, high in ranges), default=None),
        leaves=leaves,
    )


def _path(tag: Tag | None, turn: tuple[int, ...]) -> str:
    if tag is None:
        return ""
    return turned(tag.path, tag.turns[: len(turn)], map(str, turn))


def _turns(levels: list[Level], tag: Tag | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The turns of repeated blocks, and those of other loops.

    A layer's tag says which repeated blocks it is in, and how many turns they take. Of the loops
    within the layer around, the innermost of that length is the one.
    """
    loops = [level for level in levels if level.op.name == "scan"]
    repeats: list[int] = []
    for inside, tag_there in enumerate([*(level.op.tag for level in loops), tag]):
        turns = tag_there.turns[len(repeats) :] if tag_there else ()
        free = [i for i in range(inside) if i > max(repeats, default=-1)]
        claimed = []
        for one in reversed(turns):
            fits = [i for i in free if loops[i].op.params["length"] == one.count]
            if fits:
                claimed.insert(0, fits[-1])
                free = [i for i in free if i < fits[-1]]
        repeats += claimed
    others = [i for i in range(len(loops)) if i not in repeats]
    return tuple(loops[i].turn for i in repeats), tuple(loops[i].turn for i in others)


HERE = pathlib.Path(__file__).resolve().parent
LIBRARIES = (HERE.parent, *(pathlib.Path(path) for path in (*jax.__path__, *optax.__path__)))


def _line(traceback: Any) -> str:
    """The innermost line that is no library's, of what the training called."""
    for frame in getattr(traceback, "frames", ()):
        folders = pathlib.Path(frame.file_name).parents
        if HERE in folders:
            break
        if not any(library in folders for library in LIBRARIES):
            return f"{frame.file_name}:{frame.line_num}"
    return ""


def _leaves_told(leaves: tuple[str, ...]) -> list[str]:
    if not leaves:
        return []
    more = f" and {len(leaves) - MOST_NAMED} more" if len(leaves) > MOST_NAMED else ""
    verb = "was" if len(leaves) == 1 else "were"
    return [f"{', '.join(leaves[:MOST_NAMED])}{more} {verb} not finite before the step."]


def _told(e: Explanation) -> str:
    if not e.found:
        return (
            "Taken once more to be explained, the step handed on finite numbers only: "
            "a program that is compiled otherwise may round otherwise."
        )
    side = "backward" if e.backward else "forward"
    what = "gradient" if e.backward else "output"
    if e.layer:
        who = f"{e.path or 'The top layer'} ({e.layer}{_of(e)})"
        said = f"{who} gave the first {what} that is not finite in the {side} pass{_in_loop(e)}"
    else:
        said = (
            f"The first numbers that are not finite are outside any layer, in the objective or the "
            f"optimizer, in the {side} pass{_in_loop(e)}"
        )
    if not e.primitive:
        return f"{said}; computed by itself, it was finite."
    return f"{said}: {_counted(e)} ({_operation(e)})."


def _of(e: Explanation) -> str:
    return f" in {e.model}" if e.path and e.model != e.layer else ""


def _in_loop(e: Explanation) -> str:
    return f", in turn {', '.join(map(str, e.loop))} of a loop around it" if e.loop else ""


def _counted(e: Explanation) -> str:
    kinds = [f"{n:,} {kind}" for n, kind in ((e.nans, "NaN"), (e.infs, "infinite")) if n]
    if e.size == 1:
        return f"the number is {'NaN' if e.nans else 'infinite'}"
    first, *rest = kinds
    number, kind = first.split(" ")
    verb = "is" if number == "1" and not rest else "are"
    return " and ".join([f"{number} of {e.size:,} numbers {verb} {kind}", *rest])


def _operation(e: Explanation) -> str:
    ranged = where = ""
    if e.low is not None:
        span = (
            f"were {e.low:.4g}" if e.low == e.high else f"ranged from {e.low:.4g} to {e.high:.4g}"
        )
        ranged = f", whose finite inputs {span}"
    if e.line:
        where = f", at {e.line}"
    return f"operation {e.primitive}{ranged}{where}"
