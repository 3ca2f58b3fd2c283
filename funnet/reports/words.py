"""Numbers as people write them: few digits, and units."""

import datetime
import math
from typing import Any

import numpy as np


def number(x: Any, share: bool = False) -> str:
    r"""A number in about four digits; a share in percent.

    >>> number(0.98765, share=True), number(12345.6), number(0.00012345), number(3.0)
    ('98.77\xa0%', '12,346', '0.0001234', '3')
    """
    if isinstance(x, bool) or not isinstance(x, int | float):
        return str(x)
    if not math.isfinite(x):
        return str(x)
    if share:
        return f"{100 * x:.2f}\xa0%"  # kept on one line
    if abs(x) >= 1000 or x == int(x):
        return f"{x:,.0f}" if abs(x) < 1e9 else f"{x:.4g}"
    return f"{x:.4g}"


def duration(seconds: float) -> str:
    """A time in its two largest units.

    >>> duration(3.25), duration(75), duration(7384), duration(200000)
    ('3.2 s', '1 min 15 s', '2 h 3 min', '2 d 7 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    units, rest, parts = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)], round(seconds), []
    for name, size in units:
        whole, rest = divmod(rest, size)
        if whole or parts:
            parts.append(f"{whole} {name}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def size(number: float) -> str:
    """Bytes in a unit that leaves few digits.

    >>> size(999), size(1234567), size(25276502016)
    ('999 B', '1.2 MB', '25 GB')
    """
    power = min(int(math.log10(number)) // 3, 4) if number >= 1 else 0
    number, unit = number / 1000**power, ("B", "kB", "MB", "GB", "TB")[power]
    return f"{number:.1f} {unit}" if number < 10 and power else f"{number:.0f} {unit}"


def moment(time: Any) -> str:
    """A time as a file holds it, seconds since 1970 or ISO text, to the minute in UTC."""
    try:
        if isinstance(time, int | float):
            when = datetime.datetime.fromtimestamp(time, datetime.UTC)
        else:
            when = datetime.datetime.fromisoformat(time).astimezone(datetime.UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        return str(time)
    return when.strftime("%Y-%m-%d %H:%M UTC")


def linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers in `low`..`high`, evenly spaced by 1, 2, or 5 times a power of ten.

    >>> linear_ticks(0, 4690)
    [0.0, 1000.0, 2000.0, 3000.0, 4000.0]
    """
    rough = (high - low) / most
    if not rough > 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten in `low`..`high`, with 2 and 5 times these where there are few.

    >>> log_ticks(0.03, 3)
    [0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{f}e{d}") for d in decades for f in factors]
        ticks = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
        if len(ticks) <= most:
            return ticks
    return ticks[:: -(-len(ticks) // most)]


def tick_labels(ticks: list[float], share: bool = False) -> list[str]:
    """Labels of ticks, all with the same number of decimals where they are evenly spaced.

    >>> tick_labels([0.0, 0.5, 1.0]), tick_labels([0.98, 0.985], share=True)
    (['0', '0.5', '1.0'], ['98.0 %', '98.5 %'])
    """
    scaled = [100 * t if share else t for t in ticks]
    most, unit = max(map(abs, scaled)), " %" if share else ""
    if 1e4 <= most < 1e9:
        size, letter = (1e6, "M") if most >= 1e6 else (1e3, "k")
        return [f"{t / size:g}{letter}" if t else "0" for t in scaled]
    steps = np.diff(scaled)
    if not len(steps) or not np.allclose(steps, steps[0]) or steps[0] < 1e-4 or most >= 1e9:
        return [f"{t:g}{unit}" for t in scaled]
    decimals = max(0, -math.floor(math.log10(steps[0]) + 1e-9))
    return [(f"{t:.{decimals}f}" if t else "0") + unit for t in scaled]
