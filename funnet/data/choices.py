"""Which data to take: the first set that can be had, and what of it to hold out."""

import itertools
import os
from typing import Any

import funnet.data.download as download
import funnet.data.sources as sources
from funnet.checks import count

NAMES = ("mnist", "fashion_mnist", "cifar10", "digits", "tiny_shakespeare", "python_docs")


def first_of(*names: str) -> tuple[str, Any]:
    """The first of some data sets that can be had here; says so if it is not the first one named.

    Args:
        *names: functions of `fn.data` without arguments, such as `"mnist", "digits"`, or
            `"tiny_shakespeare", "python_docs"`.

    Returns:
        Its name, and what its function gives: train and test, or a text.

    Raises:
        ValueError: if there is no such data set.
        OSError: if the last one cannot be had either.

    >>> first_of("digits")[1][0]["image"].shape
    (1437, 8, 8, 1)
    """
    for name in names or ("",):
        _known(name)
    for name, following in itertools.pairwise(names):
        try:
            return name, getattr(sources, name)()
        except OSError as error:
            print(f"{error}\n\nSo {following} takes its place.")
    return names[-1], getattr(sources, names[-1])()


def caveat(name: str, folder: str | os.PathLike[str] | None = None) -> str:
    """What to say beside a number measured on a data set, as it is found here.

    Args:
        name: a function of `fn.data`, such as `"cifar10"`.
        folder: as that function was given it.

    Returns:
        Such as `"its pixels went through JPEG"`; empty for the data set as it was published.

    Raises:
        ValueError: if there is no such data set.

    >>> caveat("digits")
    ''
    """
    _known(name)
    return download.caveat(sources.SOURCES[name], folder) if name in sources.SOURCES else ""


def _known(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"name is {name!r}, expected one of {', '.join(NAMES)}")


def hold_out(data: dict[str, Any], size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits data into what to train on and the last `size` examples, to choose settings by.

    Args:
        data: arrays by name, with one row for each example.
        size: how many examples to hold out, at least one and not all.

    Raises:
        ValueError: if it is none or all of them.

    >>> import numpy as np
    >>> rest, held = hold_out({"x": np.arange(5)}, 2)
    >>> rest["x"].tolist(), held["x"].tolist()
    ([0, 1, 2], [3, 4])
    """
    examples = min(len(array) for array in data.values())
    count("size", size, examples - 1)
    return {k: v[:-size] for k, v in data.items()}, {k: v[-size:] for k, v in data.items()}
