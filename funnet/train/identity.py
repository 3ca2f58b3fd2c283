"""What a training is, in JSON: so that a checkpoint of another one is told from its own.

The tree (names, shapes, kinds of optimizer state), the seed, the data, and the program that one
step is: with another learning rate or augmentation the bits would be others, though all fits.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import jaxlib
import numpy as np
import optax

from funnet.data.batches import Batches
from funnet.store.tensors import digest, kinds, on_host
from funnet.train.feed import Source
from funnet.train.run import Run
from funnet.train.settings import plain_settings
from funnet.train.step import Step

ROOMS = {"params": "model", "state": "model state", "optimizer_state": "optimizer", "": "run"}
LOOKED_AT = 1024  # numbers of a parameter
SHOWN = 6  # names of one kind in a message
SMALL = 2**20  # bytes of a constant that is looked into
Facts = dict[str, Any]


def identity(step: Step, run: Run, batches: Batches | Source) -> Facts:
    """The facts that must agree for a checkpoint to be this training's, as JSON gives them back.

    Raises:
        TypeError: if what a source says of its identity is nothing that JSON can hold.
    """
    batch = _first(batches, int(run.step))
    facts = {
        "leaves": kinds(run),
        "nodes": _nodes(run),
        "seed": np.asarray(run.seed).tolist(),
        "data": _data(batches, batch),
        "batch": kinds({name: np.asarray(x) for name, x in batch.items()}),
        "program": _program(step, run, batch),
        "step": plain_settings(step),
        "versions": versions(),
    }
    try:
        return json.loads(json.dumps(facts))
    except TypeError as error:
        who = type(batches).__name__
        raise TypeError(f"identity() of {who} must give what JSON can hold: {error}") from error


def versions() -> dict[str, str]:
    """The versions of what decides the bits, and where they are computed."""
    packages = {module.__name__: module.__version__ for module in (jax, jaxlib, np, optax)}
    return {**packages, "platform": jax.default_backend()}


def beginning(run: Run) -> str:
    """What tells the parameters that a training begins with from others: a digest of some."""
    arrays = on_host({"params": run.params})
    return digest({name: x.reshape(-1)[:LOOKED_AT] for name, x in arrays.items()})


def differences(stored: Facts, given: Facts) -> list[str]:
    """What a reader is to be told of how two trainings differ; nothing where they are one."""
    told, alike = [], stored["versions"] == given["versions"]
    for room, name in ROOMS.items():
        told += _leaves(name, _of(room, stored["leaves"]), _of(room, given["leaves"]))
    if alike and stored["nodes"] != given["nodes"]:
        told.append(_changed("optimizer", _kinds_of(stored), _kinds_of(given)))
    shapes = bool(told) or stored["batch"] != given["batch"]
    told += _facts("seed", stored["seed"], given["seed"])
    told += _facts("data", stored["data"], given["data"])
    told += _facts("batch", stored["batch"], given["batch"])
    if alike and not shapes and stored["program"] != given["program"]:
        told += _settings(stored["step"], given["step"]) or [
            "step: it computes something else, though its trees fit (another loss, augmentation or "
            "model code)"
        ]
    return told


def same_program(stored: Facts, given: Facts) -> bool:
    """Whether the step is the same program."""
    return stored["program"] == given["program"]


def _first(batches: Batches | Source, at: int) -> Mapping[str, Any]:
    """A batch to look at; a source that keeps a position is taken back to where it stood."""
    if not hasattr(batches, "position"):
        return batches[0]
    position = None
    with contextlib.suppress(ValueError):  # it does not stand there, and reaches any step
        position = batches.position(at)  # type: ignore[union-attr]
    batch = batches[at]
    if position is not None:
        batches.seek(at, position)  # type: ignore[union-attr]
    return batch


def _settings(stored: Any, given: Any, at: str = "step") -> list[str]:
    """Which of the settings that a step has closed over differ."""
    both = (stored, given)
    if all(isinstance(x, list) for x in both) and len(stored) == len(given):
        stored, given = (dict(enumerate(x)) for x in both)
    if isinstance(stored, dict) and isinstance(given, dict):
        names = {**stored, **given}
        told = [_settings(stored.get(n), given.get(n), f"{at}.{n}") for n in names]
        return [line for lines in told for line in lines]
    return [] if stored == given else [_changed(at, stored, given)]


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
        if getattr(constant, "nbytes", SMALL) < SMALL and not jax.numpy.issubdtype(
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
        "only there": [n for n in stored if n not in given],
        "only here": [n for n in given if n not in stored],
        "differs": [
            f"{n} ({stored[n]} there, {given[n]} here)"
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
    return f"{what}: {stored} there, {given} here"


def _data(batches: Batches | Source, batch: Mapping[str, Any]) -> Any:
    """What tells this data from other data: what the source says of itself, else a first batch."""
    if hasattr(batches, "identity"):
        return batches.identity()  # type: ignore[union-attr]
    if hasattr(batches, "position"):  # it cannot go back, so that a first batch may be any
        return type(batches).__name__
    return {"first batch": digest({name: np.asarray(x) for name, x in batch.items()})}
