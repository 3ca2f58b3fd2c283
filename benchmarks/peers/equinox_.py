"""Equinox as its tutorials write it: `eqx.filter_jit` of a step, models on one example, vmapped."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import relu

from benchmarks.peers import loops
from benchmarks.workloads import CONTEXT, DEPTH, HEADS, VOCABULARY, WIDTH, Workload


class Keys:
    """One key after another."""

    def __init__(self):
        self.key = jax.random.key(0)

    def __call__(self) -> Any:
        """The next key."""
        self.key, key = jax.random.split(self.key)
        return key


class Stack(eqx.Module):
    """Layers and functions in a row."""

    layers: list

    def __call__(self, x: Any, state: Any) -> Any:
        """The forward pass."""
        for layer in self.layers:
            x = layer(x)
        return x, state


def dense(k: Keys, *widths: int) -> list:
    """Linear layers with ReLU between."""
    found: list = []
    for a, b in itertools.pairwise(widths):
        found += [eqx.nn.Linear(a, b, key=k()), relu]
    return found[:-1]


def images(x: Any) -> Any:
    """Channels first, as its convolutions want them."""
    return jnp.transpose(x, (2, 0, 1))


def convolutional(k: Keys, widths: tuple, size: int, padding: int, *tail: int) -> Stack:
    """Two convolutions with pools, and linear layers."""
    found: list = [images]
    for a, b in itertools.pairwise(widths):
        found += [eqx.nn.Conv2d(a, b, size, padding=padding, key=k()), relu]
        found += [eqx.nn.MaxPool2d(2, 2)]
    return Stack([*found, jnp.ravel, *dense(k, *tail)])


class Lstm(eqx.Module):
    """An LSTM and a linear layer on its last state."""

    cell: eqx.nn.LSTMCell
    out: eqx.nn.Linear

    def __init__(self, k: Keys):
        self.cell = eqx.nn.LSTMCell(32, WIDTH, key=k())
        self.out = eqx.nn.Linear(WIDTH, 10, key=k())

    def __call__(self, x: Any, state: Any) -> Any:
        """The forward pass."""
        zeros = jnp.zeros(WIDTH)
        (h, _), _ = lax.scan(lambda c, x: (self.cell(x, c), None), (zeros, zeros), x)
        return self.out(h), state


class Block(eqx.Module):
    """Attention and two linear layers."""

    norms: list
    attention: eqx.nn.MultiheadAttention
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, k: Keys):
        self.norms = [eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)]
        bias = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, **bias, key=k())
        self.up = eqx.nn.Linear(WIDTH, 4 * WIDTH, key=k())
        self.down = eqx.nn.Linear(4 * WIDTH, WIDTH, key=k())

    def __call__(self, x: Any) -> Any:
        """The forward pass."""
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attention(y, y, y, mask=jnp.tril(jnp.ones((CONTEXT, CONTEXT), bool)))
        y = jax.vmap(self.up)(jax.vmap(self.norms[1])(x))
        return x + jax.vmap(self.down)(jax.nn.gelu(y))


class Gpt(eqx.Module):
    """A decoder whose output shares the table of its tokens."""

    tokens: jax.Array
    positions: jax.Array
    blocks: list
    norm: eqx.nn.LayerNorm

    def __init__(self, k: Keys):
        self.tokens = 0.02 * jax.random.normal(k(), (VOCABULARY, WIDTH))
        self.positions = 0.02 * jax.random.normal(k(), (CONTEXT, WIDTH))
        self.blocks = [Block(k) for _ in range(DEPTH)]
        self.norm = eqx.nn.LayerNorm(WIDTH)

    def __call__(self, ids: Any, state: Any) -> Any:
        """The forward pass."""
        x = self.tokens[ids] + self.positions
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.norm)(x) @ self.tokens.T, state


class Normed(eqx.Module):
    """A convolution and batch norm."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, k: Keys, a: int, b: int, size: int, stride: int):
        self.conv = eqx.nn.Conv2d(a, b, size, stride, size // 2, use_bias=False, key=k())
        self.norm = eqx.nn.BatchNorm(b, axis_name="batch", momentum=0.9, mode="batch")

    def __call__(self, x: Any, state: Any) -> Any:
        """The forward pass."""
        return self.norm(self.conv(x), state)


class Residual(eqx.Module):
    """Two convolutions beside a shortcut."""

    one: Normed
    two: Normed
    short: Normed | None

    def __init__(self, k: Keys, a: int, b: int):
        stride = 1 if a == b else 2
        self.one, self.two = Normed(k, a, b, 3, stride), Normed(k, b, b, 3, 1)
        self.short = None if a == b else Normed(k, a, b, 1, stride)

    def __call__(self, x: Any, state: Any) -> Any:
        """The forward pass."""
        y, state = self.one(x, state)
        y, state = self.two(relu(y), state)
        if self.short is not None:
            x, state = self.short(x, state)
        return relu(x + y), state


class Resnet(eqx.Module):
    """ResNet-18 with the stem for small images."""

    stem: Normed
    blocks: list
    head: eqx.nn.Linear

    def __init__(self, k: Keys):
        widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
        self.stem = Normed(k, 3, 64, 3, 1)
        self.blocks = [Residual(k, a, b) for a, b in itertools.pairwise(widths)]
        self.head = eqx.nn.Linear(512, 10, key=k())

    def __call__(self, x: Any, state: Any) -> Any:
        """The forward pass."""
        x, state = self.stem(images(x), state)
        x = relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(x.mean((1, 2))), state


MODELS = {
    "mlp": lambda k: Stack(dense(k, 784, 128, 64, 10)),
    "cnn": lambda k: convolutional(k, (1, 32, 64), 3, 1, 3136, 128, 10),
    "lenet": lambda k: convolutional(k, (3, 6, 16), 5, 0, 400, 120, 84, 10),
    "linear": lambda k: Stack(dense(k, 1, 1)),
    "lstm": Lstm,
    "gpt": Gpt,
    "resnet": Resnet,
}


def start(workload: Workload, form: str) -> loops.Loop:
    """The tutorial's loop."""
    model, state = eqx.nn.make_with_state(MODELS[workload.model])(Keys())
    rule = loops.optimizer(workload)

    def loss_of(model: Any, state: Any, x: Any, y: Any) -> Any:
        batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        output, state = batched(x, state)
        return loops.loss(workload, output, y), state

    @eqx.filter_jit
    def step(model: Any, state: Any, kept: Any, x: Any, y: Any) -> tuple:
        (loss, state), gradients = eqx.filter_value_and_grad(loss_of, has_aux=True)(
            model, state, x, y
        )
        updates, kept = rule.update(gradients, kept, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), state, kept, loss

    params = eqx.filter(model, eqx.is_inexact_array)
    kept = rule.init(eqx.filter(model, eqx.is_array))
    return loops.Loop(workload, step, (model, state, kept), loops.count(params))
