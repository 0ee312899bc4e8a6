"""How strongly a way of steering is tried: by how far it bends the model, not by coefficient.

A coefficient means another thing for every way: the same number that nudges the model at one layer
breaks it when every layer gets it. So each way is tried at the same distortions.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from audio_lens.analysis.directions import Direction

if TYPE_CHECKING:
    from audio_lens.recipes.study.hearing import Hearing, Way

SIGNS: Mapping[str, float] = {"+": 1.0, "-": -1.0}
_PROBED = (1 / 64, 1 / 16, 1 / 4, 1.0, 4.0)
"""Coefficients whose distortion is measured; others are found between them."""
_CLIPS = 4
"""On so many clips: a quarter more or less of a distortion does not matter here."""


def strengths_at(
    hearing: "Hearing", direction: Direction, way: "Way", nats: Sequence[float]
) -> dict[str, list[float]]:
    """By sign, the coefficients at which a way bends the model by so many nats per code."""
    found = {}
    for name, sign in SIGNS.items():
        doses = [sign * probed for probed in _PROBED]
        bent = hearing.nats(direction, way, doses, _CLIPS)
        sizes = (strength_for(target, [bent[dose] for dose in doses]) for target in sorted(nats))
        found[name] = [sign * size for size in dict.fromkeys(sizes)]
    return found


def strength_for(target: float, bent: Sequence[float]) -> float:
    """The coefficient at which distortion first reaches a target, given that of those probed.

    Between two of them it is taken to grow as a power, below the first as the square, as
    distortion of a small change does; the last is as far as it goes. Two digits, to be read.

    Example:
        >>> strength_for(0.04, [0.0001, 0.01, 0.16, 1.0, 2.0])
        0.12
    """
    place = next((n for n, nats in enumerate(bent) if nats >= target), None)
    if place is None:
        return _PROBED[-1]
    if place == 0:
        return _rounded(_PROBED[0] * np.sqrt(target / bent[0]))
    low, high = max(bent[place - 1], 1e-12), bent[place]
    share = np.log(target / low) / np.log(high / low)
    return _rounded(_PROBED[place - 1] * (_PROBED[place] / _PROBED[place - 1]) ** share)


def _rounded(strength: float) -> float:
    return float(f"{strength:.2g}")
