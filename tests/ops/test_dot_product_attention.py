"""Attention of arrays: against the formula, in blocks, in little memory, and transformed by JAX."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funnet.ops import attention as ops
from funnet.ops.attention import View, attention

pytestmark = pytest.mark.usefixtures("quick_compilation")

TIME, KEYS, HEADS, SHARED, SIZE = 5, 7, 4, 2, 3
SEEN = np.random.default_rng(1).random((2, HEADS, TIME, KEYS)) < 0.5
SEEN[1, 2, 3] = False
VIEWS = {
    "everything": {},
    "causal": {"causal": True},
    "window": {"window": 2},
    "causal window": {"causal": True, "window": 2},
    "lengths": {"lengths": np.array([4, 0], np.int32)},
    "starts": {"causal": True, "starts": np.array([0, 2], np.int32)},
    "mask": {"mask": SEEN},
    "mask of keys": {"mask": SEEN[:1, :1, :1]},
    "mask of queries": {"mask": SEEN[:1, :1]},
    "slopes": {"slopes": np.float32([0.5, 0.25, 0.125, 1.0])},
}
VIEWS["all"] = functools.reduce(lambda a, b: {**a, **b}, VIEWS.values())


def view(name):
    return View(**jax.tree.map(jnp.asarray, VIEWS[name]) | scalars(name))


def scalars(name):
    return {key: value for key, value in VIEWS[name].items() if not isinstance(value, np.ndarray)}


def operands(dtype=np.float32, shared=SHARED):
    rng = np.random.default_rng(0)
    shapes = (2, TIME, HEADS, SIZE), (2, KEYS, shared, SIZE), (2, KEYS, shared, SIZE)
    return tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


def by_hand(q, k, v, causal=False, window=None, lengths=None, starts=(0, 0), mask=None, slopes=0):
    """One query, head and example at a time, in float64."""
    y = np.zeros(q.shape)
    mask = np.broadcast_to(True if mask is None else mask, (2, HEADS, TIME, KEYS))
    slopes = np.broadcast_to(slopes, HEADS)
    for n, t, h in itertools.product(*map(range, q.shape[:3])):
        gap = starts[n] + t - np.arange(KEYS)
        seen = mask[n, h, t] & (np.arange(KEYS) < (KEYS if lengths is None else lengths[n]))
        seen &= (gap >= 0) | (not causal)
        seen &= np.abs(gap) < (np.inf if window is None else window)
        shared = h * k.shape[2] // HEADS
        scores = k[n, seen, shared] @ q[n, t, h] / np.sqrt(SIZE) - slopes[h] * np.abs(gap[seen])
        weights = np.exp(scores)
        y[n, t, h] = weights @ v[n, seen, shared] / max(weights.sum(), 1e-300)
    return y


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_it_is_the_formula(name, shared):
    arrays = operands(np.float64, shared)
    with jax.enable_x64(True):
        y = jax.jit(lambda *arrays: attention(*arrays, view(name)))(*arrays)
    np.testing.assert_allclose(y, by_hand(*arrays, **VIEWS[name]), rtol=1e-12, atol=1e-12)


def pulled(name, *arrays):
    """The output, and the gradients of a sum that weighs each of its elements otherwise."""
    y, pull = jax.vjp(lambda *arrays: attention(*arrays, view(name)), *arrays)
    return y, *pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


@pytest.fixture
def in_blocks(monkeypatch):
    """Makes queries go through so many at a time."""

    def of(queries):
        monkeypatch.setattr(ops, "LARGE", 1)
        monkeypatch.setattr(ops, "BLOCK", queries * 2 * HEADS * KEYS)

    return of


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("queries", [0, 2, 3, 5])
def test_blocks_change_neither_value_nor_gradient(name, queries, in_blocks):
    whole = jax.jit(functools.partial(pulled, name))(*operands())
    in_blocks(queries)
    program = jax.jit(functools.partial(pulled, name)).lower(*operands())
    assert "while" in program.as_text()
    for a, b in zip(program.compile()(*operands()), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("blocks", [False, True])
def test_finite_differences_in_float64(name, blocks, in_blocks):
    if blocks:
        in_blocks(2)
    ways = [np.random.default_rng(1).normal(size=x.shape) for x in operands()]
    with jax.enable_x64(True):

        def along(t):
            arrays = [x + t * way for x, way in zip(operands(np.float64), ways, strict=True)]
            return jnp.sin(attention(*arrays, view(name))).sum()

        both = jax.jit(lambda t: (jax.grad(along)(t), jax.jvp(along, (t,), (1.0,))[1]))
        difference = jax.jit(lambda: (along(1e-5) - along(-1e-5)) / 2e-5)
        np.testing.assert_allclose(both(0.0), difference(), rtol=1e-6)


def squared(form):
    return lambda *arrays: jnp.square(form(*arrays)).sum()


def gradient_of(form):
    return jax.grad(squared(form), (0, 1, 2))


def ways(arrays):
    return tuple(jnp.cos(x) for x in arrays)


USES = {
    "jvp": lambda form, a: jax.jvp(form, a, ways(a)),
    "linearize": lambda form, a: jax.linearize(form, *a)[1](*ways(a)),
    "hessian-vector": lambda form, a: jax.jvp(gradient_of(form), a, ways(a))[1],
    "checkpoint": lambda form, a: gradient_of(jax.checkpoint(form))(*a),
    "vmap": lambda form, a: jax.vmap(gradient_of(form))(*(jnp.stack([x, -x]) for x in a)),
    "vmap of queries": lambda form, a: jax.vmap(form, (0, None, None))(
        jnp.stack([a[0], 2 * a[0]]), *a[1:]
    ),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ["everything", "all"])
def test_blocks_may_be_transformed_as_the_whole_may(name, use, in_blocks):
    arrays = tuple(map(jnp.asarray, operands()))

    def run(arrays):
        return USES[use](lambda *arrays: attention(*arrays, view(name)), arrays)

    whole = jax.jit(run)(arrays)
    in_blocks(2)
    blocks = jax.jit(lambda arrays: run(arrays))(arrays)
    for a, b in zip(jax.tree.leaves(blocks), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", VIEWS)
def test_half_precision_stays_half_and_near(dtype, name):
    half = [jnp.asarray(x, dtype) for x in operands()]
    run = jax.jit(functools.partial(pulled, name))
    for a, b in zip(run(*half), run(*(x.astype(jnp.float32) for x in half)), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=8 * jnp.finfo(dtype).eps)


def test_scores_of_half_precision_are_not_rounded_to_it():
    """70.71 and 70.93 here; bfloat16 has 70.5 and 71.0, and would give 0.62."""
    q, k = jnp.full((1, 1, 1, 2), 10.0), jnp.array([[5, 5], [5, 5.03125]])[None, :, None]
    v = jnp.array([[0.0, 0.0], [1.0, 1.0]])[None, :, None]
    y = attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)), View())
    expected = jax.nn.sigmoid(0.3125 / np.sqrt(2))
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.004)


@pytest.mark.parametrize("blocks", [False, True])
def test_a_query_that_sees_nothing_gives_zero_and_asks_for_nothing(blocks, in_blocks):
    if blocks:
        in_blocks(2)
    arrays = operands()
    y, *gradients = jax.jit(functools.partial(pulled, "lengths"))(*arrays)
    assert np.all(np.asarray(y[1]) == 0)
    for gradient in gradients:
        assert np.all(np.asarray(gradient[1]) == 0)
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("q", [(0, 3, 2, 4), (2, 0, 2, 4)])
def test_no_examples_or_no_queries(q):
    k = jnp.ones((q[0], 3, 2, 4))
    assert attention(jnp.ones(q), k, k, View(causal=True)).shape == q


def test_of_no_keys_at_all_the_mean_is_zero():
    q, k = jnp.ones((2, 3, 2, 4)), jnp.ones((2, 0, 2, 4))
    np.testing.assert_array_equal(attention(q, k, k, View()), jnp.zeros_like(q))


@pytest.mark.parametrize(("gradient", "share"), [(False, 8), (True, 3)])
def test_memory_is_a_part_of_what_one_matrix_of_scores_takes(gradient, share):
    """The program is compiled, not run; its temporaries are 1/8 and 2/9 of the scores."""
    x = jax.ShapeDtypeStruct((8, 2048, 8, 64), jnp.float32)

    def run(*arrays):
        return attention(*arrays, View(causal=True))

    program = jax.jit(jax.grad(lambda *a: run(*a).sum(), (0, 1, 2)) if gradient else run)
    used = program.lower(x, x, x).compile().memory_analysis().temp_size_in_bytes
    assert used < 1.01 * 4 * 8 * 8 * 2048**2 / share


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_exports_for_other_platforms(platform, dtype, in_blocks):
    in_blocks(2)
    arrays = [jax.ShapeDtypeStruct(x.shape, dtype) for x in operands()]
    program = jax.jit(functools.partial(pulled, "all"))
    assert jax.export.export(program, platforms=(platform,))(*arrays).platforms == (platform,)


# cuDNN's kernel is chosen on a GPU only; here, whether it would be, and how it would be asked.


@pytest.fixture
def gpu(monkeypatch):
    device = types.SimpleNamespace(compute_capability="9.0")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    return device


def fused(view, dtype=jnp.bfloat16, q=(2, 8, 4, 64), keys=8):
    k = jax.ShapeDtypeStruct((q[0], keys, *q[2:]), dtype)
    return ops._fused(jax.ShapeDtypeStruct(q, dtype), k, view)


LENGTHS = jnp.array([8, 0])


@pytest.mark.parametrize(
    "view", [View(), View(causal=True), View(causal=True, window=3), View(lengths=LENGTHS)]
)
def test_half_precision_on_a_gpu_is_fused(gpu, view):
    assert fused(view)
    assert fused(view, jnp.float16)
    assert not fused(view, jnp.float32)
    gpu.compute_capability = "7.5"
    assert not fused(view)
    gpu.compute_capability = "gfx90a"
    assert not fused(view)


UNFUSED = {
    "starts": View(causal=True, starts=LENGTHS),
    "mask": View(mask=jnp.ones((1, 1, 1, 8), bool)),
    "slopes": View(slopes=jnp.ones(4)),
    "two-sided window": View(window=3),
    "window and lengths": View(causal=True, window=3, lengths=LENGTHS),
}


@pytest.mark.parametrize("name", UNFUSED)
def test_what_cudnn_may_not_know_is_not_fused(gpu, name):
    assert not fused(UNFUSED[name])


def test_shapes_that_cudnn_may_not_know_are_not_fused(gpu):
    assert fused(View(), keys=9)
    assert not fused(View(causal=True), keys=9)
    assert not fused(View(), q=(2, 8, 4, 20))
    assert not fused(View(), q=(2, 8, 4, 136))
    assert not fused(View(), q=(0, 8, 4, 64))
    assert not fused(View(), keys=0)


def test_the_cpu_has_no_cudnn():
    assert not fused(View())


ASKED = {
    "everything": View(),
    "causal": View(causal=True),
    "causal window": View(causal=True, window=2),
    "lengths": View(lengths=jnp.array([4, 0])),
    "causal lengths": View(lengths=jnp.array([0, 3]), causal=True),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("mapped", [False, True])
def test_what_cudnn_is_asked_for_is_what_is_meant(monkeypatch, name, mapped):
    """By JAX's own form of the same arguments; mapped too, as an ensemble is."""
    form, asked = jax.nn.dot_product_attention, []

    def stand_in(*arrays, implementation="xla", **settings):
        asked.append(implementation)
        return form(*arrays, implementation="xla", **settings)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    q, k, v = (jnp.asarray(x[:, :TIME]) for x in operands())

    def both(q):
        return [f(q, k, v, ASKED[name]) for f in (ops._cudnn, ops._by_rows)]

    found, expected = jax.vmap(both)(jnp.stack([q, -q])) if mapped else both(q)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert asked == ["cudnn"]


@pytest.mark.parametrize("axes", [(0, None, None, None), (None, 0, 0, None), (None, None, None, 0)])
def test_whatever_is_mapped_cudnn_has_all_operands_mapped(monkeypatch, axes):
    """As JAX's rule for it wants them; the numbers do not matter here."""
    mapped = []

    @jax.custom_batching.custom_vmap
    def kernel(*arrays):
        return jnp.zeros_like(arrays[0])

    @kernel.def_vmap
    def rule(size, batched, *arrays):
        mapped.append(batched)
        return jnp.zeros_like(arrays[0]), True

    def stand_in(*arrays, query_seq_lengths, key_value_seq_lengths, **_):
        return kernel(*arrays, query_seq_lengths, key_value_seq_lengths)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    given = *map(jnp.asarray, operands()), jnp.array([4, 0])
    given = [x if axis is None else jnp.stack([x, x]) for x, axis in zip(given, axes, strict=True)]
    jax.vmap(lambda *a: ops._cudnn(*a[:3], View(lengths=a[3])), axes)(*given)
    assert mapped == [[True] * 5]
