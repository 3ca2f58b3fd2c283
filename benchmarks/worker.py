"""The process of one contender: it makes ready, then takes a round for each line that it is sent.

Each answer is one line of JSON on the standard output; what libraries print goes to standard error.
"""

import json
import math
import os
import resource
import sys
import time
from typing import Any, TextIO


def spent() -> tuple[float, float]:
    """CPU seconds of all threads, and the clock."""
    return time.process_time(), time.perf_counter()


def limit(cores: int) -> None:
    """PyTorch's threads; those of others follow the processors that the process may use."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(cores)


def answer(out: TextIO, **found: Any) -> None:
    """Writes one line."""
    print(json.dumps(found), file=out, flush=True)


def round_of(trained: Any, steps: int) -> dict[str, float]:
    """Seconds for each step of a round."""
    cpu, wall = spent()
    last = trained.run(steps)
    after, clock = spent()
    return {"cpu": (after - cpu) / steps, "wall": (clock - wall) / steps, "loss": last}


def settle(trained: Any, seconds: float) -> int:
    """Warms up, and returns the steps that take so many seconds."""
    steps, each = 2, 0.0
    while True:
        each = round_of(trained, steps)["wall"]
        if each * steps > 0.25 * seconds:
            wanted = math.ceil(seconds / each)
            return wanted if wanted < 64 else math.ceil(wanted / 64) * 64
        steps *= 4


def main(name: str, workload_name: str, seconds: float, cores: int, begun: float) -> None:
    """Answers until the standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from benchmarks import peers
    from benchmarks.workloads import WORKLOADS

    workload = WORKLOADS[workload_name]
    trained = peers.start(name, workload)
    limit(cores)
    first = trained.run(1)
    ready = {"cpu": time.process_time(), "wall": time.time() - begun}
    if trained.parameters != workload.parameters:
        raise ValueError(
            f"{name} has {trained.parameters} parameters on {workload_name}, "
            f"expected {workload.parameters}"
        )
    steps = settle(trained, seconds)
    answer(out, first=ready, loss=first, parameters=trained.parameters, steps=steps)
    for _ in sys.stdin:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer(out, **round_of(trained, steps), memory=memory)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
