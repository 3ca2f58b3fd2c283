"""Reads a training's folder: its lines, `run.json` and checkpoints, whatever state they are in."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from funnet.store.lines import parsed


@dataclasses.dataclass
class Curve:
    """A number of one kind of line, by step."""

    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass
class Record:
    """What a folder holds."""

    name: str
    lines: list[dict[str, Any]]
    run: dict[str, Any]
    checkpoints: list[dict[str, Any]]
    notes: list[str]
    _curves: dict[str, dict[str, Curve]] = dataclasses.field(default_factory=dict, repr=False)

    def kind(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind."""
        return [line for line in self.lines if line["kind"] == kind]

    def curves(self, kind: str) -> dict[str, Curve]:
        """Every plain number that lines of a kind hold, by name."""
        if kind not in self._curves:
            self._curves[kind] = self._found(kind)
        return self._curves[kind]

    def _found(self, kind: str) -> dict[str, Curve]:
        found: dict[str, tuple[list[int], list[float]]] = {}
        for line in self.kind(kind):
            for name, value in line.items():
                value = as_number(value) if name not in OWN else None
                if value is not None:
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(line["step"])
                    values.append(value)
        return {n: Curve(np.array(s), np.array(v, np.float64)) for n, (s, v) in found.items()}


OWN = ("step", "kind", "seconds")
WORDS = ("nan", "inf", "-inf")  # how the log spells numbers that are none


def as_number(x: Any) -> float | None:
    """A plain number of a line, or None of what is none."""
    if isinstance(x, bool | int | float):
        try:
            return float(x)
        except OverflowError:
            return None
    return float(x) if x in WORDS else None


def read(folder: Path) -> Record:
    """Everything in a training's folder that can be read, with a note of what could not be.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to report on")
    notes: list[str] = []
    lines = _lines(folder / "metrics.jsonl", notes)
    run = _json(folder / "run.json", notes) if (folder / "run.json").exists() else {}
    checkpoints = []
    for path in sorted(folder.glob("checkpoints/*/manifest.json")):
        manifest = _json(path, notes)
        if manifest:
            checkpoints.append({"step": path.parent.name, **manifest})
    return Record(folder.resolve().name, lines, run, checkpoints, notes)


def _lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        notes.append("There is no metrics.jsonl, so there are no curves.")
        return []
    texts = [text for text in data.split(b"\n") if text.strip()]
    lines = [line for line in map(parsed, texts) if line is not None]
    bad = len(texts) - len(lines)
    if bad:
        these = "1 line was" if bad == 1 else f"{bad:,} lines were"
        notes.append(f"{these} left out, for metrics.jsonl is damaged or half-written there.")
    return _one_past(lines)


def _one_past(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the lines of a future that was lost: those that a later line goes back behind."""
    kept: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        stack = kept.setdefault(line["kind"], [])
        while stack and lines[stack[-1]]["step"] >= line["step"]:
            stack.pop()
        stack.append(i)
    return [lines[i] for i in sorted(i for stack in kept.values() for i in stack)]


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    name = path.name if path.name == "run.json" else "/".join(path.parts[-3:])
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        notes.append(f"{name} could not be read.")
        return {}
    return found
