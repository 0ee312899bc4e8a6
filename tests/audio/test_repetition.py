"""The loop score: 1 for what is stuck, low for music and for noise."""

import math

import numpy as np
import pytest

from audio_lens.audio.repetition import loop_score
from audio_lens.audio.synthesis import draw, render

RATE = 16_000


@pytest.mark.parametrize("seconds", [0.02, 0.3, 1.0, 2.5])
def test_an_exact_loop_scores_1_whatever_its_length(seconds):
    once = render(draw(1), 3.0)[: round(seconds * RATE)].astype(float)
    looped = np.tile(once, round(8 / seconds))
    assert loop_score(looped, RATE) > 0.98


def test_a_clip_that_gets_stuck_half_way_scores_half():
    """Lags reach from 0.5 s up, so nearly all of the stuck half has something to repeat."""
    music = render(draw(2), 4.0).astype(float)
    stuck = np.tile(render(draw(2), 0.5).astype(float), 8)
    assert loop_score(np.concatenate([music, stuck]), RATE) == pytest.approx(0.5, abs=0.08)


def test_music_repeats_in_part_and_noise_never():
    scores = [loop_score(render(draw(seed), 8.0), RATE) for seed in range(20)]
    assert np.median(scores) < 0.4
    assert max(scores) < 0.8
    noise = 0.1 * np.random.default_rng(0).standard_normal(8 * RATE)
    assert loop_score(noise, RATE) < 0.05


def test_silence_and_short_clips_have_none():
    assert math.isnan(loop_score(np.zeros(8 * RATE), RATE))
    assert math.isnan(loop_score(render(draw(1), 1.9), RATE))
