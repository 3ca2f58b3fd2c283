"""Sound files: WAV, as the standard library reads and writes it."""

import wave
from pathlib import Path

import numpy as np

from funnet import checks


def write_wav(path: str | Path, sound: np.ndarray, rate: int) -> None:
    """Writes a sound as a WAV file of 16 bits.

    Args:
        path: the file to write.
        sound: floats (S,), or (S, channels), in -1..1; what is louder is cut off.
        rate: samples a second.

    Raises:
        TypeError: if the sound is of no floats, or the rate no integer.
        ValueError: if the shape does not fit, or the sound is not finite.
    """
    checks.floating("sound", sound)
    checks.count("rate", rate)
    x = np.asarray(sound, np.float64)
    if x.ndim not in (1, 2) or 0 in x.shape[1:]:
        raise ValueError(f"sound has shape {x.shape}, expected (S,) or (S, channels)")
    if not np.isfinite(x).all():
        raise ValueError("sound holds NaN or infinity, expected numbers in -1..1")
    whole = np.clip(np.round(x * 2**15), -(2**15), 2**15 - 1)
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if x.ndim == 1 else x.shape[1], 2, rate, len(x), "NONE", ""))
        file.writeframes(whole.astype("<i2").tobytes())


def read_wav(path: str | Path) -> tuple[np.ndarray, int]:
    """A WAV file of 16 bits as floats.

    Args:
        path: the file to read.

    Returns:
        The sound in -1..1, float32 (S,), or (S, channels) if there are several; and its rate, in
        samples a second.

    Raises:
        ValueError: if it is no WAV file, or of another width than 16 bits.
        OSError: if it cannot be read.
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate, samples, *_ = file.getparams()
            frames = file.readframes(samples)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is no WAV file that can be read: {error}") from error
    if width != 2:
        raise ValueError(f"{path} has samples of {8 * width} bits, expected 16; convert it first")
    sound = np.frombuffer(frames, "<i2").astype(np.float32) / 2**15
    return (sound if channels == 1 else sound.reshape(-1, channels)), rate
