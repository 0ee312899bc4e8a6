"""Ways of steering compared where they bend the model as much: at equal distortion."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from audio_lens.analysis.directions import Direction
from audio_lens.analysis.statistics import median_over_prompts
from audio_lens.recipes.study.choosing import Choice
from audio_lens.recipes.study.doses import by_dose
from audio_lens.recipes.study.hearing import Hearing, Way
from audio_lens.recipes.study.settings import StudySettings
from audio_lens.recipes.study.strengths import SIGNS, strengths_at
from audio_lens.steering.distortion import at_distortion

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


_MAY_BREAK = 0.1
"""Share of clips that steering may break beyond those that fail the guard unsteered."""


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

    @property
    def tells(self) -> bool:
        """Whether any way reaches the target with hardly more broken clips than unsteered."""
        return bool(self.to_dataframe()["effect"].notna().any())

    def plot(self, unit: str = "") -> "Figure":
        """Effect over distortion, one curve per way."""
        from audio_lens.plots.study import comparison_figure

        return comparison_figure(self, unit)


def best_of_each(choice: Choice) -> list[Way]:
    """For each site, strategy and branch the candidate that reached furthest in the scan; none of
    those that left no music at any layer."""
    found: dict[tuple[str, str, str], Way] = {}
    for way in choice.scan:  # best first
        if not np.isfinite(way["reached"]):
            continue
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
        tried = strengths_at(hearing, direction, way, settings.compare_nats)
        doses = {0.0, *(dose for strengths in tried.values() for dose in strengths)}
        rows = hearing.steered(
            "real", "real", direction, way, prompts=dev, seeds=seeds,
            coefficients=sorted(doses | set(chosen if way == choice.way else ())),
        )  # fmt: skip
        heard, changes = by_dose(rows, "change")
        passed = by_dose(rows, "passed")[1] == 1
        for name, sign in SIGNS.items():
            used = still_music(heard, passed, sign)
            nats = hearing.nats(direction, way, used, settings.distortion_clips)
            effects = [_median(changes[heard == dose][0]) for dose in used]
            ways.append(Compared(way, name, tuple(used), tuple(nats.values()), tuple(effects)))
    by_sign = {sign: target[dose] for sign, dose in choice.coefficients.items()}
    return Comparison(tuple(ways), by_sign)


def still_music(
    tried: Float[np.ndarray, " coefficient"],
    passed: Bool[np.ndarray, "coefficient prompt seed"],
    sign: float,
) -> list[float]:
    """Coefficients from 0 outwards, as long as hardly more clips are broken than of the twins.

    A usable range, with its bound on the share that passes, wants more clips than are compared.
    """
    share = dict(zip(tried.tolist(), passed.mean((1, 2)).tolist(), strict=True))
    outwards = sorted((dose for dose in share if dose * sign >= 0), key=abs)
    return list(takewhile(lambda dose: share[dose] >= share[0.0] - _MAY_BREAK, outwards))


def _median(changes: np.ndarray) -> float:
    """Median over prompts of their mean over seeds, what has no value counted as no change."""
    return float(median_over_prompts(np.nan_to_num(changes)))
