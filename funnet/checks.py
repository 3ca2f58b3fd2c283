"""What is refused at the door: dtypes, shapes and ranges, checked where arrays enter.

JAX broadcasts `(N, 1)` against `(N,)` and clamps an index that is out of range, both without
a word. These functions speak up instead, with the argument's name, what it was, what was
expected and what to type. Shapes and dtypes are always known; values are looked at only where
there are any, which is to say outside `jit`.
"""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike


def concrete(x: Any) -> bool:
    """Whether the values of `x` can be read here and now.

    False for what `jit`, `vmap` and `grad` pass around in place of an array, and for an array
    of which other processes hold a part.

    >>> concrete(np.ones(3)), jax.jit(lambda x: concrete(x))(np.ones(3)).item()
    (True, False)
    """
    if isinstance(x, Tracer):
        return False
    return not isinstance(x, jax.Array) or x.is_fully_addressable


def array(name: str, x: Any) -> None:
    """Refuses what is no JAX or NumPy array.

    Raises:
        TypeError: Naming the argument and its type.
    """
    if not isinstance(x, jax.Array | np.ndarray | np.generic):
        kind = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
        raise TypeError(
            f"{name} must be a JAX or NumPy array, got {kind}; write jnp.asarray({name})"
        )


def floating(name: str, x: Any) -> None:
    """Refuses an array that is not of floating-point numbers.

    Raises:
        TypeError: Naming the argument and its dtype.
    """
    array(name, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating point, got {x.dtype}; write {name}.astype('float32')"
        )


