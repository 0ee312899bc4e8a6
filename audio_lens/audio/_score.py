"""Who plays when: a recipe's labels become a list of attacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._voices import VOICES

if TYPE_CHECKING:
    from .synthesis import Recipe

BAR = 4


@dataclass(frozen=True)
class Attack:
    """One note or stroke: seconds, Hz (a multiple of 25), linear gain, envelope in seconds."""

    time: float
    voice: str
    hertz: int
    gain: float
    seconds: float
    decay: float
    rise: float = 0.005


@dataclass(frozen=True)
class Pattern:
    """A genre: beats of the bar where chords and bass attack, and the order of chords."""

    comp: tuple[float, ...]
    comp_seconds: float
    bass: tuple[int, ...]
    order: tuple[int, ...]


PATTERNS = {
    "pop": Pattern((0, 2), 0.5, (0, 2), (0, 2, 1, 2)),
    "rock": Pattern((0, 1, 2, 3), 0.18, (0, 1, 2, 3), (0, 0, 2, 1)),
    "jazz": Pattern((0, 1.667), 0.15, (0, 1, 2, 3), (1, 2, 0, 1)),
    "folk": Pattern((0, 1, 1.5, 2, 3, 3.5), 0.15, (0, 2), (0, 1, 0, 2)),
    "funk": Pattern((0, 0.75, 1.5, 2.25, 3.5), 0.08, (0,), (0, 0, 0, 1)),
    "soul": Pattern((1, 3), 0.3, (0, 3), (0, 1, 2, 1)),
    "country": Pattern((0.5, 1.5, 2.5, 3.5), 0.12, (0, 2), (0, 2, 0, 2)),
    "Latin": Pattern((0, 1.5, 3), 0.2, (0, 3), (1, 0, 1, 2)),
    "classical": Pattern((0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5), 0.12, (0,), (0, 2, 0, 1)),
    "electronic": Pattern((0.5, 1.5, 2.5, 3.5), 0.3, (1, 3), (1, 1, 0, 2)),
    "blues": Pattern((0, 0.667, 2, 2.667), 0.2, (0, 1, 2, 3), (0, 0, 1, 0)),
    "reggae": Pattern((1.5, 3.5), 0.1, (0, 2), (0, 1, 0, 1)),
}
#: Chords of three keys on the 25 Hz grid, all of pure thirds and fifths (4:5:6 or 10:12:15).
CHORDS = (
    ((200, 250, 300), (250, 300, 375), (300, 375, 450)),
    ((300, 375, 450), (400, 500, 600), (250, 300, 375)),
    ((250, 300, 375), (200, 250, 300), (300, 375, 450)),
)
#: Passing notes a melody may add to its chord.
PASSING = ((225, 300), (350, 450), (225, 375))
_JITTER_SECONDS = 0.008
_JITTER_DB = 2.0


def score(recipe: Recipe, seconds: float) -> list[Attack]:
    """All attacks of a clip, jittered by up to 8 ms and 2 dB; those before 0 s are cut later."""
    rng = np.random.default_rng([recipe.seed, 0x5C0E])
    beat = 60 / recipe.bpm
    first = -int(recipe.phase) - BAR
    n_beats = int(np.ceil(seconds / beat)) + BAR + 1 - first
    beats = np.arange(first, first + n_beats)
    origin = -(recipe.phase % 1) * beat
    bars = range((n_beats - 1) // BAR + 1)
    attacks = list(_pads(recipe, bars, origin + first * beat, beat))
    attacks += _comp(recipe, rng, bars, origin + first * beat, beat)
    attacks += _melody(recipe, rng, bars, origin + first * beat, beat)
    if recipe.drums:
        attacks += _drums(recipe, rng, (beats - first) % BAR, origin + beats * beat, beat)
        attacks += _bass(recipe, rng, bars, origin + first * beat, beat)
    return attacks


def _chord(recipe: Recipe, bar: int) -> tuple[int, int, int]:
    order = PATTERNS[recipe.genre].order
    return CHORDS[recipe.key][order[bar % len(order)]]


def _jitter(rng: np.random.Generator) -> tuple[float, float]:
    """Seconds early or late, and a gain."""
    offset, decibels = rng.uniform(-1, 1, 2) * (_JITTER_SECONDS, _JITTER_DB)
    return float(offset), float(10 ** (decibels / 20))


def _pads(recipe: Recipe, bars: range, start: float, beat: float) -> Iterator[Attack]:
    """A quiet held chord under everything: the timbre is heard between notes too."""
    for bar in bars:
        for hertz in _chord(recipe, bar):
            yield Attack(start + bar * BAR * beat, "pad", hertz, 0.22, BAR * beat, 60.0, rise=0.03)


def _comp(
    recipe: Recipe, rng: np.random.Generator, bars: range, start: float, beat: float
) -> Iterator[Attack]:
    pattern = PATTERNS[recipe.genre]
    for bar in bars:
        for position in pattern.comp:
            offset, gain = _jitter(rng)
            time = start + (bar * BAR + position) * beat + offset
            for hertz in _chord(recipe, bar):
                yield Attack(time, "comp", hertz, 0.4 * gain, pattern.comp_seconds, 0.3)


def _bass(
    recipe: Recipe, rng: np.random.Generator, bars: range, start: float, beat: float
) -> Iterator[Attack]:
    """Roots an octave down; they attack on beats only, where the kick is."""
    for bar in bars:
        root = min(_chord(recipe, bar)) // 2 // 25 * 25
        for position in PATTERNS[recipe.genre].bass:
            offset, gain = _jitter(rng)
            time = start + (bar * BAR + position) * beat + offset
            yield Attack(time, "bass", root, 0.5 * gain, min(0.4, 0.8 * beat), 0.5)


def _melody(
    recipe: Recipe, rng: np.random.Generator, bars: range, start: float, beat: float
) -> Iterator[Attack]:
    """A two-bar phrase of chord tones and passing notes that repeats with variation."""
    voice = VOICES[recipe.instrument]
    step = beat / recipe.density
    n_steps = int(2 * BAR * recipe.density)
    phrase = rng.integers(0, 8, n_steps)
    octave = 2 if recipe.register else 1
    for n in range(int(len(bars) * BAR * recipe.density)):
        degree = int(phrase[n % n_steps])
        if rng.random() < 0.2:
            degree = int(rng.integers(0, 8))
        tones = _chord(recipe, int(n / recipe.density) // BAR)
        offset, gain = _jitter(rng)
        # Degrees 0 to 5 are chord tones (the lower ones twice as often), 6 and 7 pass.
        hertz = tones[degree % 3] if degree < 6 else PASSING[recipe.key][degree - 6]
        seconds = max(min(voice.longest, step - 0.05), 0.08)
        yield Attack(
            start + n * step + offset, recipe.instrument, hertz * octave, gain, seconds,
            voice.decay, voice.rise,
        )  # fmt: skip


def _drums(
    recipe: Recipe, rng: np.random.Generator, places: np.ndarray, times: np.ndarray, beat: float
) -> Iterator[Attack]:
    """Kick on every beat with a click of fixed level, hats and snare as labelled."""
    for place, time in zip(places, times, strict=True):
        offset, gain = _jitter(rng)
        yield Attack(time + offset, "kick", 50, 1.6 * gain, 0.18, VOICES["kick"].decay)
        yield Attack(time + offset, "click", 0, 0.35, 0.015, 0.01, rise=0.002)
        if recipe.snare and place in (1, 3):
            offset, gain = _jitter(rng)
            yield Attack(time + offset, "snare", 0, 0.6 * gain, 0.12, 0.05, rise=0.003)
        for stroke in range(recipe.hats):
            offset, gain = _jitter(rng)
            late = stroke * beat / 2
            yield Attack(time + offset + late, "hat", 0, 0.3 * gain, 0.06, 0.03, rise=0.003)
