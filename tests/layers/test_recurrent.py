"""The recurrent layers and their cells: formulas, ends, beginnings, and what is refused."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn
from funnet.draw import canonical
from funnet.layers.recurrent import gate_orthogonal

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
KINDS = pytest.mark.parametrize("kind", GATES)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def parameters(kind, width=2, hidden=3):
    size = GATES[kind] * hidden
    shapes = {"input_kernel": (width, size), "hidden_kernel": (hidden, size), "bias": (size,)}
    shapes |= {"hidden_bias": (size,)} if kind == "gru" else {}
    return {name: drawn(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


def run(kind, x, params=None, *, reverse=False, **given):
    """The layer, in one program."""
    model = fn.Model(getattr(fn, kind), hidden=3, reverse=reverse)
    return jax.jit(model)(params or parameters(kind, x.shape[-1]), x, **given)


def state(kind, n=2, seed=5):
    h, c = drawn(n, 3, seed=seed), drawn(n, 3, seed=seed + 1)
    return (h, c) if kind == "lstm" else h


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def formula(kind, params, x, h, c):
    """One step in float64, written out gate by gate."""
    p = {name: value.astype(np.float64) for name, value in params.items()}
    a, b = x @ p["input_kernel"] + p["bias"], h @ p["hidden_kernel"] + p.get("hidden_bias", 0)
    if kind == "rnn":
        return np.tanh(a + b), None
    if kind == "gru":
        (ar, az, an), (br, bz, bn) = np.split(a, 3, -1), np.split(b, 3, -1)
        z = sigmoid(az + bz)
        return (1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * h, None
    i, f, g, o = np.split(a + b, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@KINDS
def test_steps_follow_the_formula(kind):
    params, x, initial = parameters(kind), drawn(2, 4, 2), state(kind)
    h, c = initial if kind == "lstm" else (initial, None)
    outputs, last = run(kind, x, params, initial=initial)
    for t in range(4):
        h, c = formula(kind, params, x[:, t], h, c)
        np.testing.assert_allclose(outputs[:, t], h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last[1] if kind == "lstm" else last, h if c is None else c, 1e-5)


@KINDS
def test_shapes(kind):
    size = 3 * GATES[kind]
    model, x = fn.Model(getattr(fn, kind), hidden=3), jax.ShapeDtypeStruct((5, 4, 2), "float32")
    params, kept = model.shapes(x)
    expected = {"input_kernel": (2, size), "hidden_kernel": (3, size), "bias": (size,)}
    expected |= {"hidden_bias": (size,)} if kind == "gru" else {}
    assert {name: leaf.shape for name, leaf in params.items()} == expected
    assert not kept
    outputs, last = jax.eval_shape(model, params, x)
    assert outputs.shape == (5, 4, 3)
    one = jax.ShapeDtypeStruct((5, 3), jnp.float32)
    chex.assert_trees_all_equal(last, (one, one) if kind == "lstm" else one)


@KINDS
def test_the_state_begins_at_zero(kind):
    x, zeros = drawn(2, 3, 2), jax.tree.map(jnp.zeros_like, state(kind))
    chex.assert_trees_all_equal(run(kind, x), run(kind, x, initial=zeros))


@KINDS
def test_a_sequence_ends_at_its_length(kind):
    x, lengths = drawn(3, 5, 2), np.asarray([2, 5, 3], np.int32)
    outputs, last = run(kind, x, lengths=lengths)
    for n, length in enumerate(lengths):
        alone, end = run(kind, x[n : n + 1, :length])
        np.testing.assert_allclose(outputs[n, :length], alone[0], rtol=1e-5, atol=1e-6)
        assert not outputs[n, length:].any()
        chex.assert_trees_all_close(jax.tree.map(lambda s, n=n: s[n : n + 1], last), end, atol=1e-6)


@KINDS
def test_in_reverse_each_sequence_runs_from_its_own_end(kind):
    x, lengths, initial = drawn(3, 5, 2), np.asarray([2, 5, 3], np.int32), state(kind, 3)
    turned = x.copy()
    for n, length in enumerate(lengths):
        turned[n, :length] = x[n, :length][::-1]
    outputs, last = run(kind, x, lengths=lengths, initial=initial, reverse=True)
    expected, end = run(kind, turned, lengths=lengths, initial=initial)
    for n, length in enumerate(lengths):
        np.testing.assert_allclose(outputs[n, :length][::-1], expected[n, :length], atol=1e-6)
        assert not outputs[n, length:].any()
    chex.assert_trees_all_close(last, end, atol=1e-6)


@KINDS
@pytest.mark.parametrize("reverse", [False, True])
def test_no_step_leaves_the_state_as_it_was(kind, reverse):
    initial = state(kind)
    outputs, last = run(kind, drawn(2, 0, 2), initial=initial, reverse=reverse)
    assert outputs.shape == (2, 0, 3)
    chex.assert_trees_all_equal(last, initial)
    none = jnp.zeros(2, jnp.int32)
    outputs, last = run(kind, drawn(2, 4, 2), initial=initial, lengths=none, reverse=reverse)
    assert not outputs.any()
    chex.assert_trees_all_equal(last, initial)


@KINDS
def test_an_empty_batch_gives_an_empty_result(kind):
    outputs, last = run(kind, drawn(0, 4, 2), lengths=jnp.zeros(0, jnp.int32))
    assert outputs.shape == (0, 4, 3)
    assert {leaf.shape for leaf in jax.tree.leaves(last)} == {(0, 3)}


# Cells.


@KINDS
def test_a_cell_taken_step_by_step_is_the_layer(kind):
    params, x, carried = parameters(kind), drawn(2, 4, 2), state(kind)
    outputs, last = run(kind, x, params, initial=carried)
    cell = jax.jit(fn.Model(getattr(fn, f"{kind}_cell")))
    for t in range(4):
        output, carried = cell(params, x[:, t], carried)
        np.testing.assert_allclose(output, outputs[:, t], rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(carried, last, rtol=1e-6, atol=1e-6)


@KINDS
def test_a_cell_runs_inside_a_scan_of_ones_own(kind):
    cell = getattr(fn, f"{kind}_cell")

    @fn.layer
    def generate(p, begin, steps):
        """Each output is the next input."""

        def turn(carry, _):
            output, carried = cell(p["cell"], *carry)
            return (output, carried), output

        h = jnp.ones_like(begin)
        return jax.lax.scan(turn, (begin, (h, h) if kind == "lstm" else h), None, steps)[1]

    x, model = drawn(2, 3), fn.Model(generate, steps=4)
    params, _ = model.init(KEY, x)
    assert {name: v.shape for name, v in params["cell"].items()} == {
        name: v.shape for name, v in parameters(kind, 3).items()
    }
    h = np.ones((2, 3), np.float32)
    carried = (h, h) if kind == "lstm" else h
    for expected in model(params, x):
        x, carried = fn.Model(cell)(params["cell"], x, carried)
        np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


@KINDS
def test_a_cell_draws_what_the_layer_draws(kind):
    ours, _ = fn.Model(getattr(fn, kind), hidden=3).init(KEY, drawn(2, 4, 2))
    cell, _ = fn.Model(getattr(fn, f"{kind}_cell")).init(KEY, drawn(2, 2), state(kind))
    chex.assert_trees_all_equal(cell, ours)


# Beginnings and dtypes.


@KINDS
def test_parameters_begin_orthogonal_gate_by_gate(kind):
    params, _ = fn.Model(getattr(fn, kind), hidden=16).init(KEY, drawn(1, 1, 200))
    blocks = np.split(np.asarray(params["hidden_kernel"]), GATES[kind], axis=1)
    for block in blocks:
        np.testing.assert_allclose(block.T @ block, np.eye(16), atol=1e-5)
    assert len({block.tobytes() for block in blocks}) == GATES[kind]
    np.testing.assert_allclose(params["input_kernel"].std(), 200**-0.5, rtol=0.06)
    biases = {name: value for name, value in params.items() if "bias" in name}
    if kind == "lstm":
        np.testing.assert_array_equal(biases.pop("bias"), np.repeat([0, 1, 0, 0], 16))
    assert not any(value.any() for value in biases.values())


def test_the_orthogonal_initializer_is_one_however_often_it_is_made():
    assert canonical(gate_orthogonal(4)) is canonical(gate_orthogonal(4))
    assert canonical(gate_orthogonal(4)) is not canonical(gate_orthogonal(3))


@KINDS
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64])
def test_the_input_says_the_dtype_of_outputs_and_state(kind, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        x, lengths = jnp.asarray(drawn(2, 4, 2), dtype), jnp.asarray([4, 2])
        for initial in (None, state(kind)):
            found = run(kind, x, lengths=lengths, initial=initial)
            assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
            expected = run(kind, drawn(2, 4, 2), lengths=lengths, initial=initial)
            wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), found)
            chex.assert_trees_all_close(wide, expected, atol=0.05)


@KINDS
def test_nan_stays_in_its_sequence_and_begins_at_its_step(kind):
    x = drawn(3, 4, 2)
    x[1, 2, 0] = np.nan
    outputs, _ = run(kind, x)
    expected = np.zeros((3, 4), bool)
    expected[1, 2:] = True
    np.testing.assert_array_equal(np.isnan(outputs).any(-1), expected)


# What JAX does to a function.


@KINDS
def test_forward_and_reverse_mode_agree(kind):
    params, x = parameters(kind), drawn(2, 4, 2)
    way = jax.tree.map(lambda leaf: np.cos(leaf), (params, x))

    def total(params, x):
        outputs, last = run(kind, x, params, lengths=jnp.asarray([2, 4]))
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves((outputs, last)))

    _, forward = jax.jvp(total, (params, x), way)
    gradients = jax.grad(total, (0, 1))(params, x)
    backward = sum(map(jnp.vdot, jax.tree.leaves(gradients), jax.tree.leaves(way)))
    np.testing.assert_allclose(forward, backward, rtol=1e-5)


def test_a_rematerialised_layer_is_the_layer():
    x, lengths = drawn(2, 4, 2), jnp.asarray([2, 4])

    def gradients(layer):
        model = fn.Model(layer, hidden=3)
        total = lambda params: jnp.sin(model(params, x, lengths=lengths)[0]).sum()  # noqa: E731
        return jax.grad(total)(parameters("gru"))

    chex.assert_trees_all_close(gradients(fn.remat(fn.gru)), gradients(fn.gru), rtol=1e-6)


def test_repeated_layers_are_a_loop_over_them():
    @fn.layer
    def block(p, x, lengths):
        return x + fn.lstm(p["lstm"], x, x.shape[-1], lengths=lengths)[0]

    x, lengths = drawn(2, 4, 3), jnp.asarray([2, 4])
    model = fn.Model(fn.repeat(block, 3))
    params, _ = model.init(KEY, x, lengths)
    expected = x
    for i in range(3):
        turn = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        expected = fn.Model(block)(turn, expected, lengths)
    np.testing.assert_allclose(model(params, x, lengths), expected, rtol=1e-5, atol=1e-6)


@KINDS
def test_an_ensemble_over_initial_states_and_lengths(kind):
    x, states = drawn(2, 4, 2), [state(kind, seed=seed) for seed in (5, 8)]
    lengths = jnp.asarray([[4, 1], [2, 3]])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    found = jax.vmap(lambda n, s: run(kind, x, lengths=n, initial=s))(lengths, stacked)
    alone = [run(kind, x, lengths=lengths[i], initial=states[i]) for i in (0, 1)]
    chex.assert_trees_all_close(found, jax.tree.map(lambda *s: jnp.stack(s), *alone), atol=1e-6)


def test_one_program_serves_all_lengths():
    traces = []

    @jax.jit
    def program(x, lengths):
        traces.append(lengths)
        return run("lstm", x, lengths=lengths)

    for lengths in ([4, 4], [0, 1], [3, 2]):
        program(drawn(2, 4, 2), jnp.asarray(lengths))
    assert len(traces) == 1


@KINDS
def test_the_program_does_not_grow_with_the_steps(kind):
    def lines(time):
        total = lambda params, x: run(kind, x, params)[0].sum()  # noqa: E731
        x = jax.ShapeDtypeStruct((2, time, 2), jnp.float32)
        lowered = jax.jit(jax.grad(total)).lower(parameters(kind), x)
        return len(lowered.as_text().splitlines())

    assert lines(500) == lines(5)


def test_products_are_counted_step_by_step():
    found = fn.Model(fn.lstm, hidden=3).summary(jnp.ones((2, 5, 4)))
    assert found.multiply_adds == 2 * 5 * (4 + 3) * 12


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
    """A structured array: a product of two, which is never formed."""

    left: jax.Array
    right: jax.Array

    @property
    def shape(self):
        return self.left.shape[0], self.right.shape[1]

    def __rmatmul__(self, x):
        return (x @ self.left.astype(x.dtype)) @ self.right.astype(x.dtype)


@KINDS
def test_structured_kernels_take_part_through_their_product(kind):
    params, x = parameters(kind), drawn(2, 4, 2)
    for name in ("input_kernel", "hidden_kernel"):
        rows, columns = params[name].shape
        params[name] = LowRank(jnp.asarray(drawn(rows, 2)), jnp.asarray(drawn(2, columns)))
    whole = {k: v.left @ v.right if isinstance(v, LowRank) else v for k, v in params.items()}
    chex.assert_trees_all_close(run(kind, x, params), run(kind, x, whole), atol=1e-5)
    slopes = jax.grad(lambda params: run(kind, x, params)[0].sum())(params)
    assert slopes["hidden_kernel"].left.shape == (3, 2)
    assert np.any(slopes["hidden_kernel"].left != 0)


# Refusals.

X, H = drawn(2, 4, 2), drawn(2, 3)
WRONG = {
    "rank": ("rnn", X[0], {}, ValueError, r"\(N, T, in\), got \(4, 2\).*x\[None\]"),
    "integers": ("rnn", X.astype(int), {}, TypeError, r"x must be floating point.*astype"),
    "hidden": ("rnn", X, {"hidden": 0}, ValueError, r"hidden is 0"),
    "too long": (
        "gru",
        X,
        {"lengths": np.array([4, 5])},
        ValueError,
        r"lengths\[1\] is 5.*4 steps",
    ),
    "negative": ("gru", X, {"lengths": np.array([-1, 4])}, ValueError, r"lengths\[0\] is -1"),
    "count": ("gru", X, {"lengths": np.array([4])}, ValueError, r"\(1,\).*each of the 2"),
    "floats": ("gru", X, {"lengths": np.array([4.0, 1])}, TypeError, r"lengths must be integers"),
    "state": (
        "gru",
        X,
        {"initial": H[:1]},
        ValueError,
        r"initial.*\(1, 3\).*\(N, hidden\) = \(2, 3\)",
    ),
    "state's size": ("rnn", X, {"initial": X[:, 0]}, ValueError, r"initial has shape \(2, 2\)"),
    "state's dtype": ("rnn", X, {"initial": H.astype(int)}, TypeError, r"initial must be floating"),
    "pair for one": ("rnn", X, {"initial": (H, H)}, TypeError, r"initial must be a JAX.*tuple"),
    "one for pair": ("lstm", X, {"initial": H}, TypeError, r"tuple \(h, c\), got.*float32\[2,3\]"),
    "part": ("lstm", X, {"initial": (H, H[0])}, ValueError, r"initial\[1\] has shape \(3,\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused(wrong):
    kind, x, settings, error, message = WRONG[wrong]
    model = fn.Model(getattr(fn, kind), **{"hidden": 3} | settings)
    with pytest.raises(error, match=message):
        model(parameters(kind), x)


WRONG_STEPS = {
    "rank": ("rnn", X, H, ValueError, r"one step, x of shape \(N, in\), got \(2, 4, 2\)"),
    "no state": ("lstm", X[0], None, TypeError, r"needs a state, got None; begin with jnp.zeros"),
    "rows": ("gru", X[0], H, ValueError, r"state has shape \(2, 3\), expected.*\(4, 3\)"),
    "scalar": ("gru", X[0], H[0, 0], ValueError, r"state has shape \(\)"),
    "one for pair": ("lstm", X[0], H, TypeError, r"state must be a tuple \(h, c\)"),
    "unlike parts": ("lstm", X[:, 0], (H, X[:, 0]), ValueError, r"state\[1\].*\(2, 2\).*\(2, 3\)"),
}


@pytest.mark.parametrize("wrong", WRONG_STEPS)
def test_a_step_that_does_not_fit_is_refused(wrong):
    kind, x, carried, error, message = WRONG_STEPS[wrong]
    with pytest.raises(error, match=message):
        fn.Model(getattr(fn, f"{kind}_cell"))(parameters(kind), x, carried)
