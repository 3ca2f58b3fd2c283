"""Haiku: transformed functions, and a jitted step with donated buffers.

Its LSTM adds 1 to the forget gate: the same function with a bias that begins elsewhere.
"""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks.peers import loops
from benchmarks.workloads import CONTEXT, DEPTH, HEADS, VOCABULARY, WIDTH, Workload, data


def dense(*widths: int) -> Any:
    """Linear layers with ReLU between."""

    def apply(x: Any) -> Any:
        return hk.nets.MLP(widths)(x)

    return apply


def convolutional(widths: tuple, size: int, padding: str, *tail: int) -> Any:
    """Two convolutions with pools, and linear layers."""

    def apply(x: Any) -> Any:
        for width in widths:
            x = jax.nn.relu(hk.Conv2D(width, size, padding=padding)(x))
            x = hk.max_pool(x, (2, 2, 1), (2, 2, 1), "VALID")
        return hk.nets.MLP(tail)(hk.Flatten()(x))

    return apply


def lstm(x: Any) -> Any:
    """An LSTM and a linear layer on its last state."""
    core = hk.LSTM(WIDTH)
    outputs, _ = hk.dynamic_unroll(core, x, core.initial_state(len(x)), time_major=False)
    return hk.Linear(10)(outputs[:, -1])  # pyright: ignore


def gpt(ids: Any) -> Any:
    """A decoder whose output shares the table of its tokens."""
    tokens = hk.Embed(VOCABULARY, WIDTH)
    x = tokens(ids) + hk.Embed(CONTEXT, WIDTH)(jnp.arange(CONTEXT))
    mask = jnp.tril(jnp.ones((1, 1, CONTEXT, CONTEXT), bool))
    init = hk.initializers.VarianceScaling(1.0)
    for _ in range(DEPTH):
        y = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=init)(y, y, y, mask=mask)
        y = hk.Linear(4 * WIDTH)(hk.LayerNorm(-1, True, True)(x))
        x = x + hk.Linear(WIDTH)(jax.nn.gelu(y))
    return hk.LayerNorm(-1, True, True)(x) @ tokens.embeddings.T


def resnet(x: Any) -> Any:
    """ResNet-18 with the stem for small images."""

    def normed(x: Any, width: int, stride: int = 1, size: int = 3) -> Any:
        pad = (size // 2, size // 2)
        x = hk.Conv2D(width, size, stride, padding=(pad, pad), with_bias=False)(x)
        return hk.BatchNorm(True, True, 0.9)(x, is_training=True)

    x = jax.nn.relu(normed(x, 64))
    for i, width in enumerate((64, 64, 128, 128, 256, 256, 512, 512)):
        stride = 2 if i and not i % 2 else 1
        y = normed(jax.nn.relu(normed(x, width, stride)), width)
        x = jax.nn.relu(y + (x if x.shape == y.shape else normed(x, width, stride, 1)))
    return hk.Linear(10)(x.mean((1, 2)))


MODELS = {
    "mlp": dense(128, 64, 10),
    "cnn": convolutional((32, 64), 3, "SAME", 128, 10),
    "lenet": convolutional((6, 16), 5, "VALID", 120, 84, 10),
    "linear": dense(1),
    "lstm": lstm,
    "gpt": gpt,
    "resnet": resnet,
}


def start(workload: Workload, form: str) -> loops.Loop:
    """The loop of plain JAX around the transformed functions."""
    model = hk.transform_with_state(MODELS[workload.model])
    params, state = jax.jit(model.init)(jax.random.key(0), data(workload)[0][:1])

    def apply(params: Any, state: Any, x: Any) -> Any:
        return model.apply(params, state, None, x)

    return loops.trained(workload, apply, params, state)
