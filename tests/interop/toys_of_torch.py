"""The same small networks twice over, in PyTorch and here, with the names that differ."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import funnet as fn
from funnet.interop.outputs import channels_first
from funnet.layers.attention import attention

torch = pytest.importorskip("torch")
nn = torch.nn


@dataclasses.dataclass(frozen=True)
class Toy:
    """A layer, a module, inputs of the layer, and what `from_torch` is to be told."""

    layer: Callable[..., Any]
    module: Callable[[], Any]
    inputs: tuple[np.ndarray, ...]
    told: dict[str, Any] = dataclasses.field(default_factory=dict)
    layout: Callable[..., Any] | None = None

    @property
    def model(self) -> fn.Model:
        return fn.Model(self.layer)

    def made(self, seed: int = 0) -> Any:
        """The module with numbers of its own everywhere, as after a training."""
        torch.manual_seed(seed)
        module = self.module().eval()
        with torch.no_grad():
            for x in [*module.parameters(), *module.buffers()]:
                if x.is_floating_point():
                    x.copy_(torch.rand_like(x) + 0.5 if x.min() >= 0 else x + 0.1 * torch.rand(()))
        return module

    def answer(self, module: Any) -> np.ndarray:
        """The module's first output, channels last."""
        given = (self.layout or channels_first)(*self.inputs)
        with torch.no_grad():
            output = module(*(torch.tensor(x) for x in given))
        output = output[0] if isinstance(output, tuple) else output
        back = output.movedim(1, -1) if output.ndim > 3 or self.layout is sequences else output
        return back.numpy()


