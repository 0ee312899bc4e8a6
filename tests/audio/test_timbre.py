"""Timbre: a tone's centroid is its frequency; gain and silence between notes change nothing."""

import math

import numpy as np
import pytest

from audio_lens.audio.timbre import flatness, semitones, spectral_centroid

RATE = 16_000
SECONDS = np.arange(2 * RATE) / RATE
NOISE = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE)


def tone(hertz: float) -> np.ndarray:
    return 0.1 * np.sin(2 * np.pi * hertz * SECONDS)


@pytest.mark.parametrize("hertz", [300.0, 440.0, 1000.0, 5000.0])
@pytest.mark.parametrize("rate", [16_000, 32_000])
def test_centroid_of_a_tone_is_its_frequency(hertz, rate):
    wave = 0.1 * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)
    assert spectral_centroid(wave, rate) == pytest.approx(hertz, rel=0.01)


def test_centroid_of_two_equal_tones_is_their_mean():
    assert spectral_centroid(tone(500) + tone(1500), RATE) == pytest.approx(1000, rel=0.02)


def test_centroid_ignores_gain_and_silence_between_notes():
    wave = tone(700) + 0.3 * tone(2100)
    gated = np.where(SECONDS % 0.5 < 0.25, wave, 0.0)
    assert spectral_centroid(0.1 * wave, RATE) == pytest.approx(spectral_centroid(wave, RATE))
    assert spectral_centroid(gated, RATE) == pytest.approx(spectral_centroid(wave, RATE), rel=0.1)


def test_centroid_survives_a_noise_floor_and_a_kick():
    clean = spectral_centroid(tone(440), RATE)
    assert spectral_centroid(tone(440) + 1e-3 * NOISE, RATE) == pytest.approx(clean, rel=0.02)
    assert spectral_centroid(tone(440) + 3 * tone(50), RATE) == pytest.approx(clean, rel=0.05)


def test_flatness_tells_a_tone_from_noise():
    assert flatness(tone(440), RATE) < 0.01
    assert flatness(NOISE, RATE) > 0.4


@pytest.mark.parametrize("measure", [spectral_centroid, flatness])
def test_silence_has_no_timbre(measure):
    assert math.isnan(measure(np.zeros(RATE), RATE))
    with pytest.raises(ValueError, match="not empty"):
        measure(np.zeros(0), RATE)


def test_semitones():
    assert semitones(880.0, 440.0) == 12.0
    assert semitones(440.0, 880.0) == -12.0
    assert math.isnan(semitones(math.nan, 440.0))
    with pytest.raises(ValueError, match="above zero"):
        semitones(0.0, 440.0)
