"""Curves: what a coefficient does to what is heard, and how soon a direction stands."""

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from audio_lens.analysis.statistics import bootstrap
from audio_lens.plots._picture import Picture

if TYPE_CHECKING:
    from audio_lens.analysis.stability import Stability
    from audio_lens.recipes.demo import Outcome


def dose_response(outcome: "Outcome") -> Figure:
    """A concept's median change with its interval, random directions beside it."""
    figure = Picture(figsize=(5.2, 4), layout="constrained")
    panel, concept = figure.subplots(), outcome.concept
    cells = [bootstrap(outcome.grid("change", "real", c)) for c in outcome.coefficients]
    values = [cell.value for cell in cells]
    panel.axhline(0, color="0.8", linewidth=1)
    panel.fill_between(
        outcome.coefficients,
        [cell.low for cell in cells],
        [cell.high for cell in cells],
        alpha=0.2,
        linewidth=0,
    )
    panel.plot(outcome.coefficients, values, marker="o", label="direction (median, 95 % band)")
    outer = (outcome.coefficients[0], outcome.coefficients[-1])
    names = sorted({row.direction for row in outcome.rows if row.direction != "real"})
    for index, name in enumerate(names):
        changes = [bootstrap(outcome.grid("change", name, c), draws=1).value for c in outer]
        label = "random, same length" if index == 0 else None
        panel.plot(outer, changes, "x", color="0.4", label=label)
    panel.set_title(f"{concept.name}: {outcome.choice.way}", fontsize="medium")
    panel.set_xlabel("coefficient")
    panel.set_ylabel(f"change from the unsteered twin ({concept.change_unit})")
    panel.legend(frameon=False, fontsize="small")
    return figure


def stability_curves(found: "Stability") -> Figure:
    """One curve per site and layer, with the middle 95 % of draws."""
    figure = Picture(figsize=(5.2, 3.8), layout="constrained")
    axis = figure.subplots()
    for key in found.cosines:
        low, middle, high = found.interval(key).T
        axis.plot(found.sizes, middle, marker="o", label=f"{key[0]} {key[1]}")
        axis.fill_between(found.sizes, low, high, alpha=0.15)
    axis.set(xlabel="pairs of prompts", ylabel="cosine with the others' direction")
    axis.set(ylim=(min(0.0, axis.get_ylim()[0]), 1.02))
    axis.legend(frameon=False, fontsize="small")
    return figure
