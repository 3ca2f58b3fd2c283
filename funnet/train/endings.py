"""How a training ends: every error has the run, and none hides the one that came before it."""

import contextlib
from collections.abc import Iterator
from typing import Any

from funnet.train.run import Run


def with_run(error: BaseException, run: Run) -> BaseException:
    """The error, with the run as it stands as its attribute `run`, so that no training is lost."""
    if not hasattr(error, "run"):
        error.run = run  # type: ignore[attr-defined]
        error.add_note("the run as it was before this is the attribute run of this exception")
    return error


@contextlib.contextmanager
def closing(context: Any) -> Iterator[Any]:
    """A context whose own end, if that fails too, is but a note on the error that brought it."""
    entered = context.__enter__()
    try:
        yield entered
    except BaseException as error:
        try:
            context.__exit__(type(error), error, error.__traceback__)
        except Exception as second:
            error.add_note(f"and after that: {type(second).__name__}: {second}")
        raise
    context.__exit__(None, None, None)
