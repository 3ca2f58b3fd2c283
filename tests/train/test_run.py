"""A run: a pytree, started by one program, with keys by seed, step and name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import ADAM, DATA, MODEL, assert_close, assert_same, compilations, net, start

import funnet as fn


def test_a_run_is_a_pytree():
    run = start()
    leaves, structure = jax.tree.flatten(run)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert_same(structure.unflatten(leaves), run)
    assert_same(jax.jit(lambda run: run)(run), run)
    names = [path[0].name for path, _ in jax.tree.leaves_with_path(run)]
    assert list(dict.fromkeys(names)) == ["params", "state", "optimizer_state", "step", "seed"]


def test_a_run_starts_at_step_0_with_fresh_parts():
    run = start(seed=7)
    assert (run.step.shape, run.step.dtype, int(run.step)) == ((), jnp.int32, 0)
    assert (run.seed.shape, run.seed.dtype, int(run.seed)) == ((), jnp.uint32, 7)
    assert_same(run.optimizer_state, ADAM.init(run.params))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (run.params, run.state))
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), MODEL.shapes(DATA["image"]))


def test_a_run_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        start().step = 3


def test_next_is_one_step_later_with_some_parts_replaced():
    run = start()
    params = jax.tree.map(jnp.ones_like, run.params)
    new = run.next(params=params)
    assert int(new.step) == 1
    assert new.params is params
    assert_same(
        (new.state, new.optimizer_state, new.seed), (run.state, run.optimizer_state, run.seed)
    )
    with pytest.raises(TypeError, match="weights"):
        run.next(weights=params)


def test_start_is_one_program_and_another_seed_compiles_nothing():
    start()  # whatever is compiled once a process
    model = fn.Model(net)
    with compilations() as first:
        runs = [fn.Run.start(model, optax.adam(1e-3), DATA["image"], seed=3)]
    with compilations() as later:
        optimizer = ADAM
        runs += [fn.Run.start(MODEL, optimizer, DATA["image"], seed=seed) for seed in range(5, 9)]
        runs += [fn.Run.start(fn.Model(net), optimizer, DATA["image"][:2], seed=4)]
    assert len(first) == 1, first
    assert later == []
    kernels = {np.asarray(run.params["hidden"]["kernel"]).tobytes() for run in runs}
    assert len(kernels) == 6


@pytest.mark.parametrize("seed", [np.int64(5), np.uint32(5), jnp.int32(5), jnp.uint32(5)])
def test_a_seed_may_be_any_integer(seed):
    assert_same(start(seed), start(5))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, np.float32(1), "x", None])
def test_bad_seeds_are_refused(seed):
    with pytest.raises((ValueError, TypeError), match="seed"):
        start(seed)


def test_the_largest_seed_is_one():
    assert int(start(2**32 - 1).seed) == 2**32 - 1


def test_inputs_may_be_shapes():
    shape = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    assert_same(fn.Run.start(MODEL, ADAM, shape), start())


def test_inputs_and_settings_may_come_by_name():
    @fn.layer
    def named(p, x, *, width, scale=1.0):
        return scale * fn.dense(p["out"], x, width)

    run = fn.Run.start(fn.Model(named, scale=2.0), ADAM, x=DATA["image"], width=6)
    assert run.params["out"]["kernel"].shape == (4, 6)


def test_starts_under_vmap_are_an_ensemble(quick_compilation):
    runs = jax.vmap(start)(jnp.arange(3))
    assert runs.step.shape == runs.seed.shape == (3,)
    for seed in range(3):
        one = jax.tree.map(lambda leaf, i=seed: leaf[i], runs)
        assert_close(one, start(seed), rtol=1e-6, atol=1e-7)


def test_a_start_may_be_traced():
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), start())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), jax.jit(start)(0)) == shapes
    assert jax.tree.map(lambda x: (x.shape, x.dtype), jax.eval_shape(start)) == shapes


def words(run, *name):
    return np.asarray(jax.random.key_data(run.key(*name))).tobytes()


def test_keys_differ_by_step_name_and_seed():
    at = [
        dataclasses.replace(start(seed), step=jnp.int32(step))
        for seed in (0, 1, 2**31)
        for step in (0, 1, 2, 10**6)
    ]
    drawn = [words(run, *name) for run in at for name in ((), ("augment",), ("noise",), ("",))]
    assert len(set(drawn)) == len(drawn) == 48


def test_keys_are_a_function_of_step_name_and_seed():
    run, other = start().next(), dataclasses.replace(start().next(), params={}, state={})
    assert words(run) == words(run, "step") == words(other)
    traced = jax.jit(lambda run: jax.random.key_data(run.key("noise")))(run)
    assert np.asarray(traced).tobytes() == words(run, "noise")


def test_a_run_needs_no_model():
    run = fn.Run({"a": jnp.ones(2), "b": jnp.ones(3)}, {}, (), jnp.int32(4), jnp.uint32(9))
    assert int(run.next(params={}).step) == 5
    assert words(run) != words(run.next())
