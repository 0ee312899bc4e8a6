"""Pictures of patching results: maps with colours centred on no effect, or bars; one per site."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from audio_lens.errors import InputError
from audio_lens.plots.panels import Axis, bars, panels

if TYPE_CHECKING:
    from audio_lens.patching.result import PatchingResult

_WHAT = ("recovery", "values", "effect")


def patching_map(result: "PatchingResult", what: str) -> Figure:
    """A map of a grid with two axes, bars of one with one; time in seconds along positions.

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
    centred = _centred(values, what, result)
    if sites is None:
        sites, centred = (", ".join(result.provenance.get("site", ())),), centred[None]
    by_site = dict(zip(sites, centred, strict=True))
    *rows, column = (_axis(name, labels, result) for name, labels in axes.items())
    label = _label(what, result)
    if not rows:
        return bars(by_site, columns=column, scale=label)
    return panels(by_site, rows=rows[0], columns=column, scale=label, signed=True)


def _centred(values: Any, what: str, result: "PatchingResult") -> np.ndarray:
    """Values as a distance from what no patch gives, so that white is no effect."""
    array = values.detach().cpu().numpy()
    base = result.clean if result.provenance.get("into") == "clean" else result.corrupted
    return array - float(base.nanmean()) if what == "values" else array


def _axis(name: str, labels: tuple[str, ...], result: "PatchingResult") -> Axis:
    rate = result.provenance.get("frame_rate")
    if name == "pos" and rate and all(label.isdigit() for label in labels):
        return Axis("seconds", [f"{int(label) / rate:g}" for label in labels])
    return Axis(name, labels)


def _label(what: str, result: "PatchingResult") -> str:
    if what == "recovery":
        return "recovery (0 corrupted, 1 clean)"
    unit = result.provenance.get("unit") or ""
    return f"change in {result.provenance.get('metric', 'metric')}" + (f" ({unit})" if unit else "")
