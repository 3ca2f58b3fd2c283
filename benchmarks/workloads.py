"""The workloads that every contender trains: sizes, data and settings, the same for all."""

import dataclasses
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is trained, on what, and how: `parameters` is what each contender must have."""

    name: str
    model: str
    batch: int
    optimizer: str
    rate: float
    shape: tuple[int, ...]
    parameters: int
    examples: int = 4096


WORKLOADS = {
    each.name: each
    for each in (
        Workload("W1", "mlp", 64, "momentum", 0.01, (784,), 109_386),
        Workload("W2", "cnn", 64, "adam", 1e-3, (28, 28, 1), 421_642),
        Workload("W3-4", "lenet", 4, "momentum", 0.001, (32, 32, 3), 62_006),
        Workload("W3-128", "lenet", 128, "momentum", 0.001, (32, 32, 3), 62_006),
        Workload("W4", "linear", 100, "sgd", 0.1, (1,), 2, examples=100),
        Workload("W5", "lstm", 32, "adam", 1e-3, (64, 32), 83_722),
        Workload("W6", "gpt", 32, "adamw", 1e-3, (64,), 809_856),
        Workload("W7", "resnet", 32, "momentum", 0.01, (32, 32, 3), 11_173_962),
    )
}
MOMENTUM, DECAY = 0.9, 1e-4
VOCABULARY, WIDTH, HEADS, DEPTH, CONTEXT = 65, 128, 4, 4, 64


def select(names: list[str]) -> list[Workload]:
    """The workloads of these names; W3 stands for both batches of it."""
    found = [w for w in WORKLOADS.values() if w.name in names or w.name.split("-")[0] in names]
    known = {w.name for w in found} | {w.name.split("-")[0] for w in found}
    if unknown := set(names) - known:
        raise ValueError(
            f"workloads must be among {list(WORKLOADS)} or W3 for both of its batches, "
            f"got {sorted(unknown)}"
        )
    return found


def data(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Examples in memory, drawn, with targets that can be learned from them."""
    rng = np.random.default_rng(0)
    shape = (workload.examples, *workload.shape)
    if workload.model == "gpt":
        tokens = rng.integers(0, VOCABULARY, (workload.examples, CONTEXT + 1), dtype=np.int32)
        return tokens[:, :-1].copy(), tokens[:, 1:].copy()
    x = rng.normal(size=shape).astype(np.float32)
    if workload.model == "linear":
        return x, (3 * x + 1).astype(np.float32)
    flat = x.reshape(len(x), -1)
    return x, (flat @ rng.normal(size=(flat.shape[1], 10))).argmax(axis=1).astype(np.int32)


def orders(workload: Workload) -> Iterator[np.ndarray]:
    """Rows of one minibatch after another, shuffled anew each epoch, without end."""
    rng = np.random.default_rng(1)
    while True:
        order = rng.permutation(workload.examples)
        for start in range(0, workload.examples - workload.batch + 1, workload.batch):
            yield order[start : start + workload.batch]
