"""Every message that a mistake meets: it names the place, the values, and what to type instead.

`pytest -s tests/test_messages.py` prints them all, for a reader to judge.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funnet as fn
from funnet import initializers

X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
IMAGES = np.zeros((2, 8, 8, 3), np.float32)
IDS = np.arange(7)
STEPS = np.zeros((2, 5, 4), np.float32)
KEY = jax.random.key(0)
PLACE = "net.it"


def at(layer, *args, **settings):
    """A model with one layer, at `net.it`."""

    def inner(p, x):
        return layer(p["it"], x, *args, **settings)

    return fn.Model(fn.layer(lambda p, x: fn.layer(inner)(p["net"], x)))


def init(x, layer, *args, **settings):
    return lambda: at(layer, *args, **settings).init(KEY, x)


def apply(x, other, layer, *args, **settings):
    """Initialised for `x`, called with `other`."""

    def call():
        model = at(layer, *args, **settings)
        return model.apply(*model.init(KEY, x), other)

    return call


def direct(function, x=X):
    """A layer's function, initialised at the top."""
    return lambda: fn.Model(fn.layer(function)).init(KEY, x)


def with_trees(change, layer, *args, x=X, **how):
    """Called with trees that `change` has damaged."""

    def call():
        model = at(layer, *args)
        return model.apply(*change(*model.init(KEY, x)), x, **how)

    return call


def calling(act, layer=fn.dense, *args):
    """`act` on a model and its parameters."""

    def call():
        model = at(layer, *(args or (3,)))
        return act(model, model.init(KEY, X)[0])

    return call


def own_scan(layer, *args):
    def scanned(p, x):
        return lax.scan(lambda x, _: (layer(p, x, *args), None), x, None, length=2)[0]

    return scanned


def without(params, state):
    it = {k: v for k, v in params["net"]["it"].items() if k != "bias"}
    return {"net": {"it": it}}, state


def stateful_model_called():
    model = at(fn.batch_norm)
    return model(model.init(KEY, X)[0], X)


def twice(p, x):
    return fn.dense(p["d"], fn.dense(p["d"], x, 4), 4)


