"""Labelled clips whose truth is exact: music by NumPy, from independent latent factors.

Tuning is *frame-locked*: every partial is a multiple of 25 Hz with a phase tied to absolute time,
and noise repeats every 20 ms. A sustained tone is then the same waveform in every second codec
frame, so that a small codec learns it in minutes. Notes are cut from one 40 ms period, which also
makes synthesis a matter of tiling and envelopes instead of sines.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from . import words
from ._room import reverberate
from ._score import PATTERNS, Attack, score
from ._track import add, at_level, envelope
from ._voices import NOISES, VOICES, periodic_noise, voice_period

SAMPLE_RATE = 16_000
#: Samples after which every sound repeats: one period of 25 Hz.
PERIOD = SAMPLE_RATE // 25

BPM_RANGE = (60.0, 160.0)
SLOW_BPM = (60.0, 75.0)
FAST_BPM = (130.0, 160.0)
#: Tilt in dB per octave around 500 Hz at brightness 0 and 1.
TILT_RANGE = (-10.0, 3.0)
LEVEL_RANGE = (-29.0, -23.0)
#: Loudness of drums against everything tuned, in dB of RMS before the level is set.
_DRUM_BALANCE_DB = -1.0


@dataclass(frozen=True)
class Recipe:
    """The labels of one clip; together with a length they fix every sample of it.

    bpm: beats a minute. brightness: 0 (dark) to 1 (bright). density: melody notes a beat (0.5,
    1, 2). hats: strokes a beat (0, 1, 2). level: LUFS. key: 0 to 2, register: 0 or 1 (an octave
    up). phase: beats of the four-beat bar that have passed when the clip starts. template counts
    through `words.all_templates()`.
    """

    seed: int
    bpm: float
    brightness: float
    instrument: str
    genre: str
    density: float
    hats: int
    snare: bool
    drums: bool
    level: float
    key: int
    register: int
    phase: float
    template: int
    tempo_word: str | None = None
    timbre_word: str | None = None

    @property
    def caption(self) -> str:
        """The text that describes this clip."""
        return words.caption(
            self.instrument, self.genre, self.template, self.tempo_word, self.timbre_word
        )


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _draw_word(rng: np.random.Generator, concept: str) -> tuple[str | None, int]:
    """A word of the concept and its pole (0 positive, 1 negative), or (None, -1): half each."""
    named, pair, pole = rng.random() < 0.5, int(rng.integers(10)), int(rng.integers(2))
    return (words.pairs(concept)[pair][pole], pole) if named else (None, -1)


def _draw_template(rng: np.random.Generator, instrument: str, genre: str, drums: bool) -> int:
    """A template that says the truth about drums and is not held out for this combination."""
    n_drums, n_plain = len(words.TEMPLATES), len(words.PLAIN_TEMPLATES)
    n_silent, n_all = n_drums + n_plain, len(words.all_templates())
    first_free = n_silent + len(words.DRUMLESS_TEMPLATES)
    if not drums:
        return int(rng.integers(n_silent, first_free))
    # Half of the captions name drums; the rest are split between plain and free word order.
    kind = rng.random()
    if kind < 0.5:
        allowed = [t for t in range(n_drums) if not words.is_held_out(instrument, genre, t)]
        return int(rng.choice(allowed))
    return int(rng.integers(n_drums, n_silent) if kind < 0.8 else rng.integers(first_free, n_all))


def draw(seed: int) -> Recipe:
    """Draw the independent factors of one clip, caption included.

    A quarter of captions each name tempo and timbre, tempo only, timbre only, neither; a named
    pole draws its own end of the range, an unnamed factor the whole range.

    >>> recipe = draw(7)
    >>> 60 <= recipe.bpm <= 160
    True
    """
    rng = np.random.default_rng([seed, 0xC11F])
    tempo_word, tempo_pole = _draw_word(rng, "tempo")
    timbre_word, timbre_pole = _draw_word(rng, "timbre")
    bounds = {0: FAST_BPM, 1: SLOW_BPM, -1: BPM_RANGE}[tempo_pole]
    shades = {0: (5 / 6, 1.0), 1: (0.0, 1 / 6), -1: (0.0, 1.0)}[timbre_pole]
    instrument = str(rng.choice(words.INSTRUMENTS + words.EXTRA_INSTRUMENTS))
    genre = str(rng.choice(words.GENRES + words.EXTRA_GENRES))
    drums = bool(rng.random() >= 0.1)
    return Recipe(
        seed=seed,
        bpm=_log_uniform(rng, bounds),
        brightness=float(rng.uniform(*shades)),
        instrument=instrument,
        genre=genre,
        density=float(rng.choice([0.5, 1.0, 2.0])),
        hats=int(rng.integers(3)),
        snare=bool(rng.random() < 0.5),
        drums=drums,
        level=float(rng.uniform(*LEVEL_RANGE)),
        key=int(rng.integers(3)),
        register=int(rng.integers(2)),
        phase=float(rng.uniform(0, 4)),
        template=_draw_template(rng, instrument, genre, drums),
        tempo_word=tempo_word,
        timbre_word=timbre_word,
    )


def with_labels(recipe: Recipe, **labels: Any) -> Recipe:
    """The same piece with some labels changed (a twin): `with_labels(recipe, bpm=120.0)`.

    The caption's words are kept as they are: drop them where the new labels contradict them.
    """
    return replace(recipe, **labels)


@lru_cache(maxsize=4096)
def _period(voice: str, hertz: int, tilt_db: float) -> Float[np.ndarray, " period"]:
    return voice_period(VOICES[voice], hertz, tilt_db, PERIOD, SAMPLE_RATE)


@lru_cache(maxsize=8)
def _noise(name: str) -> Float[np.ndarray, " period"]:
    return periodic_noise(NOISES[name], PERIOD, SAMPLE_RATE)


def _place(
    track: Float[np.ndarray, " sample"], attack: Attack, period: Float[np.ndarray, " period"]
) -> None:
    """Add one attack to the track, its waveform read off absolute time."""

    def sound(first: int, n: int) -> Float[np.ndarray, " sample"]:
        return np.resize(np.roll(period, -(first % PERIOD)), n)

    curve = attack.gain * envelope(attack.seconds, attack.rise, attack.decay, SAMPLE_RATE)
    add(track, round(attack.time * SAMPLE_RATE), curve, sound)


def _mix(tuned: np.ndarray, drums: np.ndarray) -> Float[np.ndarray, " sample"]:
    """Sum the two buses at a fixed balance, so that neither hides the other in any genre."""
    rms = [float(np.sqrt(np.mean(bus**2))) for bus in (tuned, drums)]
    if not rms[1]:
        return tuned
    return tuned / max(rms[0], 1e-9) + drums / rms[1] * 10 ** (_DRUM_BALANCE_DB / 20)


def render(recipe: Recipe, seconds: float = 10.0) -> Float[np.ndarray, " sample"]:
    """Synthesise the clip of a recipe: float32 mono at `SAMPLE_RATE` (16 kHz).

    The level is set by loudness (LUFS); true peaks stay below -1 dBFS, which costs the loudest
    clips some level. Raises ValueError for a length under half a second or a label out of range.

    >>> audio = render(draw(0), seconds=2.0)
    >>> audio.shape, audio.dtype.name
    ((32000,), 'float32')
    """
    _check(recipe, seconds)
    low, high = TILT_RANGE
    # Rounded so that clips share cached periods; a 128th of the range is far below hearing.
    tilt = low + (high - low) * round(recipe.brightness * 128) / 128
    buses = np.zeros((2, round(seconds * SAMPLE_RATE)))
    for attack in score(recipe, seconds):
        if attack.voice in NOISES:
            _place(buses[1], attack, _noise(attack.voice))
        elif attack.voice == "kick":
            _place(buses[1], attack, _period("kick", attack.hertz, 0.0))
        else:
            _place(buses[0], attack, _period(attack.voice, attack.hertz, tilt))
    return at_level(reverberate(_mix(*buses), SAMPLE_RATE), recipe.level, SAMPLE_RATE)


def _check(recipe: Recipe, seconds: float) -> None:
    if not 0.5 <= seconds <= 600:
        raise ValueError(f"seconds={seconds} is out of range: expected 0.5 to 600")
    if not 20 <= recipe.bpm <= 400:
        raise ValueError(f"bpm={recipe.bpm} is out of range: expected 20 to 400")
    if not 0 <= recipe.brightness <= 1:
        raise ValueError(f"brightness={recipe.brightness} is out of range: expected 0 to 1")
    if recipe.instrument not in VOICES:
        known = words.INSTRUMENTS + words.EXTRA_INSTRUMENTS
        raise ValueError(f"no voice for {recipe.instrument!r}: expected one of {sorted(known)}")
    if recipe.genre not in PATTERNS:
        raise ValueError(f"no pattern for {recipe.genre!r}: expected one of {sorted(PATTERNS)}")
