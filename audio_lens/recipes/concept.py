"""A concept: two poles with matched prompts, and the measure that hears the difference."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import spectral_centroid
from audio_lens.audio.words import pole_prompts
from audio_lens.errors import InputError


@dataclass(frozen=True)
class Concept:
    """What is steered, and how it is heard."""

    name: str
    positive: tuple[str, ...]
    """Prompts of the pole that directions point to."""
    negative: tuple[str, ...]
    """The same prompts with the other pole's word."""
    measure: Callable[[Any, int], float]
    """`(audio, sample_rate) -> value`, NaN where there is nothing to hear."""
    unit: str
    change_unit: str
    per_doubling: float
    """How many of `change_unit` a doubling of the value is."""
    poles: tuple[str, str]
    """What a listener would call the two ends, negative first."""

    def change(self, value: float, twin: float) -> float:
        """How far a steered clip moved from its unsteered twin, never folded."""
        return float(self.per_doubling * np.log2(value / twin))


def _tempo() -> Concept:
    prompts = pole_prompts("tempo")
    return Concept(
        name="tempo",
        positive=prompts.positive,
        negative=prompts.negative,
        measure=pulse_bpm,
        unit="BPM",
        change_unit="octaves",
        per_doubling=1.0,
        poles=("slower", "faster"),
    )


def _timbre() -> Concept:
    prompts = pole_prompts("timbre")
    return Concept(
        name="timbre",
        positive=prompts.positive,
        negative=prompts.negative,
        measure=spectral_centroid,
        unit="Hz",
        change_unit="semitones",
        per_doubling=12.0,
        poles=("darker", "brighter"),
    )


_CONCEPTS = {"tempo": _tempo, "timbre": _timbre}


def concept(name: str) -> Concept:
    """The concept of that name: `"tempo"` or `"timbre"`.

    Example:
        >>> concept("tempo").unit
        'BPM'
    """
    if name not in _CONCEPTS:
        raise InputError(f"no concept {name!r}: there are {', '.join(map(repr, _CONCEPTS))}.")
    return _CONCEPTS[name]()
