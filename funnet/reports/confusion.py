"""The confusion matrix as a heat map: with counts where they can be read, else by colour alone."""

import json

import numpy as np

from funnet.reports.markup import Markup, element, table
from funnet.reports.mistakes import Findings

READABLE, DRAWN = 20, 200  # classes: with counts in the cells; at all
SIDE = {True: 560, False: 960}  # of the drawing, in pixels
LEVELS = 9


def confusion(found: Findings) -> Markup:
    """The heat map, and the pairs that are mixed up most."""
    count = len(found.classes)
    parts = [_mixed_up(found)] if found.wrong and count > 2 else []
    if count <= DRAWN:
        parts.insert(0, _map(found))
    else:
        note = f"The matrix of {count:,} classes is too large to draw."
        parts.insert(0, element("p", note, class_="quiet"))
    return element("div", *parts, class_="confusion")


def _map(found: Findings) -> Markup:
    readable = len(found.classes) <= READABLE
    names = [name if len(name) <= 16 else name[:15] + "…" for name in found.classes]
    count, font = len(names), 12 if readable or found.classes[0].isdigit() else 8
    margin = 26 + int(font * 0.62 * max(map(len, names)))
    cell = max((SIDE[readable] - margin) / count, 4.0)
    side = margin + cell * count + 2
    turned = cell < font * 0.66 * max(map(len, names))  # names that do not fit over their column
    top = margin if turned else 40
    levels = _levels(found.matrix)
    parts = [
        *_names(names, margin, top, cell, font, turned),
        *_cells(found, levels, margin, top, cell, readable),
    ]
    hover = None
    if not readable:
        entries = np.argwhere(found.matrix)
        cells = {f"{r},{c}": int(found.matrix[r, c]) for r, c in entries.tolist()}
        hover = {"at": [margin, top, cell], "names": found.classes, "cells": cells}
    picture = element(
        "svg",
        *parts,
        viewBox=f"0 0 {side:.0f} {top + cell * count + 2:.0f}",
        role="img",
        aria_label=f"confusion matrix: {found.wrong} of {found.examples} examples are wrong",
        class_=f"heat {'readable' if readable else 'fine'}",
        style=f"min-width:{min(margin + 30 * count, SIDE[True]) if readable else 720:.0f}px",
        data_heat=None if hover is None else json.dumps(hover, separators=(",", ":")),
    )
    legend = element(
        "p",
        "A row is a true class, a column what was predicted. ",
        element("i", class_="key right"),
        " right, ",
        element("i", class_="key mistake"),
        " mistakes. The stronger the colour, the larger the share of the row, "
        "for mistakes on a scale of their own.",
        class_="quiet",
    )
    return element("div", element("div", picture, class_="scroll"), legend)


def _levels(matrix: np.ndarray) -> np.ndarray:
    """How dark each cell is, 0..LEVELS: its share of the row, the diagonal and the rest apart."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    right = np.eye(len(matrix), dtype=bool)
    scaled = np.zeros_like(shares)
    for part in (right, ~right):
        most = shares[part].max(initial=0)
        if most > 0:
            scaled[part] = np.sqrt(shares[part] / most)
    return np.ceil(scaled * LEVELS).astype(int)


def _names(
    names: list[str], margin: float, top: float, cell: float, font: int, turned: bool
) -> list[Markup]:
    parts = [
        element("text", "true", x=2, y=top, dy="-0.5em", class_="unit"),
        element("text", "predicted", x=margin, y=2, dy="0.9em", class_="unit"),
    ]
    numbers = all(name.isdigit() for name in names)
    every = next((n for n in (1, 5, 10) if n * cell >= 12), 20) if numbers else 1
    for i, name in enumerate(names):
        if i % every:
            continue
        middle = f"{(i + 0.5) * cell:.1f}"
        size = f"font-size:{font}px"
        y, x = f"{top + float(middle):.1f}", f"{margin + float(middle):.1f}"
        left = {"x": f"{margin - 5}", "y": y, "dy": "0.34em", "class_": "end", "style": size}
        parts.append(element("text", name, **left))
        over = {"transform": f"translate({x} {top - 5}) rotate(-90)", "dy": "0.34em"}
        if not turned:
            over = {"x": x, "y": f"{top - 6}", "class_": "middle"}
        parts.append(element("text", name, style=size, **over))
    return parts


def _cells(
    found: Findings, levels: np.ndarray, margin: float, top: float, cell: float, readable: bool
) -> list[Markup]:
    """The cells that are not empty, as one path for each colour and level, and their counts."""
    parts, matrix = [], found.matrix
    right = np.eye(len(matrix), dtype=bool)
    side = cell * len(matrix)
    parts.append(
        element("rect", x=margin, y=top, width=f"{side:.1f}", height=f"{side:.1f}", class_="frame")
    )
    gap = 1 if cell > 8 else 0
    box = f"h{cell - gap:.1f}v{cell - gap:.1f}h-{cell - gap:.1f}z"
    for kind, part in (("right", right), ("mistake", ~right)):
        for level in range(1, LEVELS + 1):
            where = np.argwhere(part & (levels == level)).tolist()
            d = "".join(f"M{margin + c * cell:.1f} {top + r * cell:.1f}{box}" for r, c in where)
            if d:
                parts.append(element("path", d=d, class_=f"{kind} level{level}"))
    if readable:
        parts += [_count(found, levels, r, c, margin, top, cell) for r, c in np.argwhere(matrix)]
    return parts


def _count(
    found: Findings, levels: np.ndarray, r: int, c: int, margin: float, top: float, cell: float
) -> Markup:
    """The number in a cell, with a title that says what it counts."""
    count = int(found.matrix[r, c])
    digits = f"{count:,}" if cell > 36 else str(count)
    size = min(13.0, cell * 1.5 / max(len(digits), 2))
    what = f"{count:,} × {found.classes[r]}, predicted {found.classes[c]}"
    strong = " strong" if levels[r, c] >= 6 else ""
    return element(
        "text",
        digits,
        element("title", what),
        x=f"{margin + (c + 0.5) * cell:.1f}",
        y=f"{top + (r + 0.5) * cell:.1f}",
        dy="0.34em",
        class_=f"middle count{strong}",
        style=f"font-size:{size:.1f}px",
    )


def _mixed_up(found: Findings, most: int = 10) -> Markup:
    """The most frequent mistakes, as a table."""
    wrong = found.matrix * ~np.eye(len(found.matrix), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows = []
    for r, c in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[r, c]:
            share = f"{100 * wrong[r, c] / found.totals[r]:.1f}\xa0%"
            rows.append((found.classes[r], found.classes[c], f"{wrong[r, c]:,}", share))
    header = ("true class", "taken for", "times", "share of class")
    title = element("h3", "Mixed up most often")
    return element("div", title, table(header, rows, class_="numbers"))
