"""The selector language: glob patterns over dotted paths, the same wherever a tree is addressed.

`*` matches any characters, dots too, so `*.bias` is every bias and `head.*` all below `head`;
`?` matches one character and `[12]` one of a set. A pattern that matches nothing is an error.
"""

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

import jax

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Turns:
    """A repeated block: it stands at `depth` in the path, and takes `count` turns."""

    depth: int
    count: int
    index: Any = dataclasses.field(default=None, compare=False)  # the turn now being traced


def patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """One pattern or several, as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def matches(path: str, pattern: str) -> bool:
    """Whether the dotted `path` is one that `pattern` selects."""
    return fnmatch.fnmatchcase(path, pattern)


def select(given: str | Iterable[str], paths: Sequence[str]) -> list[str]:
    """The `paths` that any of the given patterns selects, in their own order.

    Raises:
        ValueError: if a pattern selects nothing; the message lists the nearest paths.
    """
    wanted = patterns(given)
    for pattern in wanted:
        if not any(matches(path, pattern) for path in paths):
            raise ValueError(unmatched(pattern, paths))
    return [path for path in paths if any(matches(path, pattern) for pattern in wanted)]


def unmatched(pattern: str, paths: Iterable[str]) -> str:
    """What to say of a pattern that selects none of `paths`."""
    known = list(dict.fromkeys(paths))
    near = difflib.get_close_matches(pattern, known, n=5, cutoff=0.3) or known[:5]
    return f"the pattern {pattern!r} matches nothing; the nearest paths are: {', '.join(near)}"


def dotted(path: tuple[Any, ...]) -> str:
    """A path of JAX's as one word: `head.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def shifts_or_scales(name: str) -> bool:
    """Whether a parameter's name says that it is added or scales, as biases and norms' scales do.

    >>> [shifts_or_scales(name) for name in ("bias", "hidden_bias", "scale", "kernel", "table")]
    [True, True, True, False, False]
    """
    return name.rpartition("_")[2] in ("bias", "scale")


def flatten(tree: Any, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """The leaves of nested dicts by dotted path: `{"a": {"b": 1}}` is `{"a.b": 1}`."""
    if not isinstance(tree, dict):
        return {".".join(prefix): tree}
    branches = [flatten(child, (*prefix, str(name))) for name, child in tree.items()]
    return {path: leaf for branch in branches for path, leaf in branch.items()}


def nest(leaves: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts from leaves by dotted path; `flatten`, undone.

    Raises:
        ValueError: if a path leads through a leaf.
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name in node:
            raise ValueError(f"the path {path!r} is used twice, or as both leaf and branch")
        node[name] = leaf
    return tree


def replaced(tree: Any, updates: dict[Path, Any], depth: int = 0) -> Any:
    """Nested dicts with the leaves at some paths, counted from `depth`, replaced."""
    for path, value in updates.items():
        tree = _replaced(tree, path[depth:], value)
    return tree


def _replaced(tree: Any, path: Path, value: Any) -> Any:
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], value)} if path else value


def turned(path: Path, turns: tuple[Turns, ...], indices: Iterable[str]) -> str:
    """The name of one turn of a place: its dotted path, with an index after each repeat's own.

    >>> turned(("blocks", "conv"), (Turns(depth=1, count=4),), "3")
    'blocks.3.conv'
    """
    parts = list(path)
    for order, (turn, index) in enumerate(zip(turns, indices, strict=True)):
        parts.insert(turn.depth + order, index)
    return ".".join(parts)


def picks(pattern: str, path: Path, turns: tuple[Turns, ...]) -> tuple[int, ...] | None:
    """Which turns of the place at `path` a pattern picks: `()` is all of them, `None` none.

    >>> block, conv = (Turns(depth=1, count=4),), ("blocks", "conv")
    >>> picks("blocks.*", conv, block), picks("blocks.3.conv", conv, block)
    ((), (3,))
    """
    if matches(".".join(path), pattern):
        return ()
    words = pattern.split(".")
    indices = [words[t.depth + i] for i, t in enumerate(turns) if t.depth + i < len(words)]
    inside = [w.isdigit() and int(w) < t.count for w, t in zip(indices, turns, strict=False)]
    if not turns or len(indices) < len(turns) or not all(inside):
        return None
    return tuple(map(int, indices)) if matches(turned(path, turns, indices), pattern) else None
