"""Notes of any pitch and sample rate, from the same harmonic recipes as the music.

In equal temperament a note is one cycle in a long table that is read at any speed; the cycle holds
only partials below `TOP_SHARE` of the sample rate, so nothing folds back. On the grid a note is cut
from one 40 ms period by absolute time, as in `synthesis`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Float

from ._track import add, envelope
from ._voices import VOICES, partials, voice_period

#: Highest partial, as a share of the sample rate.
TOP_SHARE = 0.475
#: The grid's fundamental in Hz: every sound repeats at this rate.
GRID_HZ = 25
_TABLE = 2**16


@dataclass(frozen=True)
class Note:
    """A note: start in seconds, pitch in Hz, linear gain, seconds until its release."""

    time: float
    hertz: float
    gain: float
    seconds: float


@dataclass(frozen=True)
class Sound:
    """How notes sound: a name out of `VOICES`, tilt in dB an octave, rate in Hz, on the grid?"""

    instrument: str
    tilt: float
    sample_rate: int
    grid: bool


@lru_cache(maxsize=32)
def _cycle(instrument: str, hertz: float, tilt: float, top: float) -> Float[np.ndarray, " phase"]:
    """One cycle of a note at unit RMS; the first sample stands once more at the end."""
    k, gains = partials(VOICES[instrument], hertz, tilt, top)
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=complex)
    phases = np.random.default_rng(12).uniform(0, 2 * np.pi, int(k[-1]) + 1)
    spectrum[k] = gains * np.exp(1j * phases[k])
    wave = np.fft.irfft(spectrum, _TABLE)
    wave /= np.sqrt(np.mean(wave**2))
    return np.append(wave, wave[0])


@lru_cache(maxsize=64)
def _period(
    instrument: str, hertz: int, tilt: float, sample_rate: int
) -> Float[np.ndarray, " period"]:
    period = sample_rate // GRID_HZ
    return voice_period(VOICES[instrument], hertz, tilt, period, sample_rate)


def tone(sound: Sound, hertz: float, first: int, n: int) -> Float[np.ndarray, " sample"]:
    """`n` samples of a steady tone at unit RMS, `first` samples into the clip.

    Raises ValueError on the grid for a pitch that is no multiple of 25 Hz.

    >>> tone(Sound("organ", 0.0, 16000, grid=False), 440.0, 0, 1600).shape
    (1600,)
    """
    if sound.grid:
        if hertz % GRID_HZ:
            raise ValueError(f"{hertz} Hz is off the grid: expected a multiple of {GRID_HZ} Hz")
        wave = _period(sound.instrument, round(hertz), sound.tilt, sound.sample_rate)
        return np.resize(np.roll(wave, -(first % len(wave))), n)
    table = _cycle(sound.instrument, hertz, sound.tilt, TOP_SHARE * sound.sample_rate)
    place = np.arange(n) * (hertz / sound.sample_rate * _TABLE) % _TABLE
    below = place.astype(np.int64)
    return table[below] + (place - below) * np.diff(table)[below]


def play(notes: Iterable[Note], sound: Sound, n: int) -> Float[np.ndarray, " sample"]:
    """`n` samples of notes in one sound; what lies outside the clip is cut.

    >>> play([Note(0.1, 440.0, 1.0, 0.2)], Sound("flute", 0.0, 16000, grid=False), 8000).shape
    (8000,)
    """
    track, voice = np.zeros(n), VOICES[sound.instrument]
    for note in notes:
        curve = envelope(note.seconds, voice.rise, voice.decay, sound.sample_rate)
        start = round(note.time * sound.sample_rate)
        add(track, start, note.gain * curve, partial(tone, sound, note.hertz))
    return track
