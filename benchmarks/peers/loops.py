"""What the contenders on JAX share: optimizer, loss, and the loop over shuffled minibatches."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from benchmarks.workloads import DECAY, MOMENTUM, Workload, data, orders


def optimizer(workload: Workload) -> optax.GradientTransformation:
    """Optax's, with the settings that all have."""
    rate = workload.rate
    return {
        "sgd": lambda: optax.sgd(rate),
        "momentum": lambda: optax.sgd(rate, momentum=MOMENTUM),
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=DECAY),
    }[workload.optimizer]()


def loss(workload: Workload, output: jax.Array, target: jax.Array) -> jax.Array:
    """Squared error for the line, cross entropy for the rest, meaned."""
    if workload.model == "linear":
        return ((output - target) ** 2).mean()
    return optax.softmax_cross_entropy_with_integer_labels(output, target).mean()


def count(params: Any) -> int:
    """How many numbers the arrays hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


class Loop:
    """Takes `step(*carry, x, y) -> (*carry, loss)` from one minibatch to the next."""

    def __init__(self, workload: Workload, step: Callable, carry: tuple, parameters: int):
        self.step, self.carry, self.parameters = step, carry, parameters
        self.x, self.y = data(workload)
        self.orders = orders(workload)

    def run(self, steps: int) -> float:
        """Takes the steps, waits for them, and returns the last loss."""
        last: Any = None
        for _ in range(steps):
            rows = next(self.orders)
            *self.carry, last = self.step(*self.carry, self.x[rows], self.y[rows])
        jax.block_until_ready((self.carry, last))
        return float(last)


def trained(workload: Workload, apply: Callable, params: Any, state: Any) -> Loop:
    """A jitted step with donated buffers; `apply(params, state, x) -> (output, state)`."""
    rule = optimizer(workload)
    step = jax.jit(update(workload, apply, rule), donate_argnums=(0, 1, 2))
    return Loop(workload, step, (params, state, rule.init(params)), count(params))


def update(workload: Workload, apply: Callable, rule: optax.GradientTransformation) -> Callable:
    """One step as a pure function."""

    def step(params: Any, state: Any, kept: Any, x: Any, y: Any) -> tuple:
        def loss_of(params: Any) -> Any:
            output, new = apply(params, state, x)
            return loss(workload, output, y), new

        (value, new), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, kept = rule.update(gradients, kept, params)
        return optax.apply_updates(params, updates), new, kept, value

    return step
