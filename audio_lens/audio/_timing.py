"""What timing tasks play: strokes in a steady tempo, or bars of strokes in a meter."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ._room import reverberate
from ._strokes import Stroke, Studio, strike
from ._theory import METERS

_ROLES = {"D": 0, "B": 1, "s": 2}
#: Linear gain of downbeats, other beats and subdivisions: 0, -4 and -8 dB.
_GAINS = (1.0, 10 ** (-4 / 20), 10 ** (-8 / 20))
_JITTER_SECONDS = 0.004
_JITTER_DB = 1.0


def pattern_of(task: str, row: Mapping[str, Any]) -> str:
    """One bar of strokes: that of the meter, or a downbeat every `accent` beats of a tempo.

    >>> pattern_of("time_signature", {"label": "6/8"}), pattern_of("tempo", {"accent": 3})
    ('DssBss', 'DBB')
    """
    if task == "time_signature":
        return METERS[row["label"]]
    return "D" + "B" * (row["accent"] - 1)


def strokes(task: str, row: Mapping[str, Any], seconds: float) -> list[Stroke]:
    """All strokes of a clip, jittered by up to 4 ms and 1 dB; the first few may lie before 0 s.

    `phase` is the share of a bar that has passed when the clip starts.
    """
    rng = np.random.default_rng([row["take"], 0x7173])
    bar = pattern_of(task, row)
    step = 60 / (row["label"] if task == "tempo" else row["pace"])
    origin = -row["phase"] * len(bar) * step
    made = []
    for n in range(int((seconds - origin) / step) + 1):
        late, decibels = rng.uniform(-1, 1, 2) * (_JITTER_SECONDS, _JITTER_DB)
        role = _ROLES[bar[n % len(bar)]]
        gain = _GAINS[role] * 10 ** (decibels / 20)
        made.append(Stroke(float(origin + n * step + late), role, float(gain)))
    return made


def render(
    task: str, row: Mapping[str, Any], seconds: float, sample_rate: int, grid: bool
) -> Float[np.ndarray, " sample"]:
    """A clip of a timing task before its level is set."""
    studio = Studio(row["kit"], row["bed"], row["pitch"], sample_rate, grid, row["take"])
    dry = strike(strokes(task, row, seconds), studio, round(seconds * sample_rate))
    return reverberate(dry, sample_rate)