# What is wrong: the code, and what its message must say, the place first.
MISTAKES = {
    # inputs
    "another width": (apply(X, X[:, :3], fn.dense, 4), [PLACE, "(4, 4)", "(3, 4)", "[8,3]"]),
    "another width of images": (
        apply(IMAGES, IMAGES[..., :2], fn.conv, 4, 3),
        [PLACE, "(3, 3, 3, 4)", "(3, 3, 2, 4)", "[2,8,8,2]"],
    ),
    "integers to dense": (init(IDS[None], fn.dense, 4), [PLACE, "int32", "astype"]),
    "bytes to conv": (init(IMAGES.astype(np.uint8), fn.conv, 4, 3), [PLACE, "uint8", "astype"]),
    "bytes to batch_norm": (init(X.astype(np.uint8), fn.batch_norm), [PLACE, "uint8", "astype"]),
    "integers to dropout": (
        lambda: at(fn.dropout, 0.5).apply({}, {}, IDS, train=True, key=KEY),
        [PLACE, "int", "astype"],
    ),
    "a list to dense": (apply(X, X.tolist(), fn.dense, 4), [PLACE, "list", "jnp.asarray"]),
    "a number to dense": (apply(X, 1.0, fn.dense, 4), [PLACE, "float", "jnp.asarray"]),
    "a scalar to dense": (init(jnp.float32(1), fn.dense, 4), [PLACE, "x", "()"]),
    "a scalar to layer_norm": (init(jnp.float32(1), fn.layer_norm), [PLACE, "x", "()"]),
    "a scalar to batch_norm": (init(jnp.float32(1), fn.batch_norm), [PLACE, "x", "()"]),
    "a single image": (init(X, fn.conv, 4, 3), [PLACE, "(8, 4)", "x[None]", "x[..., None]"]),
    "floats to embed": (init(X, fn.embed, 7, 3), [PLACE, "ids", "float32", "astype('int32')"]),
    "an id too large": (apply(IDS, IDS + 1, fn.embed, 7, 3), [PLACE, "ids[6] is 7", "<= 6"]),
    "a negative id": (apply(IDS, IDS - 1, fn.embed, 7, 3), [PLACE, "ids[0] is -1", "0 <="]),
    "one value a channel": (
        with_trees(lambda p, s: (p, s), fn.batch_norm, x=X[:1], train=True),
        [PLACE, "(1, 4)", "batch of at least 2", "train=False"],
    ),
    # settings
    "no features": (init(X, fn.dense, 0), [PLACE, "features is 0"]),
    "half a feature": (init(X, fn.dense, 2.5), [PLACE, "features", "2.5"]),
    "features as text": (init(X, fn.dense, "3"), [PLACE, "features", "'3'"]),
    "no channels": (init(IMAGES, fn.conv, 0, 3), [PLACE, "features", "0"]),
    "fewer than no channels": (init(IMAGES, fn.conv, -1, 3), [PLACE, "features", "-1"]),
    "half a window": (init(IMAGES, fn.conv, 4, 2.5), [PLACE, "kernel_size", "2.5"]),
    "no window": (init(IMAGES, fn.conv, 4, 0), [PLACE, "kernel_size", "0"]),
    "too many windows": (init(IMAGES, fn.conv, 4, (3, 3, 3)), [PLACE, "kernel_size", "2 of"]),
    "no stride": (init(IMAGES, fn.conv, 4, 3, stride=0), [PLACE, "stride", "0"]),
    "no dilation": (init(IMAGES, fn.conv, 4, 3, dilation=0), [PLACE, "dilation", "0"]),
    "groups": (init(IMAGES, fn.conv, 4, 3, groups=2), [PLACE, "groups=2", "3 channels", "4"]),
    "padding": (init(IMAGES, fn.conv, 4, 3, padding="full"), [PLACE, '"same"', "'full'"]),
    "pads of three axes": (init(IMAGES, fn.conv, 4, 3, padding=(1, 1, 1)), [PLACE, "2 ints"]),
    "negative pads": (init(IMAGES, fn.conv, 4, 3, padding=-1), [PLACE, "padding", "-1"]),
    "a window too large": (
        init(IMAGES, fn.conv, 4, 9, padding="valid"),
        [PLACE, "window of 9", "size 8", 'padding="same"'],
    ),
    "rate": (init(X, fn.dropout, 1.5), [PLACE, "rate is 1.5", "0 <= rate <= 1"]),
    "momentum": (
        lambda: at(lambda p, x: fn.batch_norm(p, x, momentum=2)).init(KEY, X),
        [PLACE, "momentum is 2"],
    ),
    "no vocabulary": (init(IDS, fn.embed, 0, 3), [PLACE, "vocab"]),
    # trees
    "a missing parameter": (
        with_trees(without, fn.dense, 4),
        ["net.it.bias", "(4,)", "dense", "kernel", "model.init"],
    ),
    "no parameters": (
        with_trees(lambda p, s: ({}, s), fn.dense, 4),
        ["net.it.kernel", "(4, 4)", "nothing", "model.init"],
    ),
    "a tuple of trees": (
        lambda: at(fn.dense, 4)((1, 2), X),
        ["params", "tuple", "params, state = model.init(key, x)"],
    ),
    "state forgotten": (
        calling(lambda model, params: model.apply(params, X)),
        ["state", "model.apply(params, state, x)"],
    ),
    "no dict at all": (
        with_trees(lambda p, s: (p, {"net": 3}), fn.batch_norm),
        ["net.it.mean", "model.init"],
    ),
    "state of another shape": (
        with_trees(lambda p, s: (p, {"net": {"it": {"mean": X, "var": X}}}), fn.batch_norm),
        ["net.it.mean", "(8, 4)", "(4,)"],
    ),
    "a stateful model called": (
        stateful_model_called,
        ["net.it.mean", "batch_norm", "model.apply(params, state, x)", "(output, state)"],
    ),
    "no state": (
        with_trees(lambda p, s: (p, None), fn.batch_norm),
        ["net.it.mean", "model.apply(params, state, x)"],
    ),
    # keys
    "dropout without a key": (
        lambda: at(fn.dropout, 0.5).apply({}, {}, X, train=True),
        [PLACE, "dropout", "key=jax.random.key(0)", "train=False"],
    ),
    "a key that is a number": (lambda: at(fn.dense, 3).init(0, X), ["0", "jax.random.key(0)"]),
    "a key that is None": (lambda: at(fn.dense, 3).init(None, X), ["jax.random.key(0)"]),
    "a key that is data": (lambda: at(fn.dense, 3).init(X, X), ["jax.random.key(0)"]),
    "a key forgotten": (lambda: at(fn.dense, 3).init(X), ["key", "jax.random.key(0)"]),
    "a number for apply's key": (
        calling(lambda model, params: model.apply(params, {}, X, key=3)),
        ["3", "jax.random.key(0)"],
    ),
    # names
    "a name used twice": (direct(twice), ["'d'", "twice", 'p.shared("d")']),
    "a dot in a name": (direct(lambda p, x: fn.dense(p["a.b"], x, 3)), ["'a.b'", "without a dot"]),
    "a number for a name": (direct(lambda p, x: fn.dense(p[0], x, 3)), ["0", "string"]),
    "a dot in a parameter": (
        init(X, lambda p, x: x * p.param("a.b", (4,), initializers.ones)),
        [PLACE, "'a.b'", "without a dot"],
    ),
    "sharing of two shapes": (
        direct(lambda p, x: fn.dense(p.shared("d"), fn.dense(p.shared("d"), x, 5), 5)),
        ["d.kernel", "(4, 5)", "(5, 5)"],
    ),
    "a shape that is a number": (
        init(X, lambda p, x: x * p.param("scale", 4, initializers.ones)),
        ["net.it.scale", "shape", "4"],
    ),
    "an initializer's shape": (
        init(X, lambda p, x: p.param("s", (4, 2), lambda k, s, d: jnp.ones((2, 4), d))),
        ["net.it.s", "(4, 2)", "(2, 4)"],
    ),
    "an unknown variable": (
        init(X, lambda p, x: p.update("seen", x)),
        ["net.it.seen", "variable"],
    ),
    "an update's shape": (
        init(X, lambda p, x: (p.variable("v", (4,), initializers.ones), p.update("v", x))),
        ["net.it.v", "(4,)", "(8, 4)"],
    ),
    # loops
    "state in a scan": (init(X, own_scan(fn.batch_norm)), [PLACE, "batch_norm", "fn.repeat("]),
    "keys in a scan": (
        lambda: at(own_scan(fn.dropout, 0.5)).apply({}, {}, X, train=True, key=KEY),
        [PLACE, "dropout", "fn.repeat("],
    ),
    "taps in a scan": (
        lambda: at(own_scan(fn.dropout, 0.5)).capture({}, {}, X, taps=PLACE),
        [PLACE, "dropout", "tap", "fn.repeat("],
    ),
    "no turns": (lambda: fn.repeat(fn.dense, 0), ["n=0", "at least 1"]),
    "turns of another width": (
        init(X, fn.repeat(fn.dense, 2), 5),
        [f"'{PLACE}'", "float32[8,4]", "float32[8,5]"],
    ),
    # models
    "no scope": (lambda: fn.dense(X, 3), ["dense", "scope", 'p["name"]', "fn.Model(dense"]),
    "no layer": (lambda: fn.Model(3), ["layer", "3"]),
    "a pattern without a match": (
        calling(lambda model, params: model.capture(params, {}, X, taps="net.itt")),
        ["net.itt", "nearest paths are", PLACE],
    ),
    # sequences
    "a length beyond the steps": (
        init(STEPS, fn.lstm, 3, lengths=np.array([2, 6])),
        [PLACE, "lengths[1] is 6", "<= 5", "5 steps"],
    ),
    "a negative length": (
        init(STEPS, fn.gru, 3, lengths=np.array([-1, 2])),
        [PLACE, "lengths[0] is -1", "0 <="],
    ),
    "a length too few": (
        init(STEPS, fn.batch_norm, lengths=np.array([2])),
        [PLACE, "(1,)", "2 sequences", "(2, 5, 4)"],
    ),
    "lengths that are floats": (
        init(STEPS, fn.attention, heads=2, lengths=np.array([2.0, 3.0])),
        [PLACE, "lengths", "float64", "astype('int32')"],
    ),
    "a pool over time": (
        lambda: fn.global_max_pool(STEPS, lengths=np.array([7, 0])),
        ["lengths[0] is 7", "<= 5"],
    ),
    "a single sequence": (init(X, fn.lstm, 3), [PLACE, "(N, T, in)", "(8, 4)", "x[None]"]),
    "a state of another width": (
        init(STEPS, fn.gru, 3, initial=np.zeros((2, 4), np.float32)),
        [PLACE, "initial", "(2, 4)", "(2, 3)"],
    ),
    "half of an LSTM's state": (
        init(STEPS, fn.lstm, 3, initial=np.zeros((2, 3), np.float32)),
        [PLACE, "initial", "(h, c)"],
    ),
    "heads": (init(STEPS, fn.attention, heads=3), [PLACE, "heads=3", "(2, 5, 4)", "divide"]),
    "shared heads": (
        init(STEPS, fn.attention, heads=4, kv_heads=3),
        [PLACE, "kv_heads=3", "heads=4", "divide"],
    ),
    "a mask of numbers": (
        init(STEPS, fn.attention, heads=2, mask=np.zeros((5, 5))),
        [PLACE, "mask", "boolean", "float64"],
    ),
    "a mask of another shape": (
        init(STEPS, fn.attention, heads=2, mask=np.ones((4, 5), bool)),
        [PLACE, "mask", "(T, S)", "T=5", "(4, 5)"],
    ),
    "a full cache": (
        init(STEPS, fn.attention, heads=2, causal=True, cache=4),
        [PLACE, "cache", "room for 4", "5"],
    ),
    "a cache that looks ahead": (
        init(STEPS, fn.attention, heads=2, cache=8),
        [PLACE, "cache", "causal=True"],
    ),
    "too few positions": (init(STEPS, fn.position_embed, 4), [PLACE, "5 steps", "most=4"]),
    # other norms
    "groups of channels": (
        init(IMAGES, fn.group_norm, 2),
        [PLACE, "groups=2", "3 channels", "divide"],
    ),
    "one pixel": (
        init(IMAGES[:, :1, :1], fn.instance_norm),
        [PLACE, "instance_norm", "(2, 1, 1, 3)"],
    ),
    "nothing left": (
        init(IMAGES, fn.conv_transpose, 4, 3, padding=5),
        [PLACE, "padding", "nothing"],
    ),
    "no such parameter": (init(X, fn.weight_norm(fn.layer_norm)), [PLACE, "'kernel'", "name"]),
    # pools
    "a window larger than the image": (lambda: fn.max_pool(IMAGES, 9), ["9", "size 8"]),
    "a pool of two axes": (lambda: fn.avg_pool(X, 2), ["avg_pool", "(8, 4)", "x[None]"]),
    "a pool of nothing": (lambda: fn.max_pool(IMAGES, 0), ["window", "0"]),
    "a mean of bytes": (lambda: fn.avg_pool(IMAGES.astype(np.uint8), 2), ["uint8", "astype"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_meets_a_helpful_message(mistake):
    code, expected = MISTAKES[mistake]
    with pytest.raises((ValueError, TypeError)) as caught:
        code()
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    print(f"\n-- {mistake}\n{type(caught.value).__name__}: {said}")
    missing = [words for words in expected if words not in said]
    assert not missing, f"{missing} not in: {said}"


def test_numbers_of_numpy_are_numbers():
    model = fn.Model(fn.conv, features=np.int64(4), kernel_size=np.int64(3), stride=np.int32(2))
    assert model.shapes(IMAGES)[0]["kernel"].shape == (3, 3, 3, 4)
    assert fn.max_pool(IMAGES, np.int64(2)).shape == (2, 4, 4, 3)


LAYERS = {
    "dense": (X, fn.dense, (3,)),
    "conv": (IMAGES, fn.conv, (4, 3)),
    "pointwise conv": (IMAGES, fn.conv, (4, 1)),
    "batch_norm": (X, fn.batch_norm, ()),
    "layer_norm": (X, fn.layer_norm, ()),
    "dropout": (X, fn.dropout, (0.5,)),
    "max_pool": (IMAGES, lambda p, x: fn.max_pool(x, 2), ()),
    "avg_pool": (IMAGES, lambda p, x: fn.avg_pool(x, 2), ()),
    "global_avg_pool": (IMAGES, lambda p, x: fn.global_avg_pool(x), ()),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_numpy_doubles_are_taken_without_a_warning(layer):
    x, function, args = LAYERS[layer]
    wide, model = x.astype(np.float64), at(function, *args)
    params, state = model.init(KEY, wide)
    for train in (False, True):
        output, _ = model.apply(params, state, wide, train=train, key=KEY)
        expected, _ = model.apply(params, state, x, train=train, key=KEY)
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
        assert output.dtype == jnp.float32
