"""`profile`: measures a training step, and says where its time and work go."""

import os
import pathlib
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from funnet import checks
from funnet.describe import describe, on_device
from funnet.profiling.compiled import Compiled
from funnet.profiling.naming import scopes
from funnet.profiling.places import OUTSIDE, Key, Places
from funnet.profiling.report import LayerCost, Memory, Profile
from funnet.profiling.sharing import with_times
from funnet.profiling.taking import Taken, peak
from funnet.profiling.work import Tally, tally
from funnet.select import dotted
from funnet.train.loop import copied


def profile(
    step: Callable[[Any, Any], Any],
    run: Any,
    batch: Mapping[str, Any],
    *,
    repeats: int = 10,
    trace: str | os.PathLike[str] | None = None,
) -> Profile:
    """Measures a training step: its work, memory and time, and the layers that they go to.

    The step is compiled as `fit` does it, and then taken again and again on the same batch; the
    `run` given stays as it is. Work is counted in the traced program: two operations for each
    factor of a product or a convolution (as XLA counts them), one for each number that arithmetic
    gives or a reduction takes; a body that `fn.repeat` or `jax.lax.scan` repeats as often as it
    turns, of a `jax.lax.cond` the dearest branch, of operations that differ by platform the ones
    for this. What is written twice counts twice, though XLA may compute it once. Time goes to the
    layer that XLA names an operation after; where it fuses the operations of several layers into
    one, that is one of them.

    Args:
        step: a pure function `(run, batch) -> (run, metrics)`, jitted or not, such as
            `train_step` makes.
        run: where to begin, such as `Run.start` makes.
        batch: a dict of arrays, such as `batches[0]`.
        repeats: dispatches to time, each of as many steps as take about 20 ms, at least one.
        trace: a folder for a trace of some steps, to be opened at https://ui.perfetto.dev.

    Returns:
        A `Profile`; `print` shows it as a table.

    Raises:
        TypeError: if the batch is no dict of arrays, or `step` does not return `(run, metrics)`.
        ValueError: if `step` returns a run of other shapes or dtypes than it was given, or
            `repeats` is less than one.
        OSError: if `trace` cannot be written.
        RuntimeError: if `trace` is asked for while JAX's profiler runs already.

    Source: the utilisation is that of Chowdhery et al., "PaLM", 2022, section 4.1, but for the
    peak, which is measured rather than published.

    >>> import funnet as fn, jax.numpy as jnp, optax
    >>> model, sgd = fn.Model(fn.dense, features=3, bias=False), optax.sgd(0.1)
    >>> batch = {"image": jnp.ones((2, 5)), "label": jnp.array([0, 1])}
    >>> step = fn.train_step(fn.classification(model), sgd)
    >>> found = fn.profile(step, fn.Run.start(model, sgd, batch["image"]), batch, repeats=1)
    >>> [(row.layer, row.flops) for row in found.layers]  # 2·2·5·3 forward, as many backward
    [('dense', 120)]
    """
    checks.count("repeats", repeats)
    _check(step, batch)
    folder = None if trace is None else _folder(trace)
    run, batch = copied(run), on_device(dict(batch))
    _check_step(step, run, batch)
    device, devices = _devices((run, batch))
    counted = tally(jax.make_jaxpr(step)(run, batch).jaxpr, device.platform)
    places = Places(counted.layers)
    taken = Taken.of(step, run, batch)
    text = Compiled(taken.compiled.as_text())
    times = taken.timed(repeats)
    whole = Profile(
        seconds=statistics.median(times),
        spread=(min(times), max(times)),
        flops=counted.flops,
        bytes=text.bytes(),
        memory=_memory(taken.compiled),
        peak=devices * peak(counted.dtype, device),
        dtype=counted.dtype,
        device=_named(device),
        devices=devices,
        layers=_rows(counted, places),
        outside_flops=counted.layers[()],
        notes=tuple(_notes(counted)),
    )
    return with_times(whole, taken, places, scopes(text), folder)


def _check(step: Any, batch: Any) -> None:
    if not callable(step):
        raise TypeError(
            f"step must be a function (run, batch) -> (run, metrics), got {type(step).__name__}; "
            "write fn.profile(step, run, batch)"
        )
    if not isinstance(batch, Mapping):
        name, many = type(batch).__name__, hasattr(batch, "__getitem__")
        cure = "batches[0]" if many and not hasattr(batch, "shape") else '{"image": images}'
        raise TypeError(f"batch must be a dict of arrays, got {name}; write {cure}")
    for path, leaf in jax.tree.leaves_with_path({"batch": dict(batch)}):
        checks.array(dotted(path), leaf)


def _check_step(step: Callable, run: Any, batch: Any) -> None:
    """Refuses a step that cannot be taken again from the run that it returns."""
    given = jax.eval_shape(step, run, batch)
    if not isinstance(given, tuple) or len(given) != 2:
        raise TypeError(f"a step must return (run, metrics), it returned {type(given).__name__}")
    if jax.tree.structure(given[0]) != jax.tree.structure(run):
        raise ValueError("a step must return a run of the structure that it was given")
    pairs = zip(jax.tree.leaves_with_path(run), jax.tree.leaves(given[0]), strict=True)
    for (path, old), new in pairs:
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(
                f"a step must return a run of the shapes and dtypes that it was given: "
                f"{dotted(path)} was {describe(old)}, and came back as {describe(new)}"
            )


def _folder(trace: Any) -> pathlib.Path:
    folder = pathlib.Path(trace)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"trace must be a folder, got the file {str(folder)!r}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _devices(tree: Any) -> tuple[Any, int]:
    """One of the devices that a tree is on, and how many there are."""
    sets = [x.sharding.device_set for x in jax.tree.leaves(tree)]
    devices = set().union(*sets) or set(jax.devices()[:1])
    return min(devices, key=lambda device: device.id), len(devices)


def _named(device: Any) -> str:
    """Platform and kind; a CPU's kind says nothing more."""
    platform, kind = device.platform, device.device_kind
    return platform if kind == platform else f"{platform} ({kind})"


def _memory(compiled: Any) -> Memory | None:
    """The compiler's plan for a device's memory, if it tells."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    names = ("argument", "output", "alias", "temp")
    given, made, shared, inner = (int(getattr(stats, f"{n}_size_in_bytes")) for n in names)
    return Memory(given, made, shared, inner)


def _rows(counted: Tally, places: Places) -> tuple[LayerCost, ...]:
    flops: Counter[Key] = Counter()
    for chain, number in counted.layers.items():
        flops[places.key(chain)] += number
    rows = [(*key, number) for key, number in flops.items() if key != OUTSIDE]
    return tuple(LayerCost(path, layer, model, number) for model, path, layer, number in rows)


def _notes(counted: Tally) -> Iterator[str]:
    """What the count of operations leaves out."""
    loops = "while" in counted.untold
    if loops:
        yield "a while loop's body is counted once: how often it turns is known only when it runs"
    others = [name for name in counted.untold if name != "while"]
    if others:
        yield f"the work inside of these operations is not counted: {', '.join(others)}"
