"""The time of a step shared out among its layers, by a trace of some steps."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping

from funnet.profiling.places import Places, key_of
from funnet.profiling.report import Profile
from funnet.profiling.taking import MODULE, Taken
from funnet.profiling.timeline import Timeline, recorded

TRACED = 0.1  # seconds under the profiler: several steps, unless one takes longer


def with_times(
    whole: Profile,
    taken: Taken,
    places: Places,
    scopes: Mapping[str, str],
    folder: pathlib.Path | None,
) -> Profile:
    """The profile with the times by layer, or with a note that says why there are none."""
    steps, took = taken.steps(TRACED), []
    with contextlib.ExitStack() as stack:
        kept = folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            found = recorded(lambda: took.append(taken.take(steps)), kept, MODULE)
        except Exception as error:  # which one depends on platform and version
            if folder is not None and isinstance(error, OSError | RuntimeError):
                raise
            note = f"there is no time by layer: {type(error).__name__}: {error}"
            return dataclasses.replace(whole, notes=(*whole.notes, note))
    shared = _shared(whole, found, places, scopes, steps, took[0] / steps)
    if found.full:
        note = "the trace is cut off at a million events, so times by layer are too small"
        shared = dataclasses.replace(shared, notes=(*shared.notes, note))
    return dataclasses.replace(shared, trace=found.file if folder else None)


def _shared(
    whole: Profile,
    found: Timeline,
    places: Places,
    scopes: Mapping[str, str],
    steps: int,
    traced: float,
) -> Profile:
    """The profile with the timeline's seconds shared out among the layers."""
    seconds: dict[tuple, float] = {}
    for name, all_steps in found.seconds.items():
        scope = scopes.get(name, "")
        spot = places.spot(scope)
        key = (key_of(spot.chain), spot.backward) if scope else None
        seconds[key] = seconds.get(key, 0.0) + all_steps / steps
    rows = []
    for row in whole.layers:
        owner = (row.model, row.path, row.layer)
        forward, backward = (seconds.get((owner, side), 0.0) for side in (False, True))
        rows.append(dataclasses.replace(row, forward=forward, backward=backward))
    outside = sum(seconds.get(((), backward), 0.0) for backward in (False, True))
    known = outside + sum(row.forward + row.backward for row in rows)
    parts = {"layers": tuple(rows), "outside": outside, "untold": max(traced - known, 0.0)}
    return dataclasses.replace(whole, traced=traced, **parts)