def integer(name: str, x: Any) -> None:
    """Refuses an array that is not of integers; booleans are none.

    Raises:
        TypeError: Naming the argument and its dtype.
    """
    array(name, x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {x.dtype}; write {name}.astype('int32')")


def examples(name: str, x: Any) -> None:
    """Refuses an array without a first axis of examples.

    Raises:
        ValueError: Naming the argument.
    """
    array(name, x)
    if x.ndim == 0:
        raise ValueError(
            f"{name} has shape (), expected a first axis of examples; write {name}[None]"
        )


def images(what: str, x: Any, name: str = "images") -> None:
    """Refuses what is not a batch of images `(N, H, W, C)`; `what` is who takes it.

    Raises:
        ValueError: Naming who, the argument and its shape.
    """
    array(name, x)
    if x.ndim != 4:
        raise ValueError(
            f"{what} takes {name} of shape (N, H, W, C), got {x.shape}; add a missing batch axis "
            f"with {name}[None], a missing channel axis with {name}[..., None]"
        )


def same_shape(**arrays: Any) -> None:
    """Refuses two arrays whose shapes differ in anything: nothing is broadcast.

    Raises:
        ValueError: Stating both names and both shapes.

    >>> same_shape(predictions=np.ones((4, 1)), targets=np.ones(4))
    Traceback (most recent call last):
    ValueError: predictions has shape (4, 1) but targets has shape (4,), expected equal shapes, \
for broadcasting would pair examples that do not belong together; \
write targets.reshape(predictions.shape)
    """
    (first, x), (second, y) = arrays.items()
    array(first, x)
    array(second, y)
    if x.shape == y.shape:
        return
    cure = f"; write {second}.reshape({first}.shape)" if x.size == y.size else ""
    raise ValueError(
        f"{first} has shape {x.shape} but {second} has shape {y.shape}, expected equal shapes, "
        f"for broadcasting would pair examples that do not belong together{cure}"
    )


def within(name: str, x: Any, low: float, high: float, *, slack: float = 0.0, why="") -> None:
    """Refuses concrete values outside `[low, high]`, NaN among them; a traced `x` passes.

    Args:
        name: What the caller's user calls `x`.
        x: An array of any shape, or a number.
        low: The least value allowed.
        high: The greatest value allowed.
        slack: How far outside a value may lie by rounding.
        why: Words for the end of the message.

    Raises:
        ValueError: Naming the first offending entry, its value and the range.

    >>> within("rate", 1.5, 0, 1)
    Traceback (most recent call last):
    ValueError: rate is 1.5, expected 0 <= rate <= 1
    """
    if not concrete(x):
        return
    values = np.asarray(x)
    bad = ~((values >= low - slack) & (values <= high + slack))
    if not bad.any():
        return
    index = tuple(np.argwhere(bad)[0].tolist())
    entry = f"{name}[{', '.join(map(str, index))}]" if index else name
    raise ValueError(f"{entry} is {values[index]}, expected {low} <= {name} <= {high}{why}")


def probabilities(name: str, x: Any) -> None:
    """Refuses concrete values outside 0..1, but for a rounding error of their dtype.

    Raises:
        ValueError: Naming the first offending entry and its value.
    """
    # Mixed or smoothed targets may come out at 1.0000001.
    exact = not jnp.issubdtype(x.dtype, jnp.floating)
    within(name, x, 0, 1, slack=0.0 if exact else 2 * float(jnp.finfo(x.dtype).eps))


def positive(name: str, x: Any) -> None:
    """Refuses a number that is not above zero; a traced `x` passes.

    Raises:
        ValueError: Naming the argument and its value.
    """
    if concrete(x) and not x > 0:
        raise ValueError(f"{name} is {x}, expected {name} > 0")


def count(name: str, x: Any, most: float = math.inf, *, least: int = 1) -> int:
    """The number `x`, refused unless it is a whole one in `least`..`most`.

    Raises:
        TypeError: If `x` is no integer.
        ValueError: If it is out of range.

    >>> count("size", 0)
    Traceback (most recent call last):
    ValueError: size is 0, expected size >= 1
    """
    try:
        number = operator.index(x)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {x!r}; write int({name})") from None
    if most < math.inf:
        within(name, x, least, most)
    elif number < least:
        raise ValueError(f"{name} is {number}, expected {name} >= {least}")
    return number


def seed(x: Any) -> None:
    """Refuses what is not a whole number in 0..2**32-1; a traced `x` need only be an integer.

    Raises:
        TypeError: If `x` is no integer.
        ValueError: If it is out of range.
    """
    if isinstance(x, jax.Array):
        integer("seed", x)
    elif isinstance(x, bool) or not isinstance(x, int | np.integer):
        raise TypeError(f"seed must be an integer, got {x!r}; write seed=0")
    within("seed", x, 0, 2**32 - 1)


def labels(
    labels: ArrayLike, logits: ArrayLike, name: str = "logits"
) -> tuple[jax.Array, jax.Array]:
    """The labels as indices that are safe to use, and which of them were a class at all.

    Args:
        labels: Integers `(...)` in 0..C-1, C the number of classes.
        logits: Floats `(..., C)`.
        name: What the caller's user calls the logits.

    Returns:
        Labels `(...)` int32, those out of range replaced by 0, and a mask `(...)`, false where
        that was done. It can be false only under a trace: what to do with it there is the
        caller's choice.

    Raises:
        TypeError: If the labels are no integers or the logits no floats.
        ValueError: If the shapes do not belong together, or a label is concrete and no class:
            with its place, its value and the range.

    >>> labels(np.array([0, 3]), np.zeros((2, 3)))
    Traceback (most recent call last):
    ValueError: labels[1] is 3, expected 0 <= labels <= 2, for logits of shape (2, 3) \
have 3 classes
    """
    _labels_fit(labels, logits, name)
    floating(name, logits)
    integer("labels", labels)
    shape = np.shape(logits)
    why = f", for {name} of shape {shape} have {shape[-1]} classes"
    within("labels", labels, 0, shape[-1] - 1, why=why)
    indices = jnp.asarray(labels)
    # Before the comparison, since 50257 is no uint8; after it a wide label must not wrap to 0.
    indices = indices.astype(jnp.int32) if indices.dtype.itemsize < 4 else indices
    valid = (indices >= 0) & (indices < shape[-1])
    return jnp.where(valid, indices, 0).astype(jnp.int32), valid


def _labels_fit(labels: Any, logits: Any, name: str) -> None:
    array(name, logits)
    array("labels", labels)
    if logits.ndim > 0 and labels.shape == logits.shape[:-1]:
        return
    if labels.shape == (*logits.shape[:-1], 1):
        cure = "write labels[..., 0]"
    elif labels.shape == logits.shape:
        cure = "write labels.argmax(-1), or give probabilities to losses.soft_cross_entropy"
    elif labels.ndim > logits.ndim:
        cure = f"the {name} come first, then the labels"
    else:
        cure = f"one label for each row of {name}"
    raise ValueError(
        f"labels has shape {labels.shape} but {name} has shape {logits.shape}, expected labels "
        f"of shape {logits.shape[:-1]}; {cure}"
    )
