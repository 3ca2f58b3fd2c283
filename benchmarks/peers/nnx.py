"""Flax NNX as its tutorial has it: `nnx.jit`, `nnx.Optimizer`, `nnx.value_and_grad`."""

import itertools
from typing import Any

import jax.numpy as jnp
from flax import nnx

from benchmarks.peers import loops
from benchmarks.workloads import CONTEXT, DEPTH, HEADS, VOCABULARY, WIDTH, Workload


class Dense(nnx.Module):
    """Linear layers with ReLU between."""

    def __init__(self, *widths: int, rngs: nnx.Rngs):
        pairs = itertools.pairwise(widths)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])

    def __call__(self, x: Any) -> Any:
        """The forward pass."""
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class Convolutional(nnx.Module):
    """Two convolutions with pools, and linear layers."""

    def __init__(self, widths: tuple, size: int, padding: str, tail: tuple, rngs: nnx.Rngs):
        more = {"padding": padding, "rngs": rngs}
        self.conv1 = nnx.Conv(widths[0], widths[1], (size, size), **more)
        self.conv2 = nnx.Conv(widths[1], widths[2], (size, size), **more)
        self.dense = Dense(*tail, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """The forward pass."""
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        return self.dense(x.reshape(len(x), -1))


class Lstm(nnx.Module):
    """An LSTM and a linear layer on its last state."""

    def __init__(self, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(32, WIDTH, rngs=rngs), return_carry=True)
        self.out = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """The forward pass."""
        return self.out(self.rnn(x)[1][:, -1])  # pyright: ignore


class Block(nnx.Module):
    """Attention and two linear layers."""

    def __init__(self, rngs: nnx.Rngs):
        norm = {"epsilon": 1e-5, "rngs": rngs}
        self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, **norm), nnx.LayerNorm(WIDTH, **norm)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """The forward pass."""
        mask = nnx.make_causal_mask(x[..., 0])
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Gpt(nnx.Module):
    """A decoder whose output shares the table of its tokens."""

    def __init__(self, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(DEPTH)])
        self.norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)

    def __call__(self, ids: Any) -> Any:
        """The forward pass."""
        x = self.tokens(ids) + self.positions(jnp.arange(CONTEXT))
        for block in self.blocks:
            x = block(x)
        return self.tokens.attend(self.norm(x))


class Normed(nnx.Module):
    """A convolution and batch norm."""

    def __init__(self, a: int, b: int, size: int, stride: int, rngs: nnx.Rngs):
        more = {"padding": size // 2, "use_bias": False, "rngs": rngs}
        self.conv = nnx.Conv(a, b, (size, size), (stride, stride), **more)
        self.norm = nnx.BatchNorm(b, momentum=0.9, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """The forward pass."""
        return self.norm(self.conv(x))


class Residual(nnx.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, a: int, b: int, rngs: nnx.Rngs):
        stride = 1 if a == b else 2
        self.one, self.two = Normed(a, b, 3, stride, rngs), Normed(b, b, 3, 1, rngs)
        self.short = (lambda x: x) if a == b else Normed(a, b, 1, stride, rngs)

    def __call__(self, x: Any) -> Any:
        """The forward pass."""
        return nnx.relu(self.two(nnx.relu(self.one(x))) + self.short(x))


class Resnet(nnx.Module):
    """ResNet-18 with the stem for small images."""

    def __init__(self, rngs: nnx.Rngs):
        widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
        self.stem = Normed(3, 64, 3, 1, rngs)
        pairs = itertools.pairwise(widths)
        self.blocks = nnx.List([Residual(a, b, rngs) for a, b in pairs])
        self.head = nnx.Linear(512, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """The forward pass."""
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


MODELS = {
    "mlp": lambda r: Dense(784, 128, 64, 10, rngs=r),
    "cnn": lambda r: Convolutional((1, 32, 64), 3, "SAME", (3136, 128, 10), r),
    "lenet": lambda r: Convolutional((3, 6, 16), 5, "VALID", (400, 120, 84, 10), r),
    "linear": lambda r: Dense(1, 1, rngs=r),
    "lstm": Lstm,
    "gpt": Gpt,
    "resnet": Resnet,
}


def start(workload: Workload, form: str) -> loops.Loop:
    """The tutorial's loop."""
    model = MODELS[workload.model](nnx.Rngs(0))
    rule = nnx.Optimizer(model, loops.optimizer(workload), wrt=nnx.Param)

    @nnx.jit
    def train_step(model: Any, rule: Any, x: Any, y: Any) -> Any:
        loss, gradients = nnx.value_and_grad(lambda m: loops.loss(workload, m(x), y))(model)
        rule.update(model, gradients)
        return loss

    def step(model: Any, rule: Any, x: Any, y: Any) -> tuple:
        return model, rule, train_step(model, rule, x, y)

    params = nnx.state(model, nnx.Param)
    return loops.Loop(workload, step, (model, rule), loops.count(params))
