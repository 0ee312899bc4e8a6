"""Pictures of patching results: maps with colours centred on no effect, or bars; one per site."""

from typing import TYPE_CHECKING

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
    # "values" are drawn as changes too, so that white is no effect; of examples that have both.
    values = result.recovery if what == "recovery" else result.effect.nanmean(-1)
    axes = dict(result.axes)
    sites = axes.pop("site", None)
    if not 1 <= len(axes) <= 2:
        raise InputError(
            f"a picture has one or two axes beside site, this result has {', '.join(axes)}: pick "
            f"labels with result.select(...)."
        )
    shown = values.detach().cpu().numpy()
    if sites is None:
        sites, shown = (", ".join(result.provenance.get("site", ())),), shown[None]
    by_site = dict(zip(sites, shown, strict=True))
    *rows, column = (_axis(name, labels, result) for name, labels in axes.items())
    label = _label(what, result)
    if not rows:
        return bars(by_site, columns=column, scale=label)
    return panels(by_site, rows=rows[0], columns=column, scale=label, signed=True)


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
