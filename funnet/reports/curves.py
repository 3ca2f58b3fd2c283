"""Curves made fit to be drawn: smoothed, and thinned without losing a peak."""

import itertools

import numpy as np

from funnet.reports.reading import Curve

POINTS = 600  # of a curve that is drawn: more than a screen can tell apart


def smoothed(curve: Curve, points: int = POINTS // 2) -> Curve:
    """A weighted mean around each of at most `points` places, over a fortieth of the curve.

    Its weights fall off evenly to both sides, so it does not lag behind. Numbers that are not
    finite are passed over.
    """
    curve = finite(curve)
    count = len(curve.values)
    reach = max(count // 80, 1)
    weights = np.bartlett(2 * reach + 3)[1:-1]
    places = np.unique(np.linspace(0, count - 1, min(points, count)).round().astype(int))
    means = np.empty(len(places))
    for i, place in enumerate(places.tolist()):
        low, high = max(place - reach, 0), min(place + reach + 1, count)
        part = weights[low - place + reach : high - place + reach]
        means[i] = (curve.values[low:high] * (part / part.sum())).sum()
    return Curve(curve.steps[places], means)


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
