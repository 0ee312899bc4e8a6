"""Log-mel and chroma: as librosa defines them, and blind to gain."""

import numpy as np
import pytest

from audio_lens.audio.features import chroma, log_mel, mel_filters
from audio_lens.audio.synthesis import draw, render

RATE = 16_000
SECONDS = np.arange(RATE) / RATE


@pytest.mark.parametrize(("rate", "n_fft", "n_mels"), [(16_000, 1024, 40), (32_000, 2048, 64)])
def test_mel_filters_are_librosas(rate, n_fft, n_mels):
    librosa = pytest.importorskip("librosa")
    theirs = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmax=8000)
    assert np.allclose(mel_filters(rate, n_fft, n_mels), theirs, atol=1e-7)


def test_log_mel_is_librosas():
    librosa = pytest.importorskip("librosa")
    wave = render(draw(1), 2.0).astype(float)
    settings = {"n_fft": 1024, "hop_length": 320, "n_mels": 40, "fmax": 8000, "center": False}
    theirs = librosa.feature.melspectrogram(y=wave, sr=RATE, **settings)
    theirs = librosa.power_to_db(theirs, ref=np.max, top_db=60).T
    assert np.allclose(log_mel(wave, RATE), theirs, atol=1e-3)


@pytest.mark.parametrize("pitch", range(12))
def test_chroma_of_a_tone_is_its_pitch_class_in_any_octave(pitch):
    for octave in (0, 1):
        wave = np.sin(2 * np.pi * 261.63 * 2 ** (octave + pitch / 12) * SECONDS)
        assert set(chroma(wave, RATE).argmax(axis=1)) == {pitch}


def test_chroma_is_close_to_librosas():
    librosa = pytest.importorskip("librosa")
    wave = render(draw(1), 4.0).astype(float)
    settings = {"n_fft": 4096, "hop_length": 1600, "center": False, "tuning": 0.0, "norm": 2}
    theirs = librosa.feature.chroma_stft(y=wave, sr=RATE, **settings).T
    assert np.mean((chroma(wave, RATE) * theirs).sum(axis=1)) > 0.9


def test_gain_changes_nothing_and_silence_is_flat():
    wave = render(draw(2), 2.0).astype(float)
    for feature in (log_mel, chroma):
        assert np.allclose(feature(0.1 * wave, RATE), feature(wave, RATE))
        assert not feature(np.zeros(RATE), RATE).any()


def test_nothing_is_more_than_60_db_below_the_loudest():
    assert log_mel(np.sin(2 * np.pi * 440 * SECONDS), RATE).min() == -60
