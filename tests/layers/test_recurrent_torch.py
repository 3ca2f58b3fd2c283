"""The recurrent layers beside PyTorch's: packed sequences, both ways, several layers, cells."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from against_torch import agree

import funnet as fn
from funnet.select import nest

pytestmark = pytest.mark.usefixtures("quick_compilation")

torch = pytest.importorskip("torch")

THEIRS = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
WAYS = ["forward", "reverse", "bidirectional"]


@dataclasses.dataclass(frozen=True)
class Case:
    """A configuration: sizes, ways, and what is given beside `x`."""

    kind: str
    shape: tuple[int, int, int]
    hidden: int
    way: str
    depth: int
    padded: bool
    begun: bool

    @property
    def places(self):
        """The path of each single layer's scope, and how PyTorch calls it, in PyTorch's order."""
        for i in range(self.depth):
            path = f"layer{i}." if self.depth > 1 else ""
            if self.way == "bidirectional":
                yield f"{path}forward.", f"l{i}"
                yield f"{path}backward.", f"l{i}_reverse"
            else:
                yield path, f"l{i}"

    @property
    def parts(self):
        return "hc" if self.kind == "lstm" else "h"


def drawn(kind, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, [5, 8, 5]))
    way = WAYS[seed % 3]
    depth = 1 if way == "reverse" else int(rng.integers(1, 4))
    hidden, padded, begun = int(rng.integers(1, 6)), bool(rng.integers(2)), bool(rng.integers(2))
    return Case(kind, shape, hidden, way, depth, padded, begun), rng


def moderate(rng, *shape):
    """Normal numbers that saturate no gate: there `1 - tanh²` cancels, in PyTorch as here."""
    return rng.normal(scale=0.5, size=shape).astype(np.float32)


def arrays_of(case, rng):
    """`x`, lengths, initial states and parameters, these by dotted path."""

    (n, time, width), hidden, size = case.shape, case.hidden, GATES[case.kind] * case.hidden
    normal = functools.partial(moderate, rng)
    arrays = {"x": normal(*case.shape)}
    if case.padded:
        arrays["lengths"] = rng.integers(1, time + 1, n).astype(np.int32)
    for path, _ in case.places:
        first = case.depth == 1 or path.startswith("layer0.")
        below = width if first else hidden * (2 if case.way == "bidirectional" else 1)
        arrays[f"{path}input_kernel"] = normal(below, size)
        arrays[f"{path}hidden_kernel"] = normal(hidden, size)
        arrays[f"{path}bias"] = normal(size)
        if case.kind == "gru":
            arrays[f"{path}hidden_bias"] = normal(size)
        for part in case.parts if case.begun else ():
            arrays[f"initial.{path}{part}"] = normal(n, hidden)
    return arrays


# Ours.


def lifted(case):
    one = getattr(fn, case.kind)
    one = fn.bidirectional(one) if case.way == "bidirectional" else one
    return fn.stacked(one, case.depth) if case.depth > 1 else one


def tuples(tree):
    """States by name as the nested tuples that the layer takes."""
    if not isinstance(tree, dict):
        return tree
    names = [name for name in ("h", "c", "forward", "backward") if name in tree]
    parts = tuple(tuples(tree[name]) for name in names or sorted(tree))
    return parts[0] if names == ["h"] else parts


def ours(case, arrays):
    arrays = dict(arrays)
    x, lengths = arrays.pop("x"), arrays.pop("lengths", None)
    trees = nest(arrays)
    initial = tuples(trees.pop("initial", None))
    settings = {"reverse": True} if case.way == "reverse" else {}
    model = fn.Model(lifted(case), hidden=case.hidden, **settings)
    outputs, last = model(trees, x, lengths=lengths, initial=initial)
    return outputs, *jax.tree.leaves(last)


# Theirs.


def weights(case, tensors):
    """The parameters by PyTorch's names; for a reverse layer, those of a forward one are zero."""
    found = {}
    for path, place in case.places:
        place = f"{place}_reverse" if case.way == "reverse" else place
        bias = tensors[f"{path}bias"]
        found[f"weight_ih_{place}"] = tensors[f"{path}input_kernel"].T
        found[f"weight_hh_{place}"] = tensors[f"{path}hidden_kernel"].T
        found[f"bias_ih_{place}"] = bias
        found[f"bias_hh_{place}"] = tensors.get(f"{path}hidden_bias", torch.zeros_like(bias))
    if case.way == "reverse":
        zeros = {name.removesuffix("_reverse"): torch.zeros_like(w) for name, w in found.items()}
        found |= zeros
    return found


