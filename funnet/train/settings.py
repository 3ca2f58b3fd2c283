"""Settings as plain JSON: what a training was told, for people and programs to read later."""

import dataclasses
import enum
import functools
import inspect
import re
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any

import jax
import numpy as np
import optax

from funnet.checks import concrete
from funnet.describe import describe
from funnet.optim.optimizer import Optimizer
from funnet.train.environment import without_home
from funnet.train.totals import spelt

DEPTH, ENTRIES = 24, 64  # how deep to look, and how many entries of an array to write down


def plain_settings(settings: Any) -> Any:
    """Settings of any kind as dicts, lists, strings, numbers, booleans and None.

    Dataclasses and named tuples become dicts; a path its text, with `~` for the home folder; an
    enum its name; a small array its numbers, a large one its dtype and shape; a number that is none
    the word nan, inf or -inf. A function is its name, with the values it has closed over, so that
    an optax schedule or optimizer says what it was made of. Anything else is its `repr`.

    Args:
        settings: a dict or a dataclass, such as a command line's; or any other value.

    >>> plain_settings({"rate": optax.constant_schedule(0.1), "steps": np.int64(3)})
    {'rate': {'function': 'optax...constant_schedule', 'value': 0.1}, 'steps': 3}
    """
    return _plain(settings, DEPTH)


def _plain(x: Any, depth: int) -> Any:
    if x is None or type(x) in (bool, int, float):
        return spelt(x)
    if depth == 0:
        return "..."
    inner = functools.partial(_plain, depth=depth - 1)
    if isinstance(x, Optimizer):
        own = {"frozen": x.frozen, "average": x.decay, "loss_scale": x.scaling}
        return inner({"optimizer": x.base, **{name: value for name, value in own.items() if value}})
    if isinstance(x, optax.GradientTransformation):
        return inner(x.update)  # what `init` has closed over is the same
    if isinstance(x, enum.Enum):
        return x.name
    if isinstance(x, str | PurePath):
        return without_home(str(x))
    if isinstance(x, bool | int | float | np.generic | np.ndarray | jax.Array):
        return _numbers(x)
    branches = _branches(x)
    if branches is not None:
        return {without_home(str(name)): inner(value) for name, value in branches.items()}
    if isinstance(x, list | tuple):
        return [inner(value) for value in x]
    if isinstance(x, Set):
        return sorted((inner(value) for value in x), key=repr)
    return _function(x, inner) if callable(x) else _words(x)


def _branches(x: Any) -> Mapping[Any, Any] | None:
    """The parts of `x` by name, if it has any."""
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return {field.name: getattr(x, field.name, None) for field in dataclasses.fields(x)}
    if isinstance(x, tuple) and hasattr(x, "_asdict"):
        return x._asdict()  # type: ignore[attr-defined]
    return x if isinstance(x, Mapping) else None


def _numbers(x: Any) -> Any:
    """A number, or an array if it is small and its values can be had, as Python's own."""
    if not concrete(x) or (
        isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
    ):
        return describe(x)
    array = np.asarray(x)
    if array.size > ENTRIES or (array.dtype.kind in "OV" and array.dtype != jax.numpy.bfloat16):
        return describe(x)
    if array.dtype.kind not in "biuf":
        array = array.astype(np.float32 if array.dtype.kind == "V" else str)
    return spelt(array.tolist())


def _function(x: Any, inner: Any) -> Any:
    """A function or class by name; with what it was given, if that was bound or closed over."""
    if isinstance(x, functools.partial):
        given = {str(i): value for i, value in enumerate(x.args)} | x.keywords
        return {"function": _name(x.func), **{name: inner(value) for name, value in given.items()}}
    bare = inspect.unwrap(x)
    if not hasattr(bare, "__qualname__"):  # an object that can be called
        if type(x).__repr__ is not object.__repr__ or not hasattr(x, "__dict__"):
            return _words(x)
        return {"function": _name(type(x)), **{name: inner(v) for name, v in vars(x).items()}}
    closed = _closed(bare)
    if not closed:
        return _name(bare)
    if closed.keys() == {"tx"}:  # optax's way to let a transformation take more arguments
        return inner(closed["tx"])
    return {"function": _name(bare), **{name: inner(value) for name, value in closed.items()}}


def _closed(x: Any) -> dict[str, Any]:
    """The values that a function has closed over, by name."""
    cells = getattr(x, "__closure__", None) or ()
    names = getattr(getattr(x, "__code__", None), "co_freevars", ())
    found = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not yet set
            continue
    return {name: value for name, value in found.items() if value is not x}


def _name(x: Any) -> str:
    """Where a function comes from; one made inside another is named for that."""
    made_in = getattr(x, "__qualname__", repr(x)).split(".<locals>")[0]
    return f"{getattr(x, '__module__', None) or ''}.{made_in}".lstrip(".")


def _words(x: Any) -> str:
    """What `x` says of itself, without addresses, which say nothing."""
    return without_home(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(x)))[:1000]
