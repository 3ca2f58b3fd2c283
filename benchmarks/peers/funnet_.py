"""funnet: `fit` with its defaults, and the jitted step in a Python loop."""

from typing import Any

import jax
import jax.numpy as jnp

import funnet as fn
from benchmarks.peers import loops
from benchmarks.workloads import CONTEXT, DEPTH, HEADS, VOCABULARY, WIDTH, Workload, data


@fn.layer
def lstm(p: fn.Scope, x: jax.Array) -> jax.Array:
    """An LSTM and a dense layer on its last state."""
    _, (last, _) = fn.lstm(p["lstm"], x, WIDTH)
    return fn.dense(p["out"], last, 10)


@fn.layer
def linear(p: fn.Scope, x: jax.Array) -> jax.Array:
    """A line."""
    return fn.dense(p["out"], x, 1)


def model_of(name: str) -> fn.Model:
    """The library's own model where it has one."""
    sizes = {"depth": DEPTH, "width": WIDTH, "heads": HEADS, "context": CONTEXT}
    return {
        "mlp": lambda: fn.Model(fn.models.mlp, widths=(128, 64, 10)),
        "cnn": lambda: fn.Model(fn.models.convnet, classes=10),
        "lenet": lambda: fn.Model(fn.models.lenet, classes=10),
        "linear": lambda: fn.Model(linear),
        "lstm": lambda: fn.Model(lstm),
        "gpt": lambda: fn.Model(fn.models.gpt, vocab=VOCABULARY, **sizes),
        "resnet": lambda: fn.Model(fn.models.resnet, classes=10, stem="cifar"),
    }[name]()


class Trained:
    """A run, and what takes it on."""

    def __init__(self, workload: Workload, form: str):
        self.model, self.workload = model_of(workload.model), workload
        x, y = data(workload)
        self.batches, self.form = fn.data.batches({"x": x, "y": y}, workload.batch), form
        optimizer = loops.optimizer(workload)
        self.run_ = fn.Run.start(self.model, optimizer, x[:1])
        self.step = fn.train_step(self.objective, optimizer)
        self.jitted = jax.jit(self.step, donate_argnums=0)
        self.parameters, self.taken = loops.count(self.run_.params), 0

    def objective(self, params: Any, state: Any, batch: Any, *, train: bool, key: Any) -> Any:
        """The loss that all have."""
        output, state = self.model.apply(params, state, batch["x"], train=train, key=key)
        return loops.loss(self.workload, output, jnp.asarray(batch["y"])), (state, {})

    def run(self, steps: int) -> float:
        """Takes the steps, waits for them, and returns a loss after them."""
        begun, self.taken = self.taken, self.taken + steps
        if self.form == "fit":
            return self.fitted()
        metrics: Any = {}
        for i in range(begun, self.taken):
            self.run_, metrics = self.jitted(self.run_, self.batches[i])
        jax.block_until_ready(self.run_)
        return float(metrics["loss"])

    def fitted(self) -> float:
        """As `run`, in `fit`, whose own record gives the loss."""
        losses: list[float] = []
        self.run_ = fn.fit(
            self.step,
            self.run_,
            self.batches,
            steps=self.taken,
            progress=False,
            hooks=[lambda step, kind, numbers: losses.append(numbers.get("loss", float("nan")))],
        )
        jax.block_until_ready(self.run_)
        return losses[-1] if losses else float("nan")


start = Trained
