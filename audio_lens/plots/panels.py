"""Panels of coloured cells beside each other, on one scale: what all maps are drawn with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from audio_lens.plots._picture import Picture

_MOST_TICKS = 12
_MOST_CHARACTERS = 46
"""That fit side by side below a panel."""


@dataclass(frozen=True)
class Axis:
    """Labels along one side of a panel; many are thinned out."""

    name: str
    labels: Sequence[str]


def panels(
    values: Mapping[str, Float[np.ndarray, "row column"]],
    *,
    rows: Axis,
    columns: Axis,
    scale: str,
    signed: bool = False,
) -> Figure:
    """A figure with one panel per title, rows from bottom to top.

    scale: what the colours mean. signed: white is zero, red above and blue below; without it, dark
    is the least.
    """
    figure = Picture(figsize=(1.2 + 4.2 * len(values), 3.6), layout="constrained")
    drawn = figure.subplots(1, len(values), squeeze=False)[0]
    every = np.concatenate([np.ravel(panel) for panel in values.values()])
    look = _signed(every) if signed else _plain(every)
    for axis, (title, panel) in zip(drawn, values.items(), strict=True):
        image = axis.imshow(panel, aspect="auto", origin="lower", interpolation="nearest", **look)
        axis.set_title(title, fontsize="medium")
        _ticks(axis.xaxis, columns)
        _ticks(axis.yaxis, rows)
    figure.colorbar(image, ax=list(drawn), label=scale, shrink=0.9)
    return figure


def heads(
    layers: Sequence[int],
    values: Float[Tensor, "layer head column"],
    columns: Axis,
    scale: str,
    *,
    averaged: bool = False,
) -> Figure:
    """A figure with one panel per layer, heads as rows; averaged, a single one with layers."""
    if averaged:
        rows = Axis("layer", [str(layer) for layer in layers])
        panel = {"mean over heads": values.mean(1).numpy()}
        return panels(panel, rows=rows, columns=columns, scale=scale)
    return panels(
        {f"layer {n}": part.numpy() for n, part in zip(layers, values, strict=True)},
        rows=Axis("head", [str(head) for head in range(values.shape[1])]),
        columns=columns,
        scale=scale,
    )


def bars(
    values: Mapping[str, Float[np.ndarray, " column"]], *, columns: Axis, scale: str
) -> Figure:
    """A figure with one panel of bars per title, all on one scale: what has a single axis."""
    figure = Picture(figsize=(1.2 + 3.4 * len(values), 3.0), layout="constrained")
    drawn = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axis, (title, heights) in zip(drawn, values.items(), strict=True):
        axis.bar(range(len(heights)), heights, color="#b2182b")
        axis.axhline(0, color="0.3", linewidth=0.8)
        axis.set_title(title, fontsize="medium")
        _ticks(axis.xaxis, columns)
    drawn[0].set_ylabel(scale)
    return figure


def _signed(values: Float[np.ndarray, " value"]) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    size = float(np.abs(finite).max(initial=0.0)) or 1.0
    return {"cmap": "RdBu_r", "vmin": -size, "vmax": size}


def _plain(values: Float[np.ndarray, " value"]) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return {"cmap": "viridis", "vmin": low, "vmax": high if high > low else low + 1}


def _ticks(axis: Any, along: Axis) -> None:
    every = max(1, -(-len(along.labels) // _MOST_TICKS))
    if axis.axis_name == "x":
        while sum(len(label) + 1 for label in along.labels[::every]) > _MOST_CHARACTERS:
            every += 1
    shown = list(range(0, len(along.labels), every))
    axis.set_ticks(shown, [along.labels[n] for n in shown])
    axis.set_label_text(along.name)
