"""The light, fixed room that every clip stands in."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy.signal import oaconvolve

#: Seconds in which a tail falls by 60 dB, and the energy of the tail against the direct sound.
_SECONDS = 0.35
_TAIL_DB = -13.0
#: The room answers between these; lower, it would smear the kick that carries the beat.
_BAND_HZ = (250.0, 6500.0)


@lru_cache(maxsize=4)
def _tail(sample_rate: int) -> Float[np.ndarray, " sample"]:
    """Decaying noise inside the band, the same in every clip, direct sound left out."""
    n = round(_SECONDS * sample_rate)
    noise = np.random.default_rng(250).standard_normal(n)
    spectrum = np.fft.rfft(noise * 10 ** (-3 * np.arange(n) / n))
    hertz = np.fft.rfftfreq(n, 1 / sample_rate)
    spectrum[(hertz < _BAND_HZ[0]) | (hertz > _BAND_HZ[1])] = 0
    tail = np.fft.irfft(spectrum, n)
    return tail * 10 ** (_TAIL_DB / 20) / np.sqrt(np.sum(tail**2))


def reverberate(
    dry: Float[np.ndarray, " sample"], sample_rate: int
) -> Float[np.ndarray, " sample"]:
    """Add the room's answer; a fixed filter, so that a held sound repeats as it did before."""
    return dry + oaconvolve(dry, _tail(sample_rate))[: len(dry)]
