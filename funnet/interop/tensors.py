"""Tensors by name, out of a safetensors file or a state dict, as NumPy arrays.

PyTorch is never imported here: a tensor brings its own methods along.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from funnet.describe import is_array
from funnet.select import select
from funnet.store.tensors import read as stored

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def read(tensors: Any) -> dict[str, np.ndarray]:
    """The arrays of a file or a mapping, by name.

    Raises:
        TypeError: if `tensors` is neither, or a value is no tensor.
        FileNotFoundError: if there is no such file.
        ValueError: if the file is a pickle, no safetensors file, or damaged.
    """
    if isinstance(tensors, str | Path):
        return _file(Path(tensors))
    return {name: value(name, x) for name, x in named(tensors, "tensors").items()}


def named(tensors: Any, argument: str) -> Mapping[str, Any]:
    """The mapping itself, of names to things with a shape.

    Raises:
        TypeError: naming the argument, what it was, and what to write.
    """
    if not isinstance(tensors, Mapping):
        kind = type(tensors).__name__
        cure = f"write {argument}=module.state_dict()" if hasattr(tensors, "state_dict") else ""
        raise TypeError(
            f"{argument} must be a mapping of names to tensors, got {kind}"
            + (f"; {cure}" if cure else "")
        )
    for name, x in tensors.items():
        if not hasattr(x, "shape"):
            kind = type(x).__name__
            cure = f"; write {argument}[{name!r}]" if isinstance(x, Mapping) else ""
            raise TypeError(f"{argument}[{name!r}] must be a tensor, got {kind}{cure}")
    return tensors


def value(name: str, x: Any) -> np.ndarray:
    """A tensor of PyTorch, or an array, as a NumPy array of the same numbers.

    Raises:
        TypeError: if it holds none, as on PyTorch's meta device.
    """
    if not holds(x):
        raise TypeError(f"{name} is {x!r}, which has a shape and no numbers; pass a real tensor")
    if not hasattr(x, "detach"):
        return np.asarray(x)
    x = x.detach().cpu()
    try:
        return x.numpy()
    except TypeError:  # bfloat16 and its kin, which NumPy lacks, are float32 numbers
        return x.float().numpy()


def holds(x: Any) -> bool:
    """Whether `x` has numbers, and not a shape alone."""
    if hasattr(x, "detach"):
        return not x.is_meta
    return is_array(x) and hasattr(x, "__array__")


def untransposed(tensors: Any, *patterns: str) -> dict[str, np.ndarray]:
    """The tensors, with the matrices of some modules transposed.

    For weights that are kept as (in, out), as Hugging Face's GPT-2 keeps those of its `Conv1D`
    modules, and not as PyTorch's `Linear` does.

    Args:
        tensors: as in `from_torch`.
        *patterns: the paths of the modules (or of the tensors); `*` matches any characters. What
            is no matrix, as a bias, stays as it is.

    Raises:
        ValueError: if a pattern matches nothing; the message lists the nearest paths.

    >>> tensors = {"h.0.c_fc.weight": np.ones((2, 8)), "h.0.c_fc.bias": np.ones(8)}
    >>> untransposed(tensors, "*.c_fc")["h.0.c_fc.weight"].shape
    (8, 2)
    """
    arrays = read(tensors)
    modules = {name: name.rpartition(".")[0] for name in arrays}
    chosen = set(select(patterns, [*arrays, *dict.fromkeys(modules.values())]))
    return {
        name: x.T if x.ndim == 2 and chosen & {name, modules[name]} else x
        for name, x in arrays.items()
    }


def _file(path: Path) -> dict[str, np.ndarray]:
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can run code of its maker's when read: save the weights "
            "with safetensors.torch.save_file, or pass torch.load(path, weights_only=True)"
        )
    return stored(path)
