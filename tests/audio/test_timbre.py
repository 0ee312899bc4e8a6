"""Timbre: a tone's centroid is its frequency; gain and silence between notes change nothing."""

import math

import numpy as np
import pytest

from audio_lens.audio.synthesis import draw, render, with_labels
from audio_lens.audio.timbre import (
    centroid_semitones,
    flatness,
    harmonic_centroid,
    high_band_ratio,
    rolloff,
    semitones,
    spectral_centroid,
)
from audio_lens.errors import InputError

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


MEASURES = [
    spectral_centroid,
    centroid_semitones,
    harmonic_centroid,
    rolloff,
    high_band_ratio,
    flatness,
]


@pytest.mark.parametrize("measure", MEASURES)
def test_silence_has_no_timbre(measure):
    assert math.isnan(measure(np.zeros(RATE), RATE))
    assert math.isnan(measure(3e-4 * NOISE / NOISE.std(), RATE))
    with pytest.raises(InputError, match="not empty"):
        measure(np.zeros(0), RATE)


@pytest.mark.parametrize("measure", MEASURES)
def test_gain_changes_nothing(measure):
    wave = render(draw(3), 3.0).astype(float)
    assert measure(0.1 * wave, RATE) == pytest.approx(measure(wave, RATE), rel=1e-6)


def test_centroid_in_semitones():
    assert centroid_semitones(tone(880), RATE) == pytest.approx(12, abs=0.1)
    assert centroid_semitones(tone(880), RATE, reference=880) == pytest.approx(0, abs=0.1)
    with pytest.raises(InputError, match="above zero"):
        centroid_semitones(tone(880), RATE, reference=0)


def test_rolloff_of_three_equal_tones():
    chord = tone(500) + tone(1000) + tone(3000)
    assert rolloff(chord, RATE) == pytest.approx(3000, rel=0.02)
    assert rolloff(chord, RATE, share=0.5) == pytest.approx(1000, rel=0.02)
    with pytest.raises(InputError, match="share=85"):
        rolloff(chord, RATE, share=85)


def test_high_band_is_the_share_of_power():
    assert high_band_ratio(tone(500) + tone(3000), RATE) == pytest.approx(0.5, abs=0.01)
    assert high_band_ratio(2 * tone(500) + tone(3000), RATE) == pytest.approx(0.2, abs=0.01)
    assert high_band_ratio(tone(500), RATE) < 1e-3
    for above in (100, 8000):
        with pytest.raises(InputError, match=f"above={above}"):
            high_band_ratio(tone(500), RATE, above=above)


@pytest.mark.parametrize("measure", [spectral_centroid, harmonic_centroid, rolloff])
def test_noise_60_db_below_the_music_moves_little(measure):
    """As librosa's would not: it reads twice the roll-off there."""
    noise = np.random.default_rng(0).standard_normal(4 * RATE)
    wave = render(with_labels(draw(7), brightness=0.1), 4.0).astype(float)
    noisy = wave + noise * wave.std() * 10 ** (-60 / 20)
    assert abs(semitones(measure(noisy, RATE), measure(wave, RATE))) < 0.5


def test_the_harmonic_part_does_without_hats_and_snare():
    """Nine pieces in ten move by less than a semitone, drum tails in the room included."""
    labels = {"brightness": 0.2, "drums": True, "template": 5, "bpm": 120.0, "genre": "pop"}
    moved = {spectral_centroid: [], harmonic_centroid: []}
    for seed in range(16):
        bare = with_labels(draw(seed), hats=0, snare=False, **labels)
        waves = [render(r, 6.0) for r in (bare, with_labels(bare, hats=2, snare=True))]
        for measure, shifts in moved.items():
            shifts.append(abs(semitones(*(measure(wave, RATE) for wave in waves))))
    assert np.percentile(moved[harmonic_centroid], 90) < 1.0
    assert np.median(moved[harmonic_centroid]) < 0.1 * np.median(moved[spectral_centroid])


def test_centroid_rolloff_and_flatness_agree_with_librosa_on_a_full_spectrum():
    """Where no bin falls to the floor or below 160 Hz, both measure the same thing."""
    librosa = pytest.importorskip("librosa")
    wave = np.random.default_rng(2).standard_normal(2 * RATE)
    settings = {"n_fft": 1024, "hop_length": 512, "center": False}
    theirs = librosa.feature.spectral_centroid(y=wave, sr=RATE, **settings)
    assert spectral_centroid(wave, RATE) == pytest.approx(np.median(theirs), rel=0.03)
    theirs = librosa.feature.spectral_rolloff(y=wave, sr=RATE, roll_percent=0.85, **settings)
    assert rolloff(wave, RATE) == pytest.approx(np.median(theirs), rel=0.02)
    theirs = librosa.feature.spectral_flatness(y=wave, **settings)
    assert flatness(wave, RATE) == pytest.approx(np.median(theirs), rel=0.03)


def test_semitones():
    assert semitones(880.0, 440.0) == 12.0
    assert semitones(440.0, 880.0) == -12.0
    assert math.isnan(semitones(math.nan, 440.0))
    with pytest.raises(InputError, match="above zero"):
        semitones(0.0, 440.0)
