"""PyTorch's names as ours: patterns over dotted paths, whose wildcards carry over."""

import re
from collections.abc import Callable, Iterable, Mapping

from funnet.select import unmatched

Names = Mapping[str, str | None] | Callable[[str], str | None] | None
Rename = Callable[[str], str | None]


def renamer(names: Names, known: Iterable[str]) -> Rename:
    """A function from PyTorch's names to ours, or to `None` for what is left out.

    Raises:
        TypeError: if `names` is neither a mapping nor a function.
        ValueError: if a pattern matches none of the `known` names, or its target has more
            wildcards than it has.
    """
    if names is None:
        return lambda name: name
    if not isinstance(names, Mapping):
        if not callable(names):
            raise TypeError(
                "names must be a mapping of patterns or a function, got "
                f"{type(names).__name__}; write names={{'layer*.downsample': 'layer*.project'}}"
            )
        return _checked(names)
    rules = [(_regex(pattern), target) for pattern, target in names.items()]
    known = list(known)
    for pattern, (regex, target) in zip(names, rules, strict=True):
        if not any(regex.match(name) for name in known):
            raise ValueError(f"in names, {unmatched(pattern, _paths(known))}")
        if target is not None and target.count("*") > pattern.count("*"):
            raise ValueError(
                f"in names, {target!r} has more wildcards than {pattern!r}, which it stands for"
            )
    return lambda name: _renamed(name, rules)


def _regex(pattern: str) -> re.Pattern[str]:
    """A pattern for the start of a name up to a dot: a module, with all that is in it.

    A wildcard takes as little as it can, so that in `h.*` it is one word.
    """
    return re.compile("(.*?)".join(map(re.escape, pattern.split("*"))) + r"(?=\.|$)")


def _renamed(name: str, rules: list[tuple[re.Pattern[str], str | None]]) -> str | None:
    for regex, target in rules:
        found = regex.match(name)
        if found and target is None:
            return None
        if found and target is not None:
            return (filled(target, found.groups()) + name[found.end() :]).removeprefix(".")
    return name


def filled(template: str, words: Iterable[str]) -> str:
    """A template with its wildcards, `*` or `#`, replaced by words, in order.

    >>> filled("layer*.*.project", ["1", "0"])
    'layer1.0.project'
    """
    rest = iter(words)
    return re.sub(r"[*#]", lambda _: next(rest), template)


def _checked(names: Rename) -> Rename:
    def rename(name: str) -> str | None:
        new = names(name)
        if new is not None and not isinstance(new, str):
            raise TypeError(f"names gave {new!r} for {name!r}, expected a string or None")
        return new

    return rename


def _paths(names: Iterable[str]) -> list[str]:
    """Modules before what is in them."""
    paths = []
    for name in names:
        words = name.split(".")
        paths += [".".join(words[:n]) for n in range(1, len(words) + 1)]
    return list(dict.fromkeys(paths))
