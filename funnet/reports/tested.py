"""What a report says of a classifier on test data: its matrix, its classes, its worst mistakes."""

import math

import numpy as np

from funnet.reports.confusion import READABLE, confusion
from funnet.reports.markup import Markup, element
from funnet.reports.mistakes import Findings, Mistake
from funnet.reports.png import data_uri
from funnet.reports.sections import section
from funnet.reports.words import number


def verdict(found: Findings) -> str:
    """The test in one line."""
    share = number(1 - found.wrong / found.examples, share=True)
    wrong = f"{found.wrong:,} of {found.examples:,} wrong" if found.wrong else "none wrong"
    return f"Test accuracy {share} ({wrong}), loss {number(found.loss)}."


def tested(found: Findings) -> Markup:
    """All that is known about the test."""
    worst = [_tile(mistake) for mistake in found.worst]
    style = "tiles" if found.worst and found.worst[0].picture is not None else "tiles wordy"
    quiet = "Those that cost most: what it is, what it was taken for, how sure the model was."
    none = element("p", f"No mistake among {found.examples:,} examples.", class_="quiet")
    parts = [element("p", quiet, class_="quiet"), element("div", *worst, class_=style)]
    return Markup(
        section("Confusion matrix", confusion(found))
        + section("Accuracy by class", _classes(found))
        + section("Worst mistakes", *(parts if worst else [none]))
    )


def _tile(mistake: Mistake) -> Markup:
    percent = f"{100 * mistake.confidence:.0f}" if mistake.confidence < 0.995 else "> 99"
    sure = "" if math.isnan(mistake.confidence) else f"{percent}\xa0% sure"
    words = [
        element("b", mistake.true),
        " taken for ",
        element("b", mistake.predicted),
        element("small", f"{sure}{', ' * bool(sure)}#{mistake.row}"),
    ]
    picture = Markup("")
    if mistake.picture is not None:
        alt = f"example {mistake.row}: {mistake.true}, taken for {mistake.predicted}"
        picture = element("img", src=data_uri(mistake.picture), alt=alt)
    caption = element("figcaption", *words)
    return element("figure", picture, caption, title=f"loss {number(mistake.loss)}")


def _classes(found: Findings) -> Markup:
    """A bar for each class: in order if they are few, else the worst first."""
    totals = found.totals
    shares = np.diag(found.matrix) / np.maximum(totals, 1)
    order = np.arange(len(totals))
    if len(totals) > READABLE:
        order = np.lexsort((order, np.where(totals > 0, shares, 2)))
    rows = []
    for i in order.tolist():
        share = f"{100 * shares[i]:.1f} %" if totals[i] else "no examples"
        words = f"{share}" + (f" of {totals[i]:,}" if totals[i] else "")
        bar = element("i", style=f"width:{100 * shares[i]:.1f}%")
        name = element("span", found.classes[i], class_="name", title=found.classes[i])
        bars = element("span", bar, class_="bar")
        rows.append(element("li", name, bars, element("span", words, class_="share")))
    longest = min(max(map(len, found.classes)), 18)
    return element("ol", *rows, class_="classes", style=f"--name:{longest}ch")
