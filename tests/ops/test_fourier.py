"""Short-time spectra beside SciPy's; the inverse beside a least-squares solver's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

import funnet as fn

SETTINGS = [(8, 4), (8, 3), (9, 4), (16, 16), (16, 5), (7, 1), (6, 9)]
settings = pytest.mark.parametrize(("window", "hop"), SETTINGS)


def signal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@settings
@pytest.mark.parametrize("more", [0, 1, 29, 40])
def test_it_is_that_of_scipy(window, hop, more):
    x = signal(2, window + more)
    if hop < window:
        hann = scipy.signal.get_window("hann", window)
        how = {"window": hann, "nperseg": window, "noverlap": window - hop, "boundary": None}
        _, _, expected = scipy.signal.stft(x, padded=False, **how)
        expected = expected.swapaxes(-1, -2) * hann.sum()
    else:  # which SciPy's function does not take
        expected = fn.stft(jnp.asarray(x, jnp.float32), window, 1)[:, ::hop]
    found = fn.stft(jnp.asarray(x, jnp.float32), window, hop)
    assert found.dtype == jnp.complex64
    assert found.shape == (2, 1 + more // hop, window // 2 + 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "hop"), [s for s in SETTINGS if s[1] <= s[0]])
def test_the_inverse_is_the_nearest_signal(window, hop):
    frames, rng = 5, np.random.default_rng(1)
    size = (frames - 1) * hop + window
    with jax.enable_x64(True):
        # The transform as a matrix: of windows in time, where the inner spectrum counts twice.
        hann = scipy.signal.get_window("hann", window)
        rows = np.zeros((frames, window, size))
        for t in range(frames):
            rows[t, :, t * hop : t * hop + window] = np.diag(hann)
        wanted = rng.normal(size=(frames, window))
        expected = np.linalg.lstsq(rows.reshape(-1, size), wanted.ravel())[0]
        found = fn.istft(jnp.asarray(np.fft.rfft(wanted)), window, hop)
        assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(50,), (2, 50), (2, 3, 50)])
def test_it_gives_back_what_was_transformed(shape):
    x = jnp.asarray(signal(*shape), jnp.float32)
    both = jax.jit(lambda x: fn.istft(fn.stft(x, 10, 4), 10, 4))
    np.testing.assert_allclose(both(x)[..., 1:], x[..., 1:], atol=1e-5)
    np.testing.assert_array_equal(both(x)[..., 0], 0)  # which Hann's window does not see


def test_half_precision_is_computed_in_float32():
    x = jnp.asarray(signal(40), jnp.bfloat16)
    found = fn.stft(x, 8, 4)
    np.testing.assert_array_equal(found, fn.stft(x.astype(jnp.float32), 8, 4))


def test_gradients_are_finite_differences():
    with jax.enable_x64(True):
        x, way = jnp.asarray(signal(30)), jnp.asarray(signal(30, seed=1))

        def loss(x):
            y = fn.stft(x, 8, 3)
            louder = y * jnp.arange(5.0).astype(y.dtype)
            return jnp.sin(fn.istft(louder, 8, 3)).sum() + jnp.square(jnp.abs(y)).sum()

        slope = (loss(x + 1e-5 * way) - loss(x - 1e-5 * way)) / 2e-5
        np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(x), way), slope, rtol=1e-6)


def test_wrong_input_meets_a_message():
    x = jnp.zeros((2, 10))
    with pytest.raises(ValueError, match=r"x has shape \(2, 10\), expected .* window, 16"):
        fn.stft(x, 16, 4)
    with pytest.raises(ValueError, match="hop is 0"):
        fn.stft(x, 8, 0)
    with pytest.raises(TypeError, match="x must be floating point, got int32"):
        fn.stft(jnp.zeros(10, jnp.int32), 8, 4)
    y = fn.stft(x, 8, 4)
    with pytest.raises(ValueError, match="hop is 9, expected 1 <= hop <= 8"):
        fn.istft(y, 8, 9)
    with pytest.raises(ValueError, match=r"y has shape \(2, 1, 5\), expected \(\.\.\., T, 6\)"):
        fn.istft(y, 10, 4)
    with pytest.raises(TypeError, match="y must be complex, got float32"):
        fn.istft(y.real, 8, 4)
