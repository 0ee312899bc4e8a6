"""The felt beat: exact on plain clips over the whole range, silent in noise, wrong as published."""

import math

import numpy as np
import pytest

from audio_lens.audio.beat import CLEAR_BEAT, beat_bpm, beat_clarity
from audio_lens.audio.synthesis import draw, render, with_labels
from audio_lens.errors import InputError

RATE = 16_000
SECONDS = np.arange(8 * RATE) / RATE


def plucks(bpm: float, rate: int = RATE, seconds: float = 8.0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * 440 * time) * np.exp(-(time % (60 / bpm)) / 0.08)


@pytest.mark.parametrize("bpm", [75, 84, 98, 118, 126, 140, 160])
@pytest.mark.parametrize("rate", [16_000, 32_000, 44_100])
def test_plucks_are_read_within_half_a_percent(bpm, rate):
    assert beat_bpm(plucks(bpm, rate), rate) == pytest.approx(bpm, rel=0.005)


def test_music_without_drums_has_a_beat_that_the_pulse_does_not_hear():
    from audio_lens.audio.tempo import pulse_bpm

    labels = {"bpm": 110.0, "drums": False, "density": 1.0, "genre": "rock", "template": 10}
    wave = render(with_labels(draw(4), **labels), 8.0)
    assert beat_bpm(wave, RATE) == pytest.approx(110, rel=0.02)
    assert math.isnan(pulse_bpm(wave, RATE))


def test_drummed_clips_without_eighth_note_hats():
    recipes = [with_labels(draw(seed), drums=True, hats=1, template=5) for seed in range(40)]
    heard = [beat_bpm(render(recipe, 8.0), RATE) / recipe.bpm for recipe in recipes]
    assert np.mean(np.abs(np.array(heard) - 1) < 0.04) >= 0.9


def test_the_prior_decides_where_two_levels_are_as_strong():
    """Equal strokes at 60 and at 220 BPM are as periodic at twice and half the rate."""
    assert beat_bpm(plucks(50), RATE) == pytest.approx(50, rel=0.01)
    assert beat_bpm(plucks(220), RATE) == pytest.approx(110, rel=0.01)


def test_noise_has_no_beat():
    rng = np.random.default_rng(0)
    clarity = [beat_clarity(0.1 * rng.standard_normal(8 * RATE), RATE) for _ in range(60)]
    assert np.mean(np.array(clarity) >= CLEAR_BEAT) <= 0.05
    assert math.isnan(beat_bpm(0.1 * np.random.default_rng(1).standard_normal(8 * RATE), RATE))


@pytest.mark.parametrize("hertz", [50.0, 440.0])
def test_a_held_tone_has_no_beat(hertz):
    assert math.isnan(beat_bpm(0.1 * np.sin(2 * np.pi * hertz * SECONDS), RATE))


def test_silence_is_nan_and_too_short_is_nan():
    assert math.isnan(beat_bpm(np.zeros(8 * RATE), RATE))
    assert math.isnan(beat_clarity(np.zeros(8 * RATE), RATE))
    assert math.isnan(beat_bpm(plucks(120, seconds=1.0), RATE))
    assert beat_clarity(plucks(120, seconds=1.0), RATE) == 0.0


def test_gain_changes_nothing_and_a_lost_beat_little():
    wave = plucks(100)
    assert beat_bpm(0.1 * wave, RATE) == pytest.approx(beat_bpm(wave, RATE))
    beat = round(0.6 * RATE)
    wave[5 * beat : 6 * beat] = 0
    assert beat_bpm(wave, RATE) == pytest.approx(100, rel=0.01)


def test_malformed_audio_is_refused():
    with pytest.raises(InputError, match="divide 16-bit integers"):
        beat_bpm(np.zeros(RATE, dtype=np.int16), RATE)
