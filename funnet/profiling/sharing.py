"""The time of a step shared out among its layers, by a trace of some steps."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections import defaultdict
from collections.abc import Mapping

from funnet.profiling.places import OUTSIDE, Key, Places
from funnet.profiling.report import Profile
from funnet.profiling.taking import MODULE, Taken
from funnet.profiling.timeline import Timeline, recorded

TRACED = 0.1  # seconds under the profiler: several steps, unless one takes longer
MOST = 30  # steps: reading a trace takes longer than the steps in it
SLOWED = 2.0  # times, from where the profiler changes what it shows


def with_times(
    whole: Profile,
    taken: Taken,
    places: Places,
    scopes: Mapping[str, str],
    folder: pathlib.Path | None,
) -> Profile:
    """The profile with the times by layer, or with a note that says why there are none."""
    steps, took = min(taken.steps(TRACED), MOST), []
    with contextlib.ExitStack() as stack:
        kept = folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            found = recorded(
                lambda: took.append(taken.take(steps)), kept, MODULE, shown=folder is not None
            )
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
    own: dict[tuple[Key, bool], float] = defaultdict(float)
    for name, all_steps in found.seconds.items():
        if scopes.get(name):  # the compiler's own has none
            spot = places.spot(scopes[name])
            own[spot.key, spot.backward] += all_steps / steps
    rows = []
    for row in whole.layers:
        forward, backward = (own[(row.model, row.path, row.layer), side] for side in (False, True))
        rows.append(dataclasses.replace(row, forward=forward, backward=backward))
    outside = own[OUTSIDE, False] + own[OUTSIDE, True]
    untold = max(traced - sum(own.values()), 0.0)
    notes = list(whole.notes)
    if traced > SLOWED * whole.seconds:
        slower = traced / whole.seconds
        notes.append(
            f"the profiler made the step {slower:.0f} times slower: its operations are tiny"
        )
    parts = {"layers": tuple(rows), "outside": outside, "untold": untold, "notes": tuple(notes)}
    return dataclasses.replace(whole, traced=traced, **parts)
