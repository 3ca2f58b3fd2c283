"""What a training is, in JSON: so that a checkpoint of another one is told from its own.

The tree (names, shapes, kinds of optimizer state), the seed, the data, and the program that one
step is: with another learning rate or augmentation the bits would be others, though all fits.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from funnet.data.batches import Batches
from funnet.store.tensors import digest, kinds
from funnet.train.feed import Source
from funnet.train.run import Run
from funnet.train.step import Step

ROOMS = {"params": "model", "state": "model state", "optimizer_state": "optimizer", "": "run"}
SHOWN = 6  # names of one kind in a message
SMALL = 2**20  # bytes of a constant that is looked into
Facts = dict[str, Any]


def identity(step: Step, run: Run, batches: Batches | Source) -> Facts:
    """The facts that must agree for a checkpoint to be this training's, as JSON can hold them."""
    batch = _batch(batches, int(run.step))
    return {
        "leaves": kinds(run),
        "nodes": _nodes(run),
        "seed": np.asarray(run.seed).tolist(),
        "data": _data(batches, batch),
        "program": _program(step, run, batch),
        "jax": jax.__version__,
    }


def differences(stored: Facts, given: Facts) -> list[str]:
    """What a reader is to be told of how two trainings differ; nothing where they are one."""
    told = []
    for room, name in ROOMS.items():
        told += _leaves(name, _of(room, stored["leaves"]), _of(room, given["leaves"]))
    same_jax = stored["jax"] == given["jax"]
    if same_jax and stored["nodes"] != given["nodes"]:
        told.append(_changed("optimizer", _kinds_of(stored), _kinds_of(given)))
    if stored["seed"] != given["seed"]:
        told.append(_changed("seed", stored["seed"], given["seed"]))
    told += _facts("data", stored["data"], given["data"])
    if not told and same_jax and stored["program"] != given["program"]:
        told.append(
            "step: it computes something else, though its trees fit (another learning rate, loss, "
            "augmentation or model code)"
        )
    return told


def _nodes(run: Run) -> str:
    """The classes that the run's trees are made of, as text."""
    return _without_addresses(str(jax.tree.structure(run)))


def _kinds_of(facts: Facts) -> str:
    return ", ".join(re.findall(r"namedtuple\[(\w+)", facts["nodes"])) or "of other classes"


def _program(step: Step, run: Run, batch: Mapping[str, Any]) -> str:
    """The SHA-256 of the traced step: its operations, settings and constants."""
    traced = jax.jit(step).trace(run, dict(batch)).jaxpr
    digest = hashlib.sha256(_without_addresses(str(traced.jaxpr)).encode())
    for constant in traced.consts:
        if getattr(constant, "nbytes", SMALL) < SMALL and not jax.dtypes.issubdtype(
            constant.dtype, jax.dtypes.extended
        ):
            digest.update(np.asarray(constant).tobytes())
    return digest.hexdigest()


def _without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def _of(room: str, leaves: Mapping[str, str]) -> dict[str, str]:
    """The leaves below `params`, `state` or `optimizer_state`; below none of them for ""."""
    rooms = tuple(f"{room}." for room in ROOMS if room)
    if room:
        return {n: kind for n, kind in leaves.items() if n.startswith(f"{room}.")}
    return {n: kind for n, kind in leaves.items() if not n.startswith(rooms)}


def _leaves(what: str, stored: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    both = stored.keys() & given.keys()
    found = {
        "only stored": [n for n in stored if n not in given],
        "only given": [n for n in given if n not in stored],
        "differs": [
            f"{n} (stored {stored[n]}, given {given[n]})"
            for n in stored
            if n in both and stored[n] != given[n]
        ],
    }
    return [f"{what}: {how}: {_few(names)}" for how, names in found.items() if names]


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _facts(what: str, stored: Any, given: Any) -> list[str]:
    if stored == given:
        return []
    if isinstance(stored, dict) and isinstance(given, dict):
        names = [n for n in {**stored, **given} if stored.get(n) != given.get(n)]
        return [_changed(f"{what} {n}", stored.get(n), given.get(n)) for n in names]
    return [_changed(what, stored, given)]


def _changed(what: str, stored: Any, given: Any) -> str:
    return f"{what}: stored {stored}, given {given}"


def _batch(batches: Batches | Source, at: int) -> Mapping[str, Any]:
    """A batch to know shapes by; a source that keeps a position is left where it was."""
    if not hasattr(batches, "position"):
        return batches[0]
    where = batches.position(at)  # type: ignore[union-attr]
    batch = batches[at]
    batches.seek(at, where)  # type: ignore[union-attr]
    return batch


def _data(batches: Batches | Source, batch: Mapping[str, Any]) -> Any:
    """What tells this data from other data: what the source says of itself, else a first batch."""
    if hasattr(batches, "identity"):
        return batches.identity()  # type: ignore[union-attr]
    if hasattr(batches, "position"):  # it cannot go back, so that a first batch may be any
        return type(batches).__name__
    return {"first batch": digest({name: np.asarray(x) for name, x in batch.items()})}
