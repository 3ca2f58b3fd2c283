"""The twin check: it agrees where weights are the same, and names the first layer that differs."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet.interop.outputs import distance
from funnet.select import flatten, nest

torch = pytest.importorskip("torch")
from toys_of_torch import TOYS, Held, Toy, draws, first, recurrent  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compilation")
nn = torch.nn


def made(toy):
    module = toy.made()
    tensors = module.state_dict()
    return module, *fn.interop.from_torch(toy.model, tensors, like=toy.inputs, **toy.told)


def checked(toy, module, params, state, **settings):
    names = toy.told.get("names")
    settings = {"names": names, "layout": toy.layout, **settings}
    return fn.interop.twin(toy.model, params, state, module, *toy.inputs, **settings)


def changed(tree, path, factor=1.5):
    """The tree with one leaf made larger."""
    leaves = flatten(tree)
    return nest({**leaves, path: leaves[path] * factor + 0.1})


# toy, modules that have a partner, in order
ORDERS = {
    "mlp": ["hidden", "norm", "out", "."],
    "cnn": ["conv", "norm", "grouped", "fc", "."],
    "decoder": ["up", "out", "."],
    "two lstms both ways": ["rnn", "."],
    "cross": ["attention", "."],
    "normed": ["conv", "up", "out", "."],
    "stages": [
        name
        for i in range(3)
        for j in range(2)
        for name in (*(f"stages.{i}.blocks.{j}{n}" for n in (".conv", ".norm", "")),)
        + ((f"stages.{i}",) if j else ())
    ]
    + ["."],
}


@pytest.mark.parametrize("name", TOYS)
def test_twins_agree(name):
    found = checked(TOYS[name], *made(TOYS[name]), tolerance=1e-5)
    assert found.first is None, found
    assert found.pairs[-1].path == "."
    assert str(found).endswith("all agree, at a tolerance of 1e-05")


@pytest.mark.parametrize("name", ORDERS)
def test_pairs_are_in_the_order_in_which_they_finish(name):
    found = checked(TOYS[name], *made(TOYS[name]))
    assert [pair.path for pair in found.pairs] == ORDERS[name]


@pytest.mark.parametrize(
    ("name", "leaf", "place"),
    [
        ("mlp", "norm.scale", "norm"),
        ("cnn", "grouped.kernel", "grouped"),
        ("lstm", "rnn.bias", "rnn"),
        ("encoders", "layers.attention.out.bias", "layers.0.attention"),
        ("stages", "stages.blocks.norm.bias", "stages.0.blocks.0.norm"),
    ],
)
def test_the_first_to_diverge_is_the_one_that_was_changed(name, leaf, place):
    module, params, state = made(TOYS[name])
    found = checked(TOYS[name], module, changed(params, leaf), state)
    assert found.first == place
    assert f"the first to diverge is '{place}'" in str(found)
    before = itertools.takewhile(lambda pair: pair.path != place, found.pairs)
    assert all(pair.error < 1e-5 for pair in before)
    assert found.errors[place] > 1e-3


def test_one_turn_of_a_repeat_is_found():
    toy = TOYS["stages"]
    module, params, state = made(toy)
    kernel = params["stages"]["blocks"]["conv"]["kernel"]
    params["stages"]["blocks"]["conv"]["kernel"] = kernel.at[1, 0].multiply(1.1)
    assert checked(toy, module, params, state).first == "stages.1.blocks.0.conv"


def test_forgotten_flattening_shows_in_the_layer_after_it():
    toy = TOYS["cnn"]
    module = toy.made()
    params, state = fn.interop.from_torch(toy.model, module.state_dict(), like=toy.inputs)
    assert checked(toy, module, params, state).first == "fc"


def test_training_normalises_by_the_batch():
    toy = TOYS["stages"]
    module, params, state = made(toy)
    assert checked(toy, module, params, state, train=True, tolerance=1e-5).first is None
    state = jax.tree.map(lambda x: x + 1, state)
    assert checked(toy, module, params, state).first == "stages.0.blocks.0.norm"
    assert checked(toy, module, params, state, train=True).first is None


def test_the_module_is_left_as_it_was():
    toy = TOYS["stages"]
    module, params, state = made(toy)
    module.train()
    module.stages[0].eval()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    checked(toy, module, params, state, train=True)
    assert module.training
    assert not module.stages[0].training
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
    assert not any(inner._forward_hooks for inner in module.modules())


def test_random_numbers_that_the_module_draws_are_drawn_again():
    layer = fn.layer(lambda p, x: fn.dense(p["out"], x, 2))
    drops = Toy(
        layer,
        lambda: Held(
            lambda m, x: nn.functional.dropout(m.out(x), 0.5, m.training), out=nn.Linear(4, 2)
        ),
        (draws(3, 4),),
    )
    module, params, state = made(drops)
    before = torch.get_rng_state()
    assert checked(drops, module, params, state, train=True).first == "."
    assert torch.equal(torch.get_rng_state(), before)


def test_the_module_is_left_as_it_was_after_an_error():
    toy = TOYS["cnn"]
    module, params, state = made(toy)
    module.train()
    with pytest.raises(RuntimeError, match="channels"):
        checked(toy, module, params, state, layout=lambda x: (x,))
    assert module.training
    assert not any(inner._forward_hooks for inner in module.modules())


def test_what_has_no_partner_is_listed():
    found = checked(TOYS["mlp"], *made(TOYS["mlp"]))
    assert found.modules == ("1",)
    assert found.layers == ()
    assert "modules without a partner: 1" in str(found)
    other = checked(TOYS["mlp"], *made(TOYS["mlp"]), names={"0": "hidden", "3": "out"})
    assert other.layers == ("norm",)
    assert other.modules == ("1", "2")


def test_the_whole_is_compared_where_it_is_no_layer():
    toy = Toy(
        fn.repeat(fn.dense, 2),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
        (draws(3, 4),),
    )
    model = fn.Model(toy.layer, features=4)
    module = toy.made()
    params, state = fn.interop.from_torch(model, module.state_dict(), like=toy.inputs)
    found = fn.interop.twin(model, params, state, module, *toy.inputs, tolerance=1e-5)
    assert [pair.path for pair in found.pairs] == ["0", "1", "."]
    assert found.first is None


@fn.layer
def shared(p, x):
    for _ in range(3):
        x = fn.tanh(fn.dense(p.shared("step"), x, 4))
    return x


def shared_module(times=3):
    def forward(module, x):
        for _ in range(times):
            x = module.step(x).tanh_()
        return x

    return lambda: Held(forward, step=nn.Linear(4, 4))


def test_a_shared_layer_is_compared_call_by_call():
    toy = Toy(shared, shared_module(), (draws(2, 4),))
    found = checked(toy, *made(toy), tolerance=1e-5)
    assert [pair.path for pair in found.pairs] == ["step", "step", "step", "."]
    assert found.first is None


def test_another_number_of_calls_is_noted():
    toy = Toy(shared, shared_module(2), (draws(2, 4),))
    found = checked(toy, *made(toy))
    assert found.first == "."
    assert [pair.path for pair in found.pairs] == ["step", "step", "."]
    assert str(found).count("called 3 times, PyTorch's 2 times") == 2


def test_a_tied_head_is_the_second_call_of_its_table():
    toy = TOYS["language"]
    found = checked(toy, *made(toy), names={"head": "tokens"}, tolerance=1e-5)
    assert [(pair.path, pair.module) for pair in found.pairs[:2]] == [
        ("tokens", "tokens"),
        ("tokens", "head"),
    ]
    assert found.first is None
    assert "times" not in str(found)


@pytest.mark.parametrize("kind", ["stacked", "both ways", "cell"])
def test_states_of_recurrent_layers_are_compared(kind):
    layer, settings = {
        "stacked": (fn.stacked(fn.lstm, 2), {"num_layers": 2}),
        "both ways": (fn.bidirectional(fn.lstm), {"bidirectional": True}),
        "cell": (fn.lstm, {}),
    }[kind]
    toy = Toy(first(layer), recurrent(nn.LSTM, **settings), (draws(2, 5, 3),))
    module, params, state = made(toy)
    assert checked(toy, module, params, state, tolerance=1e-5).first is None
    plain = module.call
    module.call = lambda m, x: plain(m, x)
    inner = module.rnn.forward
    module.rnn.forward = lambda x: (lambda y, last: (y, (last[0], last[1] + 1)))(*inner(x))
    found = checked(toy, module, params, state)
    assert found.first == "rnn"


def test_time_may_come_first():
    toy = Toy(
        first(fn.gru),
        lambda: Held(lambda m, x: m.rnn(x)[0], rnn=nn.GRU(3, 4)),
        (draws(2, 5, 3),),
        layout=lambda x: x.swapaxes(0, 1),
    )
    assert checked(toy, *made(toy), tolerance=1e-5).first is None


def test_other_shapes_diverge_and_are_shown():
    toy = Toy(
        fn.layer(lambda p, x: fn.dense(p["out"], x, 4)[:, :2]),
        lambda: nn.Linear(3, 4),
        (draws(5, 3),),
        {"names": lambda name: f"out.{name}"},
    )
    found = checked(toy, *made(toy))
    assert found.errors["."] == math.inf
    assert "(5, 2), PyTorch's (5, 4)" in str(found)


def test_bfloat16_inputs_run_in_bfloat16():
    toy = dataclasses.replace(TOYS["mlp"], inputs=(jnp.asarray(draws(2, 4), jnp.bfloat16),))
    module, params, state = made(toy)
    found = checked(toy, module.bfloat16(), params, state, tolerance=0.05)
    assert found.first is None, found
    assert found.errors["hidden"] > 0


def test_names_may_speak_of_tensors_too():
    toy = TOYS["stages"]
    names = {"*.num_batches_tracked": None, "*.running_mean": None}
    assert checked(toy, *made(toy), names=names).first is None


def test_a_pattern_that_matches_nothing_is_refused():
    toy = TOYS["mlp"]
    with pytest.raises(ValueError, match="'nowhere' matches nothing"):
        checked(toy, *made(toy), names={"nowhere": "x"})


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got dict"):
        checked(TOYS["cnn"], {}, {}, {})


# How far two outputs are apart.


def apart(x, y):
    return distance(np.float32(x), [np.float32(y)])[0]


def test_the_error_is_relative_to_the_largest_element():
    assert apart([1.0, 100.0], [2.0, 100.0]) == pytest.approx(0.01)
    assert apart([], []) == 0
    assert apart([0.0], [0.0]) == 0


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_odd_numbers_agree_with_their_like_alone(odd):
    assert apart([odd, 1.0], [odd, 1.0]) == 0
    assert apart([odd, 1.0], [odd, 2.0]) == 0.5
    assert apart([odd, 1.0], [1.0, 1.0]) == math.inf
    assert apart([1.0, 1.0], [odd, 1.0]) == math.inf


def test_channels_and_time_are_brought_back():
    images, sequences = draws(2, 3, 3, 3), draws(2, 5, 4)
    assert distance(images, [np.moveaxis(images, -1, 1)]) == (0, "")
    assert distance(sequences, [sequences.swapaxes(0, 1)]) == (0, "")
    assert distance(images, [images]) == (0, "")
    assert distance(images, [draws(2, 3, 3, 3) + 1])[0] > 0.1


def test_of_more_arrays_than_there_are_the_first_is_compared():
    x, y = draws(2), draws(3)
    assert distance((x, y), [x]) == (0, "")
    assert distance(x, [x, y]) == (0, "")
    assert distance((x, y), [x, y + 1])[0] > 0.1
    assert distance((), [x]) == (math.inf, "no arrays")
