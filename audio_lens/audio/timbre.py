"""How bright a clip is: spectral centroid in Hz and semitones, roll-off, high band, flatness.

Only sounding frames count, so silence between notes changes nothing; only bins within 50 dB of
their frame's strongest one count, so the floor of a codec is no colour; both thresholds are
relative, so gain changes nothing. Kick and bass below 160 Hz are left out: their loudness would
drown the colour of everything else.

The centroid is not perceived brightness: register moves it too, and noise raises it, which is why
`flatness` belongs beside every claim about it.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from audio_lens.audio.waveform import (
    SILENCE_DBFS,
    as_mono,
    framed,
    magnitudes,
    running_median,
)
from audio_lens.errors import InputError

_WINDOW_SECONDS = 0.064
#: Frames this far below the clip's loud frames are not heard as timbre.
_SOUNDING_DB = -30.0
#: Bins this far below their frame's strongest one are the floor of a codec, not a colour.
_FLOOR_DB = -50.0
_LOWEST_HZ = 160.0
#: Extent of the median filters that tell held partials (in seconds) from strokes (in Hz).
_HELD_SECONDS = 0.4
_STROKE_HZ = 500.0
_HARMONIC_POWER = 3.0


def _spectra(
    wave: Float[np.ndarray, " sample"], sample_rate: int
) -> tuple[Float[np.ndarray, "frame bin"], Float[np.ndarray, " bin"], Float[np.ndarray, " frame"]]:
    """Magnitudes from 160 Hz up, the frequency of each bin in Hz, the RMS of each frame."""
    length = min(len(wave), round(_WINDOW_SECONDS * sample_rate))
    frames = framed(wave, length, max(1, length // 2))
    spectra, hertz = magnitudes(frames, sample_rate)
    heard = hertz >= _LOWEST_HZ
    return spectra[:, heard], hertz[heard], np.sqrt(np.mean(frames**2, axis=1))


def sounding(level: Float[np.ndarray, " frame"]) -> np.ndarray:
    """Which frames are loud enough, against the clip's own loud ones; none where all is silent.

    level: RMS by frame, full scale at 1.0. A frame sounds down to 30 dB below the loud ones.

    >>> sounding(np.array([0.1, 0.05, 0.001]))
    array([ True,  True, False])
    """
    loud = np.percentile(level, 95)
    if loud < 10 ** (SILENCE_DBFS / 20):
        return np.zeros(len(level), dtype=bool)
    return np.asarray(level >= loud * 10 ** (_SOUNDING_DB / 20))


def _above_floor(spectra: Float[np.ndarray, "frame bin"]) -> Float[np.ndarray, "sounding bin"]:
    """Bins near their frame's strongest one; frames with nothing from 160 Hz up are dropped."""
    if not spectra.size:
        return np.empty((0, spectra.shape[1]))
    strongest = spectra.max(axis=1, keepdims=True)
    kept = np.where(spectra >= strongest * 10 ** (_FLOOR_DB / 20), spectra, 0.0)
    return kept[kept.sum(axis=1) > 0]


def _heard(
    audio: Any, sample_rate: int
) -> tuple[Float[np.ndarray, "frame bin"], Float[np.ndarray, " bin"]]:
    """Magnitudes above the floor in sounding frames, and Hz; no frames where all is silent."""
    spectra, hertz, level = _spectra(as_mono(audio, sample_rate), sample_rate)
    return _above_floor(spectra[sounding(level)]), hertz


def spectral_centroid(audio: Any, sample_rate: int) -> float:
    """Spectral centroid in Hz: median over sounding frames of the magnitude-weighted mean.

    audio: float [sample] or [channel sample]; 64 ms Hann frames; bins from 160 Hz up that are
    within 50 dB of their frame's strongest bin. Frames 30 dB below the clip's loud ones do not
    count, and gain changes nothing. Silence is NaN. Raises InputError for a malformed array.

    >>> tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    >>> round(spectral_centroid(tone, 16000))
    440
    """
    spectra, hertz = _heard(audio, sample_rate)
    return _median_centroid(spectra, hertz)


def _median_centroid(
    spectra: Float[np.ndarray, "frame bin"], hertz: Float[np.ndarray, " bin"]
) -> float:
    if not len(spectra):
        return float("nan")
    return float(np.median(spectra @ hertz / spectra.sum(axis=1)))


def centroid_semitones(audio: Any, sample_rate: int, reference: float = 440.0) -> float:
    """Spectral centroid in semitones above `reference` Hz (the A at 440 Hz): 12 is an octave.

    Silence is NaN. Raises InputError for a malformed array or a reference that is not above zero.

    >>> tone = 0.1 * np.sin(2 * np.pi * 880 * np.arange(16000) / 16000)
    >>> round(centroid_semitones(tone, 16000), 1)
    12.0
    """
    return semitones(spectral_centroid(audio, sample_rate), reference)


