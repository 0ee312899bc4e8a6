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
from audio_lens.analysis.statistics import Estimate, bootstrap
from audio_lens.recipes.study.choosing import SIGNS, Choice
from audio_lens.recipes.study.ledger import Row

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
    """Of the prompted shift."""
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
    trend: Monotone | None
    """Inside the usable range of both signs; None where that holds fewer than three doses."""
    sides: Mapping[str, Side]
    table: "DataFrame"
    """One row per coefficient: clips, missing values, failures of the guard by rule."""


def dose_response(
    rows: Sequence[Row], choice: Choice, prompted: Mapping[str, float], *, draws: int = 10_000
) -> DoseResponse:
    """Effects of rows that were steered at the doses, 0 among them.

    prompted: the change from neutral test clips to clips prompted at each pole, by sign.
    """
    doses, changes = by_dose(rows, "change")
    passed = by_dose(rows, "passed")[1] == 1
    missing = np.isnan(changes)
    suspect = by_dose(rows, "suspect")[1] == 1
    sides = {}
    for sign, direction in SIGNS.items():
        at = int(np.flatnonzero(doses == choice.coefficients[sign])[0])
        edge = usable_range(doses, passed, missing, sign=direction)
        shift = prompted[sign]
        with_missing = np.nan_to_num(changes[at])
        share = bootstrap(with_missing / shift, draws=draws)
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
    ends = [sides[sign].usable.last_pass for sign in ("-", "+")]
    inside = (doses >= ends[0]) & (doses <= ends[1])
    trend = monotone(doses[inside], changes[inside], draws=draws) if inside.sum() >= 3 else None
    return DoseResponse(doses, curve(changes, draws=draws), trend, sides, _table(rows))


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
                "no value": float(np.mean(np.isnan([row["change"] for row in at]))),
                "suspect": float(np.mean([row["suspect"] for row in at])),
                "passed": float(np.mean([row["failed"] == "" for row in at])),
                **{rule: failed.count(rule) for rule in sorted(set(failed))},
            }
        )
    return pandas.DataFrame(lines).fillna(0)
