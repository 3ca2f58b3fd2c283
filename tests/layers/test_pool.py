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
    np.testing.assert_allclose(fn.global_avg_pool(x), x.mean(tuple(range(1, axes + 1))), rtol=1e-6)


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


def test_flatten_keeps_the_batch():
    np.testing.assert_array_equal(fn.flatten(jnp.asarray(X)), X.reshape(2, -1))
    assert fn.flatten(jnp.zeros((0, 4, 2))).shape == (0, 8)
    assert fn.flatten(jnp.zeros(5)).shape == (5, 1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "pool", [fn.global_avg_pool, lambda x: fn.avg_pool(x, 2), lambda x: fn.max_pool(x, 2)]
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


@pytest.mark.parametrize("pool", [fn.max_pool, fn.avg_pool])
def test_another_rank_is_refused(pool):
    with pytest.raises(ValueError, match=rf"{pool.__name__}.*\(N, \*spatial, C\)"):
        pool(X[0, 0], 2)


def test_a_mean_of_integers_is_refused():
    for mean in (fn.global_avg_pool, lambda x: fn.avg_pool(x, 2)):
        with pytest.raises(TypeError, match="floating"):
            mean(X.astype(np.int32))
