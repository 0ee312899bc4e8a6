"""Tasks over whole pieces of music: a row of factors becomes a piece of `synthesis`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from . import synthesis
from .waveform import resampled

#: Any template that names neither drums nor a pole: captions are not heard.
_TEMPLATE = 5


def brightness_of(tilt: float) -> float:
    """The brightness, 0 to 1, of a tilt in dB per octave.

    >>> brightness_of(-10.0), brightness_of(3.0)
    (0.0, 1.0)
    """
    low, high = synthesis.TILT_RANGE
    return min(max((tilt - low) / (high - low), 0.0), 1.0)


def recipe_of(task: str, row: Mapping[str, Any]) -> synthesis.Recipe:
    """The recipe of a row, whose label stands for the factor that the task asks about."""
    asked = {"brightness": "tilt"}.get(task, task)
    labels = {**row, asked: row["label"]}
    return synthesis.Recipe(
        seed=labels["take"],
        brightness=brightness_of(labels["tilt"]),
        template=_TEMPLATE,
        **{
            name: labels[name]
            for name in (
                "bpm", "instrument", "genre", "density", "hats", "snare", "drums", "level", "key",
                "register", "phase",
            )
        },
    )  # fmt: skip


def render(
    task: str, row: Mapping[str, Any], seconds: float, sample_rate: int, grid: bool
) -> Float[np.ndarray, " sample"]:
    """A clip of music before its level is set, on the grid in every tuning.

    It is made at 16 kHz and holds nothing above 8 kHz at any rate.
    """
    made = synthesis.render(recipe_of(task, row), seconds).astype(float)
    if sample_rate == synthesis.SAMPLE_RATE:
        return made
    made = resampled(made, synthesis.SAMPLE_RATE, sample_rate)
    n = round(seconds * sample_rate)
    return np.pad(made[:n], (0, max(0, n - len(made))))
