"""What tonal tasks play: each is a short figure of chords and notes that repeats to the clip's end.

A figure is a tuple of slots; a slot is a tuple of pitches in Hz that sound together, and an empty
slot is a rest.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ._notes import Note, Sound, play
from ._room import reverberate
from ._theory import (
    GRID_CHORDS,
    GRID_DEGREES,
    GRID_INTERVALS,
    GRID_QUALITIES,
    MODES,
    PITCH_CLASSES,
    PROGRESSIONS,
    QUALITIES,
    inverted,
    mode_step,
    pitch_hertz,
)
from ._voices import VOICES

Slot = tuple[float, ...]
Figure = tuple[Slot, ...]
Row = Mapping[str, Any]

_LENGTH_OF_SLOT = 0.9
_JITTER_SECONDS = 0.005
_JITTER_DB = 1.5


def in_hertz(name: str) -> int:
    """The pitch of a grid root or key by its name.

    >>> in_hertz("300 Hz")
    300
    """
    return int(name.removesuffix(" Hz"))


def _note(row: Row, grid: bool) -> Figure:
    octave = row["octave"]
    if grid:
        return ((25.0 * GRID_DEGREES[row["label"]] * 2**octave,),)
    return ((pitch_hertz(PITCH_CLASSES.index(row["label"]), octave),),)


def _interval(row: Row, grid: bool) -> Figure:
    if grid:
        over, under = GRID_INTERVALS[row["label"]]
        low = float(in_hertz(row["root"]))
        high = low * over / under
    else:
        root = PITCH_CLASSES.index(row["root"])
        low, high = (pitch_hertz(root + up, row["octave"]) for up in (0, int(row["label"])))
    if row["style"] == "together":
        return ((low, high), ())
    return ((low,), (high,), ()) if row["style"] == "up" else ((high,), (low,), ())


def _scale(row: Row, grid: bool) -> Figure:
    steps = (*MODES[row["label"]], 12)
    root = PITCH_CLASSES.index(row["root"])
    rising = tuple((pitch_hertz(root + step, row["octave"]),) for step in steps)
    return (*(rising if row["style"] == "up" else rising[::-1]), ())


def _chord_quality(row: Row, grid: bool) -> Figure:
    if grid:
        unit = in_hertz(row["root"]) / 12
        chord: Slot = tuple(unit * part for part in GRID_QUALITIES[row["label"]])
    else:
        root = PITCH_CLASSES.index(row["root"])
        chord = tuple(pitch_hertz(root + up, row["octave"]) for up in QUALITIES[row["label"]])
    chord = inverted(chord, row["inversion"])
    return (chord,) if row["style"] == "block" else tuple((tone,) for tone in chord)


def _progression(row: Row, grid: bool) -> Figure:
    """The key's tonic alone, then four chords: without it a relative key would sound the same."""
    if grid:
        tonic = float(in_hertz(row["key"]))
        chords = [
            tuple(tonic / 8 * part for part in GRID_CHORDS[name])
            for name in row["label"].split("-")
        ]
    else:
        key = PITCH_CLASSES.index(row["key"])
        tonic = pitch_hertz(key, row["octave"])
        mode, degrees = PROGRESSIONS[row["label"]]
        chords = [
            tuple(
                pitch_hertz(key + mode_step(mode, degree + third), row["octave"])
                for third in (0, 2, 4)
            )
            for degree in degrees
        ]
    return ((tonic,), *(inverted(chord, row["inversion"]) for chord in chords))


FIGURES: dict[str, Callable[[Row, bool], Figure]] = {
    "note": _note,
    "interval": _interval,
    "scale": _scale,
    "chord_quality": _chord_quality,
    "progression": _progression,
}


def notes(figure: Figure, row: Row, seconds: float) -> list[Note]:
    """The figure from `start` on, over and over, one slot per step of `pace`, lightly jittered."""
    rng = np.random.default_rng([row["take"], 0x70A1])
    step = 60 / row["pace"]
    longest = VOICES[row["instrument"]].longest
    made = []
    for n in range(int((seconds - row["start"]) / step) + 1):
        late, decibels = rng.uniform(0, 1) * _JITTER_SECONDS, rng.uniform(-1, 1) * _JITTER_DB
        time = row["start"] + n * step + late
        for hertz in figure[n % len(figure)]:
            length = min(_LENGTH_OF_SLOT * step, longest)
            made.append(Note(time, hertz, float(10 ** (decibels / 20)), length))
    return made


def render(
    task: str, row: Row, seconds: float, sample_rate: int, grid: bool
) -> Float[np.ndarray, " sample"]:
    """A clip of a tonal task before its level is set."""
    sound = Sound(row["instrument"], row["tilt"], sample_rate, grid)
    figure = FIGURES[task](row, grid)
    dry = play(notes(figure, row, seconds), sound, round(seconds * sample_rate))
    return reverberate(dry, sample_rate)
