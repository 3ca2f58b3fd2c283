"""What was measured: medians, ratios, a table, a file of JSON, and a chart."""

import datetime
import importlib.metadata
import json
import platform
import statistics
from pathlib import Path
from typing import Any

PACKAGES = ["jax", "jaxlib", "numpy", "optax", "torch", "flax", "equinox", "dm-haiku", "keras"]
RATIOS = {
    "torch + DataLoader": ("torch-loader",),
    "best torch": ("torch-loader", "torch-indexed", "torch-compile"),
    "best other JAX library": ("nnx", "linen", "equinox", "haiku", "keras"),
    "plain JAX": ("plain-step", "plain-scan"),
}


def summary(ready: dict[str, Any], rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of a contender's rounds."""
    medians = {k: statistics.median(r[k] for r in rounds) for k in ("cpu", "wall")}
    losses = [ready["loss"], *(r["loss"] for r in rounds)]
    memory = max(r["memory"] for r in rounds)
    return {**ready, **medians, "losses": losses, "memory_mib": memory, "rounds": rounds}


def ratios(found: dict[str, Any], clock: str) -> dict[str, float]:
    """How many times as fast the best form of funnet is as the best of each group."""
    ours = [found[name][clock] for name in found if name.startswith("funnet")]
    if not ours:
        return {}
    best = {k: [found[n][clock] for n in names if n in found] for k, names in RATIOS.items()}
    return {name: min(times) / min(ours) for name, times in best.items() if times}


def table(results: dict[str, Any], clock: str) -> str:
    """Steps a second of each contender, then the ratios, a line a workload."""
    lines = []
    for workload, found in results.items():
        lines.append(f"{workload}: steps per {clock} second, first step (CPU s), memory (MiB)")
        for name, each in sorted(found.items(), key=lambda pair: pair[1][clock]):
            rate, first, memory = 1 / each[clock], each["first"]["cpu"], each["memory_mib"]
            lines.append(f"  {name:<14} {rate:10.2f} {first:8.1f} {memory:8.0f}")
        shown = ", ".join(f"{k} {v:.2f}" for k, v in ratios(found, clock).items())
        lines.append(f"  funnet's speed over: {shown or 'nothing measured'}")
    return "\n".join(lines)


def processor() -> str:
    """The CPU's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def versions() -> dict[str, str]:
    """Of what is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(folder: Path, results: dict[str, Any], settings: dict[str, Any]) -> None:
    """`results.json` and, where matplotlib is installed, `results.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    clock = "cpu" if settings["cores"] == 1 else "wall"
    facts = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": processor(),
        "versions": versions(),
        "settings": settings,
        "ratios": {name: ratios(found, clock) for name, found in results.items()},
        "results": results,
    }
    (folder / "results.json").write_text(json.dumps(facts, indent=1, default=str) + "\n")
    chart(folder / "results.png", results, clock)


def chart(path: Path, results: dict[str, Any], clock: str) -> None:
    """Bars of speed, the best contender of each workload as 1."""
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("no chart: matplotlib is not installed")
        return
    figure = Figure(figsize=(10, 1 + 2.2 * len(results)), layout="constrained")
    panels = figure.subplots(len(results), 1, squeeze=False)[:, 0]
    for panel, (workload, found) in zip(panels, results.items(), strict=True):
        names = sorted(found, key=lambda name, found=found: found[name][clock], reverse=True)
        best = min(each[clock] for each in found.values())
        colours = ["C1" if name.startswith("funnet") else "C0" for name in names]
        panel.barh(names, [best / found[name][clock] for name in names], color=colours)
        panel.set_title(f"{workload}: speed, the fastest as 1 ({clock} time)", loc="left")
    figure.savefig(path, dpi=100)
