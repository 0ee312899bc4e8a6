"""Notes of any pitch and sample rate, from the same harmonic recipes as the music.

In equal temperament a note is one cycle in a long table that is read at any speed; the cycle holds
only partials below `TOP_SHARE` of the sample rate, so nothing folds back. On the grid a note is cut
from one 40 ms period by absolute time, as in `synthesis`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from ._voices import VOICES, Voice, voice_period
from .level import loudness

#: Highest partial, as a share of the sample rate.
TOP_SHARE = 0.475
#: The grid's fundamental in Hz: every sound repeats at this rate.
GRID_HZ = 25
_TABLE = 2**16
_PIVOT_HZ = 500.0
_RELEASE_SECONDS = 0.03
_CEILING = 10 ** (-1 / 20)


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


def _partials(
    voice: Voice, hertz: float, tilt: float, top: float
) -> tuple[np.ndarray, Float[np.ndarray, " partial"]]:
    """Harmonic numbers of the partials up to `top` Hz, and their amplitudes."""
    k = np.arange(1, int(top // hertz) + 1)
    k = k[np.isin(k, voice.only)] if voice.only else k
    gains = k**-voice.slope * np.where(k % 2 == 0, voice.odd, 1.0)
    for centre, gain, width in voice.formants:
        bump = np.exp(-0.5 * (np.log2(k * hertz / centre) / width) ** 2)
        gains = gains * (1 + (gain - 1) * bump)
    return k, gains * (k * hertz / _PIVOT_HZ) ** (tilt / 20 / np.log10(2))


@lru_cache(maxsize=32)
def _cycle(instrument: str, hertz: float, tilt: float, top: float) -> Float[np.ndarray, " phase"]:
    """One cycle of a note at unit RMS; the first sample stands once more at the end."""
    k, gains = _partials(VOICES[instrument], hertz, tilt, top)
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


def envelope(
    seconds: float, rise: float, decay: float, sample_rate: int
) -> Float[np.ndarray, " sample"]:
    """Rise, exponential decay and a release of 30 ms: no step anywhere. Times in seconds."""
    up, down = max(1, round(rise * sample_rate)), round(_RELEASE_SECONDS * sample_rate)
    n = max(round(seconds * sample_rate), up) + down
    curve = np.exp(-np.arange(n) / (decay * sample_rate))
    curve[:up] *= 0.5 - 0.5 * np.cos(np.pi * np.arange(up) / up)
    curve[-down:] *= 0.5 + 0.5 * np.cos(np.pi * np.arange(down) / down)
    return curve


def play(notes: Iterable[Note], sound: Sound, n: int) -> Float[np.ndarray, " sample"]:
    """`n` samples of notes in one sound; what lies outside the clip is cut.

    >>> play([Note(0.1, 440.0, 1.0, 0.2)], Sound("flute", 0.0, 16000, grid=False), 8000).shape
    (8000,)
    """
    track, voice = np.zeros(n), VOICES[sound.instrument]
    for note in notes:
        curve = envelope(note.seconds, voice.rise, voice.decay, sound.sample_rate)
        add(track, round(note.time * sound.sample_rate), note.gain * curve, note.hertz, sound)
    return track


def add(
    track: Float[np.ndarray, " sample"],
    start: int,
    curve: Float[np.ndarray, " length"],
    hertz: float,
    sound: Sound,
) -> None:
    """Add one note to the track, in place; `start` in samples, negative before the clip."""
    first, last = max(start, 0), min(start + len(curve), len(track))
    if last > first:
        wave = tone(sound, hertz, first, last - first)
        track[first:last] += wave * curve[first - start : last - start]


def at_level(
    mix: Float[np.ndarray, " sample"], level: float, sample_rate: int
) -> Float[np.ndarray, " sample"]:
    """The mix at a loudness in LUFS, as float32; samples stay below -1 dBFS whatever is asked."""
    # Brought close first: loudness leaves out what lies below an absolute threshold.
    mix = mix * (10 ** (level / 20) / np.sqrt(np.mean(mix**2)))
    gain = 10 ** ((level - loudness(mix, sample_rate)) / 20)
    peak = float(np.abs(mix).max())
    return (mix * min(gain, _CEILING / peak)).astype(np.float32)
