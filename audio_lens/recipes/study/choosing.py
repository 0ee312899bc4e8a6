"""The choice: way of steering and coefficients, where only dev prompts and dev seeds are heard."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest

from audio_lens.analysis._pooling import Pool
from audio_lens.analysis.directions import Direction
from audio_lens.errors import InputError
from audio_lens.recipes.study.hearing import Hearing, Way, spread
from audio_lens.recipes.study.ledger import Row
from audio_lens.recipes.study.settings import StudySettings
from audio_lens.recipes.study.strengths import SIGNS, strengths_at

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

LEAST_PASSED = 0.9
"""Share of clips that must still be music."""


@dataclass(frozen=True)
class Choice:
    """What was settled on, and how it did where it was chosen."""

    way: Way
    coefficients: Mapping[str, float]
    """By sign."""
    reached: Mapping[str, float] = field(default_factory=dict)
    """Share of the prompted shift on dev prompts, by sign."""
    scan: tuple[Mapping[str, Any], ...] = ()
    """Every way that was tried, best first."""
    pool: Pool = "mean_steps"
    """How the direction was taken, which the coefficients go with."""

    def as_json(self) -> dict[str, Any]:
        """As `choice.json` keeps it."""
        return {
            **asdict(self.way),
            **dict(self.coefficients),
            "dev": {sign: _or_none(reached) for sign, reached in self.reached.items()},
            "scan": [{**way, "reached": _or_none(way["reached"])} for way in self.scan],
            "pool": self.pool,
        }

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> "Choice":
        """What `as_json` gave."""
        way = Way(**{each.name: kept[each.name] for each in fields(Way)})
        coefficients = {sign: kept[sign] for sign in SIGNS}
        dev = {sign: _or_nothing(reached) for sign, reached in kept["dev"].items()}
        scan = tuple(
            {**tried, "reached": _or_nothing(tried["reached"])} for tried in kept.get("scan", ())
        )
        return cls(way, coefficients, dev, scan, kept.get("pool", "mean_steps"))


def _or_none(reached: float) -> float | None:
    """JSON has no infinity: where clips were no longer music, nothing was reached."""
    return reached if np.isfinite(reached) else None


def _or_nothing(reached: float | None) -> float:
    return float("-inf") if reached is None else reached


def ways(lens: "AudioLens", settings: StudySettings) -> list[Way]:
    """Every candidate: strategies at their source layers, in each branch, at each site."""
    layers = spread(range(lens.cfg.n_layers), settings.scan_layers)
    return [
        Way(strategy, layer, branch, site=site)
        for site in settings.sites_of(lens)
        for strategy in settings.strategies
        for layer in ([None] if strategy == "all_to_all" else layers)
        for branch in settings.branches
    ]


def single_layers(lens: "AudioLens", settings: StudySettings) -> dict[int, Way]:
    """Each layer steered alone, in both halves, at the first site: what layers are compared by."""
    site = settings.sites_of(lens)[0]
    layers = spread(range(lens.cfg.n_layers), settings.scan_layers)
    return {layer: Way("one_to_one", layer, "both", site=site) for layer in layers}


def choose(
    hearing: Hearing,
    direction: Direction,
    prompted: Mapping[str, float],
    settings: StudySettings,
) -> Choice:
    """The way and strengths whose worse sign reaches furthest, on dev prompts.

    Clips must still be music as often as `LEAST_PASSED`; where that leaves nothing, as often as
    does not show that they are so less often: of few clips, one or two fail by chance.

    prompted: the change from neutral clips to clips prompted at each pole, by sign.
    """
    dev = hearing.concept.dev
    few = spread(dev, settings.scan_prompts)
    for sign, side in SIGNS.items():
        if not prompted[sign] * side > 0:
            raise InputError(
                f"{hearing.concept.name}: asked for in words, the poles move it by "
                f"{prompted['-']:+.2f} and {prompted['+']:+.2f} {hearing.concept.change_unit}: "
                f"sign {sign} is not audible in this model, so nothing can be chosen by it."
            )
    candidates = ways(hearing.lens, settings)

    def heard(
        way: Way, prompts: Sequence[str], nats: Sequence[float], n: int
    ) -> tuple[list[Row], Mapping[str, Sequence[float]]]:
        tried = strengths_at(hearing, direction, way, nats)
        rows = hearing.steered(
            "real", "real", direction, way, prompts=prompts, seeds=range(n),
            coefficients=[dose for doses in tried.values() for dose in doses],
        )  # fmt: skip
        return rows, tried

    least = within_chance(len(few))
    scanned = {
        way: best_strengths(*heard(way, few, settings.scan_nats, 1), prompted, least)
        for way in candidates
    }
    order = sorted(scanned, key=lambda way: worse(scanned[way]), reverse=True)
    finalists = {
        way: heard(way, dev, settings.nats, settings.dev_seeds)
        for way in order[: settings.finalists]
    }
    for least in (LEAST_PASSED, within_chance(len(dev) * settings.dev_seeds)):
        final = {way: best_strengths(*found, prompted, least) for way, found in finalists.items()}
        chosen = max(final, key=lambda way: worse(final[way]))
        if np.isfinite(worse(final[chosen])):
            break
    for sign, (dose, reached) in final[chosen].items():
        if not np.isfinite(reached) and not settings.rehearsal:  # which goes through every stage
            raise InputError(
                f"{hearing.concept.name}: nothing can be chosen. {chosen} at {dose:+g}, as every "
                f"way that was tried, leaves surely fewer than {LEAST_PASSED:.0%} of clips music "
                f"(sign {sign}). Try smaller distortions: settings with scan_nats= and nats=."
            )
    return Choice(
        chosen,
        {sign: coefficient for sign, (coefficient, _) in final[chosen].items()},
        {sign: reached for sign, (_, reached) in final[chosen].items()},
        tuple({**asdict(way), "reached": worse(scanned[way])} for way in order),
        settings.pool,
    )


def best_strengths(
    rows: Sequence[Row],
    tried: Mapping[str, Sequence[float]],
    prompted: Mapping[str, float],
    least_passed: float,
) -> dict[str, tuple[float, float]]:
    """By sign, the coefficient that reaches furthest (all of the prompted shift is enough, by as
    little as it takes), and the share of that shift."""
    found = {}
    for sign, doses in tried.items():
        reached = {
            dose: reach(_at(rows, dose), prompted[sign], least_passed=least_passed)
            for dose in doses
        }
        best = max(reached, key=lambda dose: (min(reached[dose], 1.0), -abs(dose)))
        found[sign] = best, reached[best]
    return found


def within_chance(n: int) -> float:
    """The least share of n clips that does not show that fewer than `LEAST_PASSED` pass: at the
    upper end of its Wilson interval they do."""
    highs = [binomtest(hits, n).proportion_ci(method="wilson").high for hits in range(n + 1)]
    return next(hits / n for hits, high in enumerate(highs) if high >= LEAST_PASSED)


def worse(found: Mapping[str, tuple[float, float]]) -> float:
    """What the sign that reaches less far reaches."""
    return min(reached for _, reached in found.values())


def _at(rows: Sequence[Row], coefficient: float) -> list[Row]:
    return [row for row in rows if row["coefficient"] == coefficient]


def share_passed(rows: Sequence[Mapping[str, Any]]) -> float:
    """How many clips the guard lets through."""
    return float(np.mean([not row["failed"] for row in rows]))


def reach(rows: Sequence[Row], prompted: float, *, least_passed: float = LEAST_PASSED) -> float:
    """Share of the prompted shift, towards the same side; -inf where clips are no longer music.

    Clips without a value count as no change.
    """
    if share_passed(rows) < least_passed:
        return float("-inf")
    by_prompt: dict[str, list[float]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], []).append(np.nan_to_num(row["change"]))
    return float(np.median([np.mean(changes) for changes in by_prompt.values()]) / prompted)
