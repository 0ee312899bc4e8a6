"""All measures at once: of one clip, and of a steered clip against its unsteered twin."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from audio_lens.audio.beat import beat_bpm, beat_clarity
from audio_lens.audio.closeness import chroma_closeness, log_mel_distance
from audio_lens.audio.level import clipped_fraction, loudness, peak, rms, silent_fraction
from audio_lens.audio.onsets import onset_rate
from audio_lens.audio.register import register
from audio_lens.audio.repetition import loop_score
from audio_lens.audio.tempo import density, is_suspect, octaves, pulse_bpm, pulse_clarity
from audio_lens.audio.timbre import (
    centroid_semitones,
    flatness,
    harmonic_centroid,
    high_band_ratio,
    rolloff,
    semitones,
    spectral_centroid,
)
from audio_lens.audio.waveform import as_channels
from audio_lens.errors import InputError

MEASURES: dict[str, Callable[[Any, int], float]] = {
    "pulse_bpm": pulse_bpm,
    "pulse_clarity": pulse_clarity,
    "beat_bpm": beat_bpm,
    "beat_clarity": beat_clarity,
    "onset_rate": onset_rate,
    "density": density,
    "spectral_centroid": spectral_centroid,
    "centroid_semitones": centroid_semitones,
    "harmonic_centroid": harmonic_centroid,
    "rolloff": rolloff,
    "high_band_ratio": high_band_ratio,
    "flatness": flatness,
    "register": register,
    "loudness": loudness,
    "rms": rms,
    "peak": peak,
    "silent_fraction": silent_fraction,
    "clipped_fraction": clipped_fraction,
    "loop_score": loop_score,
}
"""Every measure of one clip, by name; units are in their docstrings."""


_DIFFERENCES = {
    "centroid_semitones": "semitones",
    "register": "semitones",
    "loudness": "LU",
    "rms": "dB",
    "peak": "dB",
    **dict.fromkeys(
        ("pulse_clarity", "beat_clarity", "high_band_ratio", "flatness", "silent_fraction",
         "clipped_fraction", "loop_score"),
        "share",
    ),
}  # fmt: skip
"""Measures whose change is a difference, with its unit; of the others it is a ratio."""

_TONES = ("spectral_centroid", "harmonic_centroid", "rolloff")
"""Measures in Hz, whose ratios are told in semitones; other ratios are in octaves."""


def change_unit(name: str) -> str:
    """The unit in which a measure's change is told.

    >>> change_unit("pulse_bpm"), change_unit("rolloff"), change_unit("loudness")
    ('octaves', 'semitones', 'LU')
    """
    return _DIFFERENCES.get(name, "semitones" if name in _TONES else "octaves")


def in_change_units(name: str, value: float) -> float:
    """A measured value on the scale on which changes of it are differences; NaN if it has none.

    >>> in_change_units("pulse_bpm", 120) - in_change_units("pulse_bpm", 60)
    1.0
    """
    if not np.isfinite(value) or (name not in _DIFFERENCES and value <= 0):
        return float("nan")
    if name in _DIFFERENCES:
        return value
    return (12 if name in _TONES else 1) * float(np.log2(value))


Window = tuple[float, float | None]
"""Start and stop in seconds, as `steer` takes it; None is the end."""

_TEMPI = ("pulse_bpm", "beat_bpm", "density")
"""What needs several beats: not told of a shorter window than this."""
_SHORTEST_FOR_TEMPO = 6.0


def evaluate(
    audio: Any, sample_rate: int, only: tuple[str, ...] = (), *, window: Window | None = None
) -> dict[str, float]:
    """What is heard in a clip: each measure by name, or those in `only`, in their order.

    audio: float [sample] or [channel sample]; sample_rate: Hz; window: measure this part alone, as
    where a clip was steered there alone. A window under 6 s gives no tempo. Raises InputError for a
    malformed array, an unknown name or a window that is not inside the clip.

    >>> import numpy as np
    >>> tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    >>> {k: round(v) for k, v in evaluate(tone, 16000, ("spectral_centroid", "rms")).items()}
    {'spectral_centroid': 440, 'rms': -23}
    """
    if unknown := sorted(set(only) - set(MEASURES)):
        raise InputError(f"no measure {unknown[0]!r}: expected one of {', '.join(MEASURES)}")
    part = _within(audio, sample_rate, window)
    return _measured(part, sample_rate, only or tuple(MEASURES), in_window=window is not None)


def _measured(
    part: Float[np.ndarray, "channel sample"],
    sample_rate: int,
    names: tuple[str, ...],
    *,
    in_window: bool,
) -> dict[str, float]:
    short = in_window and part.shape[-1] < _SHORTEST_FOR_TEMPO * sample_rate
    return {
        name: float("nan") if short and name in _TEMPI else MEASURES[name](part, sample_rate)
        for name in names
    }


def _within(
    audio: Any, sample_rate: int, window: Window | None
) -> Float[np.ndarray, "channel sample"]:
    """The part of a clip that lies in a window."""
    wave = as_channels(audio, sample_rate)
    if window is None:
        return wave
    length = wave.shape[-1] / sample_rate
    start, stop = window if len(window) == 2 else (float("nan"), None)
    stop = length if stop is None else stop
    if not 0 <= start < stop <= length + 1 / sample_rate:
        raise InputError(
            f"window={window}: expected start and stop in seconds, such as (2.0, {length:g}), "
            f"inside the clip's {length:g} s"
        )
    return wave[:, round(start * sample_rate) : round(stop * sample_rate)]


def compare(
    audio: Any, twin: Any, sample_rate: int, *, window: Window | None = None
) -> dict[str, float]:
    """What changed from the twin: tempo and onsets in octaves, timbre and register in semitones.

    `suspect` is 1.0 where the change of the pulse looks like a jump to another metrical level.
    window: of both clips, as `evaluate` takes it. NaN where either clip has no value. Raises
    InputError for a malformed array or a window that is not inside the clips.

    >>> import numpy as np
    >>> tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    >>> compare(tone, tone, 16000)["centroid_semitones"]
    0.0
    """
    rates = ("pulse_bpm", "beat_bpm", "onset_rate")
    asked = (*rates, *_TONES, "register", "loudness", "flatness")
    parts = _within(audio, sample_rate, window), _within(twin, sample_rate, window)
    new, old = (_measured(p, sample_rate, asked, in_window=window is not None) for p in parts)
    pulse, beat, onsets = (_octaves(new[name], old[name]) for name in rates)
    centroid, harmonic, top = (semitones(new[name], old[name]) for name in _TONES)
    return {
        "pulse_octaves": pulse,
        "beat_octaves": beat,
        "onset_octaves": onsets,
        "suspect": float(is_suspect(pulse, onsets)),
        "centroid_semitones": centroid,
        "harmonic_semitones": harmonic,
        "rolloff_semitones": top,
        "register_semitones": new["register"] - old["register"],
        "flatness": new["flatness"] - old["flatness"],
        "loudness": new["loudness"] - old["loudness"],
        "chroma_closeness": chroma_closeness(*parts, sample_rate),
        "log_mel_distance": log_mel_distance(*parts, sample_rate),
    }


def _octaves(new: float, old: float) -> float:
    """As `octaves`, and NaN where a rate is zero: from no attacks there is no ratio."""
    return octaves(new, old) if new != 0 and old != 0 else float("nan")
