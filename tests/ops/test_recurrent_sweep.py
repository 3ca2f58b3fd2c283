"""The sweep with its own gradient against JAX's, in everything JAX does to a function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from uses import USES, assert_near

from funnet.ops.recurrent import gru_step, lstm_step, plain_sweep, rnn_step, stepped, sweep

STEPS, BATCH, HIDDEN = 5, 3, 4
KINDS = {"rnn": (rnn_step, 1, 1, 1), "lstm": (lstm_step, 4, 4, 2), "gru": (gru_step, 4, 3, 1)}
LENGTHS = np.array([5, 2, 0])


def arrays(kind, seed=0, dtype=np.float32):
    """Inputs, kernel, a cotangent of the outputs, and a state."""
    _, gates, products, parts = KINDS[kind]
    rng = np.random.default_rng(seed)
    shapes = [(STEPS, BATCH, gates * HIDDEN), (HIDDEN, products * HIDDEN), (STEPS, BATCH, HIDDEN)]
    shapes += [(BATCH, HIDDEN)] * parts
    inputs, kernel, g, *state = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    return inputs, kernel, g, tuple(state)


def forms(kind, state, *, reverse, masked):
    """The sweep and its plain form, as functions of inputs and kernel."""
    step, mask = KINDS[kind][0], (np.arange(STEPS)[:, None] < LENGTHS if masked else None)

    def tuned(inputs, kernel):
        return sweep(step, inputs, jnp.asarray(kernel), state, mask, reverse=reverse)[0]

    return tuned, lambda *both: plain_sweep(step, reverse, *both, state, mask)[0]


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_may_be_transformed_as_the_plain_form_may(kind, use):
    inputs, kernel, g, state = arrays(kind)
    pair = forms(kind, state, reverse=kind == "gru", masked=use != "grad of scan")
    assert_near(*jax.jit(lambda *a: [USES[use](f, *a) for f in pair])(inputs, kernel, g))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences_in_float64(kind, reverse):
    with jax.enable_x64(True):
        given, along = arrays(kind, 0, np.float64), arrays(kind, 1, np.float64)
        step, mask = KINDS[kind][0], np.arange(STEPS)[:, None] < LENGTHS

        @jax.jit
        def loss(t):
            inputs, kernel, _, state = jax.tree.map(lambda a, d: a + t * d, given, along)
            outputs, last = sweep(step, inputs, kernel, state, mask, reverse=reverse)
            return (jnp.sin(outputs) * given[2]).sum() + sum(jnp.cos(x).sum() for x in last)

        difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(loss)(0.0), difference, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(jax.jvp(loss, (0.0,), (1.0,))[1], difference, rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_is_its_steps_one_after_another(kind):
    inputs, kernel, _, state = arrays(kind)
    step = KINDS[kind][0]
    outputs, last = sweep(step, inputs, jnp.asarray(kernel), state, None, reverse=False)
    for given, output in zip(inputs, outputs, strict=True):
        state = stepped(step, given, jnp.asarray(kernel), state)
        np.testing.assert_allclose(output, state[0], rtol=1e-5, atol=1e-6)
    assert_near(last, state)


def test_the_kernels_gradient_is_one_product_outside_the_loop():
    inputs, kernel, g, state = arrays("lstm")
    tuned, plain = forms("lstm", state, reverse=False, masked=False)

    def products_in_loops(f):
        gradient = jax.grad(lambda *a: (f(*a) * g).sum(), 1)
        program = str(jax.make_jaxpr(gradient)(inputs, jnp.asarray(kernel)))
        return program.count(f"f32[{4 * HIDDEN},{HIDDEN}] = dot_general") + program.count(
            f"f32[{HIDDEN},{4 * HIDDEN}] = dot_general"
        )

    assert products_in_loops(plain) == products_in_loops(tuned) == 1
    loops = [
        eqn.params["jaxpr"]
        for eqn in jax.make_jaxpr(jax.grad(lambda k: (tuned(inputs, k) * g).sum()))(
            jnp.asarray(kernel)
        ).jaxpr.eqns
        if eqn.primitive.name == "scan"
    ]
    shapes = [str(v.aval.shape) for loop in loops for e in loop.jaxpr.eqns for v in e.outvars]
    assert loops
    assert str(kernel.shape) not in shapes


def test_a_frozen_kernel_costs_no_product():
    inputs, kernel, g, state = arrays("lstm")
    tuned = forms("lstm", state, reverse=False, masked=False)[0]
    gradient = jax.grad(lambda x: (tuned(x, kernel) * g).sum())
    found = str(jax.make_jaxpr(gradient)(inputs))
    trained = str(
        jax.make_jaxpr(jax.grad(lambda k: (tuned(inputs, k) * g).sum()))(jnp.asarray(kernel))
    )
    assert trained.count("dot_general[") == found.count("dot_general[") + 1


@pytest.mark.parametrize("place", [0, 2, 4])
def test_nan_reaches_what_it_reaches_in_the_plain_form(place):
    inputs, kernel, g, state = arrays("lstm")
    inputs[place, 1, 3] = np.nan
    for masked in (False, True):
        pair = forms("lstm", state, reverse=False, masked=masked)
        found, expected = (
            (*jax.vjp(f, inputs, jnp.asarray(kernel))[1](g), f(inputs, kernel)) for f in pair
        )
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))


def test_half_precision_stays_half():
    given = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), arrays("lstm"))
    inputs, kernel, g, state = given
    y, pull = jax.vjp(functools.partial(plainly, state), inputs, kernel)
    assert {a.dtype for a in (y, *pull(g))} == {jnp.dtype(jnp.bfloat16)}


def plainly(state, inputs, kernel):
    return sweep(lstm_step, inputs, kernel, state, None, reverse=False)[0]
