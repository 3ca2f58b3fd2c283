"""The speech recipe: words are understood, files are left, the synthesiser obeys its table."""

import jax
import numpy as np
import pytest
from PIL import Image

import funnet as fn
from recipes import speech

SAMPLES = 75 * speech.HOP + speech.WINDOW  # of one word
SIZES = [1, 1, 1, 8, 2 * SAMPLES]  # who, how many, which, how long, noise
VOICE = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "speech"


@pytest.fixture(scope="module")
def trained(folder):
    settings = speech.Settings(check=True, folder=folder)
    return settings, speech.main(settings)


def test_most_words_are_understood(trained):
    assert 0 <= trained[1] <= 0.3


def test_there_is_something_to_hear_and_to_look_at(trained, folder):
    names = {"checkpoints", "metrics.jsonl", "utterance.wav", "utterance.png", "run.json"}
    assert names <= {path.name for path in folder.iterdir()}
    sound, rate = fn.data.read_wav(folder / "utterance.wav")
    assert (rate, sound.shape) == (8000, (SAMPLES,))
    assert np.abs(sound).max() > 0.99
    with Image.open(folder / "utterance.png") as image:
        assert image.size == (1350, 450)


def test_a_second_run_is_finished_with_the_same_result(trained, folder):
    before = (folder / "metrics.jsonl").read_bytes()
    assert speech.main(trained[0]) == trained[1]
    assert (folder / "metrics.jsonl").read_bytes() == before


# The synthesiser


def spoken(digit, seed=0, voice=VOICE):
    """One word by one voice: what `say` gives for numbers that are drawn but for the digit."""
    drawn = np.random.default_rng(seed).random(sum(SIZES), np.float32)
    drawn[0], drawn[2] = (voice + 0.5) / 600, (digit + 0.5) / 10
    return SAY(drawn, range(600), 1)


SAY = jax.jit(speech.say, static_argnums=(1, 2))


def test_every_word_is_spelt_of_sounds_that_there_are():
    assert speech.TABLE.shape == (len(speech.LETTERS), 6)
    assert speech.WORDS.shape == (10, 6)
    assert "".join(speech.LETTERS[speech.WORDS[6]]) == "sI_ks_"
    assert (speech.LETTERS[:2] == [".", "_"]).all()
    assert (speech.TABLE[:2, 3:5] == 0).all()  # both are silent
    assert speech.TABLE[0, 5] == 0  # and one takes no time


@pytest.mark.parametrize("digit", [0, 6, 9])
def test_it_says_the_digit_that_is_drawn(digit):
    found = spoken(digit)
    assert (found["label"].tolist(), found["count"]) == ([digit + 1], 1)
    assert found["sound"].shape == (SAMPLES,)
    assert np.isfinite(found["sound"]).all()


def test_the_voice_has_the_pitch_that_it_should():
    pitch, throat = speech.VOICES[VOICE, :2]
    expected = (80 + 80 * pitch) * (0.85 + 0.35 * throat) ** 2
    sound = np.asarray(spoken(1)["sound"], np.float64)
    loud = np.convolve(sound**2, np.ones(800), "valid").argmax()
    part = sound[loud : loud + 800]
    echo = np.correlate(part, part, "full")[799:]
    period = 40 + echo[40:140].argmax()
    assert speech.RATE / period == pytest.approx(expected, rel=0.1)


def test_a_vowel_has_its_formants():
    # In "four" the vowel o is the longest sound: its first formant is the strongest of the peaks.
    power = 0
    for seed in range(8):
        sound = np.asarray(spoken(4, seed)["sound"], np.float64)
        loud = np.convolve(sound**2, np.ones(800), "valid").argmax()
        power = power + np.abs(np.fft.rfft(sound[loud : loud + 800] * np.hanning(800), 8000)) ** 2
    own = speech.VOICES[VOICE]
    row = list(speech.LETTERS).index("o")
    accent = 0.9 + 0.2 * own[5:].reshape(-1, 3)[row]
    first, second, third = (0.85 + 0.35 * own[1]) * accent * speech.TABLE[row, :3]
    smooth = np.convolve(power, np.hanning(400), "same")  # over the harmonics; 1 Hz a bin
    assert smooth[int(first)] > 5 * smooth[int((second + third) / 2)]
    assert smooth[int(third)] > smooth[int((second + third) / 2)] / 2


def test_six_hisses_and_one_does_not():
    share = {}
    for digit in (1, 6):
        power = np.abs(np.fft.rfft(np.asarray(spoken(digit)["sound"], np.float64))) ** 2
        share[digit] = power[len(power) * 5 // 8 :].sum() / power.sum()  # above 2.5 kHz
    assert share[6] > 3 * share[1]


def test_as_many_words_are_said_as_are_counted():
    made = speech.utterances(jax.random.key(5), range(200), 200, 3)
    assert made["sound"].shape == (200, (19 + 56 * 3) * speech.HOP + speech.WINDOW)
    assert set(made["count"].tolist()) == {1, 2, 3}
    assert set(made["label"].ravel().tolist()) == set(range(1, 11))
    # The sound ends, and with it all but the noise, the later the more words there are.
    energy = np.square(np.asarray(made["sound"])).reshape(200, 317, 48).mean(-1)
    noise = energy[:, -20:].mean(1, keepdims=True)
    ends = np.asarray([np.flatnonzero(loud).max() for loud in energy > 4 * noise])
    means = [ends[np.asarray(made["count"]) == n].mean() for n in (1, 2, 3)]
    assert means[0] < 0.7 * means[1] < 0.7 * means[2]


def test_no_two_voices_are_the_same():
    assert len(np.unique(speech.VOICES, axis=0)) == 600
    a, b = (spoken(5, voice=voice)["sound"] for voice in (0, 200))
    assert np.abs(a - b).max() > 0.01
