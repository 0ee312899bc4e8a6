"""Onsets: as many as were played, whatever the tempo."""

import math

import numpy as np
import pytest

from audio_lens.audio.onsets import onset_rate
from audio_lens.audio.synthesis import draw, render, with_labels
from audio_lens.audio.tempo import density, pulse_bpm
from audio_lens.errors import InputError

RATE = 16_000
SECONDS = np.arange(8 * RATE) / RATE


@pytest.mark.parametrize("per_second", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("rate", [16_000, 32_000])
def test_onset_rate_counts_attacks(per_second, rate):
    time = np.arange(8 * rate) / rate
    wave = np.sin(2 * np.pi * 700 * time) * np.exp(-(time % (1 / per_second)) / 0.05)
    assert onset_rate(0.3 * wave, rate) == pytest.approx(per_second, abs=0.2)


def test_it_rises_with_hats_while_the_pulse_stays():
    plain = {"genre": "pop", "drums": True, "template": 5}
    sparse = with_labels(draw(3), hats=0, snare=False, density=0.5, **plain)
    busy = with_labels(sparse, hats=2, density=2.0)
    few, many = render(sparse, 8.0), render(busy, 8.0)
    assert onset_rate(many, RATE) > 1.3 * onset_rate(few, RATE)
    assert density(many, RATE) > 1.3 * density(few, RATE)
    assert pulse_bpm(many, RATE) == pytest.approx(pulse_bpm(few, RATE), rel=0.01)


@pytest.mark.parametrize("bpm", [75.0, 120.0])
def test_density_is_attacks_a_beat_at_any_tempo(bpm):
    """Kicks on every beat and tones between them: two attacks a beat."""
    kicks = np.sin(2 * np.pi * 60 * SECONDS) * np.exp(-(SECONDS % (60 / bpm)) / 0.06)
    after = (SECONDS + 30 / bpm) % (60 / bpm)
    tones = np.sin(2 * np.pi * 900 * SECONDS) * np.exp(-after / 0.04)
    assert density(0.3 * kicks + 0.2 * tones, RATE) == pytest.approx(2, abs=0.15)


def test_silence_has_no_onsets_to_count_and_no_pulse_no_density():
    assert math.isnan(onset_rate(np.zeros(8 * RATE), RATE))
    assert math.isnan(onset_rate(np.ones(2000), RATE))
    since = SECONDS % 0.5
    tones = np.sin(2 * np.pi * 900 * SECONDS) * np.exp(-since / 0.05) * (1 - np.exp(-since / 0.01))
    assert onset_rate(tones, RATE) > 1.5
    assert math.isnan(density(tones, RATE))


def test_malformed_audio_is_refused():
    with pytest.raises(InputError, match="divide 16-bit integers"):
        onset_rate(np.zeros(RATE, dtype=np.int16), RATE)
