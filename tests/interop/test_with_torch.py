"""Weights of real modules: the same outputs here, and the same module again from here."""

import chex
import jax
import numpy as np
import pytest

import funnet as fn

torch = pytest.importorskip("torch")
from toys_of_torch import TOYS  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compilation")


def likes(toy):
    """The trees as arrays and as shapes, and the inputs."""
    return {
        "inputs": toy.inputs,
        "shapes": toy.model.shapes(*toy.inputs),
        "arrays": toy.model.init(jax.random.key(0), *toy.inputs),
    }


def taken(toy, module, like=None, **told):
    like = toy.inputs if like is None else like
    return fn.interop.from_torch(toy.model, module.state_dict(), like=like, **{**toy.told, **told})


def near(found, target):
    assert found.shape == target.shape
    assert np.abs(np.asarray(found) - target).max() <= 1e-5 * np.abs(target).max()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_the_model_gives_what_the_module_does(toy, seed):
    module = toy.made(seed)
    params, state = taken(toy, module)
    near(toy.model.apply(params, state, *toy.inputs)[0], toy.answer(module))


@pytest.mark.parametrize("like", ["shapes", "arrays"])
@pytest.mark.parametrize("name", sorted(TOYS.keys() - {"decoder"}))
def test_trees_alone_tell_as_much_as_inputs(name, like):
    toy = TOYS[name]
    module = toy.made()
    chex.assert_trees_all_equal(taken(toy, module, likes(toy)[like]), taken(toy, module))


def test_trees_alone_leave_square_kernels_beside_transposed_ones_open():
    toy = TOYS["decoder"]
    with pytest.raises(ValueError, match=r"open.*out\.kernel.*transposed.*inputs as like"):
        taken(toy, toy.made(), likes(toy)["shapes"])


def returned(toy, trees, module, *inputs):
    settings = {"like": module.state_dict(), **toy.told}
    return fn.interop.to_torch(toy.model, *trees, *inputs, **settings)


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_a_module_given_its_weights_back_gives_the_same(toy):
    module, other = toy.made(1), toy.made(2)
    back = returned(toy, taken(toy, module), module, *toy.inputs)
    other.load_state_dict({name: torch.from_numpy(x) for name, x in back.items()}, strict=True)
    np.testing.assert_allclose(toy.answer(other), toy.answer(module), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_there_and_back_is_the_same_to_the_bit(toy):
    module = toy.made()
    trees = jax.tree.map(
        lambda x: np.random.default_rng(0).normal(size=x.shape).astype(x.dtype),
        likes(toy)["shapes"],
    )
    back = returned(toy, trees, module, *toy.inputs)
    found = fn.interop.from_torch(toy.model, back, like=toy.inputs, **toy.told)
    chex.assert_trees_all_equal(found, trees)


@pytest.mark.parametrize("name", ["cnn", "stages", "encoders", "language"])
def test_what_came_goes_back_to_the_bit(name):
    toy = TOYS[name]
    module = toy.made()
    for name, x in returned(toy, taken(toy, module), module).items():
        np.testing.assert_array_equal(x, module.state_dict()[name].numpy())


# What a state dict may hold.

LINEAR = fn.Model(fn.dense, features=2)
X = np.zeros((1, 3), np.float32)


def tensors(**settings):
    """A linear layer's, which small whole numbers fill."""
    weight = torch.arange(6).reshape(2, 3).to(**settings)
    return {"weight": weight, "bias": torch.ones(2).to(**settings)}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int32"])
def test_tensors_of_any_dtype_come_in_as_float32(dtype):
    params, _ = fn.interop.from_torch(LINEAR, tensors(dtype=getattr(torch, dtype)), like=X)
    assert params["kernel"].dtype == np.float32
    np.testing.assert_array_equal(params["kernel"], np.arange(6).reshape(2, 3).T)


def test_parameters_that_want_gradients_and_views_come_in():
    found = dict(torch.nn.Linear(3, 4).named_parameters())
    views = {"weight": found["weight"].mT[:, :2].mT, "bias": found["bias"][::2]}
    params, _ = fn.interop.from_torch(LINEAR, views, like=X)
    np.testing.assert_array_equal(params["kernel"], found["weight"].detach().numpy()[:2].T)


def test_what_comes_in_is_a_copy():
    given = tensors(dtype=torch.float32)
    params, _ = fn.interop.from_torch(LINEAR, given, like=X)
    given["bias"].zero_()
    np.testing.assert_array_equal(params["bias"], np.ones(2))


def test_tensors_without_numbers_are_refused():
    with pytest.raises(TypeError, match=r"weight is .*meta.*no numbers"):
        fn.interop.from_torch(LINEAR, tensors(device="meta"), like=X)


def test_a_meta_device_is_enough_to_go_out():
    params = {"kernel": X.T.repeat(2, 1), "bias": np.ones(2, np.float32)}
    back = fn.interop.to_torch(LINEAR, params, like=tensors(device="meta"))
    assert back["weight"].shape == (2, 3)


def test_the_older_weight_norm_is_known_too():
    model = fn.Model(fn.weight_norm(fn.dense), features=2)
    given = {"weight_g": torch.tensor([[2.0], [3.0]]), "weight_v": torch.eye(2, 3)}
    params, _ = fn.interop.from_torch(model, {**given, "bias": torch.zeros(2)}, like=X)
    np.testing.assert_allclose(model(params, np.eye(3, dtype=np.float32)).T, [[2, 0, 0], [0, 3, 0]])


@pytest.mark.parametrize("kind", [torch.nn.RNNCell, torch.nn.LSTMCell, torch.nn.GRUCell])
def test_cells(kind):
    ours = {"RNNCell": fn.rnn, "LSTMCell": fn.lstm, "GRUCell": fn.gru}[kind.__name__]
    module, x = kind(3, 4), np.ones((2, 1, 3), np.float32)
    model = fn.Model(ours, hidden=4)
    params, _ = fn.interop.from_torch(model, module.state_dict(), like=x)
    expected = module(torch.tensor(x[:, 0]))
    expected = expected[0] if isinstance(expected, tuple) else expected
    near(model(params, x)[0][:, 0], expected.detach().numpy())
