"""Audio arrays: channels averaged, tensors accepted, malformed ones refused by name."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from audio_lens.audio import waveform
from audio_lens.audio.measures import MEASURES
from audio_lens.errors import InputError

RATE = 16_000

MALFORMED = [
    (np.zeros(100, dtype=np.int16), RATE, "expected floating point"),
    (np.zeros((1, 1, 100)), RATE, r"expected \[sample\] or \[channel sample\]"),
    (np.zeros(0), RATE, "not empty"),
    (np.zeros((100, 2)), RATE, "transpose"),
    (np.array([0.0, np.nan]), RATE, "NaN or infinity"),
    (np.zeros(100), 0, "sample_rate=0"),
    (np.zeros(100), -16000, "whole number of Hz"),
    (np.zeros(100), 4000, "8000 at least"),
]


@pytest.mark.parametrize(("audio", "rate", "message"), MALFORMED)
def test_malformed_audio_is_refused(audio, rate, message):
    with pytest.raises(InputError, match=message):
        waveform.as_mono(audio, rate)


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_refuses_it(name):
    for audio, rate, message in MALFORMED[:5]:
        with pytest.raises(InputError, match=message):
            MEASURES[name](audio, rate)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("rate", [8000, 48_000])
def test_every_measure_has_a_number_or_nan_for_any_length(name, rate):
    rng = np.random.default_rng(0)
    for n in (1, 10, 1000, 1024, 5000, 20_000):
        for wave in (0.1 * rng.standard_normal(n), np.full(n, 0.5), np.eye(1, n, n // 2)[0]):
            assert isinstance(MEASURES[name](wave, rate), float)


def test_channels_are_averaged_and_tensors_accepted():
    stereo = torch.tensor([[1.0, 0.5], [0.0, 0.5]], requires_grad=True)
    assert waveform.as_mono(stereo, RATE).tolist() == [0.5, 0.5]
    assert waveform.as_channels(stereo, RATE).dtype == np.float64
    assert waveform.as_mono(torch.ones(3, dtype=torch.bfloat16), RATE).tolist() == [1, 1, 1]


def test_silence_is_below_minus_60_dbfs():
    assert waveform.is_silent(np.full(100, 0.00099))
    assert not waveform.is_silent(np.full(100, 0.00101))


def test_frames_overlap_and_a_short_clip_is_one():
    assert waveform.framed(np.arange(6.0), 4, 2).tolist() == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert waveform.framed(np.ones(2), 4, 2).tolist() == [[1, 1, 0, 0]]


def test_magnitudes_peak_at_the_tone():
    wave = np.sin(2 * np.pi * 1000 * np.arange(1600) / RATE)
    spectra, hertz = waveform.magnitudes(wave[None], RATE)
    assert hertz[spectra[0].argmax()] == 1000


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (7, 4), (3, 60)])
@pytest.mark.parametrize("size", [1, 3, 17])
def test_the_running_median_is_scipys(shape, size):
    spectra = np.random.default_rng(0).random(shape)
    wanted = ndimage.median_filter(spectra, size=(1, size))
    assert np.array_equal(waveform.running_median(spectra, size), wanted)
