"""Register: a tone's pitch whatever its colour; an octave up is heard, noise has none."""

import math

import numpy as np
import pytest
from scipy import signal

from audio_lens.audio.register import register
from audio_lens.audio.synthesis import draw, render, with_labels
from audio_lens.errors import InputError

RATE = 16_000
SECONDS = np.arange(2 * RATE) / RATE


def note(hertz: float, slope: float = -6.0, missing: tuple[int, ...] = ()) -> np.ndarray:
    """Eight harmonics that change by `slope` dB an octave."""
    wave = np.zeros(len(SECONDS))
    for k in range(1, 9):
        if k not in missing:
            gain = 10 ** (slope * np.log2(k) / 20)
            wave += gain * np.sin(2 * np.pi * k * hertz * SECONDS + k)
    return 0.1 * wave / np.abs(wave).max()


@pytest.mark.parametrize("hertz", [180.0, 220.0, 440.0, 887.0, 1500.0])
@pytest.mark.parametrize("rate", [8_000, 16_000, 32_000, 44_100])
def test_register_of_a_tone_is_its_pitch(hertz, rate):
    wave = 0.1 * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)
    assert register(wave, rate) == pytest.approx(12 * np.log2(hertz / 440), abs=0.15)
    assert register(wave, rate, reference=hertz) == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("slope", [-12.0, -6.0, -3.0, -1.0])
@pytest.mark.parametrize("hertz", [200.0, 350.0, 700.0])
def test_colour_does_not_move_it(hertz, slope):
    assert register(note(hertz, slope), RATE) == pytest.approx(12 * np.log2(hertz / 440), abs=0.15)


def test_even_harmonics_may_be_missing():
    assert register(note(300, missing=(2, 4, 6, 8)), RATE, 300.0) == pytest.approx(0, abs=0.1)


def test_gain_silence_between_notes_and_a_kick_do_not_move_it():
    wave = note(500)
    gated = np.where(SECONDS % 0.5 < 0.25, wave, 0.0)
    kick = np.sin(2 * np.pi * 50 * SECONDS) * np.exp(-(SECONDS % 0.5) / 0.09)
    for other in (0.1 * wave, gated, wave + 0.5 * kick, np.stack([wave, wave])):
        assert register(other, RATE) == pytest.approx(register(wave, RATE), abs=0.1)


def test_it_is_the_median_over_time_and_the_louder_of_two():
    low, high = note(250), note(1000)
    third = len(SECONDS) // 3
    assert register(np.concatenate([low, high[:third]]), RATE, 250.0) == pytest.approx(0, abs=0.1)
    assert register(np.concatenate([low[:third], high]), RATE, 1000.0) == pytest.approx(0, abs=0.1)
    assert register(0.2 * low + high, RATE, 1000.0) == pytest.approx(0, abs=0.1)


def test_what_has_no_pitch_has_no_register():
    rng = np.random.default_rng(0)
    white = 0.1 * rng.standard_normal(4 * RATE)
    hiss = signal.sosfilt(signal.butter(4, (800, 1200), "bandpass", fs=RATE, output="sos"), white)
    hats = white * np.exp(-(np.arange(4 * RATE) % 4000) / 400)
    brown = 0.01 * np.cumsum(white)
    for unpitched in (np.zeros(RATE), white, hiss, hats, brown - brown.mean(), white[:500]):
        assert math.isnan(register(unpitched, RATE))
    assert not math.isnan(register(note(440)[:2048], RATE))


def test_noise_around_a_tone_does_not_move_it():
    noise = np.random.default_rng(1).standard_normal(len(SECONDS))
    wave = note(440)
    assert register(wave + 0.1 * wave.std() * noise, RATE) == pytest.approx(0, abs=0.1)


PIECES = [
    with_labels(draw(9100 + n), density=2.0, instrument=instrument, register=0, brightness=0.2)
    for n, instrument in enumerate(2 * ["violin", "flute", "trumpet", "organ", "clarinet", "cello"])
]


@pytest.fixture(scope="module")
def low() -> list[float]:
    return [register(render(piece, 6.0), RATE) for piece in PIECES]


def test_a_melody_an_octave_up_is_heard(low):
    high = [register(render(with_labels(piece, register=1), 6.0), RATE) for piece in PIECES]
    assert 9 < np.median(np.subtract(high, low)) < 13
    assert min(np.subtract(high, low)) > 2


def test_brightness_hardly_moves_it(low):
    bright = [register(render(with_labels(piece, brightness=0.8), 6.0), RATE) for piece in PIECES]
    assert np.median(np.abs(np.subtract(bright, low))) < 2


@pytest.mark.parametrize(
    ("audio", "rate", "reference", "match"),
    [
        (np.zeros(RATE, dtype=int), RATE, 440.0, "expected floating point"),
        (np.zeros((2, 3, 4)), RATE, 440.0, "expected .sample. or .channel sample."),
        (np.full(RATE, np.nan), RATE, 440.0, "NaN or infinity"),
        (np.zeros(RATE), 440, 440.0, "whole number of Hz"),
        (note(440), RATE, 0.0, "both must be above zero"),
    ],
)
def test_bad_audio_is_refused(audio, rate, reference, match):
    with pytest.raises(InputError, match=match):
        register(audio, rate, reference)
