"""The one place where audio arrays are checked, and the frames that every measure looks at.

Every measure of this package takes `(audio, sample_rate)`: a float array or tensor [sample] or
[channel sample], full scale at 1.0; channels are averaged first. A measure that has no answer
returns NaN, never a made-up number.
"""

from math import gcd
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import fft, ndimage, signal

from audio_lens.errors import InputError

#: Sound this quiet is silence on any system.
SILENCE_DBFS = -60.0
#: Hz; at lower rates the bands that measures listen to are not there.
LOWEST_RATE = 8000


def as_channels(audio: Any, sample_rate: int) -> Float[np.ndarray, "channel sample"]:
    """Check a waveform: float64 [channel sample].

    audio: float array or tensor [sample] or [channel sample]; sample_rate: Hz.
    Raises InputError for integers, other shapes, no samples, NaN or infinity, a bad rate.

    >>> as_channels(np.zeros(4), 16000).shape
    (1, 4)
    """
    if not (isinstance(sample_rate, int | np.integer) and sample_rate >= LOWEST_RATE):
        raise InputError(
            f"sample_rate={sample_rate!r}: expected a whole number of Hz, {LOWEST_RATE} at least"
        )
    if hasattr(audio, "detach"):
        audio = audio.detach().cpu().float().numpy()
    wave = np.asarray(audio)
    if not np.issubdtype(wave.dtype, np.floating):
        raise InputError(
            f"audio is {wave.dtype}: expected floating point with full scale at 1.0 "
            "(divide 16-bit integers by 32768)"
        )
    if wave.ndim not in (1, 2) or not wave.size:
        raise InputError(
            f"audio has shape {wave.shape}: expected [sample] or [channel sample], not empty"
        )
    if wave.ndim == 2 and wave.shape[0] > max(8, wave.shape[1]):
        raise InputError(f"audio has shape {wave.shape}: channels come first; transpose it")
    if not np.isfinite(wave).all():
        raise InputError("audio holds NaN or infinity: repair the signal before measuring it")
    return np.atleast_2d(wave).astype(np.float64)


def as_mono(audio: Any, sample_rate: int) -> Float[np.ndarray, " sample"]:
    """Check a waveform and average its channels: float64 [sample].

    Raises InputError as `as_channels` does.

    >>> as_mono(np.array([[1.0, 0.0], [0.0, 0.0]]), 16000)
    array([0.5, 0. ])
    """
    return as_channels(audio, sample_rate).mean(axis=0)


def is_silent(wave: Float[np.ndarray, " sample"]) -> bool:
    """Whether the RMS of the whole is below `SILENCE_DBFS`."""
    return bool(np.sqrt(np.mean(wave**2)) < 10 ** (SILENCE_DBFS / 20))


def framed(
    wave: Float[np.ndarray, " sample"], length: int, hop: int
) -> Float[np.ndarray, "frame length"]:
    """Overlapping frames, a view; a clip shorter than a frame is one frame, padded with zeros."""
    if len(wave) < length:
        wave = np.pad(wave, (0, length - len(wave)))
    return np.lib.stride_tricks.sliding_window_view(wave, length)[::hop]


def magnitudes(
    frames: Float[np.ndarray, "frame length"], sample_rate: int
) -> tuple[Float[np.ndarray, "frame bin"], Float[np.ndarray, " bin"]]:
    """Magnitude spectra of Hann-windowed frames, and the frequency of each bin in Hz."""
    length = frames.shape[1]
    window = signal.get_window("hann", length)
    return np.abs(fft.rfft(frames * window, axis=1)), fft.rfftfreq(length, 1 / sample_rate)


def resampled(
    wave: Float[np.ndarray, "*channel sample"], rate: int, wanted: int
) -> Float[np.ndarray, "*channel made"]:
    """A waveform at another rate, by a polyphase filter.

    >>> resampled(np.zeros(8), 16000, 32000).shape
    (16,)
    """
    from scipy.signal import resample_poly

    divisor = gcd(rate, wanted)
    return resample_poly(wave, wanted // divisor, rate // divisor, axis=-1)


def running_median(
    spectra: Float[np.ndarray, "frame bin"], size: int
) -> Float[np.ndarray, "frame bin"]:
    """The median of every `size` neighbouring bins (odd), mirrored at both ends.

    As `scipy.ndimage.median_filter(spectra, size=(1, size))`, to the bit and in a fraction of the
    time: scipy is fast in one dimension only, so the mirrored frames are laid end to end.

    >>> running_median(np.array([[1.0, 9.0, 2.0, 3.0]]), 3)
    array([[1., 2., 3., 3.]])
    """
    if not spectra.size:
        return spectra
    half = size // 2
    mirrored = np.pad(spectra, ((0, 0), (half, half)), mode="symmetric")
    medians = ndimage.median_filter(mirrored.reshape(-1), size=size).reshape(mirrored.shape)
    return np.asarray(medians[:, half : half + spectra.shape[1]])
