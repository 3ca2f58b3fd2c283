"""Freezing: no gradient, no slot, fewer operations; and the trained rest as if alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import BATCHES, DATA, MODEL, OBJECTIVE, X, close, gradient, net, same, start, stepped

import funnet as fn
from funnet.optim.paths import paths

pytestmark = pytest.mark.usefixtures("quick_compilation")
CLIPPED = optax.chain(optax.clip_by_global_norm(0.1), fn.optim.adamw(1e-2))
FROZEN = fn.optim.freeze(CLIPPED, "trunk.*")


def test_it_is_the_head_trained_alone():
    run, told = stepped(FROZEN)
    params, head = start(FROZEN).params, start(FROZEN).params["head"]
    state = CLIPPED.init(head)
    for i in range(3):
        slope = gradient({**params, "head": head}, BATCHES[i])["head"]
        np.testing.assert_allclose(told[i]["gradient_norm"], optax.tree.norm(slope), rtol=1e-5)
        assert told[i]["gradient_norm"] > 0.1  # before it is clipped
        with jax.numpy_dtype_promotion("standard"):
            updates, state = CLIPPED.update(slope, state, head)
        head = optax.apply_updates(head, updates)
    close(run.params["head"], head)
    same(run.params["trunk"], params["trunk"])
    np.testing.assert_allclose(told[0]["learning_rate"], 0.01)


def test_it_has_no_slots():
    held = paths(start(FROZEN).optimizer_state, masked=False)
    assert len([path for path in held if "head" in path]) == 4
    assert not [path for path in held if "trunk" in path]
    same(start(FROZEN).params, start(CLIPPED).params)


def compiled(optimizer, objective=OBJECTIVE):
    return (
        jax.jit(fn.train_step(objective, optimizer)).lower(start(optimizer), BATCHES[0]).compile()
    )


def test_a_frozen_trunk_costs_less_in_time_and_memory():
    whole, frozen = (
        compiled(optax.adam(1e-2)),
        compiled(fn.optim.freeze(optax.adam(1e-2), "trunk.*")),
    )
    flops = [program.cost_analysis()["flops"] for program in (whole, frozen)]
    assert flops[1] < 0.6 * flops[0]
    memory = [program.memory_analysis() for program in (whole, frozen)]
    assert memory[1].argument_size_in_bytes < 0.6 * memory[0].argument_size_in_bytes
    assert memory[1].temp_size_in_bytes < memory[0].temp_size_in_bytes


def products(optimizer):
    program = jax.make_jaxpr(fn.train_step(OBJECTIVE, optimizer))(start(optimizer), BATCHES[0])
    return str(program).count("dot_general[")


def test_the_program_has_no_product_of_the_trunk_s_gradient():
    forward = 3
    assert products(optax.sgd(0.1)) == forward + 5  # all kernels, and two ways back
    assert products(fn.optim.freeze(optax.sgd(0.1), "trunk.*")) == forward + 1  # the head's kernel
    assert products(fn.optim.freeze(optax.sgd(0.1), "trunk.one.*")) == forward + 3
    assert products(fn.optim.freeze(optax.sgd(0.1), "*.bias")) == forward + 5


def test_patterns_add_up_in_any_order():
    one = fn.optim.freeze(fn.optim.freeze(optax.adam(1e-2), "trunk.one.*"), ["*.bias", "head.*"])
    two = fn.optim.freeze(optax.adam(1e-2), ("head.*", "trunk.one.*", "*.bias"))
    (run, _), (other, _) = stepped(one, 2), stepped(two, 2)
    same(run, other)
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), run.params, start(one).params)
    assert [p for p, on in zip(paths(moved), jax.tree.leaves(moved), strict=True) if on] == [
        "trunk.two.kernel"
    ]


def test_groups_and_multipliers_within():
    groups = fn.optim.groups(
        {"trunk.*": optax.adam(1.0), "head.bias": optax.sgd(1.0), "*": CLIPPED}
    )
    run, told = stepped(fn.optim.freeze(groups, "trunk.*"), 1)
    assert "learning_rate.*" in told[0]
    bias = gradient(start(FROZEN).params, BATCHES[0])["head"]["bias"]
    close(run.params["head"]["bias"], -bias)
    frozen = fn.optim.freeze(optax.sgd(1.0), "trunk.*")
    half, _ = stepped(fn.optim.multiply(frozen, {"head.bias": 0.5}), 1)
    close(half.params["head"]["bias"], -bias / 2)
    same(half.params["trunk"], run.params["trunk"])


def test_model_state_moves_on():
    model = fn.Model(net)
    optimizer = fn.optim.freeze(optax.sgd(0.1), "trunk.*")
    run, _ = stepped(optimizer, 1, fn.classification(model), model)
    assert (run.state["trunk"]["norm"]["mean"] != 0).any()
    same(run.params["trunk"], start(optimizer, model).params["trunk"])


def test_a_refused_step_changes_nothing():
    step = jax.jit(fn.train_step(OBJECTIVE, FROZEN))
    new, metrics = step(start(FROZEN), {**BATCHES[0], "label": np.full(16, 9, np.int32)})
    assert np.isnan(metrics["gradient_norm"])
    same(new, start(FROZEN))


def test_fit_and_ensembles_know_it_too():
    step = fn.train_step(OBJECTIVE, FROZEN)
    fused, _ = fn.fit(step, start(FROZEN), BATCHES, steps=3, progress=False), None
    close(fused.params, stepped(FROZEN)[0].params, rtol=1e-4)
    seeds = jnp.arange(2, dtype=jnp.uint32)
    runs = jax.vmap(lambda seed: fn.Run.start(MODEL, FROZEN, X, seed=seed))(seeds)
    runs, _ = jax.jit(jax.vmap(step, (0, None)))(runs, BATCHES[0])
    close(jax.tree.map(lambda x: x[0], runs.params), stepped(FROZEN, 1)[0].params, rtol=1e-4)


def test_a_step_of_one_s_own_takes_the_gradient_of_the_trainable():
    run = start(FROZEN)
    trainable, frozen = FROZEN.split(run.params)

    def loss(trainable):
        logits = MODEL(fn.optim.merged(trainable, frozen), BATCHES[0]["image"])
        return fn.losses.cross_entropy(logits, jnp.asarray(BATCHES[0]["label"])).mean()

    slope = jax.jit(jax.grad(loss))(trainable)
    with jax.numpy_dtype_promotion("standard"):
        updates, state = FROZEN.update(slope, run.optimizer_state, trainable)
    new = run.next(
        params=fn.optim.merged(optax.apply_updates(trainable, updates), frozen),
        optimizer_state=state,
    )
    close(new, stepped(FROZEN, 1)[0])


# What is refused.


def test_freeze_inside_a_chain_is_refused():
    chained = optax.chain(optax.clip(1.0), fn.optim.freeze(optax.sgd(0.1), "trunk.*"))
    with pytest.raises(
        ValueError, match=r"gradient of trunk\.\S+, which 'trunk\.\*' freezes.*outermost"
    ):
        fn.train_step(OBJECTIVE, chained)(start(chained), BATCHES[0])
    with pytest.raises(ValueError, match=r"optimizer\.split\(params\)"):
        FROZEN.update(start(FROZEN).params, start(FROZEN).optimizer_state, start(FROZEN).params)


def test_a_pattern_without_a_match_is_refused_at_init():
    with pytest.raises(ValueError, match=r"'trnk\.\*' matches nothing.*trunk"):
        start(fn.optim.freeze(optax.sgd(0.1), ["trnk.*", "head.*"]))


def test_nothing_left_to_train_is_refused_at_init():
    with pytest.raises(
        ValueError, match=r"all parameters are frozen by 'trunk\.\*', '\*'.*nothing left"
    ):
        start(fn.optim.freeze(optax.sgd(0.1), ["trunk.*", "*"]))


def test_what_is_no_pattern_is_refused():
    with pytest.raises(TypeError, match="freeze takes patterns of dotted paths"):
        fn.optim.freeze(optax.sgd(0.1), [1])


def test_a_run_of_another_optimizer_is_refused():
    run = dataclasses.replace(start(FROZEN), optimizer_state=optax.sgd(0.1).init(DATA))
    with pytest.raises(TypeError, match=r"another optimizer.*Run\.start and fn\.train_step"):
        fn.train_step(OBJECTIVE, FROZEN)(run, BATCHES[0])
