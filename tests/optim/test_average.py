"""The average of parameters: a mean that turns exponential, and what it composes with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import BATCHES, DATA, MODEL, OBJECTIVE, X, close, same, start, stepped

import funnet as fn

pytestmark = pytest.mark.usefixtures("quick_compilation")
ADAM = fn.optim.adamw(1e-2)


def trail(optimizer, steps):
    """The parameters after each step."""
    run, step, found = start(optimizer), jax.jit(fn.train_step(OBJECTIVE, optimizer)), []
    for i in range(steps):
        run, _ = step(run, BATCHES[i])
        found.append(run.params)
    return run, found


@pytest.mark.parametrize("decay", [0.5, 0.75, 0.999])
def test_it_is_the_mean_and_then_exponential(decay):
    run, found = trail(fn.optim.average(ADAM, decay), 6)
    for i in (0, 3):
        expected = np.zeros(np.shape(jax.tree.leaves(found[0])[i]))
        for n, params in enumerate(found, 1):
            d = min(decay, 1 - 1 / n)
            expected = d * expected + (1 - d) * np.asarray(jax.tree.leaves(params)[i], np.float64)
        average = jax.tree.leaves(fn.optim.averaged(run).params)[i]
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)
    if decay == 0.999:
        mean = jax.tree.map(lambda *each: sum(each) / len(each), *found)
        close(fn.optim.averaged(run).params, mean, rtol=1e-4, atol=1e-6)


def test_training_is_not_touched_and_the_rest_of_the_run_stays():
    run, _ = stepped(fn.optim.average(ADAM, 0.9))
    plain, _ = stepped(ADAM)
    close(run.params, plain.params)
    averaged = fn.optim.averaged(run)
    assert type(averaged) is fn.Run
    for name in ("state", "optimizer_state", "step", "seed"):
        same(getattr(averaged, name), getattr(run, name))
    assert fn.predict(MODEL, averaged, X).shape == (32, 3)
    assert fn.evaluate(OBJECTIVE, averaged, DATA)["loss"] > 0


def test_before_any_step_it_is_the_parameters():
    run = start(fn.optim.average(ADAM))
    same(fn.optim.averaged(run).params, run.params)


def test_with_freeze_in_either_order_and_groups():
    groups = fn.optim.groups({"head.*": ADAM, "*": optax.sgd(0.1)})
    one = fn.optim.average(fn.optim.freeze(groups, "trunk.one.*"), 0.5)
    two = fn.optim.freeze(fn.optim.average(groups, 0.5), "trunk.one.*")
    (run, _), (other, _) = stepped(one), stepped(two)
    same(run, other)
    averaged = fn.optim.averaged(run).params
    same(averaged["trunk"]["one"], start(one).params["trunk"]["one"])
    assert (averaged["head"]["kernel"] != run.params["head"]["kernel"]).any()
    assert not jax.tree.leaves(run.optimizer_state.average.params["trunk"]["one"])


def test_a_run_goes_through_a_file(tmp_path):
    optimizer = fn.optim.average(ADAM, 0.9)
    run, _ = stepped(optimizer)
    fn.save(tmp_path / "run.safetensors", run)
    same(fn.load(tmp_path / "run.safetensors", like=start(optimizer)), run)


def test_half_precision_is_averaged_in_float32():
    optimizer, params = fn.optim.average(optax.sgd(0.0), 0.999), {"w": jnp.ones(2, jnp.bfloat16)}
    state = optimizer.init(params)
    assert state.average.params["w"].dtype == jnp.float32
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(params, state, params)
    run = fn.Run(params, {}, state, jnp.int32(0), jnp.uint32(0))
    assert fn.optim.averaged(run).params["w"].dtype == jnp.bfloat16


def test_what_cannot_be_averaged_is_refused():
    for decay in (0, 1, -0.5, 1.5):
        with pytest.raises(ValueError, match=f"decay is {decay}"):
            fn.optim.average(ADAM, decay)
    with pytest.raises(ValueError, match="write average once"):
        fn.optim.average(fn.optim.freeze(fn.optim.average(ADAM), "head.*"))
    with pytest.raises(ValueError, match=r"keeps no averages.*fn\.optim\.average\(optimizer"):
        fn.optim.averaged(start(ADAM))
    state = fn.optim.average(ADAM).init({"other": jnp.ones(2)})
    run = fn.Run({"w": jnp.ones(2)}, {}, state, jnp.int32(0), jnp.uint32(0))
    with pytest.raises(ValueError, match="of other parameters"):
        fn.optim.averaged(run)
