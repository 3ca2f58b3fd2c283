"""Batch norm: running statistics, what is masked, and batches spread over mapped axes."""

import functools
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
ROOT = pathlib.Path(__file__).parents[2]


def drawn(*shape, seed=0):
    return (3 + 2 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


PARAMS = {"scale": drawn(5, seed=1), "bias": drawn(5, seed=2)}
STATE = {"mean": drawn(5, seed=3), "var": np.square(drawn(5, seed=4))}


def normed(x, **settings):
    """The output and the next state of a training step."""
    model = fn.Model(fn.batch_norm)
    return model.apply(PARAMS, STATE, x, **{"train": True} | settings)


@pytest.mark.parametrize("shape", [(16, 5), (4, 3, 5), (2, 3, 4, 5), (2, 2, 2, 3, 5)])
def test_training_uses_the_statistics_of_the_batch(shape):
    x = drawn(*shape)
    y, _ = fn.Model(fn.batch_norm, eps=1e-3).apply(PARAMS, STATE, x, train=True)
    axes, wide = tuple(range(x.ndim - 1)), x.astype(np.float64)
    centred = wide - wide.mean(axes)
    expected = centred / np.sqrt(wide.var(axes) + 1e-3) * PARAMS["scale"] + PARAMS["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_running_statistics_are_those_of_pytorch_after_ten_steps(momentum):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm1d(5, momentum=1 - momentum)
    theirs.load_state_dict(
        {"weight": torch.tensor(PARAMS["scale"]), "bias": torch.tensor(PARAMS["bias"])},
        strict=False,
    )
    model = fn.Model(fn.batch_norm, momentum=momentum)
    state = model.init(KEY, drawn(6, 5))[1]
    step = jax.jit(lambda state, x: model.apply(PARAMS, state, x, train=True))
    for seed in range(10):
        x = drawn(6, 5, seed=seed)
        y, state = step(state, x)
        expected = theirs(torch.tensor(x)).detach().numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state["mean"], theirs.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(state["var"], theirs.running_var.numpy(), rtol=1e-5)
    theirs.eval()
    y, after = model.apply(PARAMS, state, x)
    np.testing.assert_allclose(y, theirs(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-4)
    assert after is state or after == state


@pytest.mark.parametrize("shape", [(1, 5), (1, 1, 5), (0, 5)])
def test_one_value_a_channel_cannot_train_but_can_be_evaluated(shape):
    x = drawn(*shape)
    with pytest.raises(ValueError, match=r"one value a channel.*batch of at least 2.*train=False"):
        normed(x)
    y, _ = normed(x, train=False)
    expected = (x - STATE["mean"]) / np.sqrt(STATE["var"]) * PARAMS["scale"] + PARAMS["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-3)


@pytest.mark.parametrize("momentum", [-0.1, 1.5])
def test_momentum_outside_its_range_is_refused(momentum):
    with pytest.raises(ValueError, match=rf"momentum is {momentum}"):
        fn.Model(fn.batch_norm, momentum=momentum).shapes(drawn(4, 5))


# What is masked counts nowhere.

MASKS = {
    "of examples": np.array([True, True, True, False]),
    "of steps": np.arange(12).reshape(4, 3) % 3 < 2,
    "of all positions": np.arange(24).reshape(4, 3, 2) % 5 > 1,
}
EACH_MASK = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


def value_and_gradients(x, **settings):
    def loss(params, x):
        model = fn.Model(fn.batch_norm)
        y, after = model.apply(params, STATE, x, **{"train": True} | settings)
        return jnp.sin(y).sum(), (y, after)

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(PARAMS, x)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
@EACH_MASK
def test_what_is_masked_reaches_nothing_and_comes_out_as_zero(mask, garbage, train):
    x = drawn(4, 3, 2, 5)
    found = jax.jit(functools.partial(value_and_gradients, train=train))(
        np.where(mask.reshape(*mask.shape, *[1] * (4 - mask.ndim)), x, garbage), mask=mask
    )
    chex.assert_trees_all_close(found, value_and_gradients(x, mask=mask, train=train), rtol=1e-4)
    (_, (y, _)), (_, dx) = found
    assert not y[~mask].any()
    assert not dx[~mask].any()
    assert np.all(y[mask] != 0)


@EACH_MASK
def test_what_is_not_masked_is_a_batch_of_its_own(mask):
    x = drawn(4, 3, 2, 5)
    y, after = normed(x, mask=mask)
    alone, expected = normed(x[mask].reshape(-1, 5))
    np.testing.assert_allclose(y[mask].reshape(-1, 5), alone, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(after, expected, rtol=1e-5)


def test_a_mask_of_everything_changes_nothing():
    x = drawn(4, 3, 5)
    chex.assert_trees_all_close(normed(x, mask=np.ones((4, 3), bool)), normed(x), rtol=1e-6)


def test_lengths_are_the_mask_of_their_steps():
    x, lengths = drawn(3, 4, 2, 5), np.array([4, 0, 3])
    mask = np.arange(4) < lengths[:, None]
    for train in (True, False):
        found, expected = (
            normed(x, train=train, **how) for how in ({"lengths": lengths}, {"mask": mask})
        )
        chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("counted", [0, 1, 2])
def test_with_fewer_than_two_values_running_statistics_stay_and_nothing_is_nan(counted):
    x = drawn(4, 5)
    (_, (y, after)), gradients = jax.jit(value_and_gradients)(x, mask=np.arange(4) < counted)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((y, after, gradients)))
    if counted < 2:
        np.testing.assert_allclose(y[0], PARAMS["bias"] * counted, rtol=1e-6)
        chex.assert_trees_all_equal(after, STATE)
    else:
        assert all(np.all(after[name] != STATE[name]) for name in STATE)


WRONG = {
    "of numbers": ({"mask": np.ones(4, np.float32)}, TypeError, "booleans.*float32.*mask != 0"),
    "of another batch": ({"mask": np.ones(3, bool)}, ValueError, r"\(3,\).*\(4, 3, 5\).*\(4,\)"),
    "of one step": ({"mask": np.ones((4, 1), bool)}, ValueError, r"\(4, 1\).*up to \(4, 3\)"),
    "of channels too": ({"mask": np.ones((4, 3, 5), bool)}, ValueError, r"up to \(4, 3\)"),
    "of nothing": ({"mask": np.array(True)}, ValueError, r"shape \(\), expected leading axes"),
    "a list": ({"mask": [True] * 4}, TypeError, r"mask must be.*array"),
    "twice": (
        {"mask": np.ones(4, bool), "lengths": np.ones(4, int)},
        ValueError,
        r"both mask and lengths.*mask & fn.sequence_mask",
    ),
    "lengths of another batch": ({"lengths": np.ones(3, int)}, ValueError, "each of the 4"),
    "lengths beyond": ({"lengths": np.array([1, 2, 3, 4])}, ValueError, r"lengths\[3\] is 4"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_mask_that_does_not_fit_is_refused(wrong):
    settings, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        normed(drawn(4, 3, 5), **settings)


def test_lengths_of_vectors_are_refused():
    with pytest.raises(ValueError, match=r"\(N, T, ..., C\), got x of shape \(4, 5\)"):
        normed(drawn(4, 5), lengths=np.ones(4, int))


# A batch that is spread over mapped axes is one batch.


def parts(tree, n):
    return jax.tree.map(lambda leaf: leaf.reshape(n, -1, *leaf.shape[1:]), tree)


def spread(run, n, *arrays):
    """`run` on the parts of a batch, mapped; state is the same for all, so it is not stacked."""
    mapped = jax.vmap(run, axis_name="batch", out_axes=(0, None))
    y, after = mapped(*parts(arrays, n))
    return y.reshape(-1, *y.shape[2:]), after


@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_parts_have_the_statistics_of_the_whole(n, masked):
    x = drawn(8, 3, 5)
    mask = np.arange(8) < 3 if masked else np.ones(8, bool)  # of some parts, nothing counts
    more = {"mask": mask} if masked else {}

    def part(x, mask):
        more = {"mask": mask} if masked else {}
        return normed(x, axis_name="batch", **more)

    chex.assert_trees_all_close(spread(part, n, x, mask), normed(x, **more), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_parts_are_those_of_the_whole(masked, inside):
    x, mask = drawn(8, 5), np.arange(8) != 6

    def loss(params, x, mask, axis_name=None):
        model = fn.Model(fn.batch_norm, axis_name=axis_name)
        y, _ = model.apply(params, STATE, x, train=True, mask=mask if masked else None)
        return (jnp.sin(y) * jnp.arange(1.0, 6)).sum()

    local = functools.partial(loss, axis_name="batch")
    if inside:
        each = jax.vmap(jax.grad(local, (0, 1)), (None, 0, 0), axis_name="batch")
        dparams, dx = each(PARAMS, *parts((x, mask), 4))
        dparams = jax.tree.map(lambda leaf: leaf.sum(0), dparams)
    else:

        def whole(params, x):
            mapped = jax.vmap(local, (None, 0, 0), axis_name="batch")
            return mapped(params, *parts((x, mask), 4)).sum()

        dparams, dx = jax.grad(whole, (0, 1))(PARAMS, x)
    expected = jax.grad(loss, (0, 1))(PARAMS, x, mask)
    found = dparams, dx.reshape(x.shape)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_batch_may_be_spread_over_several_axes():
    x = drawn(8, 3, 5)
    inner = jax.vmap(lambda x: normed(x, axis_name=("a", "b")), axis_name="b", out_axes=(0, None))
    both = jax.vmap(inner, axis_name="a", out_axes=(0, None))
    y, after = both(x.reshape(2, 4, 1, 3, 5))
    chex.assert_trees_all_close((y.reshape(x.shape), after), normed(x), rtol=1e-4, atol=1e-5)


def test_single_values_train_together():
    x = drawn(4, 5)
    found = spread(lambda x: normed(x, axis_name="batch"), 4, x)
    chex.assert_trees_all_close(found, normed(x), rtol=1e-4, atol=1e-5)


def test_an_axis_is_needed_for_training_alone():
    x, model = drawn(4, 5), fn.Model(fn.batch_norm, axis_name="batch")
    params, state = model.init(KEY, x)
    model.apply(params, state, x)
    with pytest.raises(ValueError, match=r"axis_name is 'batch'.*jax.vmap\(..., axis_name='batch'"):
        model.apply(params, state, x, train=True)


def test_over_devices_a_batch_is_one_batch():
    """With `jit` and sharded arrays, and with `shard_map`: the script holds the numbers."""
    script = ROOT / "tests/layers/batch_norm_over_devices.py"
    run = subprocess.run([sys.executable, "-W", "error", str(script)], capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
