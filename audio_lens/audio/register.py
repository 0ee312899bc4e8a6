"""How high a clip lies: the pitch that stands out of each frame, in semitones above 440 Hz.

A harmonic sum finds one pitch a frame, that of the loudest voice: where chords are louder than the
melody, theirs. Lower harmonics count most, so that a brighter sound of the same notes keeps its
register. docs/measuring.md says how well it follows a melody.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import fft, signal

from audio_lens.audio.timbre import semitones, sounding
from audio_lens.audio.waveform import as_mono, framed, running_median

_WINDOW_SECONDS = 0.128
#: Spectra are read between bins too: 2 Hz apart.
_ZERO_PADDING = 4
#: Below it are kick and bass; above it no melody has its fundamental.
_PITCH_HZ = (160.0, 2000.0)
_HARMONICS = 5
#: How much less each harmonic counts than the one below it.
_DECAY = 0.4
#: A frame has a pitch where its strongest bin stands so far above the median of those around it.
#: Noise of any colour stays below 12 dB, clips of music are above 20.
_PITCHED_DB = 17.0
_AROUND_HZ = 250.0
#: A clip has a register where so many of its sounding frames have a pitch.
_FEWEST_PITCHED = 0.1


def register(audio: Any, sample_rate: int, reference: float = 440.0) -> float:
    """Median pitch that stands out, 160 to 2000 Hz, in semitones above `reference` Hz.

    audio: float [sample] or [channel sample]; 128 ms Hann frames, each counting with its magnitude
    from 160 Hz up. The pitch of a frame is the highest harmonic sum, after Hermes (1988),
    "Measurement of pitch by subharmonic summation". Gain changes nothing. Silence, noise and
    strokes without pitch are NaN. Raises InputError for a malformed array or a reference that is
    not above zero.

    >>> tone = 0.1 * np.sin(2 * np.pi * 880 * np.arange(16000) / 16000)
    >>> round(register(tone, 16000), 1)
    12.0
    """
    wave = as_mono(audio, sample_rate)
    length = round(_WINDOW_SECONDS * sample_rate)
    frames = framed(wave, length, length // 2)
    frames = frames[sounding(np.sqrt(np.mean(frames**2, axis=1)))]
    n_fft = _ZERO_PADDING * length
    window = signal.get_window("hann", length)
    spectra = np.abs(fft.rfft(frames * window, n_fft, axis=1))
    pitched = _pitched(spectra[:, ::_ZERO_PADDING], sample_rate / length)
    if not len(frames) or pitched.mean() < _FEWEST_PITCHED:
        return float("nan")
    hertz, weight = _pitches(spectra[pitched], sample_rate / n_fft)
    order = np.argsort(hertz)
    below = np.cumsum(weight[order])
    median = hertz[order][np.searchsorted(below, below[-1] / 2)]
    return semitones(float(median), reference)


def _band(bin_hertz: float) -> slice:
    """Bins where a fundamental may be."""
    low, high = _PITCH_HZ
    return slice(int(np.ceil(low / bin_hertz)), int(high / bin_hertz) + 1)


def _pitched(
    spectra: Float[np.ndarray, "frame bin"], bin_hertz: float
) -> Bool[np.ndarray, " frame"]:
    """In which frames something stands out of its surroundings."""
    around = 2 * round(_AROUND_HZ / bin_hertz / 2) + 1
    band = _band(bin_hertz)
    heard = spectra[:, : band.stop + around]
    floor = running_median(heard, around)[:, band]
    inside = spectra[:, band]
    rows, strongest = np.arange(len(inside)), inside.argmax(axis=1)
    return np.asarray(
        inside[rows, strongest] > floor[rows, strongest] * 10 ** (_PITCHED_DB / 20), dtype=bool
    )


def _pitches(
    spectra: Float[np.ndarray, "frame bin"], bin_hertz: float
) -> tuple[Float[np.ndarray, " frame"], Float[np.ndarray, " frame"]]:
    """The pitch of each frame in Hz, and its magnitude from 160 Hz up."""
    band = _band(bin_hertz)
    top = _HARMONICS * band.stop
    padded = np.pad(spectra, ((0, 0), (0, max(0, top - spectra.shape[1]))))
    harmonic_sum = sum(
        _DECAY ** (k - 1) * padded[:, k * band.start : k * (band.stop - 1) + 1 : k]
        for k in range(1, _HARMONICS + 1)
    )
    hertz = (np.argmax(harmonic_sum, axis=1) + band.start) * bin_hertz
    return hertz, np.linalg.norm(spectra[:, band.start :], axis=1)
