"""Trees of parameters by dotted paths, some of their leaves masked out.

A leaf that is not for the one who asks is an `optax.MaskedNode`: it has a path, and no array.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from funnet.select import dotted, matches, select

Tree = Any


def is_masked(x: Any) -> bool:
    """Whether `x` stands for a leaf that was masked out."""
    return isinstance(x, optax.MaskedNode)


def map_paths(function: Callable[[str, Any], Any], tree: Tree) -> Tree:
    """The tree with `function(path, leaf)` for each leaf; what is masked stays masked."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(dotted(path), leaf), tree)


def paths(tree: Tree, *, masked: bool = True) -> list[str]:
    """The dotted paths of all leaves, or of those alone that are not masked out."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_masked)
    return [dotted(path) for path, leaf in leaves if masked or not is_masked(leaf)]


def split(tree: Tree, patterns: Sequence[str]) -> tuple[Tree, Tree]:
    """What no pattern matches, and what some does: two trees of the same structure, masked."""

    def keep(which: bool) -> Tree:
        def kept(path: str, leaf: Any) -> Any:
            chosen = any(matches(path, pattern) for pattern in patterns)
            return leaf if chosen == which else optax.MaskedNode()

        return map_paths(kept, tree)

    return keep(False), keep(True)


def merged(first: Tree, second: Tree) -> Tree:
    """The leaves of `first`, and where it is masked those of `second`; it undoes `split`.

    >>> both = {"head": 1, "trunk": 2}
    >>> merged(*split(both, ["trunk"])) == both
    True
    """
    return jax.tree.map(lambda x, y: y if is_masked(x) else x, first, second, is_leaf=is_masked)


def first_matches(patterns: Sequence[str], tree: Tree) -> dict[str, str | None]:
    """For each path, masked ones too, the first pattern that matches it, if one does.

    Raises:
        ValueError: if a pattern matches no path, or none that an earlier one has not taken.
    """
    known = paths(tree)
    select(patterns, known)  # which refuses a pattern that matches nothing
    found = {path: next((p for p in patterns if matches(path, p)), None) for path in known}
    for pattern in patterns:
        if pattern not in found.values():
            taken = {found[path] for path in select(pattern, known)}
            earlier = ", ".join(repr(p) for p in patterns if p in taken)
            raise ValueError(
                f"the pattern {pattern!r} gets nothing: all that it matches is taken by {earlier} "
                "before it; put the narrower pattern first"
            )
    return found
