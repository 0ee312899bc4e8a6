"""What steering stands beside: controls of its length, other ways to the same end, side effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from audio_lens.analysis.directions import Direction
from audio_lens.analysis.significance import rank_among
from audio_lens.analysis.statistics import median_over_prompts
from audio_lens.audio.measures import change_unit, in_change_units
from audio_lens.recipes.concept import Concept
from audio_lens.recipes.study.choosing import Choice
from audio_lens.recipes.study.doses import by_dose, cell, estimated
from audio_lens.recipes.study.hearing import HEARD, Hearing
from audio_lens.recipes.study.ledger import Row
from audio_lens.recipes.study.poles import grid
from audio_lens.recipes.study.settings import StudySettings

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Beside:
    """How one sign stands among the controls of a kind."""

    kind: str
    sign: str
    effects: tuple[float, ...]
    """Median change of each control."""
    rank: int
    """Of the real direction by size; 1 is the largest."""
    p: float
    share_of_real: float
    """The 95th percentile of the controls' sizes, over the real effect's of the same clips."""
    nats: float
    """Median distortion of the controls; they are as long as the direction, not as bending."""


def control_rows(
    hearing: Hearing, made: Sequence[Direction], kind: str, choice: Choice, settings: StudySettings
) -> list[list[Row]]:
    """Clips steered by every control of a kind at the chosen coefficients, draw by draw."""
    seeds = range(settings.test_first_seed, settings.test_first_seed + settings.control_seeds)
    named = {f"{kind} {n}": control for n, control in enumerate(made)}
    rows = hearing.each_steered(
        "controls", named, choice.way, prompts=hearing.concept.test, seeds=seeds,
        coefficients=tuple(choice.coefficients.values()),
    )  # fmt: skip
    return list(rows.values())


def stand_beside(
    real: Sequence[Row],
    draws: Sequence[Sequence[Row]],
    kind: str,
    choice: Choice,
    nats: Mapping[float, float],
) -> list[Beside]:
    """Rank and p of the real direction among its controls of a kind, by sign.

    real: also of seeds that the controls did not have, which are left out.
    nats: median distortion of the controls, by coefficient.
    """
    seeds = {row["seed"] for rows in draws for row in rows}
    alike = [row for row in real if row["seed"] in seeds]
    stood = []
    for sign, dose in choice.coefficients.items():
        effect = _median(alike, dose)
        others = tuple(_median(rows, dose) for rows in draws)
        rank, p = rank_among(effect, others)
        p = p if len(others) > 1 else float("nan")  # one draw says nothing of chance
        # One that left nothing to be measured may have done anything.
        sizes = np.where(np.isnan(others), np.inf, np.abs(others))
        large = float(
            np.percentile(sizes, 95, method="higher" if np.isinf(sizes).any() else "linear")
        )
        share = large / abs(effect) if effect else float("inf")
        stood.append(Beside(kind, sign, others, rank, p, share, nats[dose]))
    return stood


def scatter(rows: Sequence[Row], concept: Concept, *, n_seeds: int, draws: int = 200) -> float:
    """How far unsteered clips of one seed lie from those of another: the 95th percentile of the
    size of the median over prompts.

    A direction that only makes other music of a prompt, and moves nothing, would scatter so.

    Args:
        rows: Twins among them, each prompt with the same seeds.
        concept: Whose change is meant.
        n_seeds: As many as controls are heard with. Where the twins hold fewer than two for each,
            the scatter of fewer is scaled by the root of their number.
        draws: Of pairings.
    """
    twins = [row for row in rows if row["coefficient"] == 0]
    _, heard = by_dose(twins, "value")
    values = heard[0]
    n_prompts, known = values.shape
    if known < 2:
        return float("nan")
    rng, n_pairs, sizes = np.random.default_rng(0), min(n_seeds, known // 2), []
    for _ in range(draws):
        dealt = rng.permuted(values, axis=1)
        pairs = zip(dealt[:, :n_pairs].flat, dealt[:, n_pairs : 2 * n_pairs].flat, strict=True)
        changes = np.array([concept.change(one, other) for one, other in pairs])
        sizes.append(abs(median_over_prompts(changes.reshape(n_prompts, -1))))
    return float(np.percentile(sizes, 95) * np.sqrt(n_pairs / n_seeds))


def beside_table(stood: Sequence[Beside]) -> "DataFrame":
    """How the direction stands among its controls, one row per kind and sign."""
    import pandas

    return pandas.DataFrame(
        [
            {
                "controls": each.kind,
                "sign": each.sign,
                "draws": len(each.effects),
                "rank": each.rank,
                "p": each.p,
                "95th percentile over the effect": each.share_of_real,
                "nats": each.nats,
            }
            for each in stood
        ]
    )


def _median(rows: Sequence[Row], dose: float) -> float:
    return float(median_over_prompts(cell(rows, dose, "change")))


def side_effects(
    rows: Sequence[Row], choice: Choice, concept: Concept, asked: Mapping[str, Sequence[Row]]
) -> "DataFrame":
    """The effect on every measure, in units of the twins' own spread, and the wanted one over it.

    The first line of each sign is the wanted effect. asked: clips prompted at the poles, by sign:
    what the words alone do, so that what belongs to the concept is not held against steering.
    """
    import pandas

    twins = [row for row in rows if row["coefficient"] == 0]
    reference = float(np.nanmedian([row["value"] for row in twins]))
    spreads = {"change": _spread([concept.change(row["value"], reference) for row in twins])}
    for name in HEARD:
        if name != concept.heard:
            spreads[f"change {name}"] = _spread([in_change_units(name, r[name]) for r in twins])
    lines: list[dict[str, Any]] = []
    for sign, dose in choice.coefficients.items():
        wanted = float("nan")
        for column, spread in spreads.items():
            found = estimated(cell(rows, dose, column))
            size = found["change"] / spread
            wanted = size if column == "change" else wanted
            measure = column.removeprefix("change").strip() or concept.heard
            lines.append(
                {
                    "sign": sign,
                    "measure": measure,
                    "unit": concept.change_unit if column == "change" else change_unit(measure),
                    **found,
                    "in spreads of twins": size,
                    "wanted over this": abs(wanted / size) if size else float("inf"),
                    "asked in words": _asked(asked[sign], twins, measure, concept),
                }
            )
    return pandas.DataFrame(lines)


def _asked(said: Sequence[Row], neutral: Sequence[Row], measure: str, concept: Concept) -> float:
    """What prompts at a pole change: the difference of medians, on the scale of its changes."""
    if measure == concept.heard:
        return concept.change(*(float(median_over_prompts(grid(rows))) for rows in (said, neutral)))

    def scaled(row: Row) -> float:
        return in_change_units(measure, row[measure])

    return float(
        median_over_prompts(grid(said, scaled)) - median_over_prompts(grid(neutral, scaled))
    )


def _spread(values: Sequence[float]) -> float:
    """Standard deviation of those that are known; NaN where that is fewer than half."""
    known = np.array(values)[np.isfinite(values)]
    return float(known.std(ddof=1)) if len(known) > max(1, len(values) / 2) else float("nan")
