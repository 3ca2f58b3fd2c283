"""Weights from PyTorch and back: every tensor has its place, or nothing is returned."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from funnet.interop.complaints import complain, nearest
from funnet.interop.links import Flattened, Link, carried, links, unlinked
from funnet.interop.names import Names, renamer
from funnet.interop.rules import counterpart
from funnet.interop.tensors import holds, named, read, value
from funnet.interop.trees import Wanted, filled, of_inputs, of_trees, values, wanted

COUNTER = "num_batches_tracked"  # of PyTorch's batch norm, which reads it only without a momentum


def from_torch(
    model: Any, tensors: Any, *, like: Any, names: Names = None, flattened: Flattened = None
) -> Any:
    """A PyTorch module's weights as the parameters and the state of a model.

    Kernels change their axes (`Linear`, `Conv`, `ConvTranspose`), norms, embeddings, recurrent
    layers, attention and `weight_norm` their names. Nothing is guessed: a tensor that has no
    place, a parameter that has no tensor, a shape that is not the one asked for are errors, all
    of them listed in one message.

    Args:
        model: the model that the weights are for.
        tensors: a safetensors file's path, or a mapping of names to tensors of PyTorch, NumPy or
            JAX, such as `module.state_dict()`. Matrices that are kept as (in, out) go through
            `untransposed` first.
        like: example inputs of the model (an array, or a tuple of them), or its trees:
            `(params, state)` or `params`, of arrays or `jax.ShapeDtypeStruct`s. The result has
            their dtypes. Inputs tell more. From trees alone, an index in PyTorch's names that a
            path of ours lacks counts the turns of an `fn.repeat`, and a kernel that would fit
            both a convolution and a transposed one is taken for a convolution's, unless others
            are transposed ones' for certain, when it is refused.
        names: PyTorch's paths as ours, where they differ: a mapping of patterns such as
            `{"layer*.*.downsample.0": "layer*.*.project"}`, of which the first that matches the
            start of a name is used, its wildcards carried over in order, and `None` leaves out;
            or a function from a name to a name or to `None`. It may name a leaf of ours, as in
            `{"pos": "positions.table"}`; what becomes a kernel is converted even then.
        flattened: for dense layers after a flattening of feature maps, by pattern of their paths:
            the features' shape as PyTorch has it, `{"fc1": (channels, height, width)}`. Where it
            is forgotten all shapes fit and the numbers are wrong, which `twin` shows.

    Returns:
        `(params, state)`, or params alone if `like` was params alone.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if an argument is none of the above.
        ValueError: if the file is a pickle or damaged, a pattern matches nothing, or names or
            shapes do not fit.

    >>> import funnet as fn
    >>> model = fn.Model(fn.dense, features=2)
    >>> tensors = {"weight": np.ones((2, 3), "float32"), "bias": np.zeros(2, "float32")}
    >>> params, state = from_torch(model, tensors, like=jnp.ones((1, 3)))
    >>> params["kernel"].shape
    (3, 2)
    """
    arrays = read(tensors)
    known = _known(arrays, names)
    _agree(known, arrays)
    tensors = {name: arrays[of[0]] for name, of in known.items()}
    ours = wanted(model, like, known)
    joined = links(ours, {name: x.shape for name, x in tensors.items()}, flattened)
    slots = ours.slots
    missing = unlinked(slots, (link.ours for link in joined))
    surplus = unlinked(known, (link.theirs for link in joined))
    tied = _tied(surplus, joined, tensors.get)
    made, misshapen = carried(joined, tensors, {name: x.shape for name, x in slots.items()})
    complain(
        "the tensors do not fit the model",
        missing=_described(missing, ours),
        surplus=_nearest([known[n][0] for n in surplus if n not in tied], missing or slots),
        misshapen=misshapen,
    )
    result = filled(ours, made)
    return result[0] if len(result) == 1 else result


def to_torch(
    model: Any,
    params: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
    *inputs: Any,
    like: Mapping[str, Any],
    names: Names = None,
    flattened: Flattened = None,
) -> dict[str, np.ndarray]:
    """Parameters and state as a PyTorch module's weights; `from_torch`, undone.

    Args:
        model: the model.
        params: its parameters.
        state: its state, if it keeps any.
        *inputs: example inputs, which tell more than the trees alone, as in `from_torch`.
        like: names to tensors, or to anything with a shape, such as `module.state_dict()`.
        names: as in `from_torch`, from PyTorch's to ours.
        flattened: as in `from_torch`.

    Returns:
        Arrays named and shaped as `like`, in its order, of the parameters' dtypes, but for
        bfloat16, which becomes float32, since `torch.from_numpy` takes none. Of an LSTM or an RNN
        the whole bias is in `bias_ih`. Counters of batches, and what `names` leaves out, are
        those of `like`; where that has no values, a counter is 0 and the rest is left out.

    Raises:
        ValueError: as in `from_torch`.

    >>> import funnet as fn
    >>> model = fn.Model(fn.dense, features=2, bias=False)
    >>> like = {"weight": np.zeros((2, 3))}
    >>> to_torch(model, {"kernel": jnp.ones((3, 2))}, like=like)["weight"].shape
    (2, 3)
    """
    like = named(like, "like")
    known = _known(like, names)
    shapes = {name: tuple(like[of[0]].shape) for name, of in known.items()}
    trees = (params,) if state is None else (params, state)
    ours = of_inputs(model, inputs) if inputs else of_trees(trees, known)
    joined, parameters = links(ours, shapes, flattened), values(ours, trees)
    surplus = unlinked(ours.slots, (link.ours for link in joined))
    missing = unlinked(known, (link.theirs for link in joined))
    tied = _tied(missing, joined, lambda name: _stored(known[name][0], like))
    made, misshapen = carried(joined, parameters, shapes, back=True)
    complain(
        "the model does not fit the names and shapes of like",
        missing=_nearest([known[n][0] for n in missing if n not in tied], surplus or ours.slots),
        surplus=_described(surplus, ours),
        misshapen=misshapen,
    )
    made |= {name: made[table] for name, table in tied.items()}
    arrays = {name: _writable(made[new]) for new, of in known.items() for name in of}
    return {n: x for n in like if (x := arrays.get(n, _kept(n, like))) is not None}


def _known(originals: Mapping[str, Any], names: Names) -> dict[str, list[str]]:
    """PyTorch's names by what we call them: several where they are renamed to one."""
    rename = renamer(names, originals)
    known: dict[str, list[str]] = {}
    for name in originals:
        new = rename(name)
        if new is not None and name.rpartition(".")[-1] != COUNTER:
            known.setdefault(new, []).append(name)
    return known


