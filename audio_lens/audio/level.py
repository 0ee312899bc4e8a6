"""How loud, how silent, how clipped a clip is.

Loudness is what is matched before anything else is compared; silence and clipping are the first
signs that steering went too far. A notebook's player may hide all three by normalising.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from audio_lens.audio.waveform import SILENCE_DBFS, as_channels, as_mono

_FRAME_SECONDS = 0.05
_BLOCK_SECONDS = 0.4
_CLIPPED_AT = 0.999


def frame_rms(wave: Float[np.ndarray, " sample"], length: int) -> Float[np.ndarray, " frame"]:
    """RMS of consecutive frames of `length` samples; a shorter clip is one frame."""
    length = min(length, len(wave))
    n = len(wave) // length
    return np.sqrt(np.mean(wave[: n * length].reshape(n, length) ** 2, axis=1))


def rms(audio: Any, sample_rate: int) -> float:
    """Root mean square in dBFS (a full-scale sine is -3.01); silence is -inf.

    Raises InputError for a malformed array, as every measure here does.

    >>> round(rms(np.full(100, 0.1), 16000))
    -20
    """
    power = float(np.mean(as_mono(audio, sample_rate) ** 2))
    return 10 * float(np.log10(power)) if power > 0 else -np.inf


def loudness(audio: Any, sample_rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770, mono mix; through pyloudnorm).

    Silence is -inf, as the standard has it; a clip under 0.4 s, the standard's block, is NaN.

    >>> tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000)
    >>> round(loudness(tone, 16000))
    -23
    """
    import pyloudnorm  # only here: its import costs more than the other measures take

    wave = as_mono(audio, sample_rate)
    if len(wave) < _BLOCK_SECONDS * sample_rate:
        return float("nan")
    with np.errstate(divide="ignore"):
        return float(pyloudnorm.Meter(sample_rate).integrated_loudness(wave))


def silent_fraction(audio: Any, sample_rate: int, threshold: float = SILENCE_DBFS) -> float:
    """Share of 50 ms frames with an RMS below `threshold` dBFS, 0 to 1.

    >>> silent_fraction(np.r_[np.full(1600, 0.1), np.zeros(1600)], 16000)
    0.5
    """
    wave = as_mono(audio, sample_rate)
    frames = frame_rms(wave, max(1, round(_FRAME_SECONDS * sample_rate)))
    return float(np.mean(frames < 10 ** (threshold / 20)))


def peak(audio: Any, sample_rate: int) -> float:
    """Largest sample of any channel in dBFS (not the true peak between samples); silence is -inf.

    >>> round(peak(np.array([0.0, -0.5]), 16000), 2)
    -6.02
    """
    largest = float(np.abs(as_channels(audio, sample_rate)).max())
    return 20 * float(np.log10(largest)) if largest > 0 else -np.inf


def clipped_fraction(audio: Any, sample_rate: int) -> float:
    """Share of samples at or beyond 0.999 of full scale in any channel, 0 to 1.

    >>> clipped_fraction(np.array([0.0, 0.5, 1.0, -1.2]), 16000)
    0.5
    """
    samples = np.abs(as_channels(audio, sample_rate))
    return float(np.mean(samples.max(axis=0) >= _CLIPPED_AT))
