"""Muon's update is the momentum made orthogonal, of every kind of kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn


def orthogonal(g, iterations):
    """Newton and Schulz in float64, as published."""
    x = np.asarray(g, np.float64)
    turn = x.shape[0] > x.shape[1]
    x = (x.T if turn else x) / np.linalg.norm(x)
    for _ in range(iterations):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.T if turn else x


def first_update(gradient, **how):
    params = {"kernel": jnp.zeros(gradient.shape)}
    optimizer = fn.optim.muon(0.5, **how)
    update = jax.jit(optimizer.update)
    return update({"kernel": gradient}, optimizer.init(params), params)[0]["kernel"]


def drawn(*shape):
    return jax.random.normal(jax.random.key(3), shape)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (3, 3, 2, 7), (5, 3, 4)])
@pytest.mark.parametrize("iterations", [3, 5])
def test_the_first_update_is_the_gradient_made_orthogonal(shape, iterations):
    gradient = drawn(*shape)
    matrix = np.asarray(gradient).reshape(-1, shape[-1])
    wide = np.sqrt(max(1, matrix.shape[1] / matrix.shape[0]))
    expected = -0.5 * wide * orthogonal(matrix, iterations).reshape(shape)
    np.testing.assert_allclose(
        first_update(gradient, iterations=iterations), expected, rtol=1e-3, atol=1e-4
    )


def test_turns_of_a_repeated_block_are_matrices_of_their_own():
    gradient = drawn(3, 6, 4)
    found = first_update(gradient, stacked="kernel")
    for one, g in zip(found, gradient, strict=True):
        np.testing.assert_allclose(one, first_update(g), rtol=1e-4, atol=1e-5)
    assert not np.allclose(found, first_update(gradient), atol=1e-2)


def test_decay_takes_a_part_away():
    params = {"kernel": drawn(4, 4)}
    with_, without = (fn.optim.muon(0.5, weight_decay=d) for d in (0.1, 0.0))
    found, plain = (o.update(params, o.init(params), params)[0]["kernel"] for o in (with_, without))
    np.testing.assert_allclose(found, plain - 0.05 * params["kernel"], rtol=1e-4, atol=1e-5)


@fn.layer
def net(p, x):
    x = fn.repeat(lambda p, x: x + fn.dense(p["in"], fn.relu(x), x.shape[-1]), 5)(p["blocks"], x)
    return fn.dense(p["head"], x, 1)


def test_it_trains_in_a_group_and_tells_its_rate():
    adam = fn.optim.adamw(0.01)
    optimizer = fn.optim.groups(
        {"head.*": adam, "*.kernel": fn.optim.muon(0.02, stacked="blocks.*"), "*": adam}
    )
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    data = {"input": x, "target": np.sin(x.sum(1, keepdims=True))}
    model = fn.Model(net)
    objective = fn.regression(model)
    run = fn.Run.start(model, optimizer, x)
    before = fn.evaluate(objective, run, data)["loss"]
    step = fn.train_step(objective, optimizer)
    run = fn.fit(step, run, fn.data.batches(data, 64), steps=60, progress=False)
    assert fn.evaluate(objective, run, data)["loss"] < before / 3
    rates = fn.optim.learning_rates(run.optimizer_state)
    assert rates["learning_rate.*.kernel"] == np.float32(0.02)


@pytest.mark.parametrize(("shape", "stacked"), [((4,), ()), ((2, 4), "kernel")])
def test_what_is_no_matrix_is_refused(shape, stacked):
    optimizer = fn.optim.muon(0.1, stacked=stacked)
    with pytest.raises(ValueError, match="muon is for matrices, and 'kernel' has shape"):
        optimizer.init({"kernel": jnp.zeros(shape)})


@pytest.mark.parametrize("how", [{"momentum": 1.5}, {"iterations": 0}, {"weight_decay": -1.0}])
def test_settings_out_of_range_are_refused(how):
    with pytest.raises(ValueError, match=next(iter(how))):
        fn.optim.muon(0.1, **how)
