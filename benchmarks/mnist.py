"""What the MNIST recipe claims, measured: accuracy over seeds, and whole cold processes.

    python -m benchmarks.mnist

Each seed is one fresh process, imports and compilation included, its wall and CPU time taken by the
operating system. The test set is read once a run.
"""

import dataclasses
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import tyro


@dataclasses.dataclass
class Settings:
    """What to measure."""

    cnn: int = 10  # seeds, of each model
    cnn_more: int = 10
    cnn_most: int = 6
    mlp: int = 3
    cores: int = 2  # processors that each process may use


def cold(model: str, seed: int, cores: int) -> tuple[float, float, float]:
    """Accuracy in percent, wall seconds and CPU seconds of one process."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--model", model, "--data", "mnist", "--seed", str(seed), "--folder", folder]
        command = [sys.executable, "-m", "recipes.mnist", *arguments]
        before, begun = os.times(), time.perf_counter()
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
        )
        wall, after = time.perf_counter() - begun, os.times()
    found = re.search(r"accuracy: ([\d.]+)%", done.stdout)
    if found is None:
        raise RuntimeError(f"no accuracy in the recipe's output: {done.stdout}{done.stderr}")
    spent = after.children_user + after.children_system
    return float(found[1]), wall, spent - before.children_user - before.children_system


def main(settings: Settings) -> None:
    """Prints a line a seed, then mean and least of the accuracy and the median times."""
    counts = dataclasses.asdict(settings)
    cores = counts.pop("cores")
    for model, seeds in counts.items():
        runs = []
        for seed in range(seeds):
            runs.append(cold(model.replace("_", "-"), seed, cores))
            print(f"{model} seed {seed}: {runs[-1][0]:.2f} %, wall {runs[-1][1]:.2f} s", flush=True)
        if runs:
            accuracy, wall, cpu = zip(*runs, strict=True)
            print(
                f"{model} on {cores} cores: mean {statistics.mean(accuracy):.3f} %, "
                f"least {min(accuracy):.2f} %; median wall {statistics.median(wall):.2f} s, "
                f"CPU {statistics.median(cpu):.2f} s"
            )


if __name__ == "__main__":
    main(tyro.cli(Settings))
