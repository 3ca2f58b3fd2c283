"""A compiled program, read from its text, and the bytes it moves.

XLA's own count of bytes takes the body of a loop once. Here an instruction counts what it reads
and writes, one fused from several what crosses its edge, and the body of a loop as often as it
turns where the program tells. A slice counts what is taken or put, not the array it is part of.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota")
FREE += ("opt-barrier", "optimization-barrier", "partition-id", "replica-id")
SLICES = ("dynamic-slice", "slice", "gather")
SAME = ("bitcast", "copy", "convert", "reshape")
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*)")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")
CALLED = re.compile(r"(?:calls|body|condition|to_apply|called_computations)=\{?%?([\w.\-]+)")
BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%?[\w.\-]+))"
)
NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
TURNS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
SHAPE = re.compile(r"([a-z]\w*)\[([\d,<= ]*)\]")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a compiled program."""

    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    rest: str  # attributes and metadata
    root: bool = False

    @property
    def bytes(self) -> int:
        """The size of what it gives."""
        return sum(_bytes(*found) for found in SHAPE.findall(self.shape))

    @property
    def scope(self) -> str:
        """The name that the traced program's operation has, empty where XLA made its own."""
        found = NAME.search(self.rest)
        return found[1] if found else ""

    @property
    def called(self) -> list[str]:
        """The computations that it runs."""
        several = [one for pair in BRANCHES.findall(self.rest) for one in pair if one]
        branches = [name.strip(" %") for one in several for name in one.split(",")]
        return CALLED.findall(self.rest) + branches


Computation = dict[str, Instruction]


class Compiled:
    """The computations of a compiled program's text."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self._totals: dict[str, int] = {}
        self.entry, current = "", None
        for line in text.splitlines():
            if not line.startswith(" ") and (head := COMPUTATION.match(line)):
                current = self.computations[head[2]] = {}
                self.entry = head[2] if head[1] else self.entry
            elif current is not None and (one := _instruction(line)):
                current[one.name] = one

    def bytes(self) -> int:
        """The bytes that the program reads and writes, loops counted as often as they turn."""
        return self._moved(self.entry)

    def _moved(self, name: str) -> int:
        if name not in self._totals:
            body = self.computations.get(name, {})
            self._totals[name] = sum(self._moved_by(one, body) for one in body.values())
        return self._totals[name]

    def _moved_by(self, one: Instruction, body: Computation) -> int:
        if one.kind in FREE or one.kind.endswith("-done"):
            return 0
        if one.kind == "while":
            found = TURNS.search(one.rest)
            return (int(found[1]) if found else 1) * sum(map(self._moved, one.called))
        if one.kind == "conditional":
            return max(map(self._moved, one.called), default=0)
        if one.kind in ("call", "async-start"):
            return sum(map(self._moved, one.called))
        if one.kind == "fusion":
            return self._through(one, body)
        if one.kind in SLICES:
            return 2 * one.bytes
        if one.kind == "dynamic-update-slice":
            return 2 * _given(one, body)[1]
        return one.bytes + sum(_given(one, body))

    def _through(self, one: Instruction, body: Computation) -> int:
        """The bytes that cross the edge of a fused instruction."""
        inside = self.computations.get(one.called[0], {}) if one.called else {}
        parameters = {p.operands[0]: p for p in inside.values() if p.kind == "parameter"}
        total = sum(_written(root, inside) for root in inside.values() if root.root)
        for i, size in enumerate(_given(one, body)):
            total += _read(parameters.get(str(i)), size, inside)
        return total if inside else one.bytes + sum(_given(one, body))


def _instruction(line: str) -> Instruction | None:
    found = INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line))
    if found is None:
        return None
    name, text = found.groups()
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    shape, text = text[:end], text[end:].strip()
    opening = text.find("(")
    closing = _closing(text, opening)
    inside, rest = text[opening + 1 : closing], text[closing + 1 :]
    operands = re.findall(r"%([\w.\-]+)", inside) or [part.strip() for part in inside.split(",")]
    root = line.lstrip().startswith("ROOT ")
    return Instruction(name, shape, text[:opening], tuple(operands), rest, root)


def _closing(text: str, opening: int) -> int:
    """Where the bracket closes that is opened there."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)


def _bytes(dtype: str, shape: str) -> int:
    """The size of an array: `f32`, `bf16`, `s4` and `f8e4m3` have their bits in their names."""
    bits = re.search(r"\d+", dtype)
    size = math.prod(int(n) for n in re.findall(r"\d+", shape))
    return size * (int(bits[0]) if bits else 8 if dtype == "pred" else 0) // 8


def _given(one: Instruction, body: Computation) -> list[int]:
    return [body[name].bytes if name in body else 0 for name in one.operands]


def _users(one: Instruction, inside: Computation) -> Iterator[tuple[Instruction, int]]:
    """What reads a value inside of a fused instruction, and as which operand."""
    for user in inside.values():
        for i, name in enumerate(user.operands):
            if name == one.name and user.kind in SAME and not user.root:
                yield from _users(user, inside)
            elif name == one.name:
                yield user, i


def _read(parameter: Instruction | None, size: int, inside: Computation) -> int:
    """How much of an operand a fused instruction reads."""
    if parameter is None:
        return size
    total = 0
    for user, i in _users(parameter, inside):
        if user.kind in SLICES and i == 0:
            total += user.bytes
        elif user.kind != "dynamic-update-slice" or i != 0:
            return size
    return min(total, size)


def _written(one: Instruction, inside: Computation) -> int:
    """How much a fused instruction writes: of an array updated in place, the new part."""
    if one.kind == "tuple":
        return sum(_written(inside[name], inside) for name in one.operands if name in inside)
    if one.kind in SAME and one.operands[0] in inside:
        source = inside[one.operands[0]]
        return _written(source, inside) if source.kind == "dynamic-update-slice" else one.bytes
    return _given(one, inside)[1] if one.kind == "dynamic-update-slice" else one.bytes
