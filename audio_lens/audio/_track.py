"""Sounds put into a track: how a note swells and dies, where it falls, how loud the whole is."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import signal

from .level import loudness

_RELEASE_SECONDS = 0.03
_CEILING = 10 ** (-1 / 20)
_OVERSAMPLED = 8


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


def add(
    track: Float[np.ndarray, " sample"],
    start: int,
    curve: Float[np.ndarray, " length"],
    sound: Callable[[int, int], Float[np.ndarray, " part"]],
) -> None:
    """Add a sound under a curve to the track, in place; what lies outside is cut.

    start: in samples, negative before the clip. sound: `(first, n)` to the n samples of it that
    sound from sample `first` of the clip on.
    """
    first, last = max(start, 0), min(start + len(curve), len(track))
    if last > first:
        track[first:last] += sound(first, last - first) * curve[first - start : last - start]


def at_level(
    mix: Float[np.ndarray, " sample"], level: float, sample_rate: int
) -> Float[np.ndarray, " sample"]:
    """The mix at a loudness in LUFS, as float32; true peaks stay below -1 dBFS."""
    gain = 10 ** ((level - loudness(mix, sample_rate)) / 20)
    if gain * np.abs(mix).max() > _CEILING / 2:  # only then may a peak between samples be over it
        between = signal.resample_poly(mix, _OVERSAMPLED, 1)
        gain = min(gain, _CEILING / float(np.abs(between).max()))
    return (mix * gain).astype(np.float32)
