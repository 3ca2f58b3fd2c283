"""One page that shows how a training went, whole in itself and safe to hand on."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from funnet.reports import sections, tested
from funnet.reports.markup import Markup, element, joined
from funnet.reports.mistakes import Findings
from funnet.reports.reading import Record, read
from funnet.reports.words import moment
from funnet.store.durable import write_bytes

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write(folder: Path, found: Findings | None = None) -> Path:
    """Writes `report.html` in a training's folder, whole or not at all; gives its path.

    Args:
        folder: a training's folder; what it lacks is left out.
        found: how the classifier does on test data, if that is known.

    Raises:
        FileNotFoundError: if there is no such folder.
        OSError: if the page cannot be written.
    """
    record, path = read(folder), folder / "report.html"
    write_bytes(path, _page(record, found).encode("utf8", "replace"))
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
    return Markup(resources.files("funnet.reports").joinpath(name).read_text(encoding="utf8"))