def begun(case, tensors):
    """The initial states as PyTorch stacks them, or None."""
    if not case.begun:
        return None
    stacks = []
    for part in case.parts:
        states = [tensors[f"initial.{path}{part}"] for path, _ in case.places]
        unused = [torch.zeros_like(states[0])] if case.way == "reverse" else []
        stacks.append(torch.stack(unused + states))
    return tuple(stacks) if case.kind == "lstm" else stacks[0]


def theirs(case, tensors):
    x, time = tensors["x"], case.shape[1]
    module = THEIRS[case.kind](
        case.shape[2],
        case.hidden,
        case.depth,
        batch_first=True,
        bidirectional=case.way != "forward",
    )
    if case.padded:
        x = torch.nn.utils.rnn.pack_padded_sequence(
            x, tensors["lengths"], batch_first=True, enforce_sorted=False
        )
    inputs = (x, begun(case, tensors))
    outputs, last = torch.func.functional_call(module, weights(case, tensors), inputs)
    if case.padded:
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(
            outputs, batch_first=True, total_length=time
        )
    last = last if case.kind == "lstm" else (last,)
    if case.way == "reverse":
        outputs, last = outputs[..., case.hidden :], [part[1:] for part in last]
    return outputs, *(part[i] for i in range(len(last[0])) for part in last)


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("seed", range(24))
def test_layers_are_those_of_pytorch(kind, seed):
    case, rng = drawn(kind, seed)
    agree(functools.partial(ours, case), functools.partial(theirs, case), arrays_of(case, rng))


def our_cell(kind, arrays):
    names = ("input_kernel", "hidden_kernel", "bias", "hidden_bias")
    params = {name: arrays[name] for name in names if name in arrays}
    state = (arrays["h"], arrays["c"]) if kind == "lstm" else arrays["h"]
    output, state = fn.Model(getattr(fn, f"{kind}_cell"))(params, arrays["x"], state)
    return output, *jax.tree.leaves(state)


def their_cell(kind, tensors):
    width, hidden = tensors["x"].shape[1], tensors["h"].shape[1]
    module = {"rnn": torch.nn.RNNCell, "lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[kind]
    bias = tensors["bias"]
    parameters = {
        "weight_ih": tensors["input_kernel"].T,
        "weight_hh": tensors["hidden_kernel"].T,
        "bias_ih": bias,
        "bias_hh": tensors.get("hidden_bias", torch.zeros_like(bias)),
    }
    state = (tensors["h"], tensors["c"]) if kind == "lstm" else tensors["h"]
    state = torch.func.functional_call(module(width, hidden), parameters, (tensors["x"], state))
    state = state if kind == "lstm" else (state,)
    return state[0], *state


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("seed", range(24))
def test_cells_are_those_of_pytorch(kind, seed):
    rng = np.random.default_rng(seed)
    n, width, hidden = (int(size) for size in rng.integers(1, 6, 3))
    size = GATES[kind] * hidden
    shapes = {"x": (n, width), "input_kernel": (width, size), "hidden_kernel": (hidden, size)}
    shapes |= {"bias": (size,), "h": (n, hidden)}
    shapes |= {"c": (n, hidden)} if kind == "lstm" else {}
    shapes |= {"hidden_bias": (size,)} if kind == "gru" else {}
    arrays = {name: moderate(rng, *shape) for name, shape in shapes.items()}
    agree(functools.partial(our_cell, kind), functools.partial(their_cell, kind), arrays)
