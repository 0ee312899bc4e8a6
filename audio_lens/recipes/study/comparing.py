"""Ways of steering compared where they bend the model as much: at equal distortion."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from audio_lens.analysis.directions import Direction
from audio_lens.analysis.dose_response import usable_range
from audio_lens.analysis.statistics import median_over_prompts
from audio_lens.recipes.study.choosing import SIGNS, Choice
from audio_lens.recipes.study.doses import by_dose
from audio_lens.recipes.study.hearing import Hearing, Way
from audio_lens.recipes.study.settings import StudySettings
from audio_lens.steering.distortion import at_distortion

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True)
class Compared:
    """One way at the coefficients of one sign that left music."""

    way: Way
    sign: str
    coefficients: tuple[float, ...]
    """From 0 outwards."""
    nats: tuple[float, ...]
    """Distortion there, per code."""
    effects: tuple[float, ...]
    """Median change there, on dev prompts."""

    def at(self, nats: float) -> float:
        """The effect at a distortion; NaN beyond what was tried."""
        if len(self.nats) < 2 or (np.diff(self.nats) <= 0).any():
            return float("nan")
        return at_distortion(np.array(self.nats), np.array(self.effects), nats)


@dataclass(frozen=True)
class Comparison:
    """Every strategy and branch, each at the layer that did best in the scan."""

    ways: tuple[Compared, ...]
    target: Mapping[str, float]
    """The distortion at which they are compared, by sign: the chosen way's own."""

    def to_dataframe(self) -> "DataFrame":
        """One row per way and sign, with the effect at the target distortion."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    **asdict(each.way),
                    "sign": each.sign,
                    "nats": self.target[each.sign],
                    "effect": each.at(self.target[each.sign]),
                    "reached up to": each.nats[-1],
                }
                for each in self.ways
            ]
        )

    def plot(self, unit: str = "") -> "Figure":
        """Effect over distortion, one curve per way."""
        from audio_lens.plots.study import comparison_figure

        return comparison_figure(self, unit)


def best_of_each(choice: Choice) -> list[Way]:
    """For each site, strategy and branch the candidate that reached furthest in the scan."""
    found: dict[tuple[str, str, str], Way] = {}
    for way in choice.scan:  # best first
        kept = {name: way[name] for name in asdict(choice.way)}
        found.setdefault((way["site"], way["strategy"], way["branch"]), Way(**kept))
    found[choice.way.site, choice.way.strategy, choice.way.branch] = choice.way
    return list(found.values())


def compare(
    hearing: Hearing, direction: Direction, choice: Choice, settings: StudySettings
) -> Comparison:
    """Effect and distortion of every strategy and branch over the strengths, on dev prompts."""
    dev, seeds = hearing.concept.dev, range(settings.compare_seeds)
    chosen = list(choice.coefficients.values())
    target = hearing.nats(direction, choice.way, chosen, settings.distortion_clips)
    ways = []
    for way in best_of_each(choice):
        doses = {0.0, *(s * dose for s in SIGNS.values() for dose in settings.compare_strengths)}
        rows = hearing.steered(
            "real", "real", direction, way, prompts=dev, seeds=seeds,
            coefficients=sorted(doses | set(chosen if way == choice.way else ())),
        )  # fmt: skip
        tried, changes = by_dose(rows, "change")
        passed = by_dose(rows, "passed")[1] == 1
        for name, sign in SIGNS.items():
            edge = usable_range(tried, passed, np.isnan(changes), sign=sign).last_pass
            used = sorted((d for d in tried.tolist() if 0 <= d * sign <= edge * sign), key=abs)
            nats = hearing.nats(direction, way, used, settings.distortion_clips)
            effects = [_median(changes[tried == dose][0]) for dose in used]
            ways.append(Compared(way, name, tuple(used), tuple(nats.values()), tuple(effects)))
    by_sign = {sign: target[dose] for sign, dose in choice.coefficients.items()}
    return Comparison(tuple(ways), by_sign)


def _median(changes: np.ndarray) -> float:
    """Median over prompts of their mean over seeds, what has no value counted as no change."""
    return float(median_over_prompts(np.nan_to_num(changes)))
