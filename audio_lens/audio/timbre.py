"""How bright a clip is: spectral centroid in Hz, changes in semitones, flatness as its companion.

The centroid is not perceived brightness: register moves it too, and noise raises it, which is why
`flatness` belongs beside every claim about it.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import fft, signal

from .level import SILENCE_DBFS, as_mono

_WINDOW_SECONDS = 0.064
#: Frames this far below the clip's loud frames are not heard as timbre.
_SOUNDING_DB = -30.0
#: Bins this far below their frame's strongest one are the floor of a codec, not a colour.
_FLOOR_DB = -50.0
#: Below this lie kick and bass, whose loudness would drown the colour of everything else.
_LOWEST_HZ = 160.0


def _sounding_spectra(
    wave: Float[np.ndarray, " sample"], sample_rate: int
) -> tuple[Float[np.ndarray, "frame bin"], Float[np.ndarray, " bin"]]:
    """Magnitudes of the frames that sound, and the frequency of each bin in Hz.

    Both thresholds are relative to the clip, so measuring is loudness-matched by construction.
    """
    length = min(len(wave), round(_WINDOW_SECONDS * sample_rate))
    starts = np.arange(0, len(wave) - length + 1, max(1, length // 2))
    frames = np.lib.stride_tricks.sliding_window_view(wave, length)[starts]
    level = np.sqrt(np.mean(frames**2, axis=1))
    loud = np.percentile(level, 95)
    if loud < 10 ** (SILENCE_DBFS / 20):
        return np.empty((0, 0)), np.empty(0)
    frames = frames[level >= loud * 10 ** (_SOUNDING_DB / 20)]
    window = signal.get_window("hann", length)
    magnitudes = np.abs(fft.rfft(frames * window, axis=1))
    hertz = fft.rfftfreq(length, 1 / sample_rate)
    heard = hertz >= _LOWEST_HZ
    return magnitudes[:, heard], hertz[heard]


def spectral_centroid(audio: Any, sample_rate: int) -> float:
    """Spectral centroid in Hz: median over sounding frames of the magnitude-weighted mean.

    audio: float [sample] or [channel sample]; 64 ms Hann frames; bins from 160 Hz up that are
    within 50 dB of their frame's strongest bin. Frames 30 dB below the clip's loud ones do not
    count, and gain changes nothing. Silence is NaN. Raises ValueError for a malformed array.

    >>> tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    >>> round(spectral_centroid(tone, 16000))
    440
    """
    magnitudes, hertz = _sounding_spectra(as_mono(audio, sample_rate), sample_rate)
    if not magnitudes.size:
        return float("nan")
    peak = magnitudes.max(axis=1, keepdims=True)
    kept = np.where(magnitudes >= peak * 10 ** (_FLOOR_DB / 20), magnitudes, 0.0)
    total = kept.sum(axis=1)
    sounding = total > 0
    if not sounding.any():
        return float("nan")
    return float(np.median((kept @ hertz)[sounding] / total[sounding]))


def flatness(audio: Any, sample_rate: int) -> float:
    """Spectral flatness, 0 (a tone) to 1 (ideal white noise): median over sounding frames.

    Geometric over arithmetic mean of the power spectrum from 160 Hz up. Silence is NaN.
    """
    magnitudes, _ = _sounding_spectra(as_mono(audio, sample_rate), sample_rate)
    if not magnitudes.size:
        return float("nan")
    power = magnitudes**2 + 1e-20
    return float(np.median(np.exp(np.mean(np.log(power), axis=1)) / np.mean(power, axis=1)))


def semitones(new: float, old: float) -> float:
    """Change from `old` to `new` (both Hz, or both BPM) in semitones: 12 is a doubling.

    NaN when either is NaN. Raises ValueError for a frequency of zero or below.

    >>> semitones(880.0, 440.0)
    12.0
    """
    if new <= 0 or old <= 0:
        raise ValueError(f"cannot compare {new} with {old}: both must be above zero")
    return float(12 * np.log2(new / old))
