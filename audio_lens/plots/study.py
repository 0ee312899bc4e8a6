"""Pictures of a study: the dose-response with its controls, and the scan it was chosen from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from audio_lens.plots._picture import Picture
from audio_lens.plots.panels import Axis, panels

if TYPE_CHECKING:
    from audio_lens.recipes.concept import Concept
    from audio_lens.recipes.study.beside import Beside
    from audio_lens.recipes.study.choosing import Choice
    from audio_lens.recipes.study.comparing import Comparison
    from audio_lens.recipes.study.doses import DoseResponse
    from audio_lens.recipes.study.layers import LayerInfluence


def dose_figure(found: "DoseResponse", beside: Sequence["Beside"], concept: "Concept") -> Figure:
    """Effect over coefficient with its band, controls as points, what is usable left white."""
    figure = Picture(figsize=(7, 4.2), layout="constrained")
    panel = figure.subplots()
    doses, effect = found.coefficients, found.effect
    panel.axhline(0, color="0.3", linewidth=0.8)
    panel.fill_between(doses, effect.low, effect.high, alpha=0.25, label="95 %, everywhere at once")
    panel.plot(doses, effect.value, marker="o", label=concept.name)
    ends = [found.sides[sign].usable.last_pass for sign in ("-", "+")]
    for low, high in ((doses.min(), ends[0]), (ends[1], doses.max())):
        if low < high:
            panel.axvspan(low, high, color="0.9", zorder=0)
    for n, kind in enumerate(dict.fromkeys(stood.kind for stood in beside)):
        for stood in beside:
            if stood.kind == kind:
                at = np.full(len(stood.effects), found.sides[stood.sign].coefficient)
                label = kind if stood.sign == "+" else None
                panel.plot(at, stood.effects, "x", color=f"C{n + 1}", markersize=4, label=label)
    panel.set(xlabel="coefficient", ylabel=f"change from the twin ({concept.change_unit})")
    panel.legend(fontsize="small")
    return figure


def scan_figure(choice: "Choice") -> Figure:
    """Share of the prompted shift that each way reached on dev prompts: strategy by layer.

    White where clips were no longer music.
    """
    strategies = list(dict.fromkeys(way["strategy"] for way in choice.scan))
    layers = sorted({w["source_layer"] for w in choice.scan if w["source_layer"] is not None})
    titles = sorted({(way["site"], way["branch"]) for way in choice.scan}, reverse=True)
    maps = {
        f"{site}, {branch}": np.full((len(strategies), max(len(layers), 1)), np.nan)
        for site, branch in titles
    }
    for way in choice.scan:
        row, layer = strategies.index(way["strategy"]), way["source_layer"]
        place = slice(None) if layer is None else layers.index(layer)
        reached = way["reached"] if np.isfinite(way["reached"]) else np.nan
        maps[f"{way['site']}, {way['branch']}"][row, place] = reached
    return panels(
        maps,
        rows=Axis("strategy", strategies),
        columns=Axis("source layer", [str(layer) for layer in layers] or ["all"]),
        scale="reached on dev prompts (worse sign)",
    )


def layers_figure(found: "LayerInfluence") -> Figure:
    """Steering, probe and patching over layers: shares and a score, on one axis."""
    figure = Picture(figsize=(6, 3.8), layout="constrained")
    panel = figure.subplots()
    panel.axhline(0, color="0.8", linewidth=1)
    for label, values in (
        ("steered: share of the prompted shift", found.reached),
        ("probe: score, chance 0.5", found.readable),
        ("patched: recovery", found.recovery),
    ):
        panel.plot(list(values), list(values.values()), marker="o", label=label)
    shown = [layer for layer, p in found.p.items() if p <= 0.05]
    panel.plot(
        shown, [found.reached[layer] for layer in shown], "*", color="C0", markersize=12,
        label="steered up and down differ, p <= 0.05 over all layers",
    )  # fmt: skip
    panel.set(xlabel="layer", ylabel="share or score")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(frameon=False, fontsize="small")
    return figure


def comparison_figure(found: "Comparison", unit: str) -> Figure:
    """Effect over distortion, one panel per sign and one curve per way."""
    figure = Picture(figsize=(9, 3.8), layout="constrained")
    drawn = figure.subplots(1, len(found.target), sharey=True, squeeze=False)[0]
    for panel, (sign, target) in zip(drawn, found.target.items(), strict=True):
        panel.axvline(target, color="0.8", linewidth=1)
        panel.axhline(0, color="0.8", linewidth=1)
        for each in found.ways:
            if each.sign == sign:
                panel.plot(each.nats, each.effects, marker="o", markersize=4, label=str(each.way))
        panel.set(xlabel="distortion (nats per code)", title=f"sign {sign}")
    drawn[0].set_ylabel(f"change from the twin ({unit})")
    drawn[-1].legend(frameon=False, fontsize="x-small")
    return figure
