"""Numbers as people read them, ticks above all."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnet.reports.curves import smoothed, thinned
from funnet.reports.reading import Curve
from funnet.reports.words import (
    duration,
    linear_ticks,
    log_ticks,
    moment,
    number,
    size,
    tick_labels,
)

reals = st.floats(-1e12, 1e12, allow_nan=False)


@given(reals, st.floats(1e-6, 1e12))
def test_linear_ticks_are_few_round_and_inside(low, width):
    high = low + width
    if not high - low > 1e-6 * max(abs(low), abs(high), 1e-300):
        return
    ticks = linear_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    slack = 1e-6 * (high - low)
    assert low - slack <= ticks[0] < ticks[-1] <= high + slack
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0], rtol=1e-3)
    mantissa = steps[0] / 10.0 ** math.floor(math.log10(steps[0]) + 1e-6)
    assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-2


@given(st.floats(1e-12, 1e6), st.floats(30, 1e12))
def test_logarithmic_ticks_are_few_and_inside(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 6
    assert ticks == sorted(set(ticks))
    assert low * 0.99 <= ticks[0] <= ticks[-1] <= low * ratio * 1.01


@given(reals, st.floats(1e-6, 1e12))
def test_labels_tell_ticks_apart(low, width):
    if width < 1e-4 * abs(low):
        return
    ticks = linear_ticks(low, low + width)
    labels = tick_labels(ticks)
    assert len(set(labels)) == len(ticks)
    assert max(map(len, labels)) <= 12


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0.0, 20000.0, 40000.0], ["0", "20k", "40k"]),
        ([0.0, 5e5, 1e6], ["0", "0.5M", "1M"]),
        ([0.001, 0.01, 0.1, 1.0], ["0.001", "0.01", "0.1", "1"]),
        ([0.0, 1000.0, 2000.0], ["0", "1000", "2000"]),
        ([1e-7, 1e-6], ["1e-07", "1e-06"]),
    ],
)
def test_labels_of_usual_ticks(ticks, labels):
    assert tick_labels(ticks) == labels


def test_numbers_of_any_size():
    assert [number(x) for x in (0, 5, 1234, 1e12, float("nan"), 0.5, True, "x")] == [
        "0", "5", "1,234", "1e+12", "nan", "0.5", "True", "x"
    ]  # fmt: skip
    assert [duration(x) for x in (0.04, 59.96, 3600, 86399)] == [
        "0.0 s", "60.0 s", "1 h", "23 h 59 min"
    ]  # fmt: skip
    assert [size(x) for x in (0, 1, 1500, 999_999, 10**12, 10**16)] == [
        "0 B", "1 B", "1.5 kB", "1000 kB", "1.0 TB", "10000 TB"
    ]  # fmt: skip
    assert moment(0) == "1970-01-01 00:00 UTC"
    assert moment("once") == "once"
    assert moment(1e300) == "1e+300"


@given(st.integers(1, 5000), st.integers(0, 2**32 - 1))
def test_a_thinned_curve_keeps_its_ends_and_extremes(count, seed):
    values = np.random.default_rng(seed).normal(size=count)
    thin = thinned(Curve(np.arange(count), values), 100)
    assert len(thin.values) <= 102
    assert {0, count - 1, values.argmin(), values.argmax()} <= set(thin.steps.tolist())
    np.testing.assert_array_equal(thin.values, values[thin.steps])


def test_smoothing_does_not_lag_and_keeps_a_line():
    steps = np.arange(1000)
    curve = smoothed(Curve(steps, 3.0 * steps))
    inner = slice(20, -20)
    np.testing.assert_allclose(curve.values[inner], 3.0 * curve.steps[inner], rtol=1e-12)
    assert np.isfinite(smoothed(Curve(steps, np.where(steps == 5, np.nan, 1.0))).values).all()
    assert len(smoothed(Curve(steps[:0], steps[:0] * 1.0)).values) == 0
