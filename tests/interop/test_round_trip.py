"""Drawn trees go to PyTorch's names and come back, whatever layers they are made of."""

import chex
import numpy as np
import pytest

import funnet as fn
from funnet.interop import from_torch, to_torch
from funnet.interop.rules import counterpart
from funnet.select import flatten, nest

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

SIZES = st.integers(1, 4)
NUMBERS = st.sampled_from([0.0, -0.0, 1.5, -2.0, np.inf, 1e-45, np.nan])
DTYPES = st.sampled_from(["float32", "float16", "bfloat16"])


@st.composite
def layers(draw):
    """The parameters of a layer of ours by name, and the shapes of PyTorch's."""
    a, b, k, h = (draw(SIZES) for _ in range(4))
    dense = {"kernel": (a, b), "bias": (b,)}, {"weight": (b, a), "bias": (b,)}
    conv = {"kernel": (k, 1, a, b)}, {"weight": (b, a, k, 1)}
    norm = {"scale": (a,), "bias": (a,)}, {"weight": (a,), "bias": (a,)}
    table = {"table": (a, b)}, {"weight": (a, b)}
    ends = {"input_kernel": (a, 4 * h), "hidden_kernel": (h, 4 * h), "bias": (4 * h,)}
    theirs = {"weight_ih_l0": (4 * h, a), "weight_hh_l0": (4 * h, h)}
    lstm = ends, {**theirs, "bias_ih_l0": (4 * h,), "bias_hh_l0": (4 * h,)}
    attention = {"qkv.kernel": (a, 3 * a)}, {"in_proj_weight": (3 * a, a)}
    return draw(st.sampled_from([dense, conv, norm, table, lstm, attention]))


@st.composite
def trees(draw):
    """A flat tree of ours with numbers in it, and PyTorch's shapes; some layers repeated."""
    words = st.text("abcxyz", min_size=1, max_size=3)
    leaves, like = {}, {}
    for word in draw(st.lists(words, min_size=1, max_size=4, unique=True)):
        (ours, theirs), turns = draw(layers()), draw(st.sampled_from([(), (1,), (2,), (3,)]))
        dtype = draw(DTYPES)
        for name, shape in ours.items():
            values = draw(st.lists(NUMBERS, min_size=1, max_size=5))
            leaves[f"{word}.{name}"] = np.resize(np.array(values, dtype), (*turns, *shape))
        for turn in range(turns[0]) if turns else [None]:
            at = word if turn is None else f"{word}.{turn}"
            like |= {f"{at}.{name}": np.zeros(shape) for name, shape in theirs.items()}
    return nest(leaves), like


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(trees())
def test_there_and_back_is_the_same_to_the_bit(drawn):
    tree, like = drawn
    model = fn.Model(fn.dense, features=1)  # which trees alone do not ask
    back = to_torch(model, tree, like=like)
    assert {name: x.shape for name, x in back.items()} == {n: x.shape for n, x in like.items()}
    found = from_torch(model, back, like=tree)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, tree)
    words = {"float32": "uint32"}
    for name, leaf in flatten(found).items():
        expected = flatten(tree)[name]
        kind = words.get(leaf.dtype.name, "uint16")
        same = np.asarray(leaf).view(kind) == expected.view(kind)
        assert (same | np.isnan(expected)).all()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("fc.kernel", "fc.weight"),
        ("norm.mean", "norm.running_mean"),
        ("rnn.layer1.backward.hidden_kernel", "rnn.weight_hh_l1_reverse"),
        ("kernel", "weight"),
        ("a.positions", "a.positions"),
    ],
)
def test_a_missing_parameter_is_called_as_pytorch_would(ours, theirs):
    assert counterpart(ours) == theirs
