"""funnet beside its peers, in one run.

    python -m benchmarks                          # everything
    python -m benchmarks --workloads W1 W2 --peers funnet-fit torch-loader --rounds 3

Each contender is a process of its own, on the same processors; all of a workload are made ready,
then take rounds in turn, while the others wait for a line to come. Time is of the CPU, all threads
together; with more than one core, of the clock.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks import peers, report
from benchmarks.workloads import WORKLOADS, Workload, select

TUNED = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_ARENA_MAX": "1",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclasses.dataclass
class Settings:
    """What to measure, and how."""

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    peers: tuple[str, ...] = tuple(peers.CONTENDERS)
    rounds: int = 5
    seconds: float = 2.0  # the least length of a round
    cores: int = 1
    allocator: Literal["system", "tuned"] = "system"  # tuned: glibc's, the same for every contender
    folder: Path = Path("runs/benchmarks")


class Process:
    """A contender, started and warmed up."""

    def __init__(self, name: str, workload: Workload, settings: Settings):
        command = [sys.executable, "-m", "benchmarks.worker", name, workload.name]
        command += [str(settings.seconds), str(settings.cores), str(time.time())]
        cores = sorted(os.sched_getaffinity(0))[: settings.cores]
        more = TUNED if settings.allocator == "tuned" else {}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **dict.fromkeys(THREADS, str(settings.cores)), **more},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self.ready, self.rounds = self.answer(), []

    def answer(self) -> dict[str, Any]:
        """The next line that the process writes."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"ended with {self.process.wait()}; its error is above")
        return json.loads(line)

    def round(self) -> None:
        """Has it take one round."""
        assert self.process.stdin is not None
        self.process.stdin.write("round\n")
        self.process.stdin.flush()
        self.rounds.append(self.answer())

    def end(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.communicate()


def measured(workload: Workload, names: list[str], settings: Settings) -> dict[str, Any]:
    """All contenders on one workload, round by round."""
    started: dict[str, Process] = {}
    try:
        for name in names:
            print(f"{workload.name}: {name} makes ready", file=sys.stderr, flush=True)
            try:
                started[name] = Process(name, workload, settings)
            except RuntimeError as error:
                print(f"{workload.name}: {name} is left out, it {error}", flush=True)
        for _ in range(settings.rounds):
            for process in started.values():
                process.round()
    finally:
        for process in started.values():
            process.end()
    return {name: report.summary(p.ready, p.rounds) for name, p in started.items()}


def present(names: tuple[str, ...]) -> list[str]:
    """Those that are installed; says which are not."""
    if unknown := set(names) - set(peers.CONTENDERS):
        raise ValueError(f"peers must be among {list(peers.CONTENDERS)}, got {sorted(unknown)}")
    for name in names:
        if not peers.installed(name):
            print(f"{name} is left out: {peers.CONTENDERS[name].package} is not installed")
    return [name for name in names if peers.installed(name)]


def main(settings: Settings) -> None:
    """Measures, prints the table, and writes JSON and chart after each workload."""
    names, results = present(settings.peers), {}
    for workload in select(list(settings.workloads)):
        able = [name for name in names if peers.takes(name, workload.model)]
        if found := measured(workload, able, settings):
            results[workload.name] = found
            clock = "cpu" if settings.cores == 1 else "wall"
            print(report.table({workload.name: found}, clock), flush=True)
            report.write(settings.folder, results, dataclasses.asdict(settings))


if __name__ == "__main__":
    main(tyro.cli(Settings))