def _agree(known: dict[str, list[str]], arrays: dict[str, np.ndarray]) -> None:
    """Refuses tensors that are renamed to one and are not equal."""
    for new, (first, *others) in known.items():
        for other in others:
            if not np.array_equal(arrays[first], arrays[other]):
                raise ValueError(f"{first!r} and {other!r} are both named {new!r}, and differ")


def _tied(
    names: list[str], joined: list[Link], tensor: Callable[[str], np.ndarray | None]
) -> dict[str, str]:
    """Tensors that repeat an embedding's, as a tied head's does, with the name of the latter."""
    tables = [link.theirs[0] for link in joined if link.ours[0].rpartition(".")[-1] == "table"]
    return {
        name: table
        for name in names
        for table in tables
        if (x := tensor(name)) is not None
        and (y := tensor(table)) is not None
        and np.array_equal(x, y)
    }


def _described(names: Iterable[str], ours: Wanted) -> list[str]:
    """Parameters with their shapes, and what PyTorch would call them."""
    slots = ours.slots
    return [f"{name} {slots[name].shape} (PyTorch: {counterpart(name)})" for name in names]


def _nearest(names: list[str], ours: Iterable[str]) -> list[str]:
    """PyTorch's names, each with the parameter whose name there would be the most like it."""
    return nearest(names, {counterpart(name): name for name in ours})


def _stored(name: str, like: Mapping[str, Any]) -> np.ndarray | None:
    return value(name, like[name]) if holds(like[name]) else None


def _kept(name: str, like: Mapping[str, Any]) -> np.ndarray | None:
    """What is to stay as `like` has it."""
    kept = _stored(name, like)
    if kept is None and name.rpartition(".")[-1] == COUNTER:
        return np.zeros((), np.int64)
    return None if kept is None else _writable(kept)


def _writable(x: np.ndarray) -> np.ndarray:
    """An array of its own, in a dtype and a layout that `torch.from_numpy` takes."""
    return np.array(x, np.float32 if x.dtype == jnp.bfloat16 else x.dtype, order="C")
