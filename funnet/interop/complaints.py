"""All that is wrong with names and shapes, in one message."""

import difflib
from collections.abc import Mapping

SHOWN = 10


def complain(head: str, **lists: list[str]) -> None:
    """Raises one error that lists all entries, long lists cut with a count.

    Raises:
        ValueError: if any list has an entry.
    """
    lines = [f"{what}: {_cut(entries)}" for what, entries in lists.items() if entries]
    if lines:
        raise ValueError("\n  ".join([f"{head} (names= renames paths)", *lines]))


def nearest(names: list[str], known: Mapping[str, str]) -> list[str]:
    """Names, those that will be shown each with what the nearest of the known ones stands for."""
    near = [difflib.get_close_matches(name, known, n=1, cutoff=0.3) for name in names[:SHOWN]]
    shown = zip(names, near, strict=False)
    return [f"{n} (nearest: {known[m[0]]})" if m else n for n, m in shown] + names[SHOWN:]


def _cut(entries: list[str]) -> str:
    rest = f", and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    return ", ".join(entries[:SHOWN]) + rest
