"""`report`: one page that shows how a training went, whole in itself and safe to hand on."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from funnet.model import Model
from funnet.report import sections, tested
from funnet.report.markup import Markup, element, joined
from funnet.report.mistakes import Findings, findings
from funnet.report.reading import Record, read
from funnet.report.words import moment
from funnet.train.run import Run
from funnet.train.whole import write_whole

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def report(
    folder: str | Path,
    model: Model | None = None,
    run: Run | None = None,
    data: Mapping[str, Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> Path:
    """Writes `report.html` in a training's folder: one page, which needs no other file or network.

    It has the curves, final numbers, time, checkpoints, settings and environment that the folder
    holds: `metrics.jsonl`, `run.json`, `checkpoints/*/manifest.json`. What is missing is left out,
    what is damaged is left out with a note. With a classifier, its run and test data it also has
    the confusion matrix, the accuracy of each class and the worst mistakes, as pictures if the
    model takes images.

    Args:
        folder: the folder that `fit` was given.
        model: a classifier, which gives logits `(N, classes)`.
        run: the run to test.
        data: test data: `label` `(N,)` and what the model takes, `image`, `input` or another name.
        classes: a name for each class; by default their numbers.

    Returns:
        The path of the page. It is written whole or not at all.

    Raises:
        FileNotFoundError: if there is no such folder.
        TypeError: if the labels are no integers.
        ValueError: if of model, run and data only some are given, or they do not fit together.
        OSError: if the page cannot be written.

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> line = '{"step": 100, "kind": "train", "seconds": 1.5, "loss": 0.25}'
    >>> _ = (folder / "metrics.jsonl").write_text(line)
    >>> report(folder).name
    'report.html'
    """
    given = {"model": model, "run": run, "data": data}
    missing = [name for name, x in given.items() if x is None]
    if 0 < len(missing) < 3:
        raise ValueError(f"report needs model, run and data, or none of them; {missing} are None")
    folder = Path(folder)
    record = read(folder)
    found = None
    if model is not None and run is not None and data is not None:
        found = findings(model, run, data, classes)
    path = folder / "report.html"
    write_whole(path, _page(record, found).encode("utf8", "replace"))
    return path


def _page(record: Record, found: Findings | None) -> str:
    title = f"{record.name}: training report"
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", _asset("page.css")),
    ]
    body = [element("main", *_parts(record, found)), element("script", _asset("page.js"))]
    whole = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def _parts(record: Record, found: Findings | None) -> list[Markup]:
    environment = record.run.get("environment")
    started = environment.get("started") if isinstance(environment, Mapping) else None
    header = [
        element("h1", record.name),
        element("p", tested.verdict(found), class_="verdict") if found else Markup(""),
        element("p", sections.verdict(record), class_="quiet" if found else "verdict"),
        element("p", f"Begun {moment(started)}.", class_="quiet") if started else Markup(""),
        sections.notes(record),
    ]
    return [
        element("header", *header),
        sections.curves(record),
        _side_by_side(sections.final(record), sections.timing(record)),
        tested.tested(found) if found else Markup(""),
        sections.checkpoints(record),
        sections.facts("Model", record.run.get("model")),
        sections.facts("Settings", record.run.get("settings")),
        sections.facts("Environment", environment),
    ]


def _side_by_side(*parts: Markup) -> Markup:
    kept = [part for part in parts if part]
    return element("div", *kept, class_="pair") if kept else joined(())


def _asset(name: str) -> Markup:
    """The page's style or script, from the file beside this one."""
    return Markup(resources.files("funnet.report").joinpath(name).read_text(encoding="utf8"))
