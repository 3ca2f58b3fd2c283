"""The pools as users call them: windows, strides, paddings and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn

X = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype(np.float32)

# window, stride, padding -> sizes of images of 8 by 6
SIZES = [
    (2, None, "valid", (4, 3)),
    (3, None, "valid", (2, 2)),
    ((2, 3), None, "valid", (4, 2)),
    (3, 1, "valid", (6, 4)),
    (3, 2, "same", (4, 3)),
    (3, (1, 2), 1, (8, 3)),
    (2, 2, ((1, 1), (0, 2)), (5, 4)),
]


@pytest.mark.parametrize("pool", [fn.max_pool, fn.avg_pool])
@pytest.mark.parametrize(("window", "stride", "padding", "sizes"), SIZES)
def test_sizes(pool, window, stride, padding, sizes):
    y = jax.eval_shape(lambda x: pool(x, window, stride=stride, padding=padding), X)
    assert y.shape == (2, *sizes, 3)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_axes_by_rank(axes):
    x = np.arange(2 * 4**axes * 3, dtype=np.float32).reshape(2, *(4,) * axes, 3)
    windows = x.reshape(2, *(2, 2) * axes, 3)
    inner = tuple(range(2, 2 * axes + 1, 2))
    np.testing.assert_array_equal(fn.max_pool(x, 2), windows.max(inner))
    np.testing.assert_allclose(fn.avg_pool(x, 2), windows.mean(inner), rtol=1e-6)
    over = tuple(range(1, axes + 1))
    np.testing.assert_allclose(fn.global_avg_pool(x), x.mean(over), rtol=1e-6)
    np.testing.assert_array_equal(fn.global_max_pool(x), x.max(over))
    np.testing.assert_allclose(fn.adaptive_avg_pool(x, 2), windows.mean(inner), rtol=1e-6)
    np.testing.assert_array_equal(fn.adaptive_max_pool(x, 2), windows.max(inner))


def test_padding_counts_as_zero_in_a_mean_and_never_in_a_maximum():
    x = -np.ones((1, 2, 2, 1), np.float32)
    np.testing.assert_array_equal(fn.avg_pool(x, 2, stride=1, padding=1)[0, 0, 0], [-0.25])
    assert (fn.max_pool(x, 2, stride=1, padding=1) == -1).all()
    lowest = np.full((1, 2, 2, 1), np.iinfo(np.int32).min, np.int32)
    assert (fn.max_pool(lowest, 2, stride=1, padding=1) == np.iinfo(np.int32).min).all()


def test_the_first_of_equal_elements_has_the_gradient():
    x = jnp.zeros((1, 4, 4, 1))
    tiles = jax.jit(jax.grad(lambda x: fn.max_pool(x, 2).sum()))(x)[0, :, :, 0]
    np.testing.assert_array_equal(tiles, np.kron(np.ones((2, 2)), [[1, 0], [0, 0]]))
    overlap = jax.jit(jax.grad(lambda x: fn.max_pool(x, 2, stride=1).sum()))(x)[0, :, :, 0]
    np.testing.assert_array_equal(overlap, np.pad(np.ones((3, 3)), ((0, 1), (0, 1))))


def test_the_corner_of_a_padded_mean_has_what_is_inside():
    x = np.arange(4, dtype=np.float32).reshape(1, 4, 1)
    y = fn.avg_pool(x, 3, stride=1, padding=1)
    np.testing.assert_allclose(y.ravel(), [1 / 3, 1, 2, 5 / 3], rtol=1e-6)
    y = fn.avg_pool(x, 3, stride=1, padding=1, count_include_pad=False)
    np.testing.assert_allclose(y.ravel(), [0.5, 1, 2, 2.5], rtol=1e-6)


def test_adaptive_windows_are_as_even_as_can_be():
    x = np.arange(7, dtype=np.float32).reshape(1, 7, 1)
    np.testing.assert_array_equal(fn.adaptive_max_pool(x, 3).ravel(), [2, 4, 6])
    np.testing.assert_allclose(fn.adaptive_avg_pool(x, 3).ravel(), [1, 3, 5], rtol=1e-6)
    np.testing.assert_array_equal(fn.adaptive_max_pool(x[:, :2], 4).ravel(), [0, 0, 1, 1])
    np.testing.assert_array_equal(fn.adaptive_avg_pool(x, (7,)), x)


EQUAL = {
    "max_pool": lambda x: fn.max_pool(x, (2, 3)),
    "adaptive_max_pool": lambda x: fn.adaptive_max_pool(x, 1),
    "global_max_pool": fn.global_max_pool,
}


@pytest.mark.parametrize("pool", EQUAL.values(), ids=EQUAL)
def test_the_gradient_goes_to_the_first_in_row_major_order(pool):
    x = jnp.array([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]])[None, :, :, None]
    expected = [[0, 0, 1], [0, 0, 0]]
    np.testing.assert_array_equal(jax.grad(lambda x: pool(x).sum())(x)[0, :, :, 0], expected)
    lowest = jnp.full((1, 2, 3, 1), -jnp.inf)
    first = jax.grad(lambda x: pool(x).sum())(lowest)[0, :, :, 0]
    np.testing.assert_array_equal(first, [[1, 0, 0], [0, 0, 0]])


GLOBAL = [fn.global_avg_pool, fn.global_max_pool]
SEQUENCES = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
LENGTHS = np.array([2, 5, 0], np.int32)


@pytest.mark.parametrize("pool", GLOBAL)
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
def test_what_lies_beyond_a_length_changes_no_bit(pool, garbage):
    inside = (np.arange(5) < LENGTHS[:, None])[..., None]

    def both(x):
        y, pull = jax.vjp(lambda x: pool(x, lengths=LENGTHS), x)
        return y, pull(jnp.ones_like(y))[0]

    expected, found = (both(jnp.where(inside, SEQUENCES, fill)) for fill in (0, garbage))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert not np.any(np.where(inside, 0, found[1]))


@pytest.mark.parametrize("pool", GLOBAL)
def test_a_sequence_of_no_steps_pools_to_zero(pool):
    y, pull = jax.vjp(lambda x: pool(x, lengths=LENGTHS), jnp.asarray(SEQUENCES))
    np.testing.assert_array_equal(y[2], 0)
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0][2], 0)
    assert pool(np.zeros((2, 0, 3), np.float32), lengths=np.zeros(2, np.int32)).shape == (2, 3)


@pytest.mark.parametrize("pool", GLOBAL)
def test_nan_within_the_lengths_is_seen(pool):
    x = np.zeros((18, 36, 16), np.float32)  # so large that XLA:CPU's own maximum would drop it
    x[0, 3, 1] = np.nan
    for y in (pool(x), pool(x, lengths=np.full(18, 4))):
        assert np.isnan(y[0, 1])
        assert np.isnan(y).sum() == 1
    assert not np.isnan(pool(x, lengths=np.full(18, 3))).any()


@pytest.mark.parametrize("pool", GLOBAL)
def test_global_pools_over_lengths_under_jit_and_vmap(pool):
    expected = pool(SEQUENCES, lengths=LENGTHS)
    found = jax.jit(lambda x, n: pool(x, lengths=n))(SEQUENCES, LENGTHS)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    one = jax.vmap(lambda x, n: pool(x[None], lengths=n[None])[0])(SEQUENCES, LENGTHS)
    np.testing.assert_allclose(one, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
def test_maxima_of_integers(dtype):
    x = np.random.default_rng(0).integers(np.iinfo(dtype).min, 100, (2, 6, 7, 3)).astype(dtype)
    y = fn.global_max_pool(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x.max((1, 2)))
    np.testing.assert_array_equal(fn.adaptive_max_pool(x, 1)[:, 0, 0], y)


def test_means_of_half_precision_neither_overflow_nor_lose():
    x = jnp.full((2, 4096, 1), 30000, jnp.float16)
    for y in (
        fn.global_avg_pool(x),
        fn.global_avg_pool(x, lengths=np.array([4096, 3000])),
        fn.adaptive_avg_pool(x, 3),
        fn.avg_pool(x, 1024),
    ):
        np.testing.assert_array_equal(y, jnp.full(y.shape, 30000, jnp.float16))


def test_flatten_keeps_the_batch():
    np.testing.assert_array_equal(fn.flatten(jnp.asarray(X)), X.reshape(2, -1))
    assert fn.flatten(jnp.zeros((0, 4, 2))).shape == (0, 8)
    assert fn.flatten(jnp.zeros(5)).shape == (5, 1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "pool",
    [
        fn.global_avg_pool,
        fn.global_max_pool,
        lambda x: fn.avg_pool(x, 2),
        lambda x: fn.max_pool(x, 2),
        lambda x: fn.adaptive_avg_pool(x, (3, 5)),
        lambda x: fn.adaptive_max_pool(x, (3, 5)),
    ],
)
def test_half_precision_stays_half(pool, dtype):
    y = pool(jnp.asarray(X, dtype))
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(jnp.float32), pool(X), rtol=0.02, atol=0.01)


@pytest.mark.parametrize("pool", [fn.max_pool, fn.avg_pool])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 9}, r"window of 9.*size 8"),
        ({"window": (2, 7)}, r"window of 7.*axis 1 of size 6"),
        ({"window": (2, 2, 2)}, r"window.*2 of them"),
        ({"window": 0}, "window"),
        ({"window": 2, "stride": 0}, "stride"),
        ({"window": 2, "padding": "both"}, "padding"),
    ],
)
def test_what_does_not_fit_is_refused(pool, settings, message):
    with pytest.raises(ValueError, match=message):
        pool(X, **settings)


ALL = [fn.max_pool, fn.avg_pool, fn.adaptive_max_pool, fn.adaptive_avg_pool, *GLOBAL]


@pytest.mark.parametrize("pool", ALL)
def test_another_rank_is_refused(pool):
    with pytest.raises(ValueError, match=rf"{pool.__name__}.*\(N, \*spatial, C\)"):
        pool(X[0, 0], *([] if pool in GLOBAL else [2]))


@pytest.mark.parametrize("pool", [fn.adaptive_max_pool, fn.adaptive_avg_pool])
def test_adaptive_pools_of_no_size_or_of_nothing_are_refused(pool):
    for size in (0, (2,), 2.5):
        with pytest.raises(ValueError, match=r"size must be a positive int or 2 of them, got"):
            pool(X, size)
    with pytest.raises(ValueError, match=rf"{pool.__name__} has no elements.*\(2, 0, 6, 3\)"):
        pool(X[:, :0], 2)


@pytest.mark.parametrize("pool", GLOBAL)
def test_lengths_that_do_not_fit_are_refused(pool):
    with pytest.raises(ValueError, match=r"\(N, T, C\), got x of shape \(2, 8, 6, 3\)"):
        pool(X, lengths=np.array([1, 1]))
    with pytest.raises(ValueError, match=r"lengths has shape \(2,\)"):
        pool(SEQUENCES, lengths=np.array([1, 1]))
    with pytest.raises(ValueError, match=r"lengths\[1\] is 6"):
        pool(SEQUENCES, lengths=np.array([1, 6, 1]))
    with pytest.raises(TypeError, match=r"lengths must be integers"):
        pool(SEQUENCES, lengths=np.ones(3))
    with pytest.raises(TypeError, match=r"x must be a JAX or NumPy array, got list"):
        pool([[[1.0]]])


@pytest.mark.parametrize(
    "pool", [*GLOBAL, lambda x: fn.max_pool(x, 2), lambda x: fn.avg_pool(x, 2)]
)
def test_an_empty_batch_gives_an_empty_result(pool):
    assert len(pool(X[:0])) == 0


def test_a_mean_of_integers_is_refused():
    adaptive = lambda x: fn.adaptive_avg_pool(x, 2)  # noqa: E731
    for mean in (fn.global_avg_pool, lambda x: fn.avg_pool(x, 2), adaptive):
        with pytest.raises(TypeError, match="floating"):
            mean(X.astype(np.int32))
