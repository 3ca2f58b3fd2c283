"""PyTorch: eager with a DataLoader, as its tutorial has it; with plain indexing; compiled.

With plain indexing, images are channels-last. Its LSTM has two biases; the second is held at zero.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.workloads import (
    CONTEXT,
    DECAY,
    DEPTH,
    HEADS,
    MOMENTUM,
    VOCABULARY,
    WIDTH,
    Workload,
    data,
    orders,
)


class Lstm(nn.Module):
    """An LSTM and a dense layer on its last state."""

    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(32, WIDTH, batch_first=True), nn.Linear(WIDTH, 10)
        nn.init.zeros_(self.lstm.bias_hh_l0).requires_grad_(False)  # pyright: ignore

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, 32) to (N, 10)."""
        return self.out(self.lstm(x)[1][0][0])


class Block(nn.Module):
    """As nanoGPT writes it, with query, key and value in one product."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, C) to the same."""
        n, t, c = x.shape
        parts = self.qkv(self.norm1(x)).split(c, dim=2)
        q, k, v = (part.view(n, t, HEADS, c // HEADS).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, c))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    """A decoder whose output shares the table of its tokens."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.norm = (
            nn.Sequential(*(Block() for _ in range(DEPTH))),
            nn.LayerNorm(WIDTH),
        )
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(N, T) to (N, T, vocabulary)."""
        x = self.tokens(ids) + self.positions.weight
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        project = (nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.short = nn.Sequential(*(project if before != width else ()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, width, H / stride, W / stride)."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.short(x))


def resnet() -> nn.Module:
    """ResNet-18 with the stem for small images."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    pairs = list(itertools.pairwise(widths))
    blocks = [Residual(a, b, 1 if a == b else 2) for a, b in pairs]
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(*stem, *blocks, *head)


def dense(*widths: int) -> list[nn.Module]:
    """Linear layers with ReLU between."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return layers[:-1]


def convolutional(before: int, widths: tuple, size: int, padding: int, *tail: int) -> nn.Module:
    """Two convolutions with pools, and linear layers."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(before, width, size, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
        before = width
    return nn.Sequential(*layers, nn.Flatten(), *dense(*tail))


MODELS = {
    "mlp": lambda: nn.Sequential(*dense(784, 128, 64, 10)),
    "cnn": lambda: convolutional(1, (32, 64), 3, 1, 3136, 128, 10),
    "lenet": lambda: convolutional(3, (6, 16), 5, 0, 400, 120, 84, 10),
    "linear": lambda: nn.Linear(1, 1),
    "lstm": Lstm,
    "gpt": Gpt,
    "resnet": resnet,
}


def optimizer(workload: Workload, params: Any) -> torch.optim.Optimizer:
    """PyTorch's, with the settings that all have."""
    rate = workload.rate
    return {
        "sgd": lambda: torch.optim.SGD(params, rate),
        "momentum": lambda: torch.optim.SGD(params, rate, momentum=MOMENTUM),
        "adam": lambda: torch.optim.Adam(params, rate),
        "adamw": lambda: torch.optim.AdamW(params, rate, weight_decay=DECAY),
    }[workload.optimizer]()


def loss(workload: Workload, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared error for the line, cross entropy for the rest."""
    if workload.model == "linear":
        return F.mse_loss(output, y)
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


class Trained:
    """A module, its optimizer, and the loop."""

    def __init__(self, workload: Workload, form: str):
        self.workload, self.form = workload, form
        self.module = MODELS[workload.model]().train()
        x, y = map(torch.from_numpy, data(workload))
        self.x, self.y = x, y if workload.model == "linear" else y.long()
        if x.ndim == 4:
            last = torch.contiguous_format if form == "loader" else torch.channels_last
            self.x = x.permute(0, 3, 1, 2).contiguous(memory_format=last)
            self.module = self.module.to(memory_format=last)
        params = [p for p in self.module.parameters() if p.requires_grad]
        self.parameters = sum(p.numel() for p in params)
        self.optimizer = optimizer(workload, params)
        self.forward = torch.compile(self.module) if form == "compile" else self.module
        self.batches = self.loaded() if form == "loader" else self.indexed()

    def loaded(self) -> Iterator:
        """Minibatches from a DataLoader, epoch after epoch."""
        held = torch.utils.data.TensorDataset(self.x, self.y)
        loader = torch.utils.data.DataLoader(held, batch_size=self.workload.batch, shuffle=True)
        while True:
            yield from loader

    def indexed(self) -> Iterator:
        """Minibatches by rows of a shuffled permutation."""
        for rows in map(torch.from_numpy, orders(self.workload)):
            yield self.x[rows], self.y[rows]

    def run(self, steps: int) -> float:
        """Takes the steps and returns the last loss."""
        last: Any = None
        for _ in range(steps):
            x, y = next(self.batches)
            self.optimizer.zero_grad()
            last = loss(self.workload, self.forward(x), y)
            last.backward()
            self.optimizer.step()
        return last.item()


start = Trained
