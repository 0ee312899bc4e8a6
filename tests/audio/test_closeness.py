"""Closeness: 1 and 0 for a clip with itself, and less the more it is another piece."""

import math

import numpy as np
import pytest

from audio_lens.audio.closeness import align, chroma_closeness, log_mel_distance
from audio_lens.audio.synthesis import draw, render, with_labels

RATE = 16_000
PIECE = with_labels(draw(1), bpm=100.0, phase=0.0)
CLIP = render(PIECE, 6.0).astype(float)
FASTER = render(with_labels(PIECE, bpm=125.0), 6.0).astype(float)
OTHER = render(with_labels(PIECE, key=(PIECE.key + 1) % 3, genre="funk", seed=8), 6.0)


def test_a_clip_is_as_close_as_can_be_to_itself_at_any_level():
    for aligned in (False, True):
        assert chroma_closeness(CLIP, 0.3 * CLIP, RATE, aligned=aligned) == pytest.approx(1)
        assert log_mel_distance(CLIP, 0.3 * CLIP, RATE, aligned=aligned) == pytest.approx(0)


def test_alignment_forgives_a_change_of_tempo():
    assert chroma_closeness(CLIP, FASTER, RATE) > chroma_closeness(
        CLIP, FASTER, RATE, aligned=False
    )
    assert log_mel_distance(CLIP, FASTER, RATE, aligned=True) < log_mel_distance(CLIP, FASTER, RATE)


def test_another_piece_is_further_away():
    assert chroma_closeness(CLIP, OTHER, RATE) < chroma_closeness(CLIP, FASTER, RATE)
    assert log_mel_distance(CLIP, OTHER, RATE, aligned=True) > log_mel_distance(
        CLIP, FASTER, RATE, aligned=True
    )


def test_tones_a_tritone_apart_share_no_pitch_class():
    time = np.arange(RATE) / RATE
    a, b = (np.sin(2 * np.pi * hertz * time) for hertz in (440, 622.25))
    assert chroma_closeness(a, b, RATE) < 0.01


def test_a_tilt_of_6_db_an_octave_is_a_known_distance():
    """Noise against its derivative, which rises by 6 dB an octave: the spread of that rise."""
    from audio_lens.audio.features import log_mel, mel_filters

    noise = np.random.default_rng(0).standard_normal(4 * RATE)
    spectrum = np.fft.rfft(noise)
    hertz = np.fft.rfftfreq(len(noise), 1 / RATE)
    tilted = np.fft.irfft(spectrum * hertz)
    filters = mel_filters(RATE, 1024)
    bins = np.fft.rfftfreq(1024, 1 / RATE)
    rise = 10 * np.log10(filters @ bins**2 / filters.sum(axis=1))
    rise -= rise.mean()
    assert log_mel(tilted, RATE).min() > -60  # no band is cut
    assert log_mel_distance(tilted, noise, RATE) == pytest.approx(rise.std(), rel=0.05)


def test_alignment_finds_a_repeated_frame():
    cost = 1 - np.eye(4)[:, [0, 1, 1, 1, 2, 3]]
    assert align(cost) == [(0, 0), (1, 1), (1, 2), (1, 3), (2, 4), (3, 5)]


@pytest.mark.parametrize("measure", [chroma_closeness, log_mel_distance])
def test_silence_is_close_to_nothing(measure):
    assert math.isnan(measure(CLIP, 0 * CLIP, RATE))
    assert math.isnan(measure(0 * CLIP, 0 * CLIP, RATE))
