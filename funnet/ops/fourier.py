"""The spectra of short windows of a signal, and the signal of such spectra.

Windows are cut and laid over each other as slices of whole hops, for a gather of overlapping
windows costs more than their Fourier transform.
"""

import jax
import jax.numpy as jnp
import numpy as np

from funnet.checks import array, count, floating
from funnet.ops.precision import widened


def hann(size: int) -> np.ndarray:
    """Hann's window of a period of `size`, (size,) float64: `sin(pi n / size)^2`."""
    return np.sin(np.pi * np.arange(size) / size) ** 2


def stft(x: jax.Array, window: int, hop: int) -> jax.Array:
    """Short-time Fourier transform: the spectrum of every window of a signal.

    Frame `t` is of the samples `t * hop .. t * hop + window - 1`, times Hann's window, so that
    `y[t, f] = sum_n w[n] x[t * hop + n] exp(-2 pi i f n / window)`. Nothing is padded, and samples
    behind the last whole window are left out.

    Args:
        x: (..., S) of a floating dtype, S at least `window`.
        window: samples in a window.
        hop: samples from one window's begin to the next one's.

    Returns:
        Complex (..., T, window // 2 + 1), T = 1 + (S - window) // hop; column `f` is the frequency
        `f / window` of the sampling rate. Complex64, of float64 complex128.

    Raises:
        TypeError: if `x` is not of a floating dtype, or a setting no integer.
        ValueError: if a setting is below 1, or the signal is shorter than a window.

    Reference: Allen and Rabiner 1977, https://doi.org/10.1109/PROC.1977.10770

    >>> tone = jnp.cos(jnp.pi / 2 * jnp.arange(16.0))  # a quarter of the sampling rate
    >>> jnp.abs(stft(tone, 8, 4)).round(3)
    Array([[0., 1., 2., 1., 0.],
           [0., 1., 2., 1., 0.],
           [0., 1., 2., 1., 0.]], dtype=float32)
    """
    floating("x", x)
    window, hop = count("window", window), count("hop", hop)
    samples = x.shape[-1] if x.ndim else 0
    if samples < window:
        raise ValueError(
            f"x has shape {x.shape}, expected (..., S) with S at least the window, {window}: "
            "pad the signal, or give a smaller window"
        )
    x = widened(jnp.asarray(x))
    frames = _windows(x, window, hop, 1 + (samples - window) // hop)
    return jnp.fft.rfft(frames * jnp.asarray(hann(window), x.dtype))


def istft(y: jax.Array, window: int, hop: int) -> jax.Array:
    """The signal whose short-time Fourier transform is nearest to `y`, in the sum of squares.

    It undoes `stft`, and of spectra that no signal has, such as those that were changed one by
    one, it makes the best. With `x[t]` the inverse transform of `y[t]`, each sample is the sum of
    `w x[t]` over the windows it lies in, divided by that of `w^2`.

    Args:
        y: complex (..., T, window // 2 + 1).
        window: samples in a window.
        hop: samples from one window's begin to the next one's; at most `window`.

    Returns:
        (..., (T - 1) * hop + window), float32, of complex128 float64. A sample that only windows
        see that are zero there, as Hann's is at its begin, is zero.

    Raises:
        TypeError: if `y` is not complex, or a setting no integer.
        ValueError: if a setting is out of range, or `y` has other frequencies.

    Reference: Griffin and Lim 1984, https://doi.org/10.1109/TASSP.1984.1164317

    >>> x = jnp.sin(jnp.arange(40.0))
    >>> bool(jnp.allclose(istft(stft(x, 16, 6), 16, 6)[1:], x[1:], atol=1e-5))
    True
    """
    array("y", y)
    window = count("window", window)
    hop = count("hop", hop, window)
    if not jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise TypeError(f"y must be complex, got {y.dtype}; give what stft gives")
    if y.ndim < 2 or y.shape[-1] != window // 2 + 1 or y.shape[-2] < 1:
        raise ValueError(
            f"y has shape {y.shape}, expected (..., T, {window // 2 + 1}) for a window of {window}"
        )
    weight = hann(window)
    frames = jnp.fft.irfft(jnp.asarray(y), window)
    total = _overlaid(frames * jnp.asarray(weight, frames.dtype), hop)
    square = _overlaid(jnp.asarray(np.tile(weight**2, (y.shape[-2], 1)), frames.dtype), hop)
    return jnp.where(square > 0, total / jnp.where(square > 0, square, 1), 0)


def _windows(x: jax.Array, window: int, hop: int, frames: int) -> jax.Array:
    """The windows (..., frames, window) of a signal (..., S)."""
    parts = -(-window // hop)  # hops that a window spans
    size = (frames + parts - 1) * hop
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, max(size - x.shape[-1], 0))])[..., :size]
    hops = x.reshape(*x.shape[:-1], -1, hop)
    each = [jax.lax.slice_in_dim(hops, i, i + frames, axis=-2) for i in range(parts)]
    return jnp.concatenate(each, axis=-1)[..., :window]


def _overlaid(frames: jax.Array, hop: int) -> jax.Array:
    """The sum (..., (T - 1) * hop + window) of windows (..., T, window), each a hop later."""
    *lead, count, window = frames.shape
    parts, none = -(-window // hop), [(0, 0)] * len(lead)
    frames = jnp.pad(frames, [*none, (0, 0), (0, parts * hop - window)])
    split = jnp.split(frames, parts, axis=-1)
    later = [jnp.pad(part, [*none, (i, parts - 1 - i), (0, 0)]) for i, part in enumerate(split)]
    total = sum(later[1:], later[0]).reshape(*lead, -1)
    return total[..., : (count - 1) * hop + window]
