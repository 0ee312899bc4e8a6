"""Attacks over the full band: how many a second, and the envelope that a beat is sought in.

Onset rate counts density and is never called a tempo. It has no octave to get wrong, so it stands
beside every tempo as a check.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import fft, ndimage, signal

from audio_lens.audio.waveform import as_mono, is_silent

HOP = 256
_WINDOW = 1024
_LOWEST_HZ = 60.0
#: Bands quieter than this against the loudest moment of any band are a floor, not an attack.
_FLOOR = 1e-6
_REACH_SECONDS = 0.032
_SURROUNDINGS_SECONDS = 0.5
_SPACING_SECONDS = 0.06
_STANDS_OUT_DB = 1.0


def onset_envelope(
    wave: Float[np.ndarray, " sample"], sample_rate: int
) -> tuple[Float[np.ndarray, " frame"], float]:
    """Spectral flux: mean rise in dB over quarter-octave bands from 60 Hz; and the hop in seconds.

    A band's rise is against 32 ms before. The wave is at least 1024 samples long.
    """
    hop = HOP / sample_rate
    _, _, spectrum = signal.stft(wave, sample_rate, nperseg=_WINDOW, noverlap=_WINDOW - HOP)
    bands = _bands(np.abs(spectrum) ** 2, sample_rate)
    decibels = 10 * np.log10(np.maximum(bands, bands.max() * _FLOOR))
    reach = max(1, round(_REACH_SECONDS / hop))
    return np.maximum(decibels[:, reach:] - decibels[:, :-reach], 0).mean(axis=0), hop


def _bands(
    power: Float[np.ndarray, "bin frame"], sample_rate: int
) -> Float[np.ndarray, "band frame"]:
    """Power summed in quarter-octave bands."""
    hertz = np.linspace(0, sample_rate / 2, len(power))
    band = np.floor(4 * np.log2(np.maximum(hertz, 1) / _LOWEST_HZ)).astype(int)
    starts = [int(np.argmax(band == b)) for b in np.unique(band[band >= 0])]
    return np.add.reduceat(power, starts, axis=0)


def autocorrelation(envelope: Float[np.ndarray, " frame"]) -> Float[np.ndarray, " lag"]:
    """Correlation of an envelope with itself, lag by lag, 1 at lag 0; lags up to half of it."""
    centred = envelope - envelope.mean()
    spectrum = fft.rfft(centred, 2 * len(centred))
    correlation = fft.irfft(np.abs(spectrum) ** 2)[: len(centred) // 2]
    correlation /= np.arange(len(centred), len(centred) - len(correlation), -1)
    return correlation / max(correlation[0], np.finfo(float).tiny)


def onset_rate(audio: Any, sample_rate: int) -> float:
    """Attacks a second over the full band; it counts density, never tempo.

    Peaks of the spectral flux that stand out from their surroundings by 1 dB and lie 60 ms apart.
    Silence and clips under 2048 samples are NaN. White noise scores too: see `flatness`. Raises
    InputError for a malformed array.

    >>> t = np.arange(4 * 16000) / 16000
    >>> notes = np.sin(2 * np.pi * 700 * t) * np.exp(-(t % 0.5) / 0.05)
    >>> round(onset_rate(0.3 * notes, 16000))
    2
    """
    wave = as_mono(audio, sample_rate)
    if is_silent(wave) or len(wave) < 2 * _WINDOW:
        return float("nan")
    flux, hop = onset_envelope(wave, sample_rate)
    base = ndimage.median_filter(flux, size=max(3, round(_SURROUNDINGS_SECONDS / hop)))
    spacing = max(1, round(_SPACING_SECONDS / hop))
    peaks, _ = signal.find_peaks(flux, height=base + _STANDS_OUT_DB, distance=spacing)
    return len(peaks) * sample_rate / len(wave)
