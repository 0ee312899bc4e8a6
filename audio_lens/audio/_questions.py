"""The questions that labelled clips ask: for each task its label, its factors and what is held out.

A question draws everything that is not heard as randomness: labels and splits first, then each
factor independently of both, unless the factor itself is what is held out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import synthesis, words
from ._draws import Draws, cells
from ._score import PATTERNS
from ._strokes import BEDS, KITS
from ._theory import (
    GRID_CHORD_ROOTS,
    GRID_DEGREES,
    GRID_INTERVAL_ROOTS,
    GRID_INTERVALS,
    GRID_KEYS,
    GRID_PROGRESSIONS,
    GRID_QUALITIES,
    METERS,
    MODES,
    PITCH_CLASSES,
    PROGRESSIONS,
    QUALITIES,
)
from .splits import SPLITS

Factors = dict[str, np.ndarray]

INSTRUMENTS = words.INSTRUMENTS + words.EXTRA_INSTRUMENTS
BPM = (50.0, 210.0)
#: Strokes a minute of time signatures, whatever the meter, and into how many bands they are cut.
STROKES = (290.0, 440.0)
_STROKE_BANDS = 5
#: LUFS of clips that are not asked about their level; strokes have high peaks, so they are quieter.
LEVELS = synthesis.LEVEL_RANGE
STROKE_LEVELS = (-34.0, -28.0)
#: LUFS of clips that are.
ASKED_LEVELS = (-38.0, -23.0)
#: dB per octave of notes and chords.
_TILTS = (-6.0, 0.0)
_TILT_STEPS = 128
#: Seconds of silence before the first note, at most.
LATEST_START = 0.25
#: Held-out roots are closed under major thirds: an augmented triad is its own inversion there.
_ROOTS = {
    "train": ("C", "D#", "E", "G", "G#", "B"),
    "validation": ("C#", "F", "A"),
    "test": ("D", "F#", "A#"),
}


@dataclass(frozen=True)
class Drawn:
    """Labels [clip], splits (indices) [clip], and the arrays [clip] of all other factors."""

    labels: np.ndarray
    splits: np.ndarray
    factors: Factors


@dataclass(frozen=True)
class Question:
    """What a task asks. classes: (equal, grid), None where there are none; held_out: the same.

    shortest: seconds that hold the whole figure at its slowest.
    """

    label: str
    unit: str | None
    classes: tuple[Sequence[str] | None, Sequence[str] | None]
    held_out: tuple[str, str]
    shortest: float
    draw: Callable[[Draws, bool], Drawn]
    room: str
    """The module that plays it: "tonal", "timing" or "pieces"."""
    not_on_grid: str | None = None
    """Why the grid cannot hold it, where it cannot."""


def _classed(draws: Draws, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    which, splits = draws.deal(len(classes))
    return np.array(classes)[which], splits


def _graded(draws: Draws, low: float, high: float, bands: int) -> tuple[np.ndarray, np.ndarray]:
    _, splits = draws.deal(1)
    return draws.graded(splits, low, high, bands), splits


def _hertz(*values: int) -> tuple[str, ...]:
    return tuple(f"{value} Hz" for value in values)


def _without(pool: Sequence[int], **held: tuple[int, ...]) -> dict[str, tuple[str, ...]]:
    """Pools of pitch names: what is held for a split, and the rest for training."""
    out = {value for values in held.values() for value in values}
    train = _hertz(*(value for value in pool if value not in out))
    return {"train": train, **{split: _hertz(*values) for split, values in held.items()}}


_GRID_ROOTS = {
    "interval": _without(GRID_INTERVAL_ROOTS, validation=(400, 800), test=(300, 700)),
    "chord_quality": _without(GRID_CHORD_ROOTS, validation=(1200,), test=(600,)),
    "progression": _without(GRID_KEYS, validation=(800,), test=(400,)),
}


def _roots(draws: Draws, splits: np.ndarray, grid: bool) -> np.ndarray:
    pools: Mapping[str, Sequence[str]] = _GRID_ROOTS[draws.task] if grid else _ROOTS
    return np.array(draws.pooled("root", splits, pools))


def _take(draws: Draws) -> np.ndarray:
    """A seed of its own for each clip: jitter and noise."""
    return draws.rng("take").integers(2**31, size=draws.n)


def _played(draws: Draws, slowest: float, fastest: float) -> Factors:
    """How notes are played: everything but which."""
    return {
        "instrument": draws.choice("instrument", INSTRUMENTS),
        "tilt": draws.uniform("tilt", *_TILTS),
        "pace": draws.log_uniform("pace", slowest, fastest),
        "start": draws.uniform("start", 0, LATEST_START),
        "level": draws.uniform("level", *LEVELS),
        "take": _take(draws),
    }


def _struck(draws: Draws, grid: bool) -> Factors:
    """How strokes sound: everything but when."""
    pitch = draws.choice("pitch", (1.0, 1.25, 1.5)) if grid else draws.uniform("pitch", 0.8, 1.25)
    return {
        "kit": draws.choice("kit", tuple(KITS)),
        "bed": draws.choice("bed", BEDS),
        "pitch": pitch,
        "phase": draws.uniform("phase", 0, 1),
        "level": draws.uniform("level", *STROKE_LEVELS),
        "take": _take(draws),
    }


def _tempo(draws: Draws, grid: bool) -> Drawn:
    labels, splits = _graded(draws, *BPM, bands=40)
    return Drawn(
        labels, splits, {"accent": draws.choice("accent", (1, 2, 3, 4)), **_struck(draws, grid)}
    )


def _time_signature(draws: Draws, grid: bool) -> Drawn:
    labels, splits = _classed(draws, tuple(METERS))
    pairs = draws.pooled("kit", splits, cells(tuple(KITS), range(_STROKE_BANDS)))
    band = np.array([band for _, band in pairs]) + draws.uniform("pace", 0, 1)
    slow, fast = STROKES
    held = {
        "kit": np.array([kit for kit, _ in pairs]),
        "pace": slow * (fast / slow) ** (band / _STROKE_BANDS),
    }
    return Drawn(labels, splits, {**_struck(draws, grid), **held})


def _note(draws: Draws, grid: bool) -> Drawn:
    labels, splits = _classed(draws, tuple(GRID_DEGREES) if grid else PITCH_CLASSES)
    octaves = (0, 1, 2) if grid else (2, 3, 4, 5, 6)
    pairs = draws.pooled("instrument", splits, cells(INSTRUMENTS, octaves))
    held = {
        "instrument": np.array([instrument for instrument, _ in pairs]),
        "octave": np.array([octave for _, octave in pairs]),
    }
    return Drawn(labels, splits, {**_played(draws, 60, 160), **held})


def _with_root(
    draws: Draws, splits: np.ndarray, grid: bool, octaves: tuple[int, ...], name: str = "root"
) -> Factors:
    """The root, which on the grid is a pitch and has no octave beside it."""
    root = {name: _roots(draws, splits, grid)}
    return root if grid else {**root, "octave": draws.choice("octave", octaves)}


def _interval(draws: Draws, grid: bool) -> Drawn:
    classes = tuple(GRID_INTERVALS) if grid else tuple(str(size) for size in range(1, 13))
    labels, splits = _classed(draws, classes)
    root = _with_root(draws, splits, grid, (3, 4, 5))
    style = {"style": draws.choice("style", ("together", "up", "down"))}
    return Drawn(labels, splits, {**root, **style, **_played(draws, 90, 180)})


def _scale(draws: Draws, grid: bool) -> Drawn:
    labels, splits = _classed(draws, tuple(MODES))
    root = _with_root(draws, splits, grid, (3, 4, 5))
    style = {"style": draws.choice("style", ("up", "down"))}
    return Drawn(labels, splits, {**root, **style, **_played(draws, 160, 300)})


def _chord_quality(draws: Draws, grid: bool) -> Drawn:
    labels, splits = _classed(draws, tuple(GRID_QUALITIES if grid else QUALITIES))
    root = _with_root(draws, splits, grid, (3, 4))
    style = {
        "inversion": draws.choice("inversion", (0, 1, 2)),
        "style": draws.choice("style", ("block", "broken")),
    }
    return Drawn(labels, splits, {**root, **style, **_played(draws, 90, 180)})


def _progression(draws: Draws, grid: bool) -> Drawn:
    labels, splits = _classed(draws, GRID_PROGRESSIONS if grid else tuple(PROGRESSIONS))
    key = _with_root(draws, splits, grid, (3, 4), name="key")
    style = {"inversion": draws.choice("inversion", (0, 1, 2))}
    return Drawn(labels, splits, {**key, **style, **_played(draws, 85, 140)})


def _on_steps(tilt: np.ndarray) -> np.ndarray:
    """Tilts in dB per octave, moved to the nearest that `synthesis` plays exactly."""
    low, high = synthesis.TILT_RANGE
    return low + np.round((tilt - low) / (high - low) * _TILT_STEPS) / _TILT_STEPS * (high - low)


def _piece(draws: Draws) -> Factors:
    """Every factor of a piece of music; a task replaces what it asks or holds out."""
    return {
        "bpm": draws.log_uniform("bpm", *synthesis.BPM_RANGE),
        "tilt": _on_steps(draws.uniform("tilt", *synthesis.TILT_RANGE)),
        "instrument": draws.choice("instrument", INSTRUMENTS),
        "genre": draws.choice("genre", tuple(PATTERNS)),
        "density": draws.choice("density", (0.5, 1.0, 2.0)),
        "hats": draws.choice("hats", (0, 1, 2)),
        "snare": draws.choice("snare", (False, True)),
        "drums": draws.uniform("drums", 0, 1) >= 0.1,
        "key": draws.choice("key", (0, 1, 2)),
        "register": draws.choice("register", (0, 1)),
        "phase": draws.uniform("phase", 0, 4),
        "level": draws.uniform("level", *LEVELS),
        "take": _take(draws),
    }


def _but(factors: Factors, name: str) -> Factors:
    return {key: values for key, values in factors.items() if key != name}


def _brightness(draws: Draws, grid: bool) -> Drawn:
    labels, splits = _graded(draws, *synthesis.TILT_RANGE, bands=25)
    return Drawn(_on_steps(labels), splits, _but(_piece(draws), "tilt"))


def _level(draws: Draws, grid: bool) -> Drawn:
    labels, splits = _graded(draws, *ASKED_LEVELS, bands=25)
    return Drawn(labels, splits, _but(_piece(draws), "level"))


def _instrument(draws: Draws, grid: bool) -> Drawn:
    labels, splits = _classed(draws, INSTRUMENTS)
    pairs = draws.pooled("genre", splits, cells(tuple(PATTERNS), (0, 1, 2)))
    held = {
        "genre": np.array([genre for genre, _ in pairs]),
        "key": np.array([key for _, key in pairs]),
    }
    return Drawn(labels, splits, {**_but(_piece(draws), "instrument"), **held})


def _held(kind: str, pools: Mapping[str, Sequence[str]]) -> str:
    said = " and ".join(f"{', '.join(pools[split])} ({split})" for split in SPLITS[1:])
    return f"{kind} {said} are in no other split"


def _twice(text: str) -> tuple[str, str]:
    return text, text


def _by_root(task: str, kind: str) -> tuple[str, str]:
    return _held(kind, _ROOTS), _held(kind, _GRID_ROOTS[task])


_CELLS = "pairs of {} and {}: each is in one split only"

QUESTIONS: dict[str, Question] = {
    "tempo": Question(
        "tempo", "BPM", (None, None),
        _twice("bands of 4 BPM, 1 BPM apart: of every five, three train, one validates, one tests"),
        2.5, _tempo, "timing",
    ),
    "time_signature": Question(
        "time signature", None, (tuple(METERS), tuple(METERS)),
        _twice(_CELLS.format("kit", "a fifth of the range of pace")),
        4.0, _time_signature, "timing",
    ),
    "note": Question(
        "pitch class", None, (PITCH_CLASSES, tuple(GRID_DEGREES)),
        _twice(_CELLS.format("instrument", "octave")), 1.0, _note, "tonal",
    ),
    "interval": Question(
        "interval", None, (tuple(str(size) for size in range(1, 13)), tuple(GRID_INTERVALS)),
        _by_root("interval", "roots"), 2.0, _interval, "tonal",
    ),
    "scale": Question(
        "mode", None, (tuple(MODES), None), (_held("roots", _ROOTS), ""), 3.5, _scale, "tonal",
        "with pure fourths, fifths and whole tones a mode starts on a multiple of 600 Hz, and over "
        "one root and its octave the pitches alone would tell the mode",
    ),
    "chord_quality": Question(
        "quality", None, (tuple(QUALITIES), tuple(GRID_QUALITIES)),
        _by_root("chord_quality", "roots"), 2.5, _chord_quality, "tonal",
    ),
    "progression": Question(
        "progression", None, (tuple(PROGRESSIONS), GRID_PROGRESSIONS),
        _by_root("progression", "keys"), 4.0, _progression, "tonal",
    ),
    "brightness": Question(
        "tilt", "dB per octave", (None, None),
        _twice("bands of 0.52 dB per octave, 0.1 apart: of every five, three train, one validates, "
               "one tests"),
        1.0, _brightness, "pieces",
    ),
    "instrument": Question(
        "instrument", None, (INSTRUMENTS, INSTRUMENTS), _twice(_CELLS.format("genre", "key")),
        2.0, _instrument, "pieces",
    ),
    "level": Question(
        "loudness", "LUFS", (None, None),
        _twice("bands of 0.6 LU, 0.15 LU apart: of every five, three train, one validates, one "
               "tests"),
        1.0, _level, "pieces",
    ),
}  # fmt: skip
