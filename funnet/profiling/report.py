"""The profile of a training step: numbers for programs, and a table for people."""

import dataclasses
import pathlib

from funnet.describe import aligned


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that the compiled step needs on a device.

    Attributes:
        arguments: the run and the batch.
        outputs: the next run, and the metrics.
        shared: of the outputs, what takes the place of arguments, which costs nothing more.
        temporaries: activations, gradients and whatever else lives within a step.
    """

    arguments: int
    outputs: int
    shared: int
    temporaries: int

    @property
    def peak(self) -> int:
        """The most that a step needs: temporaries are set aside as one block before it begins."""
        return self.arguments + self.outputs - self.shared + self.temporaries


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What one layer costs in a step. It is the layer's own: layers inside it have their rows.

    Attributes:
        path: the layer's dotted path, empty for a model's top.
        layer: the layer's function, such as `conv`.
        model: the outermost layer, which tells the networks of a GAN apart.
        flops: floating-point operations, forward and backward.
        forward: seconds; None where there is no time by layer.
        backward: seconds, with what is computed again for the backward pass.
    """

    path: str
    layer: str
    model: str
    flops: int
    forward: float | None = None
    backward: float | None = None

    @property
    def seconds(self) -> float | None:
        """Forward and backward together."""
        if self.forward is None or self.backward is None:
            return None
        return self.forward + self.backward


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a training step costs, as `profile` measured it; `print` shows it as a table.

    Attributes:
        seconds: a step's wall time, the median of several dispatches.
        spread: the least and the greatest of them.
        flops: floating-point operations of a step, on all devices together.
        bytes: read and written by a step's instructions, on one device.
        memory: what it needs of a device's memory.
        peak: operations a second of a large matrix product, measured, on all devices together.
        dtype: of that product: the one of most of the step's products.
        device: the platform and kind, such as `cpu`.
        devices: how many devices the run is on.
        layers: a row for each layer, in the order of their first operations.
        outside_flops: operations outside of all layers: the objective and the optimizer.
        outside: seconds of those; None where there is no time by layer.
        untold: seconds of a traced step that no operation's name explains: between operations, and
            in what the compiler added, such as copies.
        traced: a step's wall time under the profiler, of which the times by layer are parts.
        trace: the file for https://ui.perfetto.dev, if asked for.
        notes: what was not counted or measured, and why.
    """

    seconds: float
    spread: tuple[float, float]
    flops: int
    bytes: int
    memory: Memory | None
    peak: float
    dtype: str
    device: str
    devices: int
    layers: tuple[LayerCost, ...]
    outside_flops: int
    outside: float | None = None
    untold: float | None = None
    traced: float | None = None
    trace: pathlib.Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Floating-point operations a second."""
        return self.flops / self.seconds

    @property
    def fraction(self) -> float:
        """The rate as a fraction of the measured peak."""
        return self.rate / self.peak

    def __str__(self) -> str:
        return "\n".join([*_head(self), "", *_table(self), *_tail(self)])

    __repr__ = __str__


def scaled(x: float, unit: str, prefixes: str = " kMGTPE") -> str:
    """A number with three digits and a prefix of its unit.

    >>> scaled(386_000_000, "FLOP"), scaled(0, "B"), scaled(2310, "s", "nµm ")
    ('386 MFLOP', '0 B', '2.31 µs')
    """
    power = 0
    while abs(x) >= 999.5 and power < len(prefixes) - 1:
        x, power = x / 1000, power + 1
    whole = power == 0 and x == int(x)
    digits = 0 if whole or abs(x) >= 99.95 else 1 if abs(x) >= 9.995 else 2
    return f"{x:,.{digits}f} {prefixes[power].strip()}{unit}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else scaled(seconds * 1e9, "s", "nµm ")


def _head(p: Profile) -> list[str]:
    where = f"{p.devices} × {p.device}" if p.devices > 1 else p.device
    low, high = map(_time, p.spread)
    reach = f"{p.fraction:.0%} of the {scaled(p.peak, 'FLOP/s')} of a large {p.dtype} product"
    each = ", each device" if p.devices > 1 else ""
    lines = [
        f"a training step on {where}",
        f"time    {_time(p.seconds)} (median; {low} to {high})",
        f"work    {scaled(p.flops, 'FLOP')}, {scaled(p.rate, 'FLOP/s')}: {reach}",
        f"moved   {scaled(p.bytes, 'B')}, {scaled(p.bytes / p.seconds, 'B/s')}{each}",
    ]
    return [*lines, _memory(p.memory)] if p.memory else lines


def _memory(memory: Memory) -> str:
    parts = dataclasses.asdict(memory)
    return f"memory  {scaled(memory.peak, 'B')} at most: " + ", ".join(
        f"{k} {scaled(n, 'B')}" for k, n in parts.items()
    )


def _table(p: Profile) -> list[str]:
    several = len({row.model for row in p.layers}) > 1
    rows = [("path", "layer", "work", "forward", "backward", "time")]
    for row in p.layers:
        path = f"{row.model}: {row.path or '.'}" if several else row.path or "."
        cells = scaled(row.flops, "FLOP"), _time(row.forward), _time(row.backward)
        rows.append((path, row.layer, *cells, _share(row.seconds, p)))
    outside = scaled(p.outside_flops, "FLOP")
    rows.append(("outside layers", "", outside, "", "", _share(p.outside, p)))
    if p.untold is not None:
        rows.append(("untold", "", "", "", "", _share(p.untold, p)))
    return aligned(rows, left=2)


def _share(seconds: float | None, p: Profile) -> str:
    return f"{seconds / p.traced:.1%}" if p.traced and seconds is not None else ""


def _tail(p: Profile) -> list[str]:
    told = []
    if p.traced is not None:
        told = [f"times are of a step under the profiler, which took {_time(p.traced)}"]
    shown = [f"trace: {p.trace}, to be opened at https://ui.perfetto.dev"] if p.trace else []
    return ["", *told, *p.notes, *shown] if told or p.notes or shown else []
