"""A tree of arrays in a file, whole or not at all, and back.

Leaves are stored under their dotted paths in the safetensors format, which holds numbers and
nothing that could run. A file is written under another name, flushed to disk, and renamed into
place: a reader finds the old file or the new one, never half of either. It carries a digest of
its numbers, which the format itself does not protect.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from funnet.select import dotted, nest
from funnet.store.durable import make_folders, replacing

Tree = Any


def save(path: str | Path, tree: Tree) -> None:
    """Writes the arrays of a tree to a safetensors file.

    Args:
        path: the file to make or to replace; its folder is made if missing.
        tree: any pytree of arrays: nested dicts, a `Run`, an optimizer's state.

    Raises:
        TypeError: if a leaf is no array of numbers.
        OSError: if the file cannot be written; what was there before is untouched.

    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/params.safetensors"
    >>> save(file, {"head": {"bias": jnp.zeros(3)}})
    >>> load(file)["head"]["bias"].shape
    (3,)
    """
    path, arrays = Path(path), on_host(tree)
    make_folders(path.parent)
    with replacing(path) as temporary:
        write(Path(temporary), arrays, {_DIGEST: digest(arrays)})


def load(path: str | Path, like: Tree = None) -> Tree:
    """Reads a tree that `save` wrote.

    Args:
        path: the file.
        like: a tree of arrays or `jax.ShapeDtypeStruct`s, such as `model.shapes(x)` gives or a
            fresh `Run`; the result has its structure. Without it the result is nested dicts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or its names, shapes or dtypes are not those of `like`:
            all that are missing, surplus or misshapen are listed.
    """
    stored = read(Path(path))
    if like is not None and (differences := compare(stored, named(like))):
        what = "; ".join(differences)
        raise ValueError(f"{path} does not match the tree that is asked for; {what}")
    try:
        if like is None:
            return nest({name: _device(name, array) for name, array in stored.items()})
        return rebuilt(stored, like)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def on_host(tree: Tree) -> dict[str, np.ndarray]:
    """The leaves by dotted path as NumPy arrays that a file can hold.

    Raises:
        TypeError: if a leaf is no array of numbers.
    """
    return {name: _storable(name, leaf) for name, leaf in named(tree).items()}


def rebuilt(stored: Mapping[str, np.ndarray], like: Tree) -> Tree:
    """The tree of the structure of `like` whose leaves are stored."""
    leaves = [_restored(name, stored[name], leaf) for name, leaf in named(like).items()]
    return jax.tree.structure(like).unflatten(leaves)


def kinds(tree: Tree) -> dict[str, str]:
    """The dtype and shape in which each leaf is stored, by dotted path: `float32[3, 4]`."""
    return {name: _kind(_plain(leaf)) for name, leaf in named(tree).items()}


def named(tree: Tree) -> dict[str, Any]:
    """The leaves by dotted path, in the order in which the tree is flattened."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {dotted(path) or "value": leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        raise ValueError("two leaves of the tree have the same dotted path: names must have no dot")
    if "__metadata__" in named:
        raise ValueError("the name '__metadata__' is one that safetensors keeps for itself")
    nest(named)  # which refuses a path that is both a leaf and a branch
    return named


def _storable(name: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    if array.dtype.kind not in "biuf" and array.dtype != jnp.bfloat16:
        raise TypeError(f"{name} must be an array of numbers to be saved, got {array.dtype}")
    return np.ascontiguousarray(array).reshape(array.shape)


def write(path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, str]) -> None:
    """A safetensors file of arrays by name, not yet flushed to disk.

    Raises:
        OSError: if it cannot be written.
    """
    path.touch()
    usual = path.stat().st_mode
    try:
        save_file(dict(arrays), path, dict(facts))
    except SafetensorError as error:
        raise _os_error(path, error) from error
    path.chmod(usual)  # safetensors keeps it from others


def _os_error(path: Path, error: SafetensorError) -> OSError:
    """What safetensors tells in words, as the error of the system that it was."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None or os.name == "nt":
        return OSError(f"{path} cannot be written: {error}")
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path))


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds numbers that NumPy has no arrays for.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} to load")
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            sealed = (file.metadata() or {}).get(_DIGEST)
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error
    except (AttributeError, ValueError) as error:  # float8, or a shape beyond all bounds
        raise ValueError(f"{path} holds what no NumPy array can: {error}") from error
    if sealed is not None and sealed != digest(arrays):
        raise ValueError(f"{path} is damaged: its numbers are not those that were written")
    return arrays


_DIGEST = "funnet.sha256"  # where a file of ours keeps it; a file of others has none


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of arrays by name, and of their dtypes and shapes."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name}\0{_kind(array)}\0".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def compare(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """How what is stored differs from the leaves that are asked for, both by dotted path."""
    missing = [name for name in wanted if name not in stored]
    surplus = [name for name in stored if name not in wanted]
    misshapen = [
        f"{name} (stored {_kind(stored[name])}, expected {_kind(_plain(leaf))})"
        for name, leaf in wanted.items()
        if name in stored and _kind(stored[name]) != _kind(_plain(leaf))
    ]
    found = {"missing": missing, "surplus": surplus, "misshapen": misshapen}
    return [f"{what}: {', '.join(names)}" for what, names in found.items() if names]


def _kind(x: Any) -> str:
    return f"{np.dtype(x.dtype).name}{list(x.shape)}"


def _plain(leaf: Any) -> Any:
    """The shape and dtype in which a leaf is stored; a random key as its words."""
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.eval_shape(jax.random.key_data, leaf)
    return leaf


def _restored(name: str, array: np.ndarray, like: Any) -> jax.Array:
    if jnp.issubdtype(getattr(like, "dtype", np.float32), jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            jnp.asarray(array), impl=jax.random.key_impl(jnp.zeros((), like.dtype))
        )
    return _device(name, array)


def _device(name: str, array: np.ndarray) -> jax.Array:
    narrow = jax.dtypes.canonicalize_dtype(array.dtype)
    if narrow != array.dtype and (array.ndim or array.astype(narrow) != array):
        raise ValueError(f"{name} is {array.dtype}: set jax_enable_x64, or it would lose precision")
    return jnp.asarray(array)