def rolloff(audio: Any, sample_rate: int, share: float = 0.85) -> float:
    """Frequency in Hz below which `share` of a frame's magnitude lies: median over frames.

    Frames and bins as for `spectral_centroid`, so the floor of a codec cannot lift it. Silence
    is NaN. Raises InputError for a malformed array or a share outside 0 to 1.

    >>> tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    >>> 950 < rolloff(tone, 16000) < 1050
    True
    """
    if not 0 < share < 1:
        raise InputError(f"share={share}: expected a share between 0 and 1, such as 0.85")
    spectra, hertz = _heard(audio, sample_rate)
    if not len(spectra):
        return float("nan")
    below = np.cumsum(spectra, axis=1)
    reached = np.argmax(below >= share * below[:, -1:], axis=1)
    return float(np.median(hertz[reached]))


def high_band_ratio(audio: Any, sample_rate: int, above: float = 2000.0) -> float:
    """Share of the power from 160 Hz up that lies above `above` Hz, 0 to 1: median over frames.

    Frames and bins as for `spectral_centroid`. Silence is NaN. Raises InputError for a malformed
    array, or where `above` is not between 160 Hz and half the sample rate.

    >>> t = np.arange(16000) / 16000
    >>> both = 0.1 * np.sin(2 * np.pi * 500 * t) + 0.1 * np.sin(2 * np.pi * 3000 * t)
    >>> round(high_band_ratio(both, 16000), 2)
    0.5
    """
    spectra, hertz = _heard(audio, sample_rate)
    if not _LOWEST_HZ < above < sample_rate / 2:
        raise InputError(
            f"above={above}: expected Hz between {_LOWEST_HZ:.0f} and half the sample rate, "
            f"{sample_rate / 2:.0f}"
        )
    if not len(spectra):
        return float("nan")
    power = spectra**2
    return float(np.median(power[:, hertz > above].sum(axis=1) / power.sum(axis=1)))


def harmonic_centroid(audio: Any, sample_rate: int) -> float:
    """Spectral centroid in Hz of what is held, without strokes: drums do not pull on it.

    Partials that last stand out along time, strokes along frequency: a median filter along each
    makes the soft mask of FitzGerald (2010), "Harmonic/percussive separation using median
    filtering". Otherwise as `spectral_centroid`. Silence is NaN. Raises InputError for a malformed
    array.

    >>> t = np.arange(16000) / 16000
    >>> tone, click = 0.1 * np.sin(2 * np.pi * 440 * t), 0.5 * (np.arange(16000) % 4000 == 0)
    >>> round(harmonic_centroid(tone + click, 16000))
    440
    """
    spectra, hertz, level = _spectra(as_mono(audio, sample_rate), sample_rate)
    hop = _WINDOW_SECONDS / 2
    held = running_median(spectra.T, 2 * round(_HELD_SECONDS / hop / 2) + 1).T
    across = 2 * round(_STROKE_HZ * _WINDOW_SECONDS / 2) + 1
    strokes = running_median(spectra, across)
    held, strokes = held**_HARMONIC_POWER, strokes**_HARMONIC_POWER
    mask = held / np.maximum(held + strokes, np.finfo(float).tiny)
    return _median_centroid(_above_floor((spectra * mask)[sounding(level)]), hertz)


def flatness(audio: Any, sample_rate: int) -> float:
    """Spectral flatness, 0 (a tone) to 1 (ideal white noise): median over sounding frames.

    Geometric over arithmetic mean of the power spectrum from 160 Hz up. White noise in frames
    reads 0.56, the value for a spectrum that is estimated once. Silence is NaN. Raises InputError
    for a malformed array.

    >>> flatness(0.1 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000), 16000) < 0.01
    True
    """
    spectra, _, level = _spectra(as_mono(audio, sample_rate), sample_rate)
    spectra = spectra[sounding(level)]
    if not spectra.size:
        return float("nan")
    power = spectra**2
    # Against the loudest frame, so that gain changes nothing; far below any sound.
    power = power / power.mean(axis=1).max() + 1e-20
    return float(np.median(np.exp(np.mean(np.log(power), axis=1)) / np.mean(power, axis=1)))


def semitones(new: float, old: float) -> float:
    """Change from `old` to `new` (both Hz, or both BPM) in semitones: 12 is a doubling.

    NaN when either is NaN. Raises InputError for a frequency of zero or below.

    >>> semitones(880.0, 440.0)
    12.0
    """
    if new <= 0 or old <= 0:
        raise InputError(f"cannot compare {new} with {old}: both must be above zero")
    return float(12 * np.log2(new / old))
