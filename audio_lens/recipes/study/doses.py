"""The dose-response: the frozen choice on test prompts, with statistics fixed before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from audio_lens.analysis.dose_response import (
    Curve,
    Monotone,
    UsableRange,
    curve,
    monotone,
    usable_range,
)
from audio_lens.analysis.significance import sign_flip
from audio_lens.analysis.statistics import (
    Estimate,
    bootstrap,
    estimate,
    median_over_prompts,
    resampled,
)
from audio_lens.recipes.study.choosing import Choice
from audio_lens.recipes.study.ledger import Row
from audio_lens.recipes.study.strengths import SIGNS

if TYPE_CHECKING:
    from pandas import DataFrame


def by_dose(
    rows: Sequence[Row], what: str
) -> tuple[Float[np.ndarray, " coefficient"], Float[np.ndarray, "coefficient prompt seed"]]:
    """A quantity of rows by coefficient, prompt and seed, all of them complete."""
    axes = [sorted({row[name] for row in rows}) for name in ("coefficient", "prompt", "seed")]
    places = [{value: n for n, value in enumerate(values)} for values in axes]
    found = np.full([len(values) for values in axes], np.nan)
    for row in rows:
        where = (places[0][row["coefficient"]], places[1][row["prompt"]], places[2][row["seed"]])
        found[where] = row["failed"] == "" if what == "passed" else row[what]
    return np.array(axes[0]), found


def cell(rows: Sequence[Row], dose: float, what: str) -> Float[np.ndarray, "prompt seed"]:
    """A quantity of the rows at one coefficient."""
    doses, found = by_dose(rows, what)
    return found[doses == dose][0]


def estimated(values: Float[np.ndarray, "prompt seed"]) -> dict[str, float]:
    """An exploratory effect with its interval, as columns of a table."""
    found = bootstrap(values, draws=1000)
    return {"change": found.value, "low": found.low, "high": found.high}


@dataclass(frozen=True)
class Side:
    """One sign, at the coefficient that was chosen on dev prompts."""

    coefficient: float
    effect: Estimate
    """On clips that have a value."""
    effect_with_missing: Estimate
    """With clips that have none counted as no change."""
    effect_without_suspects: Estimate
    """Without rows whose tempo is likely the tracker's jump to another level."""
    p: float
    """Of the primary test, before Holm's correction."""
    share: Estimate
    """Of the prompted shift, which is uncertain itself: its draws are in the interval."""
    usable: UsableRange
    at_edge: Estimate
    """The effect at the edge of the usable range: the headline."""
    missing: float
    """Share of clips without a value, and"""
    missing_of_twins: float
    dev_share: float
    """What was reached where it was chosen."""

    @property
    def may_be_claimed(self) -> bool:
        """Whether clips lack a value no more than ten points more often than their twins."""
        return self.missing <= self.missing_of_twins + 0.1


@dataclass(frozen=True)
class DoseResponse:
    """What turning the knob does on test prompts."""

    coefficients: Float[np.ndarray, " coefficient"]
    effect: Curve
    trends: Mapping[str, Monotone | None]
    """By sign, inside its usable range; None where that holds fewer than three doses with 0."""
    sides: Mapping[str, Side]
    table: "DataFrame"
    """One row per coefficient: clips, missing values, failures of the guard by rule, and the
    effect on clips that have a value, with missing ones as no change, and without suspects."""


