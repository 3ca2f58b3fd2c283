"""Sound: from a signal to what an ear, roughly, makes of it."""

import jax
import jax.numpy as jnp
import numpy as np

from funnet.checks import count, positive
from funnet.ops.fourier import stft


def log_mel(
    x: jax.Array,
    rate: float,
    *,
    mels: int = 40,
    window: int = 256,
    hop: int = 80,
    low: float = 0.0,
    high: float | None = None,
    floor: float = 1e-6,
) -> jax.Array:
    """Log-mel spectrogram: how strong each band of pitch is in each window of a signal.

    `log(floor + sum_f filter[m, f] |stft(x)[t, f]|^2)`. The filters are triangles over frequency,
    each 1 at its own centre and 0 at its neighbours', the centres equally far apart in mel, which
    are here `2595 log10(1 + frequency / 700)` (HTK's formula, and its triangles).

    Args:
        x: (N, S), samples of a floating dtype.
        rate: samples a second.
        mels: bands.
        window: samples in a window, see `fn.stft`.
        hop: samples from one window to the next.
        low: where the lowest triangle begins, in Hz.
        high: where the highest one ends, in Hz; by default half of the rate.
        floor: added to the power, above zero; what is much weaker is not heard.

    Returns:
        (N, T, mels) of the dtype of `x`, natural logarithms; T = 1 + (S - window) // hop.

    Raises:
        TypeError: if `x` is not of a floating dtype.
        ValueError: if there is no window of samples, a setting is out of range, or a band lies
            between two frequencies of the window's spectrum and would hear nothing.

    Reference: Davis and Mermelstein 1980, https://doi.org/10.1109/TASSP.1980.1163420; Young et
    al., "The HTK Book".

    >>> log_mel(jnp.zeros((2, 8000)), 8000, floor=1.0).shape
    (2, 97, 40)
    """
    positive("floor", floor)
    filters = mel_filters(rate, window, mels, low, rate / 2 if high is None else high)
    spectrum = stft(x, window, hop)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    heard = jnp.matmul(power, jnp.asarray(filters.T, power.dtype), precision="highest")
    return jnp.log(heard + floor).astype(x.dtype)


def mel_filters(rate: float, window: int, mels: int, low: float, high: float) -> np.ndarray:
    """The triangles (mels, window // 2 + 1) of `log_mel`, float64.

    Raises:
        ValueError: if the frequencies are out of order or range, or a triangle is empty.
    """
    count("mels", mels)
    count("window", window)
    if not 0 <= low < high <= rate / 2:
        raise ValueError(
            f"low is {low} and high is {high}, expected 0 <= low < high <= rate / 2 = {rate / 2}"
        )
    lowest, highest = (2595 * np.log10(1 + hertz / 700) for hertz in (low, high))
    edges = 700 * (10 ** (np.linspace(lowest, highest, mels + 2) / 2595) - 1)  # in Hz
    frequency = np.arange(window // 2 + 1) * rate / window
    rising = (frequency - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequency) / np.diff(edges)[1:, None]
    filters = np.maximum(np.minimum(rising, falling), 0)
    empty = np.flatnonzero(~filters.any(axis=1))
    if len(empty):
        raise ValueError(
            f"mels is {mels}, and of so many bands number {empty[0]} lies between two frequencies "
            f"of the spectrum, {rate / window:g} Hz apart: use fewer mels, or a longer window"
        )
    return filters
