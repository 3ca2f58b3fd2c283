"""Which operation of the traced program each instruction of a compiled one stands for.

XLA keeps the names of most. A fused instruction without one has that of its parts; what XLA added,
such as a copy or a buffer filled with zeros, has that of what reads it, or else of what it reads.
"""

from collections.abc import Mapping

from funnet.profiling.compiled import Compiled, Computation, Instruction

Links = Mapping[str, list[str]]


def scopes(program: Compiled) -> dict[str, str]:
    """The name in the traced program by the name of an instruction, empty where there is none."""
    found: dict[str, str] = {}
    for body in program.computations.values():
        own = {one.name: _named(one.scope) or _inner(one, program) for one in body.values()}
        readers, read = _links(body)
        for name, scope in own.items():
            found[name] = scope or _nearest(name, readers, own) or _nearest(name, read, own)
    return found


def _named(scope: str) -> str:
    """A name that is an operation's: what XLA makes has at most that of the function around."""
    parts = scope.split("/")
    around = all(part.startswith("jit(") or part in ("while", "body") for part in parts)
    return "" if around and parts[-1].startswith("jit(") else scope


def _inner(one: Instruction, program: Compiled) -> str:
    """The name that most parts of a fused instruction have."""
    bodies = [program.computations.get(name, {}) for name in one.called]
    names = [_named(part.scope) for body in bodies for part in body.values()]
    names = [name for name in names if name]
    return max(names, key=names.count, default="")


def _links(body: Computation) -> tuple[Links, Links]:
    """What reads each instruction's value, and what each reads."""
    readers: dict[str, list[str]] = {}
    for one in body.values():
        for name in one.operands:
            readers.setdefault(name, []).append(one.name)
    return readers, {one.name: list(one.operands) for one in body.values()}


def _nearest(name: str, links: Links, own: Mapping[str, str]) -> str:
    """The name of the nearest instruction with one, the links followed one way."""
    walk, seen = [name], {name}
    for one in walk:
        for other in links.get(one, ()):
            if own.get(other):
                return own[other]
            if other not in seen:
                seen.add(other)
                walk.append(other)
    return ""
