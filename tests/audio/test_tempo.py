"""Tempo: exact on labelled clips over the whole range, silent where there is no beat."""

import math

import numpy as np
import pytest

from audio_lens.audio.synthesis import draw, render, with_labels
from audio_lens.audio.tempo import (
    density,
    is_suspect,
    octaves,
    pulse_bpm,
    pulse_clarity,
)
from audio_lens.errors import InputError

RATE = 16_000
SECONDS = np.arange(8 * RATE) / RATE


def kicks(bpm: float, rate: int = RATE, seconds: float = 8.0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * 60 * time) * np.exp(-(time % (60 / bpm)) / 0.08)


def noise(colour: float, seed: int) -> np.ndarray:
    """Noise whose power falls with frequency to the power of 2 x colour."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(8 * RATE))
    spectrum /= np.maximum(np.arange(len(spectrum)) / 8, 20) ** colour
    wave = np.fft.irfft(spectrum)
    return 0.1 * wave / wave.std()


@pytest.fixture(scope="module")
def clips():
    """100 clips of seeds that no training uses, with their recipes."""
    recipes = [draw(seed) for seed in range(2_000_000, 2_000_100)]
    return [(recipe, render(recipe, 8.0)) for recipe in recipes]


@pytest.mark.parametrize("bpm", [45, 60, 84, 98, 118, 126, 160, 180, 210])
@pytest.mark.parametrize("rate", [16_000, 32_000, 44_100])
def test_kicks_are_read_within_half_a_percent(bpm, rate):
    assert pulse_bpm(kicks(bpm, rate), rate) == pytest.approx(bpm, rel=0.005)


def test_drummed_clips_within_four_percent(clips):
    heard = [(pulse_bpm(wave, RATE), recipe.bpm) for recipe, wave in clips if recipe.drums]
    right = [abs(bpm / truth - 1) < 0.04 for bpm, truth in heard]
    assert len(right) > 80
    assert np.mean(right) >= 0.98


def test_drumless_clips_have_no_pulse(clips):
    heard = [pulse_bpm(wave, RATE) for recipe, wave in clips if not recipe.drums]
    assert len(heard) >= 5
    assert np.mean(np.isnan(heard)) >= 0.95


@pytest.mark.parametrize("bpm", [62.0, 72.0, 84.0, 150.0])
def test_busy_hats_snares_and_melodies_do_not_double_the_tempo(bpm):
    busy = {"hats": 2, "snare": True, "density": 2.0, "drums": True, "bpm": bpm}
    for seed in range(4):
        recipe = with_labels(draw(seed), template=5, **busy)
        assert pulse_bpm(render(recipe, 8.0), RATE) == pytest.approx(bpm, rel=0.02)


@pytest.mark.parametrize("colour", [0.0, 0.5, 1.0])
def test_noise_has_no_tempo(colour):
    heard = [pulse_bpm(noise(colour, seed), RATE) for seed in range(100)]
    assert np.mean(np.isnan(heard)) >= 0.98


def test_strokes_of_noise_have_one():
    """Noise that beats is no noise: it is flat, but its pulse is clear."""
    strokes = noise(0.0, 0) * np.exp(-(SECONDS % 0.5) / 0.08)
    assert pulse_bpm(strokes, RATE) == pytest.approx(120, rel=0.01)


@pytest.mark.parametrize("hertz", [50.0, 100.0, 440.0])
def test_a_held_tone_has_no_tempo(hertz):
    wave = 0.1 * np.sin(2 * np.pi * hertz * SECONDS)
    assert math.isnan(pulse_bpm(wave, RATE))
    assert pulse_clarity(wave, RATE) == 0.0


def test_silence_has_neither_tempo_nor_clarity_nor_density():
    silence = np.zeros(8 * RATE)
    assert all(math.isnan(f(silence, RATE)) for f in (pulse_bpm, pulse_clarity, density))


def test_one_lost_and_one_stray_beat_do_not_matter():
    wave = kicks(100)
    beat = round(0.6 * RATE)
    wave[5 * beat : 6 * beat] = 0
    stray = round(8.3 * beat)
    wave[stray : stray + beat // 2] += kicks(100)[: beat // 2]
    assert pulse_bpm(wave, RATE) == pytest.approx(100, rel=0.02)


def test_clarity_of_a_clean_pulse_is_nearly_one():
    assert pulse_clarity(kicks(110), RATE) > 0.95


def test_too_few_beats_give_no_tempo():
    assert math.isnan(pulse_bpm(kicks(60, seconds=2.0), RATE))


def test_changes_are_in_octaves_and_never_folded():
    assert octaves(140.0, 70.0) == 1.0
    assert octaves(70.0, 100.0) == pytest.approx(-0.515, abs=1e-3)
    assert math.isnan(octaves(math.nan, 100.0))
    with pytest.raises(InputError, match="above zero"):
        octaves(0.0, 100.0)


@pytest.mark.parametrize(
    ("tempo", "onsets", "suspect"),
    [
        (1.0, 0.0, True),
        (-1.0, 0.0, True),
        (0.58, 0.0, True),
        (1.0, 1.0, False),
        (1.05, 0.7, False),
        (0.3, -0.5, False),
        (0.8, 0.0, False),
        (math.nan, 0.0, False),
        (1.0, math.nan, False),
    ],
)
def test_a_jump_to_another_metrical_level_is_flagged(tempo, onsets, suspect):
    assert is_suspect(tempo, onsets) is suspect


@pytest.mark.parametrize("measure", [pulse_bpm, pulse_clarity, density])
def test_malformed_audio_is_refused(measure):
    with pytest.raises(InputError, match="divide 16-bit integers"):
        measure(np.zeros(RATE, dtype=np.int16), RATE)
