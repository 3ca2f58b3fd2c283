"""The parts of a report, each from what the folder holds, empty where it holds nothing."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from funnet.reports.chart import chart, is_share
from funnet.reports.curves import finite
from funnet.reports.markup import Markup, element, joined, table
from funnet.reports.reading import Curve, Record, as_number
from funnet.reports.words import duration, moment, number, size

FIRST, LAST = ("loss", "accuracy"), ("learning_rate", "gradient_norm")  # order of the curves
CHARTS = 24  # at most, so that a page stays small


def section(title: str, *parts: Any) -> Markup:
    """A headed part of the page, or nothing if it is empty."""
    kept = [part for part in parts if part]
    return element("section", element("h2", title), *kept) if kept else Markup("")


def _order(names: set[str]) -> list[str]:
    middle = sorted(names - {*FIRST, *LAST, "skipped"})
    tail = [*LAST, "skipped"]
    return [n for n in (*FIRST, *middle, *tail) if n in names]


def curves(record: Record) -> Markup:
    """A chart for each number that training or validation gave."""
    train, validation = record.curves("train"), record.curves("validation")
    names = _order({*train, *validation})
    per_epoch = as_number(record.run.get("steps_per_epoch"))
    per_epoch = per_epoch if per_epoch and 0 < per_epoch < np.inf else None
    charts = [chart(n, train.get(n), validation.get(n), per_epoch) for n in names[:CHARTS]]
    more = len(names) - CHARTS
    note = f"{more} more are in metrics.jsonl." if more > 0 else ""
    quiet = element("p", note, class_="quiet") if note else ""
    return section("Curves", element("div", *charts, class_="charts") if charts else "", quiet)


def best(name: str, curve: Curve) -> tuple[int, float] | None:
    """The step and value of a metric at its best, where it is known which way is better."""
    curve = finite(curve)
    if not len(curve.values) or not ("loss" in name or "accuracy" in name):
        return None
    at = int(curve.values.argmin() if "loss" in name else curve.values.argmax())
    return int(curve.steps[at]), float(curve.values[at])


def final(record: Record) -> Markup:
    """The last number of each metric in training and validation, and the best validation."""
    train, validation = record.curves("train"), record.curves("validation")
    rows = []
    for name in _order({*train, *validation}):
        given = [curve for curve in (train.get(name), validation.get(name)) if curve is not None]
        share = is_share(name, *given)
        cells = [name.replace("_", " ")]
        for curve in (train.get(name), validation.get(name)):
            cells.append(number(float(curve.values[-1]), share) if curve is not None else "–")
        if validation:
            top = best(name, validation[name]) if name in validation else None
            cells.append(f"{number(top[1], share)} at step {top[0]:,}" if top else "–")
        rows.append(cells if validation else cells[:2])
    header = ["", "training", *(["validation", "best validation"] if validation else [])]
    return section("Final numbers", table(header, rows, class_="numbers") if rows else "")


def timing(record: Record) -> Markup:
    """Steps, total time and rate; and what validating and saving took, where lines tell."""
    seconds = [as_number(line.get("seconds")) for line in record.lines]
    known = [s for s in seconds if s is not None and np.isfinite(s)]
    if not known or not known[-1] > 0:
        return Markup("")
    total, last = known[-1], max(line["step"] for line in record.lines)
    first = record.lines[0]["step"]
    rows = [("total time", duration(total)), ("steps", f"{last:,}")]
    if last > first and total > known[0]:
        rate = (last - first) / (total - known[0])
        rows.append(("rate, all included", f"{number(float(f'{rate:.3g}'))} steps/s"))
    for kind, spent in _spent(record).items():
        words = f"{duration(spent)}, {100 * spent / total:.1f} % of the total"
        rows.append(({"validation": "validating", "save": "saving"}.get(kind, kind), words))
    return section("Time", table((), rows, class_="facts"))


def _spent(record: Record) -> dict[str, float]:
    """Seconds between a line and the one before at the same step: the time its making took."""
    spent: dict[str, list[float]] = {}
    for line, after in zip(record.lines, record.lines[1:], strict=False):
        times = as_number(line.get("seconds")), as_number(after.get("seconds"))
        kind = after["kind"]
        if kind == "train" or line["step"] != after["step"] or None in times:
            continue
        spent.setdefault(kind, []).append(max(float(times[1] or 0) - float(times[0] or 0), 0.0))
    each = {kind: len(record.kind(kind)) for kind in spent}
    complete = {kind: times for kind, times in spent.items() if 2 * len(times) >= each[kind]}
    return {kind: sum(times) / len(times) * each[kind] for kind, times in complete.items()}


def checkpoints(record: Record) -> Markup:
    """What was saved, when, and how good it was."""
    rows = []
    for manifest in record.checkpoints:
        files = manifest.get("files")
        files = files if isinstance(files, Mapping) else {}
        sizes = [as_number(f.get("bytes")) for f in files.values() if isinstance(f, Mapping)]
        metrics = manifest.get("metrics")
        metrics = metrics if isinstance(metrics, Mapping) else {}
        told = [_told(n, v) for n, v in metrics.items() if as_number(v) is not None]
        step = manifest["step"]
        rows.append(
            (
                f"{step:,}" if isinstance(step, int) else step,
                moment(manifest["time"]) if "time" in manifest else "–",
                size(sum(s or 0 for s in sizes)) if sizes else "–",
                ", ".join(told) or "–",
            )
        )
    header = ("step", "saved", "size", "last validation")
    return section("Checkpoints", table(header, rows, class_="numbers") if rows else "")


def _told(name: str, value: Any) -> str:
    share = "accuracy" in name and 0 <= float(value) <= 1
    return f"{name.replace('_', ' ')} {number(value, share)}"


def facts(title: str, value: Any) -> Markup:
    """Nested JSON as a table of dotted names, or as it is if it is a text."""
    if isinstance(value, str):
        return section(title, element("pre", value) if value else "")
    if not isinstance(value, Mapping | list) or not value:
        return Markup("")
    return section(title, table((), [*_rows(value, 0)], class_="facts"))


def _rows(value: Any, depth: int) -> Iterator[tuple[Markup, Any]]:
    """A row for each leaf, indented below the name of its branch; a list of leaves is one."""
    branches = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, inner in branches:
        name = element("span", key, class_=f"in{min(depth, 8)}" if depth else None)
        if isinstance(inner, list) and any(isinstance(x, Mapping | list) for x in inner):
            inner = {str(i): x for i, x in enumerate(inner)}
        if not isinstance(inner, Mapping) or not inner:
            yield name, _leaf(str(key), inner or "none" if isinstance(inner, Mapping) else inner)
            continue
        yield name, inner.get("function", "")
        yield from _rows({k: v for k, v in inner.items() if k != "function"}, depth + 1)


def _leaf(name: str, value: Any) -> Any:
    if name == "command" and isinstance(value, list):
        return element("code", " ".join(map(str, value)))
    if name == "memory" and isinstance(value, int):
        return size(value)
    if isinstance(value, list):
        return ", ".join(x if isinstance(x, str) else json.dumps(x) for x in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def notes(record: Record) -> Markup:
    """What a reader should know about the page itself."""
    return joined(element("p", note, class_="warning") for note in record.notes)


def verdict(record: Record) -> str:
    """The training in one line."""
    if not record.lines:
        return "Nothing has been logged yet."
    step = max(line["step"] for line in record.lines)
    per_epoch = as_number(record.run.get("steps_per_epoch"))
    words = f"{step:,} step{'s' * (step != 1)}"
    words += f" ({number(float(f'{step / per_epoch:.3g}'))} epochs)" if per_epoch else ""
    seconds = as_number(record.lines[-1].get("seconds"))
    words += f" in {duration(seconds)}" if seconds is not None and np.isfinite(seconds) else ""
    kind = "validation" if record.kind("validation") else "train"
    found = record.curves(kind)
    told = [
        f"{name} {number(float(found[name].values[-1]), is_share(name, found[name]))}"
        for name in ("accuracy", "loss")
        if name in found
    ]
    name = {"validation": "validation", "train": "training"}[kind]
    return f"{words}; {name} {', '.join(told)}." if told else f"{words}."
