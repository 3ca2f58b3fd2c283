"""Keras on JAX, trained by `model.fit` over a generator of minibatches.

A run of so many steps is one call of `fit` with `steps_per_epoch`, over a generator of the shuffled
minibatches that all have, so that a round need not be whole epochs.
"""

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
from keras import layers

from benchmarks.workloads import DECAY, MOMENTUM, WIDTH, Workload, data, orders


def dense(*widths: int) -> list[Any]:
    """Dense layers with ReLU between."""
    return [*(layers.Dense(w, activation="relu") for w in widths[:-1]), layers.Dense(widths[-1])]


def convolutional(widths: tuple, size: int, padding: str, *tail: int) -> list[Any]:
    """Two convolutions with pools, and dense layers."""
    found: list[Any] = []
    for width in widths:
        found += [layers.Conv2D(width, size, padding=padding, activation="relu")]
        found += [layers.MaxPooling2D(2)]
    return [*found, layers.Flatten(), *dense(*tail)]


MODELS = {
    "mlp": lambda: dense(128, 64, 10),
    "cnn": lambda: convolutional((32, 64), 3, "same", 128, 10),
    "lenet": lambda: convolutional((6, 16), 5, "valid", 120, 84, 10),
    "linear": lambda: dense(1),
    "lstm": lambda: [layers.LSTM(WIDTH), layers.Dense(10)],
}


def optimizer(workload: Workload) -> Any:
    """Keras's, with the settings that all have."""
    rate = workload.rate
    return {
        "sgd": lambda: keras.optimizers.SGD(rate),
        "momentum": lambda: keras.optimizers.SGD(rate, momentum=MOMENTUM),
        "adam": lambda: keras.optimizers.Adam(rate, epsilon=1e-8),
        "adamw": lambda: keras.optimizers.AdamW(rate, weight_decay=DECAY, epsilon=1e-8),
    }[workload.optimizer]()


class Trained:
    """A compiled model, and the minibatches that it takes."""

    def __init__(self, workload: Workload, form: str):
        self.model = keras.Sequential([keras.Input(workload.shape), *MODELS[workload.model]()])
        entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        loss = "mse" if workload.model == "linear" else entropy
        self.model.compile(optimizer(workload), loss)
        self.x, self.y = data(workload)
        self.orders, self.parameters = orders(workload), self.model.count_params()

    def batches(self, steps: int) -> Any:
        """So many minibatches."""
        for _ in range(steps):
            rows = next(self.orders)
            yield self.x[rows], self.y[rows]

    def run(self, steps: int) -> float:
        """Takes the steps and returns their mean loss."""
        # A generator is read ahead, so it has more than the steps that are taken.
        how: Any = {"steps_per_epoch": steps, "shuffle": False, "verbose": 0}
        told = self.model.fit(self.batches(steps + 64), **how)
        return float(told.history["loss"][-1])


start = Trained
