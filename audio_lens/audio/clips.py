"""Labelled clips for probing: SynTheory's seven tasks, and brightness, instrument and level.

Each function takes `(n, seed)` and gives `LabelledClips`: labels, every other factor and a split as
data, and sound when it is asked for. Within a task all factors are independent draws, except what a
split holds out. The tasks are those of SynTheory (Wei et al., arXiv 2410.00872); the clips are not.

With `tuning="grid"` every sound is frame-locked as in `synthesis`, which is all that a toy's codec
hears. The three tasks over whole pieces are on the grid in both tunings.

The same arguments give the same clips, to the sample, whatever the number of workers. Sets of
another `n` or `seed` are other draws: clip 3 of 100 is not clip 3 of 200.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from audio_lens.errors import InputError

from ._draws import Draws
from ._labelled import LabelledClips, Tuning
from ._questions import QUESTIONS
from .splits import SPLITS

__all__ = [
    "TASKS",
    "LabelledClips",
    "brightness",
    "chord_quality",
    "instrument",
    "interval",
    "level",
    "note",
    "on_grid",
    "progression",
    "scale",
    "tempo",
    "time_signature",
]

_TUNINGS = ("equal", "grid")
_LOWEST_RATE = 16_000
_GRID_HZ = 25
_LONGEST_SECONDS = 600.0


def tempo(
    n: int,
    seed: int,
    *,
    seconds: float = 4.0,
    sample_rate: int = 32_000,
    tuning: Tuning = "equal",
) -> LabelledClips:
    """Steady strokes, 50 to 210 a minute; the label is BPM.

    Strokes of six kits over a soft bed, with an accent every one to four beats; the clip starts
    anywhere in the bar. Splits share no BPM: their bands lie 1 BPM apart. `seconds` from 2.5,
    which hold two strokes for certain.
    Raises InputError, as every task does, for an argument out of range.

    >>> tempo(100, seed=0).test.labels.round(1)[:3]
    array([145.3,  84.7,  64.3])
    """
    return _asked("tempo", n, seed, seconds, sample_rate, tuning)


def time_signature(
    n: int,
    seed: int,
    *,
    seconds: float = 4.0,
    sample_rate: int = 32_000,
    tuning: Tuning = "equal",
) -> LabelledClips:
    """Bars of strokes in eight meters: 2/2 2/4 3/4 3/8 4/4 6/8 9/8 12/8.

    A kit has one sound for downbeats, one for other beats, one for subdivisions. The rate of all
    strokes together (`pace`, 290 to 440 a minute) is drawn without regard to the meter. By
    convention 2/2 subdivides its two beats and 2/4 does not, and 3/8 is one beat in three. Pairs
    of kit and pace are in one split only. `seconds` from 4, which hold a bar of 12/8 for certain.

    >>> time_signature(8, seed=0).classes
    ('2/2', '2/4', '3/4', '3/8', '4/4', '6/8', '9/8', '12/8')
    """
    return _asked("time_signature", n, seed, seconds, sample_rate, tuning)


def note(
    n: int,
    seed: int,
    *,
    seconds: float = 4.0,
    sample_rate: int = 32_000,
    tuning: Tuning = "equal",
) -> LabelledClips:
    """One pitch, struck again and again; the label is its class, C to B.

    Twelve instruments in octaves 2 to 6, whose pairs are in one split only. On the grid: eight
    degrees of the overtone scale on 200 Hz, in three octaves. `seconds` from 1.

    >>> note(5, seed=0, tuning="grid").classes
    ('1/1', '9/8', '5/4', '11/8', '3/2', '13/8', '7/4', '15/8')
    """
    return _asked("note", n, seed, seconds, sample_rate, tuning)


def interval(
    n: int,
    seed: int,
    *,
    seconds: float = 4.0,
    sample_rate: int = 32_000,
    tuning: Tuning = "equal",
) -> LabelledClips:
    """Two pitches, together or one after the other, up or down; the label is 1 to 12 semitones.

    Classes are strings, "1" to "12". Some roots (the lower pitch) are in one split only. On the
    grid: the ratios 5/4, 3/2, 7/4, 2/1. `seconds` from 2.

    >>> interval(5, seed=0, tuning="grid").held_out
    'roots 400 Hz, 800 Hz (validation) and 300 Hz, 700 Hz (test) are in no other split'
    """
    return _asked("interval", n, seed, seconds, sample_rate, tuning)


def scale(
    n: int,
    seed: int,
    *,
    seconds: float = 4.0,
    sample_rate: int = 32_000,
    tuning: Tuning = "equal",
) -> LabelledClips:
    """The seven modes, from root to octave, up or down; the label is the mode.

    Some roots are in one split only. The grid holds modes over one root and its octave only:
    there this raises InputError. `seconds` from 3.5.

    >>> scale(7, seed=0).classes[:3]
    ('ionian', 'dorian', 'phrygian')
    """
    return _asked("scale", n, seed, seconds, sample_rate, tuning)


def chord_quality(
    n: int,
    seed: int,
    *,
    seconds: float = 4.0,
    sample_rate: int = 32_000,
    tuning: Tuning = "equal",
) -> LabelledClips:
    """Triads, block or broken, in three inversions; the label is their quality.

    Major, minor, diminished or augmented. Some roots are in one split only. On the grid, over
    300, 600, 900 and 1200 Hz: 12:15:18, 12:14:18, 12:14:17, 12:15:19. `seconds` from 2.5.

    >>> sorted(set(chord_quality(40, seed=0).test.factors["root"].tolist()))
    ['A#', 'D', 'F#']
    """
    return _asked("chord_quality", n, seed, seconds, sample_rate, tuning)


def progression(
    n: int,
    seed: int,
    *,
    seconds: float = 4.0,
    sample_rate: int = 32_000,
    tuning: Tuning = "equal",
) -> LabelledClips:
    """Four triads in a key, after its tonic alone; the label is one of nineteen progressions.

    Without the tonic vi-IV-I-V would be i-VI-III-VII of the relative key. Some keys are in one
    split only. On the grid: eight progressions of I, iii and V over 200, 400, 600 and 800 Hz.
    `seconds` from 4.

    >>> progression(19, seed=0).classes[0]
    'I-IV-V-I'
    """
    return _asked("progression", n, seed, seconds, sample_rate, tuning)


def brightness(
    n: int,
    seed: int,
    *,
    seconds: float = 4.0,
    sample_rate: int = 32_000,
    tuning: Tuning = "equal",
) -> LabelledClips:
    """Pieces of music; the label is the tilt of all but the drums, -10 to +3 dB per octave.

    The pieces of `synthesis`, made at 16 kHz: nothing above 8 kHz at any rate. Splits share no
    tilt. `seconds` from 1.

    >>> brightness(50, seed=0).unit
    'dB per octave'
    """
    return _asked("brightness", n, seed, seconds, sample_rate, tuning)


def instrument(
    n: int,
    seed: int,
    *,
    seconds: float = 4.0,
    sample_rate: int = 32_000,
    tuning: Tuning = "equal",
) -> LabelledClips:
    """Pieces of music; the label is the instrument of the melody, one of twelve.

    The pieces of `synthesis`, made at 16 kHz: nothing above 8 kHz at any rate. Pairs of genre and
    key are in one split only. `seconds` from 2.

    >>> len(instrument(24, seed=0).classes)
    12
    """
    return _asked("instrument", n, seed, seconds, sample_rate, tuning)


def level(
    n: int,
    seed: int,
    *,
    seconds: float = 4.0,
    sample_rate: int = 32_000,
    tuning: Tuning = "equal",
) -> LabelledClips:
    """Pieces of music; the label is their loudness, -38 to -23 LUFS.

    The pieces of `synthesis`, made at 16 kHz: nothing above 8 kHz at any rate. Splits share no
    loudness: their bands lie 0.15 LU apart. `seconds` from 1.

    >>> level(50, seed=0).unit
    'LUFS'
    """
    return _asked("level", n, seed, seconds, sample_rate, tuning)


#: Every task by its name, so that a sweep over all of them is a loop.
TASKS: dict[str, Callable[..., LabelledClips]] = {
    function.__name__: function
    for function in (
        tempo, time_signature, note, interval, scale, chord_quality, progression, brightness,
        instrument, level,
    )
}  # fmt: skip


def on_grid() -> dict[str, str]:
    """What `tuning="grid"` holds of each task, in words; tasks that it cannot hold are left out.

    >>> on_grid()["interval"]
    'interval: 5/4, 3/2, 7/4, 2/1'
    """
    held = {}
    for task, question in QUESTIONS.items():
        if question.not_on_grid is None:
            classes = question.classes[1]
            asked = ", ".join(classes) if classes else f"the whole range, in {question.unit}"
            held[task] = f"{question.label}: {asked}"
    return held


def _asked(
    task: str, n: Any, seed: Any, seconds: Any, sample_rate: Any, tuning: Any
) -> LabelledClips:
    """Check what was asked, draw, and name what was drawn."""
    _check_draw(n, seed)
    _check_sound(task, seconds, sample_rate, tuning)
    question, grid = QUESTIONS[task], tuning == "grid"
    drawn = question.draw(Draws(n, seed, task), grid)
    classes = question.classes[grid]
    return LabelledClips(
        task=task,
        label=question.label,
        unit=question.unit,
        labels=drawn.labels,
        classes=tuple(classes) if classes else None,
        factors=drawn.factors,
        split=np.array(SPLITS)[drawn.splits],
        held_out=question.held_out[grid],
        seed=seed,
        seconds=float(seconds),
        sample_rate=sample_rate,
        tuning=tuning,
    )


def _check_draw(n: Any, seed: Any) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise InputError(f"n={n!r}: expected a whole number of clips, 1 or more.")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed={seed!r}: expected a whole number, 0 or more.")


def _check_sound(task: str, seconds: Any, sample_rate: Any, tuning: Any) -> None:
    question = QUESTIONS[task]
    if tuning not in _TUNINGS:
        raise InputError(f"tuning={tuning!r}: expected 'equal' or 'grid'.")
    if tuning == "grid" and question.not_on_grid is not None:
        raise InputError(
            f"{task!r} cannot be asked with tuning='grid': {question.not_on_grid}. Ask "
            f"{', '.join(on_grid())} there, or take tuning='equal'."
        )
    if not isinstance(sample_rate, int) or sample_rate < _LOWEST_RATE:
        raise InputError(
            f"sample_rate={sample_rate!r}: expected a whole number of Hz, {_LOWEST_RATE} at least; "
            "resample what comes out for a lower one."
        )
    if tuning == "grid" and sample_rate % (2 * _GRID_HZ):
        raise InputError(
            f"sample_rate={sample_rate}: on the grid sounds repeat every 20 and 40 ms, so expected "
            f"a multiple of {2 * _GRID_HZ} Hz, such as 16000 or 32000."
        )
    if not isinstance(seconds, int | float) or not (
        question.shortest <= seconds <= _LONGEST_SECONDS
    ):
        raise InputError(
            f"seconds={seconds!r}: {task!r} needs {question.shortest:g} to hold all that is asked, "
            f"and at most {_LONGEST_SECONDS:g}."
        )
