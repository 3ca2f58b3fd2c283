"""A step that makes its own data takes no batches."""

import jax
import jax.numpy as jnp
import optax
import pytest
from toys import QUIET, assert_close, assert_same

import funnet as fn

MODEL, SGD = fn.Model(fn.dense, features=1), optax.sgd(0.01, 0.9)


def step(run, batch):
    """Regression on points drawn by the step's own key; there is no batch to read."""
    assert batch == {}
    x = jax.random.normal(run.key(), (8, 2))

    def loss(params):
        y, _ = MODEL.apply(params, run.state, x, train=True)
        return jnp.square(y[:, 0] - x.sum(-1)).mean()

    value, gradients = jax.value_and_grad(loss)(run.params)
    updates, slots = SGD.update(gradients, run.optimizer_state, run.params)
    params = optax.apply_updates(run.params, updates)
    return run.next(params=params, optimizer_state=slots), {"loss": value}


def start(seed=0):
    return fn.Run.start(MODEL, SGD, jnp.zeros((1, 2)), seed=seed)


def test_it_is_the_steps_one_after_another():
    run = start()
    for _ in range(7):
        run, _ = jax.jit(step)(run, {})
    assert_close(fn.fit(step, start(), None, steps=7, **QUIET), run, rtol=1e-5, atol=1e-7)


def test_it_learns_and_goes_on_where_it_was(tmp_path):
    whole = fn.fit(step, start(), None, steps=900, **QUIET)
    assert abs(whole.params["kernel"] - 1).max() < 0.1
    fn.fit(step, start(), None, steps=301, folder=tmp_path, **QUIET)
    assert_same(fn.fit(step, start(), None, steps=900, folder=tmp_path, **QUIET), whole)


def test_it_has_no_epochs():
    with pytest.raises(ValueError, match="epochs needs batches"):
        fn.fit(step, start(), None, epochs=1)


def test_a_sweep_takes_none_either():
    swept = fn.sweep(lambda seed: (step, start(seed)), None, steps=20, seed=range(3), how="vmap")
    assert_close(
        swept.run(2).params,
        fn.fit(step, start(2), None, steps=20, **QUIET).params,
        rtol=1e-4,
        atol=1e-6,
    )
