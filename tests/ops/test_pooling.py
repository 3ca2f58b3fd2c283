"""The tuned pools against their plain forms, PyTorch, and everything JAX does to a function."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funnet.ops.pooling import MOST_UNROLLED, avg_pool, max_pool, plain_max_pool

NONE = ((0, 0), (0, 0))
TILES = ((2, 6, 4, 3), (2, 2), (2, 2), NONE)
INSIDE = ((2, 7, 6, 3), (3, 2), (2, 1), NONE)
OVERLAP = ((2, 7, 5, 3), (3, 2), (2, 1), ((1, 1), (1, 1)))
LARGE = ((2, 2 * MOST_UNROLLED, 5, 3), (MOST_UNROLLED + 4, 3), (7, 2), ((16, 16), (1, 1)))
CASES = {"tiles": TILES, "inside": INSIDE, "overlap": OVERLAP, "large": LARGE}


def drawn(seed):
    """Shape, window, stride and pads; every second one tiles."""
    rng = np.random.default_rng(seed)
    axes = seed % 3 + 1
    window = tuple(int(n) for n in rng.integers(1, 5, axes))
    if seed % 2:
        sizes = [w * int(rng.integers(1, 4)) for w in window]
        stride, pads = window, ((0, 0),) * axes
    else:
        sizes = [w + int(rng.integers(0, 6)) for w in window]
        stride = tuple(int(n) for n in rng.integers(1, 4, axes))
        pads = tuple((int(n),) * 2 for n in [rng.integers(0, w // 2 + 1) for w in window])
    return (int(rng.integers(1, 4)), *sizes, int(rng.integers(1, 5))), window, stride, pads


DRAWN = [drawn(seed) for seed in range(40)]


def by_torch(kind, x, cotangent, window, stride, pads):
    """The output and the gradient of x."""
    torch = pytest.importorskip("torch")
    function = getattr(torch.nn.functional, f"{kind}_pool{len(window)}d")
    leaf = torch.tensor(x).movedim(-1, 1).requires_grad_()
    y = function(leaf, window, stride, [before for before, _ in pads])
    y.backward(torch.tensor(np.asarray(cotangent)).movedim(-1, 1))
    return y.detach().movedim(1, -1).numpy(), leaf.grad.movedim(1, -1).numpy()


def pulled_back(pool, x, settings):
    """The output, a cotangent of its shape, and the gradient of x."""
    y, pull = jax.vjp(lambda x: pool(x, *settings), x)
    g = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return y, g, pull(g)[0]


def compare(kind, pool, x, settings):
    y, g, dx = jax.jit(functools.partial(pulled_back, pool, settings=settings))(x)
    expected = by_torch(kind, x, g, *settings)
    np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx, expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", DRAWN, ids=range(len(DRAWN)))
def test_max_pool_is_that_of_pytorch_ties_included(case):
    shape, *settings = case
    x = np.random.default_rng(1).integers(-2, 3, shape).astype(np.float32)  # full of ties
    compare("max", max_pool, x, settings)


@pytest.mark.parametrize("case", DRAWN[:6], ids=range(6))
def test_avg_pool_is_that_of_pytorch(case):
    shape, *settings = case
    compare(
        "avg", avg_pool, np.random.default_rng(1).normal(size=shape).astype(np.float32), settings
    )


@pytest.mark.parametrize("window", [MOST_UNROLLED - 1, MOST_UNROLLED, MOST_UNROLLED + 1, 40])
@pytest.mark.parametrize("stride", [1, 9, 40, 300])
def test_large_windows_and_strides(window, stride):
    x = np.random.default_rng(0).integers(-3, 3, (1, 360, 2)).astype(np.float32)
    compare("max", max_pool, x, ((window,), (stride,), ((window // 2,) * 2,)))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("value", [-np.inf, np.inf])
def test_infinities_as_in_pytorch(case, value):
    shape, *settings = case
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x[0], x[1, ::2] = value, value
    compare("max", max_pool, x, settings)


@pytest.mark.parametrize("window", range(1, 6))
@pytest.mark.parametrize("stride", range(1, 4))
def test_padding_has_no_gradient_whatever_the_window(window, stride):
    x = np.full((1, 6, 5, 1), -np.inf, np.float32)
    compare("max", max_pool, x, ((window,) * 2, (stride,) * 2, ((window // 2,) * 2,) * 2))


@pytest.mark.parametrize("window", [3, MOST_UNROLLED + 1])
def test_a_window_that_is_padding_all_over_is_the_lowest(window):
    x, settings = jnp.ones((1, 2, 1)), ((window,), (window,), ((window, 0),))
    np.testing.assert_array_equal(max_pool(x, *settings), plain_max_pool(x, *settings))
    gradient = jax.grad(lambda x: max_pool(x, *settings)[:, 0].sum())(x)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("pads", [((0, 2), (1, 0)), ((2, 0), (0, 3))])
@pytest.mark.parametrize("window", [(3, 4), (4, MOST_UNROLLED + 1)])
def test_uneven_padding_as_in_the_plain_form(pads, window):
    x = np.random.default_rng(0).normal(size=(2, 7, 2 * MOST_UNROLLED, 2)).astype(np.float32)
    found, expected = [
        pulled_back(pool, x, (window, (2, 3), pads)) for pool in (max_pool, plain_max_pool)
    ]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pads", [((0, 0), (0, 0)), ((1, 0), (2, 1))])
def test_a_mean_may_leave_the_padding_out(pads):
    """As the sum of what is inside over the number of what is inside."""
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 2)).astype(np.float32)
    settings = ((3, 4), (2, 1), pads)
    inside = avg_pool(jnp.ones_like(x), *settings)
    np.testing.assert_allclose(
        avg_pool(x, *settings, False), avg_pool(x, *settings) / inside, rtol=1e-5
    )


def test_a_mean_of_half_precision_neither_overflows_nor_loses():
    x = jnp.full((1, 64, 64, 1), 30000, jnp.float16)
    np.testing.assert_array_equal(avg_pool(x, (64, 64), (1, 1), NONE), x[:, :1, :1])
    y = avg_pool(jnp.ones((1, 32, 32, 1), jnp.bfloat16), (32, 32), (1, 1), NONE)
    np.testing.assert_array_equal(y, 1)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_nan_in_gives_nan_out(pool, case):
    shape, *settings = case
    for index in itertools.product((0, 1), repeat=2):  # wherever in its window
        x = np.zeros(shape, np.float32)
        x[0, *index, 0] = np.nan
        hit = np.isnan(pool(x, *settings))
        assert hit[0, ..., 0].any()
        assert not hit[0, ..., 1:].any()
        assert not hit[1].any()


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_integers(case, dtype):
    shape, *settings = case
    bounds, rng = np.iinfo(dtype), np.random.default_rng(0)
    x = rng.integers(max(bounds.min, -(2**20)), min(bounds.max, 2**20), shape, dtype)
    x[0] = bounds.min
    y = max_pool(x, *settings)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, max_pool(x.astype(np.float32), *settings).astype(dtype))


def test_integers_made_of_what_is_differentiated():
    shape, *settings = TILES

    def loss(x):
        return (x.sum() * max_pool((4 * x).astype(jnp.int32), *settings).astype(x.dtype)).sum()

    x = jnp.ones(shape)
    np.testing.assert_allclose(jax.grad(loss)(x), 4.0 * 2 * 3 * 2 * 3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_half_precision_stays_half(case, dtype):
    shape, *settings = case
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    y, _, dx = jax.jit(functools.partial(pulled_back, max_pool, settings=settings))(x)
    assert y.dtype == dx.dtype == dtype
    wide = max_pool(x.astype(jnp.float32), *settings)
    np.testing.assert_array_equal(y.astype(jnp.float32), wide)


# What JAX does to functions.


def gradient_of(pool):
    return jax.grad(lambda x: jnp.sin(pool(x)).sum())


def scanned(pool, x):
    def loss(x):
        return jax.lax.scan(lambda total, x: (total + pool(x).sum(), None), 0.0, x)[0]

    return jax.grad(loss)(jnp.stack([x, jnp.sin(x)]))


USES = {
    "jvp": lambda pool, x: jax.jvp(pool, (x,), (jnp.cos(x),)),
    "linearize": lambda pool, x: jax.linearize(pool, x)[1](jnp.cos(x)),
    "hessian-vector": lambda pool, x: jax.jvp(gradient_of(pool), (x,), (jnp.cos(x),)),
    "reverse over reverse": lambda pool, x: jax.grad(
        lambda x: jnp.square(gradient_of(pool)(x)).sum()
    )(x),
    "vmap": lambda pool, x: jax.vmap(gradient_of(pool))(jnp.stack([x, -x])),
    "vmap over the last axis": lambda pool, x: jax.vmap(pool, -1, -1)(jnp.stack([x, -x], -1)),
    "grad of scan": scanned,
    "checkpoint": lambda pool, x: gradient_of(jax.checkpoint(pool))(x),
}


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_tuned_pool_may_be_transformed_as_the_plain_one_may(case, use):
    shape, *settings = case
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    @jax.jit
    def both(x):
        forms = (max_pool, plain_max_pool)
        return [USES[use](lambda x, f=f: f(x, *settings), x) for f in forms]

    for a, b in zip(*map(jax.tree.leaves, both(x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_finite_differences_in_float64(pool, case):
    with jax.enable_x64(True):
        shape, *settings = case
        x, dx = np.random.default_rng(0).normal(size=(2, *shape))

        @jax.jit
        def along(t):
            return jnp.sin(pool(x + t * dx, *settings)).sum()

        difference = (along(1e-6) - along(-1e-6)) / 2e-6
        slopes = jax.jit(lambda t: (jax.grad(along)(t), jax.jvp(along, (t,), (1.0,))[1]))(0.0)
        np.testing.assert_allclose(slopes, difference, rtol=1e-6)


def program(pool, case):
    shape, *settings = case

    def steps(x):
        def body(x, _):
            return x - jax.grad(lambda x: jnp.square(pool(x, *settings)).sum())(x), None

        return lax.scan(body, x, None, length=2)[0]

    return jax.jit(steps), np.zeros(shape, np.float32)


@pytest.mark.parametrize("platforms", [("cuda",), ("tpu",), ("cpu", "cuda", "tpu")], ids="-".join)
@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_it_exports_for_other_platforms(pool, platforms):
    steps, x = program(pool, OVERLAP)
    exported = jax.export.export(steps, platforms=platforms)(x)
    assert set(exported.platforms) == set(platforms)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_gradient_is_cheap(case):
    texts = {}
    for pool in (max_pool, plain_max_pool):
        steps, x = program(pool, case)
        texts[pool] = steps.lower(x).as_text() + steps.lower(x).compile().as_text()
    assert "select_and_scatter" in texts[plain_max_pool]
    assert "select_and_scatter" not in texts[max_pool]
    assert "select-and-scatter" not in texts[max_pool]
