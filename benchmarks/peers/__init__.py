"""The contenders: each file gives `start(workload, form)`, whose result has `run(steps)`.

`run` blocks until the steps are done and returns the loss of the last; `parameters` is a count.
"""

import importlib
import importlib.util
from typing import Any, NamedTuple


class Contender(NamedTuple):
    """A form of a library: its file here, the package it needs, and the workloads it takes."""

    module: str
    form: str
    package: str
    without: tuple[str, ...] = ()


CONTENDERS = {
    "funnet-fit": Contender("funnet_", "fit", "funnet"),
    "funnet-step": Contender("funnet_", "step", "funnet"),
    "torch-loader": Contender("pytorch", "loader", "torch"),
    "torch-indexed": Contender("pytorch", "indexed", "torch"),
    "torch-compile": Contender("pytorch", "compile", "torch"),
    "nnx": Contender("nnx", "step", "flax"),
    "linen": Contender("linen", "step", "flax"),
    "equinox": Contender("equinox_", "step", "equinox"),
    "haiku": Contender("haiku_", "step", "haiku"),
    "keras": Contender("keras_", "step", "keras", ("gpt", "resnet")),
    "plain-step": Contender("plain", "step", "jax"),
    "plain-scan": Contender("plain", "scan", "jax", ("cnn", "lenet", "resnet")),
}


def installed(name: str) -> bool:
    """Whether the package of a contender is there."""
    return importlib.util.find_spec(CONTENDERS[name].package) is not None


def takes(name: str, model: str) -> bool:
    """Whether a contender has this model."""
    return model not in CONTENDERS[name].without


def start(name: str, workload: Any) -> Any:
    """The contender, with its parameters drawn, ready to take steps."""
    contender = CONTENDERS[name]
    module = importlib.import_module(f"benchmarks.peers.{contender.module}")
    return module.start(workload, contender.form)
