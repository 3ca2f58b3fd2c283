"""WAV files beside SciPy's."""

import numpy as np
import pytest
import scipy.io.wavfile

from funnet import data


@pytest.mark.parametrize("shape", [(100,), (100, 2), (0,)])
def test_scipy_reads_what_is_written(tmp_path, shape):
    sound = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    data.write_wav(tmp_path / "it.wav", sound, 8000)
    rate, whole = scipy.io.wavfile.read(tmp_path / "it.wav")
    assert (rate, whole.dtype, whole.shape) == (8000, np.int16, shape)
    np.testing.assert_allclose(whole / 2**15, sound, atol=0.5001 / 2**15)


@pytest.mark.parametrize("shape", [(100,), (100, 2)])
def test_what_scipy_writes_is_read(tmp_path, shape):
    whole = np.random.default_rng(1).integers(-(2**15), 2**15, shape).astype(np.int16)
    scipy.io.wavfile.write(tmp_path / "it.wav", 16000, whole)
    sound, rate = data.read_wav(tmp_path / "it.wav")
    assert (rate, sound.dtype) == (16000, np.float32)
    np.testing.assert_array_equal(sound, whole / np.float32(2**15))
    data.write_wav(tmp_path / "again.wav", sound, rate)
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "it.wav").read_bytes()


def test_what_is_too_loud_is_cut_off(tmp_path):
    data.write_wav(tmp_path / "it.wav", np.array([2.0, -2.0, 0.0]), 8000)
    assert data.read_wav(tmp_path / "it.wav")[0].tolist() == [1 - 2**-15, -1, 0]


def test_wrong_input_meets_a_message(tmp_path):
    path = tmp_path / "it.wav"
    with pytest.raises(ValueError, match=r"sound holds NaN or infinity"):
        data.write_wav(path, np.array([np.nan]), 8000)
    with pytest.raises(ValueError, match=r"sound has shape \(1, 1, 1\)"):
        data.write_wav(path, np.zeros((1, 1, 1)), 8000)
    with pytest.raises(TypeError, match=r"rate must be an integer, got 8000\.0"):
        data.write_wav(path, np.zeros(3), 8000.0)
    assert not path.exists()
    scipy.io.wavfile.write(path, 8000, np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match=r"it.wav has samples of 8 bits, expected 16"):
        data.read_wav(path)
    for damaged in (b"", b"RIFF", b"no sound at all"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"it.wav is no WAV file that can be read"):
            data.read_wav(path)
