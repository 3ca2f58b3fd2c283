"""Both ways at once, and layers upon layers: their parts by hand, states, dropout, refusals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(2, 4, 2)).astype(np.float32)
LENGTHS = jnp.asarray([2, 4])
ONE = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)


def made(layer, x=X, hidden=3, **settings):
    model = fn.Model(layer, hidden=hidden, **settings)
    return jax.jit(model, static_argnames="train"), model.init(KEY, x)[0]


def single(kind, params, x, **given):
    return jax.jit(fn.Model(kind, hidden=3, reverse=given.pop("reverse", False)))(
        params, x, **given
    )


def test_both_ways_are_two_layers_side_by_side():
    model, params = made(fn.bidirectional(fn.gru))
    outputs, lasts = model(params, X, lengths=LENGTHS, initial=(ONE, -ONE))
    ahead, end = single(fn.gru, params["forward"], X, lengths=LENGTHS, initial=ONE)
    back, start = single(fn.gru, params["backward"], X, lengths=LENGTHS, initial=-ONE, reverse=True)
    np.testing.assert_allclose(outputs, np.concatenate([ahead, back], -1), rtol=1e-6)
    chex.assert_trees_all_close(lasts, (end, start), rtol=1e-6)


def test_each_layer_of_a_stack_is_fed_the_outputs_below():
    model, params = made(fn.stacked(fn.lstm, 3))
    assert set(params) == {"layer0", "layer1", "layer2"}
    initial = ((ONE, ONE), (-ONE, ONE), (2 * ONE, -ONE))
    outputs, lasts = model(params, X, lengths=LENGTHS, initial=initial)
    expected = X
    for i in range(3):
        params_i = params[f"layer{i}"]
        expected, end = single(fn.lstm, params_i, expected, lengths=LENGTHS, initial=initial[i])
        chex.assert_trees_all_close(lasts[i], end, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_a_stack_runs_in_reverse_as_a_whole():
    model, params = made(fn.stacked(fn.gru, 2), reverse=True)
    outputs, lasts = model(params, X)
    expected, ends = made(fn.stacked(fn.gru, 2))[0](params, X[:, ::-1])
    np.testing.assert_allclose(outputs, expected[:, ::-1], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(lasts, ends, rtol=1e-5, atol=1e-6)


def test_the_lifts_compose_either_way():
    _, params = made(fn.stacked(fn.bidirectional(fn.lstm), 2))
    assert params["layer1"]["backward"]["input_kernel"].shape == (6, 12)
    model, params = made(fn.bidirectional(fn.stacked(fn.lstm, 2)))
    assert params["backward"]["layer1"]["input_kernel"].shape == (3, 12)
    outputs, _ = model(params, X, lengths=LENGTHS)
    ahead, _ = made(fn.stacked(fn.lstm, 2))[0](params["forward"], X, lengths=LENGTHS)
    np.testing.assert_allclose(outputs[..., :3], ahead, rtol=1e-6)


def test_dropout_is_between_layers_and_not_after_the_last():
    model, params = made(fn.stacked(fn.rnn, 2, 1.0))
    outputs, (first, second) = model(params, X, train=True)
    expected, end = single(fn.rnn, params["layer1"], jnp.zeros((2, 4, 3)))
    np.testing.assert_allclose(outputs, expected, atol=1e-7)
    np.testing.assert_allclose(second, end, atol=1e-7)
    np.testing.assert_allclose(first, single(fn.rnn, params["layer0"], X)[1], rtol=1e-6)


def test_one_layer_drops_nothing():
    model, params = made(fn.stacked(fn.rnn, 1, 0.5))
    chex.assert_trees_all_equal(model(params, X, train=True), model(params, X))


def test_dropout_keeps_its_share():
    params = {"kernel": np.eye(3, dtype=np.float32)}

    @fn.layer
    def identity(p, x, hidden, *, initial=None):
        del initial
        return fn.dense(p["it"], x, hidden, bias=False), x[:, -1]

    x = np.ones((64, 64, 3), np.float32)
    model = fn.Model(fn.stacked(identity, 3, 0.25), hidden=3)
    params = {f"layer{i}": {"it": params} for i in range(3)}
    outputs, lasts = model(params, x, train=True, key=KEY)
    assert set(np.unique(lasts[1])) == {0, np.float32(1 / 0.75)}
    np.testing.assert_allclose((lasts[1] != 0).mean(), 0.75, atol=0.1)
    np.testing.assert_allclose((outputs != 0).mean(), 0.75**2, atol=0.02)


def test_places_are_named_and_tapped_by_path():
    model = fn.Model(fn.stacked(fn.bidirectional(fn.gru), 2, 0.5), hidden=3)
    params, _ = model.init(KEY, X)
    rows = {row.path: row.layer for row in model.summary(X).rows}
    assert rows["."] == "stacked(bidirectional(gru), 2)"
    assert rows["layer1"] == "bidirectional(gru)"
    assert rows["layer1.backward"] == "gru"
    outputs, found = model.capture(params, {}, X, taps=("layer0", "dropout1"))
    assert found["layer0"][0].shape == found["dropout1"].shape == (2, 4, 6)
    assert outputs[0].shape == (2, 4, 6)


def test_a_mistake_inside_says_where():
    model = fn.Model(fn.stacked(fn.bidirectional(fn.gru), 2), hidden=3)
    initial = ((ONE, ONE), (ONE, ONE[:1]))
    with pytest.raises(ValueError, match=r"initial has shape \(1, 3\)") as caught:
        model.init(KEY, X, initial=initial)
    assert any("in layer1.backward (gru)" in note for note in caught.value.__notes__)


WRONG = {
    "an array both ways": (fn.bidirectional(fn.rnn), ONE, r"tuple \(forward, backward\), got"),
    "three ways": (fn.bidirectional(fn.rnn), (ONE,) * 3, r"tuple \(forward, backward\), got"),
    "a state too few": (fn.stacked(fn.rnn, 2), (ONE,), r"tuple \(layer0, layer1\), got a tuple of"),
    "a list of none": (fn.stacked(fn.rnn, 2), [], r"got a list of no arrays"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_states_that_do_not_fit_are_refused(wrong):
    layer, initial, message = WRONG[wrong]
    with pytest.raises(TypeError, match=message):
        fn.Model(layer, hidden=3).init(KEY, X, initial=initial)


@pytest.mark.parametrize(("depth", "rate", "message"), [(0, 0, "depth is 0"), (2, 1.5, "rate is")])
def test_a_stack_that_cannot_be_is_refused(depth, rate, message):
    with pytest.raises(ValueError, match=message):
        fn.stacked(fn.rnn, depth, rate)


def test_a_depth_is_a_whole_number():
    with pytest.raises(TypeError, match="depth must be an integer"):
        fn.stacked(fn.rnn, 1.5)


def test_both_ways_have_no_third():
    with pytest.raises(TypeError, match="reverse"):
        fn.Model(fn.bidirectional(fn.rnn), hidden=3, reverse=True).init(KEY, X)
