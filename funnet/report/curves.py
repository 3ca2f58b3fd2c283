"""Curves made fit to be drawn: smoothed, and thinned without losing a peak."""

import itertools

import numpy as np

from funnet.report.reading import Curve

POINTS = 600  # of a curve that is drawn: more than a screen can tell apart


def smoothed(curve: Curve) -> Curve:
    """An exponential moving average over about a fiftieth of the curve, without its cold start.

    Numbers that are not finite are passed over.
    """
    curve = finite(curve)
    keep = 1 - 1 / max(len(curve.values) / 50, 2.0)
    total = weight = 0.0
    averages = np.empty(len(curve.values))
    for i, value in enumerate(curve.values.tolist()):
        total, weight = keep * total + value, keep * weight + 1.0
        averages[i] = total / weight
    return Curve(curve.steps, averages)


def finite(curve: Curve) -> Curve:
    """The curve without numbers that are none."""
    real = np.isfinite(curve.values)
    return Curve(curve.steps[real], curve.values[real])


def thinned(curve: Curve, points: int = POINTS) -> Curve:
    """At most about `points` of a curve: the least and greatest of each part, and both ends.

    A part's number that is not finite stays too, so that a gap remains one.
    """
    count = len(curve.values)
    if count <= points:
        return curve
    edges = np.linspace(0, count, points // 2 + 1).astype(int)
    keep = {0, count - 1}
    for begin, end in itertools.pairwise(edges.tolist()):
        part = curve.values[begin:end]
        odd = np.flatnonzero(~np.isfinite(part))
        keep.update((begin + odd[:1]).tolist())
        if len(odd) < len(part):
            keep.update((begin + int(np.nanargmin(_or_nan(part))), begin + _top(part)))
    rows = np.array(sorted(keep))
    return Curve(curve.steps[rows], curve.values[rows])


def _or_nan(part: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(part), part, np.nan)


def _top(part: np.ndarray) -> int:
    return int(np.nanargmax(_or_nan(part)))
