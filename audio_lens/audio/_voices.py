"""Sounds of one period: the harmonic recipe of every instrument, and the drums' noises."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Voice:
    """Harmonic amplitudes before tilt, and how a note of it lasts.

    slope: exponent of 1/k over harmonics; odd: gain of the even ones; formants: (Hz, gain, width
    in octaves); decay and longest: seconds.
    """

    slope: float
    odd: float = 1.0
    formants: tuple[tuple[float, float, float], ...] = ()
    only: tuple[int, ...] = ()
    decay: float = 4.0
    longest: float = 0.9
    rise: float = 0.005


VOICES = {
    "piano": Voice(1.3, decay=0.45),
    "acoustic guitar": Voice(1.0, formants=((1600, 2.0, 0.5),), decay=0.25),
    "electric guitar": Voice(0.8, formants=((2600, 2.5, 0.5),), decay=0.8),
    "violin": Voice(0.9, formants=((2800, 2.5, 0.4), (900, 1.5, 0.3)), rise=0.04),
    "cello": Voice(1.1, formants=((600, 2.5, 0.4), (1400, 1.5, 0.3)), rise=0.05),
    "flute": Voice(2.2, rise=0.03),
    "trumpet": Voice(0.7, formants=((1300, 3.0, 0.6),), rise=0.015),
    "saxophone": Voice(0.9, odd=0.6, formants=((700, 2.5, 0.4), (2000, 1.8, 0.4)), rise=0.02),
    "marimba": Voice(0.8, only=(1, 4, 10, 16), decay=0.12),
    "organ": Voice(0.6, only=(1, 2, 3, 4, 6, 8, 12, 16)),
    "clarinet": Voice(0.9, odd=0.08, rise=0.02),
    "synthesizer": Voice(0.5, odd=0.15, decay=0.6),
    "pad": Voice(1.0, rise=0.08, longest=60.0, decay=60.0),
    "comp": Voice(1.0, odd=0.7, decay=0.3),
    "bass": Voice(1.2, decay=0.5),
    "kick": Voice(1.0, only=(1, 2), decay=0.09),
}
#: Pass bands in Hz of the noises; a band repeats every 20 ms.
NOISES = {"hat": (5000.0, 7800.0), "snare": (900.0, 5000.0), "click": (1000.0, 3000.0)}
_PIVOT_HZ = 500.0
_TOP_HZ = 7600.0


def _phases(n: int) -> Float[np.ndarray, " bin"]:
    """One phase per multiple of 25 Hz, shared by all instruments: the codec sees fewer waves."""
    return np.random.default_rng(25).uniform(0, 2 * np.pi, n)


def partials(
    voice: Voice, hertz: float, tilt_db: float, top: float
) -> tuple[np.ndarray, Float[np.ndarray, " partial"]]:
    """Harmonic numbers up to `top` Hz, and their amplitudes, tilted by `tilt_db` an octave."""
    k = np.arange(1, int(top // hertz) + 1)
    if voice.only:
        k = k[np.isin(k, voice.only)]
    gains = k**-voice.slope * np.where(k % 2 == 0, voice.odd, 1.0)
    for centre, gain, width in voice.formants:
        bump = np.exp(-0.5 * (np.log2(k * hertz / centre) / width) ** 2)
        gains = gains * (1 + (gain - 1) * bump)
    return k, gains * (k * hertz / _PIVOT_HZ) ** (tilt_db / 20 / np.log10(2))


def voice_period(
    voice: Voice, hertz: int, tilt_db: float, period: int, sample_rate: int
) -> Float[np.ndarray, " period"]:
    """One period of a note at unit RMS, tilted by `tilt_db` per octave around 500 Hz.

    Raises ValueError when `hertz` is no multiple of the period's frequency.
    """
    base = sample_rate // period
    if hertz % base:
        raise ValueError(f"{hertz} Hz is off the grid: expected a multiple of {base} Hz")
    k, gains = partials(voice, hertz, tilt_db, _TOP_HZ)
    spectrum = np.zeros(period // 2 + 1, dtype=complex)
    bins = k * hertz // base
    spectrum[bins] = gains * np.exp(1j * _phases(len(spectrum))[bins])
    wave = np.fft.irfft(spectrum, period)
    return wave / np.sqrt(np.mean(wave**2))


def periodic_noise(
    band: tuple[float, float], period: int, sample_rate: int
) -> Float[np.ndarray, " period"]:
    """Noise of unit RMS inside a band that repeats twice in a period."""
    base = sample_rate / period
    spectrum = np.zeros(period // 2 + 1, dtype=complex)
    bins = np.arange(0, len(spectrum), 2)
    bins = bins[(bins * base >= band[0]) & (bins * base <= band[1])]
    spectrum[bins] = np.exp(1j * _phases(len(spectrum))[bins])
    wave = np.fft.irfft(spectrum, period)
    return wave / np.sqrt(np.mean(wave**2))
