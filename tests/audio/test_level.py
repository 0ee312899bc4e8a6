"""Level: known signals give known numbers."""

import math

import numpy as np
import pytest
import torch

from audio_lens.audio import level

RATE = 16_000
SECONDS = np.arange(2 * RATE) / RATE
TONE = 0.1 * np.sin(2 * np.pi * 1000 * SECONDS)
SILENCE = np.zeros(2 * RATE)


def test_rms_of_a_sine_and_of_silence():
    assert level.rms(TONE, RATE) == pytest.approx(-23.01, abs=0.01)
    assert level.rms(SILENCE, RATE) == -math.inf


def test_loudness_follows_gain_and_silence_is_minus_infinity():
    assert level.loudness(TONE, RATE) == pytest.approx(-23.0, abs=0.3)
    step = level.loudness(2 * TONE, RATE) - level.loudness(TONE, RATE)
    assert step == pytest.approx(6.02, abs=0.01)
    assert level.loudness(SILENCE, RATE) == -math.inf


def test_loudness_of_less_than_a_block_is_nan():
    assert math.isnan(level.loudness(TONE[: RATE // 5], RATE))


def test_silent_fraction_counts_frames():
    half = np.concatenate([TONE, SILENCE])
    assert level.silent_fraction(half, RATE) == pytest.approx(0.5)
    assert level.silent_fraction(TONE, RATE) == 0.0
    assert level.silent_fraction(SILENCE, RATE) == 1.0


def test_clipped_fraction_sees_a_channel_that_the_mix_hides():
    wave = TONE.copy()
    wave[:320] = 1.0
    assert level.clipped_fraction(wave, RATE) == pytest.approx(0.01)
    assert level.clipped_fraction(TONE, RATE) == 0.0
    opposed = np.stack([wave, -wave])
    assert level.clipped_fraction(opposed, RATE) == pytest.approx(0.01)
    assert level.clipped_fraction(torch.tensor(wave), RATE) == pytest.approx(0.01)


def test_channels_are_averaged_and_tensors_accepted():
    stereo = torch.tensor(np.stack([TONE, np.zeros_like(TONE)]))
    assert level.rms(stereo, RATE) == pytest.approx(level.rms(TONE, RATE) - 6.02, abs=0.01)
    assert level.rms(stereo.requires_grad_(), RATE) < 0


def test_peak_is_the_largest_sample_of_any_channel():
    assert level.peak(TONE, RATE) == pytest.approx(-20, abs=0.01)
    assert level.peak(np.stack([TONE, -5 * TONE]), RATE) == pytest.approx(-6.02, abs=0.01)
    assert level.peak(SILENCE, RATE) == -math.inf
