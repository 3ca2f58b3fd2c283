"""Flax Linen: compact modules, and a jitted step with donated buffers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks.peers import loops
from benchmarks.workloads import CONTEXT, DEPTH, HEADS, VOCABULARY, WIDTH, Workload, data


class Dense(nn.Module):
    """Dense layers with ReLU between."""

    widths: tuple

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The forward pass."""
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)


class Convolutional(nn.Module):
    """Two convolutions with pools, and dense layers."""

    widths: tuple
    size: int
    padding: str
    tail: tuple

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The forward pass."""
        for width in self.widths:
            x = nn.relu(nn.Conv(width, (self.size, self.size), padding=self.padding)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return Dense(self.tail)(x.reshape(len(x), -1))


class Lstm(nn.Module):
    """An LSTM and a dense layer on its last state."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The forward pass."""
        return nn.Dense(10)(nn.RNN(nn.OptimizedLSTMCell(WIDTH))(x)[:, -1])  # pyright: ignore


class Gpt(nn.Module):
    """A decoder whose output shares the table of its tokens."""

    @nn.compact
    def __call__(self, ids: Any) -> Any:
        """The forward pass."""
        tokens = nn.Embed(VOCABULARY, WIDTH)
        x = tokens(ids) + nn.Embed(CONTEXT, WIDTH)(jnp.arange(CONTEXT))
        mask = nn.make_causal_mask(ids)
        for _ in range(DEPTH):
            x = x + nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm(1e-5)(x), mask=mask)
            y = nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm(1e-5)(x)))
            x = x + nn.Dense(WIDTH)(y)
        return tokens.attend(nn.LayerNorm(1e-5)(x))


class Resnet(nn.Module):
    """ResNet-18 with the stem for small images."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The forward pass."""

        def normed(x: Any, width: int, stride: int = 1, size: int = 3) -> Any:
            more = {"padding": size // 2, "use_bias": False}
            x = nn.Conv(width, (size, size), (stride, stride), **more)(x)
            return nn.BatchNorm(use_running_average=False, momentum=0.9)(x)

        x = nn.relu(normed(x, 64))
        for i, width in enumerate((64, 64, 128, 128, 256, 256, 512, 512)):
            stride = 2 if i and not i % 2 else 1
            y = normed(nn.relu(normed(x, width, stride)), width)
            x = nn.relu(y + (x if x.shape == y.shape else normed(x, width, stride, 1)))
        return nn.Dense(10)(x.mean((1, 2)))


MODELS = {
    "mlp": lambda: Dense((128, 64, 10)),
    "cnn": lambda: Convolutional((32, 64), 3, "SAME", (128, 10)),
    "lenet": lambda: Convolutional((6, 16), 5, "VALID", (120, 84, 10)),
    "linear": lambda: Dense((1,)),
    "lstm": Lstm,
    "gpt": Gpt,
    "resnet": Resnet,
}


def start(workload: Workload, form: str) -> loops.Loop:
    """The loop of plain JAX around the module's functions."""
    model = MODELS[workload.model]()
    variables = jax.jit(model.init)(jax.random.key(0), data(workload)[0][:1])
    params = variables.pop("params")

    def apply(params: Any, state: Any, x: Any) -> Any:
        return model.apply({"params": params, **state}, x, mutable=["batch_stats"])

    return loops.trained(workload, apply, params, variables)
