"""Log-mel spectrograms beside a filter bank written out in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

import funnet as fn


def mel(hertz):
    return 1127 * np.log1p(hertz / 700)  # HTK's other way to write it: 2595 / ln 10 is 1127


def triangle(band, hertz, mels, low, high):
    """How much of a frequency a band hears, by walking along its two slopes."""
    step = (mel(high) - mel(low)) / (mels + 1)
    left, peak, right = (700 * np.expm1((mel(low) + (band + i) * step) / 1127) for i in range(3))
    if left < hertz <= peak:
        return (hertz - left) / (peak - left)
    return (right - hertz) / (right - peak) if peak < hertz < right else 0.0


def reference(x, rate, mels, window, hop, low, high, floor):
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    result = []
    for start in range(0, len(x) - window + 1, hop):
        power = np.abs(np.fft.fft(x[start : start + window] * hann)[: window // 2 + 1]) ** 2
        hertz = np.arange(len(power)) * rate / window
        bank = [[triangle(m, f, mels, low, high) for f in hertz] for m in range(mels)]
        result.append(np.log(np.asarray(bank) @ power + floor))
    return np.stack(result)


@pytest.mark.parametrize(
    ("rate", "mels", "window", "hop", "low", "high", "floor"),
    [
        (8000, 40, 256, 80, 0, 4000, 1e-6),
        (16000, 23, 400, 160, 20, 7600, 1e-10),
        (100.0, 4, 16, 6, 5, 50, 1),
    ],
)
def test_it_is_the_formula(rate, mels, window, hop, low, high, floor):
    x = np.random.default_rng(0).normal(size=(2, 3 * window))
    given = {"mels": mels, "window": window, "hop": hop, "low": low, "high": high, "floor": floor}
    found = fn.log_mel(jnp.asarray(x, jnp.float32), rate, **given)
    assert found.shape == (2, 1 + 2 * window // hop, mels)
    expected = [reference(one, rate, **given) for one in x]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_tone_is_in_its_band():
    for hertz in (200, 1000, 3000):
        tone = jnp.sin(2 * jnp.pi * hertz * jnp.arange(8000.0) / 8000)[None]
        bands = fn.log_mel(tone, 8000).mean((0, 1))
        centres = 700 * np.expm1(mel(4000) * np.arange(1, 41) / 41 / 1127)
        assert abs(int(bands.argmax()) - np.abs(centres - hertz).argmin()) <= 1


def test_silence_is_the_floor():
    found = fn.log_mel(jnp.zeros((1, 500)), 8000, floor=1e-3)
    np.testing.assert_allclose(found, np.log(1e-3), rtol=1e-6)


def test_wrong_settings_meet_a_message():
    x = jnp.zeros((1, 500))
    with pytest.raises(ValueError, match="mels is 100, and of so many bands number 0 lies between"):
        fn.log_mel(x, 8000, mels=100)
    with pytest.raises(ValueError, match=r"high is 5000, expected .* rate / 2 = 4000"):
        fn.log_mel(x, 8000, high=5000)
    with pytest.raises(ValueError, match="floor is 0, expected floor > 0"):
        fn.log_mel(x, 8000, floor=0)
    with pytest.raises(ValueError, match=r"expected .* at least the window, 512"):
        fn.log_mel(x, 8000, window=512)
