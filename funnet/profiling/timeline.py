"""A trace of JAX's profiler, and how long each instruction of a program took in it.

The profiler writes the events of every thread or stream in the Chrome trace format. An event of a
loop has those of its body inside, be they on another thread, so what an instruction took itself is
what is left without them. Of two at the same time, the one that began later has that time, and all
of them together take no longer than the device was busy.
"""

import dataclasses
import gzip
import json
import pathlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

MOST = 1_000_000  # events that the profiler writes; what comes after is lost
SLACK = 0.01  # microseconds; the file's decimals are rounded


@dataclasses.dataclass(frozen=True)
class Timeline:
    """What a trace tells of a program.

    Attributes:
        seconds: by instruction, its own, added up over the whole trace; the mean over devices.
        file: the trace for people to look at, at https://ui.perfetto.dev.
        full: whether so much happened that the end is missing.
    """

    seconds: dict[str, float]
    file: pathlib.Path
    full: bool


def recorded(
    work: Callable[[], Any], folder: pathlib.Path, module: str, *, shown: bool
) -> Timeline:
    """Runs `work` under the profiler, and reads what the program called `module` did.

    Where it is to be shown, the profiler writes a file for Perfetto too, which takes it a while.

    Raises:
        RuntimeError: if the profiler is busy already.
        OSError: if the folder cannot be written.
        ValueError: if the trace has no instruction of the program.
    """
    known = set(_traces(folder))
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # it slows down what is measured
    with jax.profiler.trace(folder, create_perfetto_trace=shown, profiler_options=options):
        work()
    fresh = [path for path in _traces(folder) if path not in known]
    readable = [path for path in fresh if not path.name.startswith("perfetto")]
    if not readable:
        raise ValueError(f"the profiler wrote no trace into {folder}")
    events = json.loads(gzip.decompress(readable[0].read_bytes()))["traceEvents"]
    seconds = own_seconds(events, module)
    if not seconds:
        raise ValueError("the trace names no instruction of the step's program")
    perfetto = [path for path in fresh if path.name.startswith("perfetto")]
    return Timeline(seconds, (perfetto or readable)[0], len(events) >= MOST)


def _traces(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob("**/*trace.json.gz"))


def own_seconds(events: Iterable[dict[str, Any]], module: str) -> dict[str, float]:
    """Seconds by instruction, without those inside it; the mean over devices.

    >>> at = {"ph": "X", "pid": 1, "tid": 1}
    >>> def event(name, ts, dur):
    ...     return at | {"ts": ts, "dur": dur, "args": {"hlo_op": name, "hlo_module": "jit_f"}}
    >>> own_seconds([event("loop", 0, 9e6), event("add", 1e6, 2e6)], "jit_f")
    {'add': 2.0, 'loop': 7.0}
    """
    devices: dict[tuple, list[tuple]] = {}
    for event in _of_program(list(events), module):
        args = event["args"]
        lane = devices.setdefault((event["pid"], args.get("device_ordinal")), [])
        lane.append((event["ts"], -event["dur"], args["hlo_op"]))
    total: dict[str, float] = defaultdict(float)
    for lane in devices.values():
        for name, own in _own(sorted(lane)):
            total[name] += own / 1e6 / len(devices)
    return dict(total)


def _of_program(events: list[dict[str, Any]], module: str) -> list[dict[str, Any]]:
    """The events of the program's instructions, each with the instruction's name as `hlo_op`."""
    lines = {(e["pid"], e["tid"]) for e in events if _thread(e) == "XLA Ops"}
    drawn_up = {pid for pid, _ in lines}
    found = []
    for event in events:
        if event.get("ph") != "X" or "dur" not in event:
            continue
        args = event.get("args", {})
        # A GPU's may have a number after the module's name; a TPU's may not tell the module.
        ours = args.get("hlo_module", module).split("(")[0] == module
        if event["pid"] in drawn_up:  # the profiler has a line of instructions for this device
            named = (event["pid"], event["tid"]) in lines
            args = {"hlo_op": event.get("name", ""), **args}
        else:
            named = "hlo_op" in args
        if ours and named:
            found.append({**event, "args": args})
    return found


def _thread(event: dict[str, Any]) -> str:
    """The name of a thread or stream, if the event gives one."""
    names = event.get("ph") == "M" and event.get("name") == "thread_name"
    return event["args"]["name"] if names else ""


def _own(lane: list[tuple]) -> Iterator[tuple[str, float]]:
    """Each event of a device with its duration, but for what began meanwhile."""
    around: list[list] = []  # end, name, own duration
    for start, less, name in lane:
        while around and around[-1][0] <= start + SLACK:
            yield _closed(around)
        end = start - less
        if around:
            around[-1][2] -= min(end, around[-1][0]) - start
        around.append([end, name, end - start])
    while around:
        yield _closed(around)


def _closed(around: list[list]) -> tuple[str, float]:
    _, name, own = around.pop()
    return name, max(own, 0.0)
