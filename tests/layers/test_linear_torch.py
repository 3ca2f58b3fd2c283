"""Dense layers and embeddings, of tokens and positions, beside PyTorch's, on drawn shapes."""

import numpy as np
import pytest
from against_torch import agree

import funnet as fn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("quick_compilation")

each_seed = pytest.mark.parametrize("seed", range(40))


def sizes(rng, count, most=6):
    return tuple(int(n) for n in rng.integers(1, most, count))


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


@each_seed
def test_dense(seed):
    rng = np.random.default_rng(seed)
    width, features = sizes(rng, 2, 40)
    arrays = {
        "x": normal(rng, *sizes(rng, rng.integers(0, 4)), width),
        "kernel": normal(rng, width, features),
    }
    biased = bool(seed % 2)
    if biased:
        arrays["bias"] = normal(rng, features)
    model = fn.Model(fn.dense, features=features, bias=biased)

    def ours(a):
        return model({name: a[name] for name in a if name != "x"}, a["x"])

    def theirs(a):
        return torch.nn.functional.linear(a["x"], a["kernel"].T, a.get("bias"))

    agree(ours, theirs, arrays)


@each_seed
def test_embed(seed):
    rng = np.random.default_rng(seed)
    vocab, features = sizes(rng, 2, 12)
    ids = rng.integers(0, vocab, sizes(rng, rng.integers(0, 4)))  # some more than once
    model = fn.Model(fn.embed, vocab=vocab, features=features)
    agree(
        lambda a: model({"table": a["table"]}, a["ids"]),
        lambda a: torch.nn.functional.embedding(a["ids"], a["table"]),
        {"table": normal(rng, vocab, features), "ids": ids},
    )


@each_seed
def test_a_tied_head(seed):
    rng = np.random.default_rng(seed)
    vocab, features = sizes(rng, 2, 12)

    @fn.layer
    def tied(p, ids, x):
        return fn.unembed(p.shared("t"), x + fn.embed(p.shared("t"), ids, vocab, features), vocab)

    model, shape = fn.Model(tied), sizes(rng, 2)

    def theirs(a):
        return (a["x"] + torch.nn.functional.embedding(a["ids"], a["table"])) @ a["table"].T

    agree(
        lambda a: model({"t": {"table": a["table"]}}, a["ids"], a["x"]),
        theirs,
        {
            "table": normal(rng, vocab, features),
            "x": normal(rng, *shape, features),
            "ids": rng.integers(0, vocab, shape),
        },
    )


@each_seed
def test_learned_positions(seed):
    rng = np.random.default_rng(seed)
    n, steps, features, more = sizes(rng, 4, 9)
    model = fn.Model(fn.position_embed, most=steps + more - 1)

    def theirs(a):
        return a["x"] + torch.nn.functional.embedding(torch.arange(steps), a["table"])

    agree(
        lambda a: model({"table": a["table"]}, a["x"]),
        theirs,
        {"x": normal(rng, n, steps, features), "table": normal(rng, steps + more - 1, features)},
    )
