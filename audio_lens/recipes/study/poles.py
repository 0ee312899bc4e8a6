"""Whether a concept is audible at all: clips prompted at its poles, beside neutral ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from jaxtyping import Float

from audio_lens.analysis.statistics import (
    Estimate,
    bootstrap,
    estimate,
    median_over_prompts,
    resampled,
)
from audio_lens.recipes.concept import Concept
from audio_lens.recipes.study.ledger import Row
from audio_lens.recipes.study.strengths import SIGNS

_DRAWS = 10_000

Grid = Float[np.ndarray, "prompt seed"]


@dataclass(frozen=True)
class PromptedPoles:
    """Whether the poles are audible at all: what the model does when it is simply asked."""

    values: Mapping[str, Estimate]
    """Median by pole, `"+"`, `"-"` and `"neutral"`."""
    shifts: Mapping[str, float]
    """Change from neutral test clips, by sign."""
    drawn_shifts: Mapping[str, Float[np.ndarray, " draw"]]
    """The same in draws of the bootstrap, of poles and neutral clips."""
    dev_shifts: Mapping[str, float]
    """The same from neutral dev clips, by which choices are made."""
    missing: Mapping[str, float]
    """Share of clips without a value."""

    @property
    def shift_estimates(self) -> dict[str, Estimate]:
        """The shifts with their intervals."""
        return {s: estimate(shift, self.drawn_shifts[s]) for s, shift in self.shifts.items()}

    @property
    def audible(self) -> bool:
        """Whether each pole lies on its own side of neutral clips."""
        return self.shifts["+"] > 0 > self.shifts["-"]


def prompted_poles(
    rows: Mapping[str, Sequence[Row]], dev: Sequence[Row], concept: Concept
) -> PromptedPoles:
    """What is heard at the poles.

    rows: clips of `"+"` and `"-"`, and of neutral test prompts; dev: of neutral dev prompts.
    """
    grids = {name: grid(found) for name, found in rows.items()}
    values = {name: bootstrap(grid) for name, grid in grids.items()}
    among_dev = bootstrap(grid(dev), draws=1000).value

    drawn = {
        name: median_over_prompts(resampled(grid, draws=_DRAWS, seed=n))
        for n, (name, grid) in enumerate(grids.items())
    }

    def shifts(neutral: float) -> dict[str, float]:
        return {sign: concept.change(values[sign].value, neutral) for sign in SIGNS}

    return PromptedPoles(
        values=values,
        shifts=shifts(values["neutral"].value),
        drawn_shifts={
            sign: np.array(
                [concept.change(*pair) for pair in zip(drawn[sign], drawn["neutral"], strict=True)]
            )
            for sign in SIGNS
        },
        dev_shifts=shifts(among_dev),
        missing={name: float(np.isnan(grid).mean()) for name, grid in grids.items()},
    )


def grid(rows: Sequence[Row], of: Callable[[Row], float] = itemgetter("value")) -> Grid:
    """What is heard by prompt and seed; or anything else of each row."""
    by_prompt: dict[str, list[float]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], []).append(of(row))
    return np.array(list(by_prompt.values()))
