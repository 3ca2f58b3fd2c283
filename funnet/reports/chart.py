"""One chart as inline SVG: a number against steps, of training and of validation."""

import json
import math
from typing import Any, NamedTuple

import numpy as np

from funnet.reports.curves import finite, smoothed, thinned
from funnet.reports.markup import Markup, element
from funnet.reports.reading import Curve
from funnet.reports.words import linear_ticks, log_ticks, number, tick_labels

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 10, 24  # margins; one more line below where epochs are known
LINE = 16
FEW = 40  # points that are marked one by one


class Axis(NamedTuple):
    """Values `low`..`high` laid out from one place to another."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def place(self, x: Any) -> Any:
        """Where values lie."""
        low, high = self.low, self.high
        if self.log:
            x, low, high = np.log(x), math.log(low), math.log(high)
        return self.begin + (x - low) / (high - low) * (self.end - self.begin)


class Series(NamedTuple):
    """A curve with its name in the legend and its class in the style sheet."""

    label: str
    style: str
    curve: Curve


def chart(
    name: str, train: Curve | None, validation: Curve | None, per_epoch: float | None = None
) -> Markup:
    """A figure of one metric: training as logged and smoothed, and validation.

    Args:
        name: the metric's.
        train: its values in lines of training, if there are any.
        validation: its values in lines of validation, if there are any.
        per_epoch: steps of an epoch, for a second axis.
    """
    curves = {"train": train, "validation": validation}
    given = {kind: curve for kind, curve in curves.items() if curve is not None}
    series = [s for kind, curve in given.items() for s in _series(name, kind, curve)]
    share = is_share(name, *given.values())
    odd = sum(int((~np.isfinite(curve.values)).sum()) for curve in given.values())
    words = f"{odd:,} value{'s' * (odd != 1)} not finite, left out" if odd else ""
    title = element("b", name.replace("_", " "))
    foot = [element("p", words, class_="warning")] if words else []
    if not any(len(finite(s.curve).values) for s in series):
        empty = element("p", "No finite values.", class_="empty")
        return element("figure", element("figcaption", title), empty, *foot)
    bottom = HEIGHT - BOTTOM
    x, y = _steps_axis(series), _values_axis(name, series, share, bottom)
    log = [element("span", "log scale", class_="legend")] if y.log else []
    drawing = _drawing(name, series, share, per_epoch, x, y)
    caption = element("figcaption", title, " ", *_legend(series), *log)
    return element("figure", caption, drawing, *foot)


def is_share(name: str, *curves: Curve) -> bool:
    """Whether a metric is a share, best read in percent."""
    values = np.concatenate([finite(curve).values for curve in curves] or [np.zeros(0)])
    return "accuracy" in name and bool(((values >= 0) & (values <= 1)).all())


def _series(name: str, kind: str, curve: Curve) -> list[Series]:
    """A curve as it is drawn; a long one of training faint, with a smooth one over it."""
    if kind == "validation" or len(curve.values) <= 20 or name == "learning_rate":
        return [Series(kind, kind, thinned(curve))]
    raw = Series("as logged", f"{kind} raw", thinned(curve))
    return [raw, Series("train, smoothed", kind, smoothed(curve))]


def _legend(series: list[Series]) -> list[Markup]:
    keys = [
        element("span", element("i", class_=f"key {s.style}"), s.label, class_="legend")
        for s in reversed(series)
    ]
    return keys


def _drawing(
    name: str, series: list[Series], share: bool, per_epoch: float | None, x: Axis, y: Axis
) -> Markup:
    height = HEIGHT + (LINE if per_epoch else 0)
    parts = [*_grid(y, share), *_steps(x, y), *(_epochs(x, y, per_epoch) if per_epoch else [])]
    lines = [part for s in series for part in _line(s, x, y)]
    parts.append(_window(lines, x, y))
    hover = {"x": [x.low, x.high, x.begin, x.end], "share": share, "series": _told(series)}
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=_spoken(name, series, share),
        class_="chart",
        data_chart=json.dumps(hover, separators=(",", ":")),
    )


def _steps_axis(series: list[Series]) -> Axis:
    """From the first step to the last; from zero, if little is missing."""
    low = float(min(s.curve.steps[0] for s in series if len(s.curve.steps)))
    high = float(max(s.curve.steps[-1] for s in series if len(s.curve.steps)))
    low = 0.0 if low <= high / 5 or low == high else low
    return Axis(low, max(high, low + 1), LEFT, WIDTH - RIGHT)


def _window(lines: list[Markup], x: Axis, y: Axis) -> Markup:
    """Cuts off what lies outside the axes, but for the rims of points on the edge."""
    box = (x.begin - 4, y.end - 4, x.end - x.begin + 8, y.begin - y.end + 5)
    place = dict(zip(("x", "y", "width", "height"), map(_digits, box), strict=True))
    return element("svg", *lines, class_="plot", viewBox=" ".join(place.values()), **place)


def _values_axis(name: str, series: list[Series], share: bool, bottom: float) -> Axis:
    """A logarithmic axis for positive numbers that span much, else a linear one with some air.

    A share that has climbed far is shown where it stayed: its first tenth may be below the axis.
    """
    values = np.concatenate([finite(s.curve).values for s in series])
    values = np.clip(values, -1e300, 1e300)
    low, high = float(values.min()), float(values.max())
    if share:
        steps = np.concatenate([finite(s.curve).steps for s in series])
        later = float(values[steps >= steps.max() / 10].min())
        low = later if high - later < (high - low) / 2 else low
    if low > 0 and high / low > 30 and not share and name != "learning_rate":
        air = (high / low) ** 0.04
        return Axis(low / air, high * air, bottom, TOP, log=True)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = 0.05 if share else abs(high) / 10 or 1.0
        return Axis(max(low - pad, 0.0) if low >= 0 else low - pad, high + pad, bottom, TOP)
    pad = (high - low) * 0.05
    return Axis(0.0 if 0 <= low < pad * 4 else low - pad, high + pad, bottom, TOP)


def _grid(y: Axis, share: bool) -> list[Markup]:
    """Horizontal lines at round values, with labels on the left."""
    ticks = log_ticks(y.low, y.high) if y.log else linear_ticks(y.low, y.high)
    ticks = ticks or [y.low, y.high]
    parts = []
    for tick, label in zip(ticks, tick_labels(ticks, share), strict=True):
        at = _digits(y.place(tick))
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
        parts.append(element("text", label, x=LEFT - 6, y=at, dy="0.32em", class_="end"))
    return parts


def _steps(x: Axis, y: Axis) -> list[Markup]:
    ticks = [t for t in linear_ticks(x.low, x.high) if t == int(t)]
    base = element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y.begin, y2=y.begin, class_="axis")
    return [base, *_labels(x, y.begin, ticks, tick_labels(ticks), "step")]


def _epochs(x: Axis, y: Axis, per_epoch: float) -> list[Markup]:
    ticks = linear_ticks(x.low / per_epoch, x.high / per_epoch)
    places = [t * per_epoch for t in ticks]
    return _labels(x, y.begin + LINE, places, tick_labels(ticks), "epoch")


def _labels(x: Axis, top: float, ticks: list[float], labels: list[str], unit: str) -> list[Markup]:
    """A row of labels under the axis, with its unit on the left."""
    parts = []
    for tick, label in zip(ticks, labels, strict=True):
        at = _digits(x.place(tick))
        near = x.end - float(at) < 10
        style = "end" if near else "middle"
        at = _digits(x.end) if near else at
        parts.append(element("text", label, x=at, y=_digits(top), dy="1.25em", class_=style))
    left = {"x": LEFT - 16, "y": _digits(top), "dy": "1.25em", "class_": "end unit"}
    return [*parts, element("text", unit, **left)]


def _line(series: Series, x: Axis, y: Axis) -> list[Markup]:
    """The curve, with a gap where a number is none; its points are marked if they are few."""
    curve = series.curve
    values = np.clip(curve.values, -1e300, 1e300)
    real = np.isfinite(curve.values)
    with np.errstate(invalid="ignore", divide="ignore"):
        places = np.stack([x.place(curve.steps.astype(float)), y.place(values)], axis=1)
    words, pen = [], "M"
    for (a, b), there in zip(places.tolist(), real.tolist(), strict=True):
        if there:
            words.append(f"{pen}{_digits(a)} {_digits(b)}")
        pen = "L" if there else "M"
    parts = [element("path", d="".join(words), class_=f"curve {series.style}")]
    if int(real.sum()) <= FEW and series.label == series.style:  # one dot a line of the log
        parts += [
            element("circle", cx=_digits(a), cy=_digits(b), r=2.5, class_=f"dot {series.style}")
            for a, b in places[real].tolist()
        ]
    return parts


def _digits(x: float) -> str:
    return f"{x:.1f}".removesuffix(".0")


def _told(series: list[Series]) -> list[dict[str, Any]]:
    """What the pointer tells: the finite points, in five digits."""
    told = []
    for s in series:
        curve = finite(s.curve)
        values = [float(f"{v:.5g}") for v in curve.values.tolist()]
        told.append({"name": s.label, "steps": curve.steps.tolist(), "values": values})
    return told


def _spoken(name: str, series: list[Series], share: bool) -> str:
    """The chart in words, for those who do not see it."""
    ends = []
    for s in series:
        curve = finite(s.curve)
        if len(curve.values):
            first, last = (number(float(curve.values[i]), share) for i in (0, -1))
            ends.append(f"{s.label} from {first} to {last}")
    return f"{name.replace('_', ' ')} by step: {'; '.join(ends)}"
