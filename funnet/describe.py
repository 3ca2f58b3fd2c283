"""Arrays as text and as shapes, for messages and tables."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_array(x: Any) -> bool:
    """Whether `x` is an array, or stands for one; NumPy's own numbers are settings."""
    return hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, np.generic)


def abstract(x: Any) -> Any:
    """The shape and dtype of an array; anything else as it is."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if is_array(x) else x


def describe(tree: Any) -> str:
    """The arrays of a tree as text.

    >>> describe((jax.ShapeDtypeStruct((8, 32), "float32"), "same"))
    'float32[8,32]'
    """
    return ", ".join(_descriptions(tree))


def _descriptions(tree: Any) -> Iterator[str]:
    for x in jax.tree.leaves(tree):
        if is_array(x):
            yield f"{x.dtype}[{','.join(map(str, x.shape))}]"


def on_device(tree: Any) -> Any:
    """The tree with NumPy's arrays as JAX's, in the dtypes that JAX has (float64 as float32)."""
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, tree)


def split_arrays(tree: Any) -> tuple[list, Callable[[list], Any]]:
    """The arrays of a tree, and a function that puts others into their places.

    What is no array (settings, functions, `None`) stays in the function.
    """
    leaves, structure = jax.tree.flatten(tree)
    where = [i for i, leaf in enumerate(leaves) if is_array(leaf)]

    def rebuild(arrays: list) -> Any:
        filled = list(leaves)
        for i, array in zip(where, arrays, strict=True):
            filled[i] = array
        return structure.unflatten(filled)

    return [leaves[i] for i in where], rebuild


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Rows as lines: some columns to the left, the others to the right, a rule under the first.

    >>> aligned([("layer", "shape", "size"), ("dense", "(3,)", "12")], left=2)
    ['layer  shape  size', '------------------', 'dense  (3,)     12']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]