def draws(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def ids(*shape):
    return np.random.default_rng(0).integers(0, 7, shape).astype(np.int32)


def sequences(x):
    """(N, T, C) as (N, C, T)."""
    return (np.moveaxis(x, -1, 1),)


def first(layer):
    """A recurrent layer's outputs."""
    return fn.layer(lambda p, x: layer(p["rnn"], x, 4)[0])


class Held(nn.Module):
    """Modules by name, called by a function."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.call = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs):
        return self.call(self, *inputs)


@fn.layer
def mlp(p, x):
    x = fn.layer_norm(p["norm"], fn.relu(fn.dense(p["hidden"], x, 5)))
    return fn.dense(p["out"], x, 3, bias=False)


def mlp_module():
    layers = nn.Linear(4, 5), nn.ReLU(inplace=True), nn.LayerNorm(5), nn.Linear(5, 3, bias=False)
    return nn.Sequential(*layers)


@fn.layer
def cnn(p, x):
    x = fn.relu(fn.batch_norm(p["norm"], fn.conv(p["conv"], x, 4, 3, stride=2, padding=1)))
    x = fn.relu(fn.conv(p["grouped"], x, 6, (1, 3), groups=2))
    return fn.dense(p["fc"], fn.flatten(x), 5)


def cnn_module():
    return Held(
        lambda m, x: m.fc(m.grouped(m.norm(m.conv(x)).relu_()).relu_().flatten(1)),
        conv=nn.Conv2d(3, 4, 3, stride=2, padding=1),
        norm=nn.BatchNorm2d(4),
        grouped=nn.Conv2d(4, 6, (1, 3), padding=(0, 1), groups=2),
        fc=nn.Linear(6 * 3 * 4, 5),
    )


@fn.layer
def decoder(p, x):
    x = fn.tanh(fn.conv_transpose(p["up"], x, 4, 3, stride=2, padding=1, groups=2))
    return fn.conv_transpose(p["out"], x, 4, (2, 3), padding=0)


def decoder_module():
    up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, groups=2)
    return nn.Sequential(up, nn.Tanh(), nn.ConvTranspose2d(4, 4, (2, 3)))


@fn.layer
def language(p, ids):
    return fn.unembed(p.shared("tokens"), fn.embed(p.shared("tokens"), ids, 7, 3), 7)


def language_module():
    module = Held(
        lambda m, x: m.head(m.tokens(x)),
        tokens=nn.Embedding(7, 3),
        head=nn.Linear(3, 7, bias=False),
    )
    module.head.weight = module.tokens.weight
    return module


def recurrent(kind, **settings):
    return lambda: Held(lambda m, x: m.rnn(x)[0], rnn=kind(3, 4, batch_first=True, **settings))


@fn.layer
def encoder(p, x):
    x = x + attention(p["attention"], fn.layer_norm(p["norm1"], x), heads=2)
    y = fn.layer_norm(p["norm2"], x)
    return x + fn.dense(p["linear2"], fn.relu(fn.dense(p["linear1"], y, 6)), 4)


@fn.layer
def encoders(p, x):
    return fn.repeat(encoder, 3)(p["layers"], x)


def encoders_module():
    settings = {"dropout": 0.0, "batch_first": True, "norm_first": True}
    layer = nn.TransformerEncoderLayer(4, 2, 6, **settings)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


@fn.layer
def cross(p, x, context):
    return attention(p["attention"], x, heads=2, context=context)


def cross_module(width=4):
    inner = nn.MultiheadAttention(4, 2, batch_first=True, kdim=width, vdim=width)
    return Held(lambda m, x, c: m.attention(x, c, c)[0], attention=inner)


@fn.layer
def grouped(p, x):
    return attention(p["attention"], x, heads=2, kv_heads=1)


class Grouped(nn.Module):
    """Two heads of queries for one of keys and values, as in Llama."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.o_proj = nn.Linear(4, 4), nn.Linear(4, 4)
        self.k_proj, self.v_proj = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        q = self.q_proj(x).unflatten(-1, (2, 2)).transpose(1, 2)
        k, v = self.k_proj(x)[:, None], self.v_proj(x)[:, None]
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.o_proj(y.transpose(1, 2).flatten(2))


@fn.layer
def normed(p, x):
    x = fn.relu(fn.weight_norm(fn.conv)(p["conv"], x, 4, 3, padding=0))
    x = fn.relu(fn.weight_norm(fn.conv_transpose)(p["up"], x, 5, 3, padding=0))
    return fn.weight_norm(fn.dense)(p["out"], x, 2)


def normed_module():
    weight_norm = nn.utils.parametrizations.weight_norm
    return Held(
        lambda m, x: m.out(m.up(m.conv(x).relu()).relu().mT).mT,
        conv=weight_norm(nn.Conv1d(3, 4, 3)),
        up=weight_norm(nn.ConvTranspose1d(4, 5, 3), dim=1),
        out=weight_norm(nn.Linear(5, 2)),
    )


@fn.layer
def block(p, x):
    return x + fn.relu(fn.batch_norm(p["norm"], fn.conv(p["conv"], x, 4, 3)))


@fn.layer
def stage(p, x):
    return fn.repeat(block, 2)(p["blocks"], x)


@fn.layer
def stages(p, x):
    return fn.repeat(stage, 3)(p["stages"], x)


def stages_module():
    def block():
        conv, norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        return Held(lambda m, x: x + m.norm(m.conv(x)).relu(), conv=conv, norm=norm)

    def stage():
        blocks = nn.Sequential(block(), block())
        return Held(lambda m, x: m.blocks(x), blocks=blocks)

    return Held(lambda m, x: m.stages(x), stages=nn.Sequential(stage(), stage(), stage()))


SEQUENCE = (draws(2, 5, 3),)
IMAGE = (draws(2, 5, 7, 3),)
ATTENTION = {"*.self_attn": "*.attention"}
OWN = {"*": "attention.*"}

TOYS = {
    "mlp": Toy(
        mlp, mlp_module, (draws(2, 4),), {"names": {"0": "hidden", "2": "norm", "3": "out"}}
    ),
    "cnn": Toy(cnn, cnn_module, IMAGE, {"flattened": {"fc": (6, 3, 4)}}),
    "decoder": Toy(
        decoder, decoder_module, (draws(2, 3, 4, 6),), {"names": {"0": "up", "2": "out"}}
    ),
    "language": Toy(language, language_module, (ids(2, 5),)),
    "rnn": Toy(first(fn.rnn), recurrent(nn.RNN), SEQUENCE),
    "lstm": Toy(first(fn.lstm), recurrent(nn.LSTM), SEQUENCE),
    "gru": Toy(first(fn.gru), recurrent(nn.GRU), SEQUENCE),
    "two lstms": Toy(first(fn.stacked(fn.lstm, 2)), recurrent(nn.LSTM, num_layers=2), SEQUENCE),
    "both ways": Toy(
        first(fn.bidirectional(fn.gru)), recurrent(nn.GRU, bidirectional=True), SEQUENCE
    ),
    "two lstms both ways": Toy(
        first(fn.stacked(fn.bidirectional(fn.lstm), 2)),
        recurrent(nn.LSTM, num_layers=2, bidirectional=True),
        SEQUENCE,
    ),
    "encoders": Toy(encoders, encoders_module, (draws(2, 5, 4),), {"names": ATTENTION}),
    "cross": Toy(cross, cross_module, (draws(2, 5, 4), draws(2, 3, 4))),
    "cross of widths": Toy(cross, lambda: cross_module(6), (draws(2, 5, 4), draws(2, 3, 6))),
    "grouped": Toy(
        grouped, Grouped, (draws(2, 5, 4),), {"names": {"o_proj": "attention.out", **OWN}}
    ),
    "normed": Toy(normed, normed_module, SEQUENCE, layout=sequences),
    "stages": Toy(stages, stages_module, (draws(2, 3, 4, 4),)),
}
