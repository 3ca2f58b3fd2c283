"""Hooks of a training: an error of theirs is told from one of the disk."""

import functools
from typing import Any

from funnet.train.log import Hook


def marked(hook: Hook) -> Hook:
    """The hook, whose OSErrors (a server that is gone) `of_hook` knows again.

    Raises:
        TypeError: if it is no function.
    """
    if not callable(hook):
        raise TypeError(f"hooks takes functions of (step, kind, numbers), got {hook!r}")

    @functools.wraps(hook, updated=())
    def call(step: int, kind: str, numbers: dict[str, Any]) -> Any:
        try:
            return hook(step, kind, numbers)
        except OSError as error:
            error.of_hook = True  # type: ignore[attr-defined]
            raise

    return call


def of_hook(error: OSError) -> bool:
    """Whether it came out of a hook."""
    return getattr(error, "of_hook", False)
