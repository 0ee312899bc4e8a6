"""Pictures of probe sweeps: curves over layers beside their baselines, maps of heads."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from audio_lens.plots._picture import Picture
from audio_lens.plots.panels import Axis, panels

if TYPE_CHECKING:
    from pandas import DataFrame

    from audio_lens.analysis.probe_sweep import ProbeSweep


def layer_curves(found: "ProbeSweep", beside: Mapping[str, "ProbeSweep"]) -> Figure:
    """One panel per site: score with its interval, shuffled labels, what needs no activation."""
    sites = found.sites()
    figure = Picture(figsize=(4.6 * len(sites), 3.6), layout="constrained")
    for panel, site in zip(figure.subplots(1, len(sites), squeeze=False)[0], sites, strict=True):
        _curve(panel, found, site, "probe", "C0")
        for n, (name, other) in enumerate(beside.items(), start=1):
            _curve(panel, other, site, name, f"C{n}")
        probes = found.curve(site)
        layers = list(probes)
        shuffled = [probe.baselines["shuffled"] for probe in probes.values()]
        panel.fill_between(
            layers, [e.low for e in shuffled], [e.high for e in shuffled], color="0.8",
            label="shuffled labels",
        )  # fmt: skip
        plain = "chance" if "chance" in probes[layers[0]].baselines else "mean"
        level = probes[layers[0]].baselines[plain].value
        panel.axhline(level, color="0.3", linestyle=":", label=plain)
        panel.set(title=f"{found.label} at {site}", xlabel="layer", ylabel=_measure(found))
        panel.legend(fontsize="small")
    return figure


def _curve(panel: Any, sweep: "ProbeSweep", site: str, name: str, color: str) -> None:
    probes = sweep.curve(site)
    scores = [probe.score for probe in probes.values()]
    panel.plot(list(probes), [s.value for s in scores], marker="o", color=color, label=name)
    panel.fill_between(
        list(probes), [s.low for s in scores], [s.high for s in scores], alpha=0.2, color=color
    )


def tasks_figure(probes: "DataFrame") -> Figure:
    """One panel per task: a site's scores over layers, the same sites with random weights dashed,
    labels shuffled dotted.

    probes: as `audio_lens.recipes.probing.write` keeps them, in `probes.csv`.
    """
    tasks, sites = list(probes["task"].unique()), list(probes["site"].unique())
    n_rows = -(-len(tasks) // _PANELS_IN_A_ROW)
    figure = Picture(figsize=(4 * _PANELS_IN_A_ROW, 3 * n_rows), layout="constrained")
    drawn = figure.subplots(n_rows, _PANELS_IN_A_ROW, squeeze=False, sharex=True).flat
    for panel, task in zip(drawn, tasks, strict=False):
        of_task = probes[probes["task"] == task]
        for n, site in enumerate(sites):
            here = of_task[of_task["site"] == site]
            model, random = (here[here["weights"] == name] for name in ("model", "random"))
            panel.plot(model["layer"], model["score"], marker="o", color=f"C{n}", label=site)
            panel.fill_between(
                model["layer"], model["low"], model["high"], color=f"C{n}", alpha=0.15
            )
            panel.plot(random["layer"], random["score"], "--", color=f"C{n}")
        model = of_task[of_task["weights"] == "model"]
        graded = model["mean"].notna().all() if "mean" in model else False
        shuffled = model.groupby("layer")["shuffled"].mean().clip(lower=-_LEAST_SHOWN)
        panel.plot(shuffled.index, shuffled, ":", color="0.3")
        panel.set(title=task, ylabel="R squared" if graded else "accuracy", xlabel="layer")
        panel.set_ylim(bottom=-_LEAST_SHOWN if graded else 0, top=1.05)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in list(figure.axes)[len(tasks) :]:
        panel.remove()
    figure.axes[0].legend(fontsize="small")
    return figure


_PANELS_IN_A_ROW = 3
_LEAST_SHOWN = 0.2
"""Below this an R squared only says that nothing was read."""


def part_map(found: "ProbeSweep") -> Figure:
    """Layers by heads (or codebooks), one panel per site."""
    layers = sorted({layer for _, layer, _ in found.probes})
    maps = {site: found.parts(site) for site in found.sites()}
    n_parts = next(iter(maps.values())).shape[1]
    return panels(
        maps,
        rows=Axis("layer", [str(n) for n in layers]),
        columns=Axis(found.by or "part", [str(n) for n in range(n_parts)]),
        scale=f"{_measure(found)}, {found.label}",
    )


def _measure(found: "ProbeSweep") -> str:
    graded = next(iter(found.probes.values())).classes is None
    return "R squared" if graded else "accuracy"