def dose_response(
    rows: Sequence[Row],
    choice: Choice,
    prompted: Mapping[str, float],
    *,
    drawn_shifts: Mapping[str, Float[np.ndarray, " draw"]] | None = None,
    draws: int = 10_000,
) -> DoseResponse:
    """Effects of rows that were steered at the doses, 0 among them.

    prompted: the change from neutral test clips to clips prompted at each pole, by sign.
    drawn_shifts: the same in draws of its bootstrap; if None, it is taken to be known exactly.
    """
    doses, changes = by_dose(rows, "change")
    passed = by_dose(rows, "passed")[1] == 1
    missing = np.isnan(by_dose(rows, "value")[1])  # their own, whatever their twins have
    suspect = by_dose(rows, "suspect")[1] == 1
    sides = {}
    for sign, direction in SIGNS.items():
        at = int(np.flatnonzero(doses == choice.coefficients[sign])[0])
        edge = usable_range(doses, passed, missing, sign=direction)
        shift = prompted[sign]
        with_missing = np.nan_to_num(changes[at])
        drawn = median_over_prompts(resampled(with_missing, draws=draws, seed=0))
        if drawn_shifts is None:
            drawn = drawn / shift
        else:
            drawn = drawn / np.resize(drawn_shifts[sign], draws)
        share = estimate(float(median_over_prompts(with_missing)) / shift, drawn)
        sides[sign] = Side(
            coefficient=choice.coefficients[sign],
            effect=bootstrap(changes[at], draws=draws),
            effect_with_missing=bootstrap(with_missing, draws=draws),
            effect_without_suspects=bootstrap(
                np.where(suspect[at], np.nan, changes[at]), draws=draws
            ),
            p=sign_flip(changes[at], draws=draws),
            share=share,
            usable=edge,
            at_edge=bootstrap(changes[doses == edge.last_pass][0], draws=draws),
            missing=float(missing[at].mean()),
            missing_of_twins=float(missing[doses == 0].mean()),
            dev_share=choice.reached[sign],
        )
    trends = {}
    for sign, direction in SIGNS.items():
        reach = sides[sign].usable.last_pass * direction
        inside = (doses * direction >= 0) & (doses * direction <= reach)
        enough = inside.sum() >= 3
        trends[sign] = monotone(doses[inside], changes[inside], draws=draws) if enough else None
    return DoseResponse(doses, curve(changes, draws=draws), trends, sides, _table(rows))


def by_group(
    rows: Sequence[Row], choice: Choice, groups: Mapping[str, Sequence[str]]
) -> "DataFrame":
    """The effect at the chosen coefficients for each group of prompts apart; exploratory."""
    import pandas

    lines: list[dict[str, Any]] = []
    for name, prompts in groups.items():
        some = [row for row in rows if row["prompt"] in prompts]
        if not some:
            continue
        for sign, dose in choice.coefficients.items():
            changes = cell(some, dose, "change")
            counts = {"prompts": len(changes), "no value": float(np.isnan(changes).mean())}
            lines.append({"prompts that": name, "sign": sign, **estimated(changes), **counts})
    return pandas.DataFrame(lines)


def _effects(rows: Sequence[Row], dose: float) -> dict[str, float]:
    """The effect at a dose, however missing and doubtful rows count."""
    changes, suspect = cell(rows, dose, "change"), cell(rows, dose, "suspect") == 1
    return {
        **estimated(changes),
        "missing as none": float(median_over_prompts(np.nan_to_num(changes))),
        "without suspects": float(median_over_prompts(np.where(suspect, np.nan, changes))),
    }


def _table(rows: Sequence[Row]) -> "DataFrame":
    import pandas

    lines: list[dict[str, Any]] = []
    for dose in sorted({row["coefficient"] for row in rows}):
        at = [row for row in rows if row["coefficient"] == dose]
        failed = [rule for row in at for rule in row["failed"].split(", ") if rule]
        lines.append(
            {
                "coefficient": dose,
                "clips": len(at),
                "no value": float(np.mean(np.isnan([row["value"] for row in at]))),
                "suspect": float(np.mean([row["suspect"] for row in at])),
                "passed": float(np.mean([row["failed"] == "" for row in at])),
                **_effects(rows, dose),
                **{rule: failed.count(rule) for rule in sorted(set(failed))},
            }
        )
    table = pandas.DataFrame(lines)
    rules = {rule for row in rows for rule in row["failed"].split(", ") if rule}
    return table.fillna(dict.fromkeys(sorted(rules), 0))  # an effect that is missing stays so
