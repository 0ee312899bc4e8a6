"""Maps of patching results: one panel per site, colours centred on no effect."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from audio_lens.errors import InputError

if TYPE_CHECKING:
    from audio_lens.patching.result import PatchingResult

_WHAT = ("recovery", "values", "effect")


def patching_map(result: "PatchingResult", what: str) -> Figure:
    """A heatmap of a grid with one or two axes (and sites), time in seconds along positions.

    Raises:
        InputError: another quantity, or a grid with more axes: `select` one first.
    """
    if what not in _WHAT:
        raise InputError(f"what must be one of {', '.join(map(repr, _WHAT))}, got {what!r}.")
    values = result.effect.nanmean(-1) if what == "effect" else getattr(result, what)
    axes = dict(result.axes)
    sites = axes.pop("site", None)
    if not 1 <= len(axes) <= 2:
        raise InputError(
            f"a picture has one or two axes beside site, this result has {', '.join(axes)}: pick "
            f"labels with result.select(...)."
        )
    panels = {"": values} if sites is None else dict(zip(sites, values, strict=True))
    figure = Figure(figsize=(1.2 + 4.2 * len(panels), 3.6), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    size = float(np.nanmax(np.abs(_centred(values, what, result)))) or 1.0
    for axis, (site, panel) in zip(drawn, panels.items(), strict=True):
        image = _panel(axis, _centred(panel, what, result), axes, result, size)
        axis.set_title(site or ", ".join(result.provenance.get("site", ())), fontsize="medium")
    figure.colorbar(image, ax=list(drawn), label=_label(what, result), shrink=0.9)
    return figure


def _centred(values: Any, what: str, result: "PatchingResult") -> np.ndarray:
    """Values as a distance from what no patch gives, so that white is no effect."""
    array = values.detach().cpu().numpy()
    base = result.clean if result.provenance.get("into") == "clean" else result.corrupted
    return array - float(base.nanmean()) if what == "values" else array


def _panel(
    axis: Any, values: np.ndarray, axes: dict[str, tuple[str, ...]], result: Any, size: float
) -> Any:
    names = list(axes)
    grid = values[None] if len(names) == 1 else values
    rows, columns = (None, names[0]) if len(names) == 1 else names
    image = axis.imshow(
        grid, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-size, vmax=size,
        interpolation="nearest",
    )  # fmt: skip
    _ticks(axis.xaxis, columns, axes[columns], result)
    if rows is None:
        axis.set_yticks([])
    else:
        _ticks(axis.yaxis, rows, axes[rows], result)
    return image


def _ticks(axis: Any, name: str, labels: tuple[str, ...], result: Any) -> None:
    every = max(1, -(-len(labels) // 12))
    shown = list(range(0, len(labels), every))
    rate = result.provenance.get("frame_rate")
    if name == "pos" and rate and all(label.isdigit() for label in labels):
        axis.set_ticks(shown, [f"{int(labels[n]) / rate:g}" for n in shown])
        axis.set_label_text("seconds")
        return
    axis.set_ticks(shown, [labels[n] for n in shown])
    axis.set_label_text(name)


def _label(what: str, result: "PatchingResult") -> str:
    if what == "recovery":
        return "recovery (0 corrupted, 1 clean)"
    unit = result.provenance.get("unit") or ""
    return f"change in {result.provenance.get('metric', 'metric')}" + (f" ({unit})" if unit else "")
