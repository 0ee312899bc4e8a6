"""How loud, how silent, how clipped a clip is; and the one place where audio arrays are checked.

Every measure of this package takes `(audio, sample_rate)`: a float array or tensor [sample] or
[channel sample], full scale at 1.0; channels are averaged first. A measure that has no answer
returns NaN, never a made-up number.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

#: Frames this quiet are silent on any system.
SILENCE_DBFS = -60.0
_FRAME_SECONDS = 0.05
_BLOCK_SECONDS = 0.4
_CLIPPED_AT = 0.999


def as_mono(audio: Any, sample_rate: int) -> Float[np.ndarray, " sample"]:
    """Check a waveform and average its channels: float64 [sample].

    audio: float array or tensor [sample] or [channel sample]; sample_rate: Hz.
    Raises ValueError for integers, other shapes, no samples, NaN or infinity, a bad rate.
    """
    if not (isinstance(sample_rate, int | np.integer) and sample_rate > 0):
        raise ValueError(f"sample_rate={sample_rate!r}: expected a positive whole number of Hz")
    if hasattr(audio, "detach"):
        audio = audio.detach().cpu().float().numpy()
    wave = np.asarray(audio)
    if not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(
            f"audio is {wave.dtype}: expected floating point with full scale at 1.0 "
            "(divide 16-bit integers by 32768)"
        )
    if wave.ndim not in (1, 2) or not wave.size:
        raise ValueError(
            f"audio has shape {wave.shape}: expected [sample] or [channel sample], not empty"
        )
    if wave.ndim == 2 and wave.shape[0] > max(8, wave.shape[1]):
        raise ValueError(f"audio has shape {wave.shape}: channels come first; transpose it")
    wave = wave.astype(np.float64)
    if not np.isfinite(wave).all():
        raise ValueError("audio holds NaN or infinity: repair the signal before measuring it")
    return wave.mean(axis=0) if wave.ndim == 2 else wave


def frame_rms(wave: Float[np.ndarray, " sample"], length: int) -> Float[np.ndarray, " frame"]:
    """RMS of consecutive frames of `length` samples; a shorter clip is one frame."""
    length = min(length, len(wave))
    n = len(wave) // length
    return np.sqrt(np.mean(wave[: n * length].reshape(n, length) ** 2, axis=1))


def rms(audio: Any, sample_rate: int) -> float:
    """Root mean square in dBFS (a full-scale sine is -3.01); silence is -inf."""
    power = float(np.mean(as_mono(audio, sample_rate) ** 2))
    return 10 * float(np.log10(power)) if power > 0 else -np.inf


def loudness(audio: Any, sample_rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770, mono mix).

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
    """Share of 50 ms frames with an RMS below `threshold` dBFS, 0 to 1."""
    wave = as_mono(audio, sample_rate)
    frames = frame_rms(wave, max(1, round(_FRAME_SECONDS * sample_rate)))
    return float(np.mean(frames < 10 ** (threshold / 20)))


def clipped_fraction(audio: Any, sample_rate: int) -> float:
    """Share of samples at or beyond 0.999 of full scale in any channel, 0 to 1."""
    as_mono(audio, sample_rate)
    samples = audio.detach().cpu().float().numpy() if hasattr(audio, "detach") else audio
    return float(np.mean(np.abs(np.atleast_2d(samples)).max(axis=0) >= _CLIPPED_AT))
