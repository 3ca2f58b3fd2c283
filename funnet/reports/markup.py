"""HTML and SVG whose texts are escaped by construction: what is no `Markup` is text."""

import html
from collections.abc import Iterable
from typing import Any

EMPTY = {"meta": ">", "img": ">", **dict.fromkeys(("rect", "circle", "line", "path"), "/>")}


class Markup(str):
    """Text that is HTML already."""


def element(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element; children that are no `Markup` are escaped, attributes always.

    An attribute that is None is left out; `class_` stands for `class`, and `_` for a hyphen.

    >>> element("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in EMPTY:
        return Markup(f"<{name}{written}{EMPTY[name]}")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: Iterable[Any]) -> Markup:
    """Children one after the other, escaped unless they are `Markup`."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(str(c)) for c in children))


def table(header: Iterable[Any], rows: Iterable[Iterable[Any]], **attributes: Any) -> Markup:
    """A table; a row's first cell is its header, and a narrow screen scrolls it sideways."""
    head = [element("th", cell, scope="col") for cell in header]
    body = []
    for first, *rest in rows:
        cells = [element("th", first, scope="row"), *(element("td", cell) for cell in rest)]
        body.append(element("tr", *cells))
    top = [element("thead", element("tr", *head))] if head else []
    whole = element("table", *top, element("tbody", *body), **attributes)
    return element("div", whole, class_="scroll")
