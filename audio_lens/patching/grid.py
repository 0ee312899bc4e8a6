"""The cells of a patching grid: which sites each writes, and where in their tensors."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, product
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from audio_lens.errors import InputError, SiteError
from audio_lens.lens.run import check_branch
from audio_lens.lens.sites import TIMES, Site

if TYPE_CHECKING:
    from audio_lens.audio.clip import Clip
    from audio_lens.lens.lens import AudioLens

AXES = ("layer", "pos", "head", "codebook", "text_token", "branch")
#: The axis of a site's tensor that each axis of a grid runs along.
_TENSOR_AXES = {
    "pos": (*TIMES, "query"),
    "head": ("head",),
    "codebook": ("codebook",),
    "text_token": ("token",),
}

#: What stands for a whole block in place of a site.
BLOCK = "block"
_WRITERS = ("attn_out", "cross_attn_out", "mlp_out")

Groups = Mapping[str, range]
"""Ranges of positions by label, in order."""
Positions = int | Groups | Callable[["AudioLens", int], Groups] | None
"""How positions are grouped: one by one (None), so many at a time, by label, or by a function of
the lens and the number of positions, such as `every_seconds(0.5)`."""


def every_seconds(seconds: float) -> Callable[["AudioLens", int], Groups]:
    """Positions grouped by time: labels are the seconds at which a group starts.

    Example:
        >>> grouped = every_seconds(0.5)
    """
    if not seconds > 0:
        raise InputError(f"every_seconds({seconds}): expected more than 0 seconds.")

    def groups(lens: "AudioLens", n_positions: int) -> Groups:
        size = max(1, round(seconds * lens.cfg.frame_rate))
        starts = range(0, n_positions, size)
        return {
            f"{start / lens.cfg.frame_rate:g} s": range(start, min(start + size, n_positions))
            for start in starts
        }

    return groups


def beats_of(clip: "Clip") -> Callable[["AudioLens", int], Groups]:
    """Positions grouped by the beats heard in a clip; what comes before the first is `upbeat`.

    Raises:
        InputError: no beat is heard in it.
    """
    from audio_lens.audio.beat import beat_times

    times = beat_times(clip.samples, clip.sample_rate)
    if len(times) < 2:
        raise InputError("no beat is heard in this clip: group positions by seconds instead.")

    def groups(lens: "AudioLens", n_positions: int) -> Groups:
        starts = [round(float(time) * lens.cfg.frame_rate) for time in times]
        edges = [0, *[s for s in starts if 0 < s < n_positions], n_positions]
        labels = ["upbeat", *(f"beat {n}" for n in range(1, len(edges)))]
        if starts and starts[0] == 0:
            labels = labels[1:]
        spans = [range(start, stop) for start, stop in pairwise(edges)]
        return dict(zip(labels, spans, strict=False))

    return groups


def as_layers(layers: Any) -> int | tuple[int, ...] | None:
    """Layers as they are kept: NumPy's and torch's whole numbers too, and what is iterated once."""
    if layers is None:
        return None
    try:
        return operator.index(layers)
    except TypeError:
        return tuple(map(operator.index, layers))


def group_positions(lens: "AudioLens", positions: Positions, n_positions: int) -> Groups:
    """Labelled ranges of positions.

    Raises:
        InputError: a range that is empty or reaches past the end.
    """
    if positions is None:
        positions = 1
    if isinstance(positions, Integral):
        positions = int(positions)
        if positions < 1:
            raise InputError(f"positions={positions}: groups need at least one position.")
        step = positions
        positions = {
            str(start): range(start, min(start + step, n_positions))
            for start in range(0, n_positions, step)
        }
    if not isinstance(positions, Mapping) and not callable(positions):
        raise InputError(
            f"positions={positions!r}: expected how many at a time, every_seconds(0.5), "
            f"beats_of(clip), or ranges by label."
        )
    groups = positions if isinstance(positions, Mapping) else positions(lens, n_positions)
    if not groups:
        raise InputError("positions={}: give at least one range by label.")
    for label, span in groups.items():
        if (
            not isinstance(span, range)
            or span.step != 1
            or len(span) == 0
            or (span.start < 0 or span.stop > n_positions)
        ):
            raise InputError(
                f"position group {label!r} is {span}: expected a range of positions within 0 to "
                f"{n_positions} (frames plus the delay ramp)."
            )
    return {str(label): span for label, span in groups.items()}


@dataclass(frozen=True, eq=False)
class Cell:
    """One patch: the sites it writes and where."""

    sites: tuple[Site, ...]
    branch: str
    where: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Indices by axis of the grid; an axis that is not there is written whole."""

    @property
    def first_position(self) -> int | None:
        """The first position of the music that it writes; None if it writes the prefix too."""
        return min(self.where["pos"]) if "pos" in self.where else None

    def index(self, site: Site, n_prefix: int, first: int = 0) -> tuple[Any, ...]:
        """What it writes of a row's tensor at a site, as an index.

        Args:
            site: One of `sites`.
            n_prefix: Positions in front of the music on the site's `pos` axis.
            first: The position at which the tensor begins.
        """
        index: list[Any] = [slice(None)] * (len(site.axes) - 1)
        for name, chosen in self.where.items():
            dim, axis = tensor_axis(site, name)
            shift = (n_prefix if axis != "audio_pos" else 0) - first if name == "pos" else 0
            index[dim - 1] = slice(min(chosen) + shift, max(chosen) + 1 + shift)
        return tuple(index)


def tensor_axis(site: Site, name: str) -> tuple[int, str]:
    """Where a grid's axis lies in a site's tensor.

    Raises:
        SiteError: the site has no such axis.
    """
    for axis in _TENSOR_AXES[name]:
        if axis in site.axes:
            return site.axes.index(axis), axis
    raise SiteError(
        f"{site.shorthand} has no {name!r} axis, its tensors are [{' '.join(site.axes)}]: leave "
        f"{name!r} out of axes, or take another site."
    )


@dataclass(frozen=True, eq=False)
class Grid:
    """All cells, in the order of the axes' labels."""

    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every site that some cell writes."""
        return tuple(dict.fromkeys(site for cell in self.cells for site in cell.sites))

    @property
    def shape(self) -> tuple[int, ...]:
        """How many labels each axis has."""
        return tuple(map(len, self.axes.values()))

    def labels(self, place: int) -> dict[str, str]:
        """The labels of a cell."""
        where = np.unravel_index(place, self.shape)
        return {name: along[n] for (name, along), n in zip(self.axes.items(), where, strict=True)}


def build_grid(
    lens: "AudioLens",
    site: str | Sequence[str],
    axes: Sequence[str],
    *,
    layers: int | Iterable[int] | None,
    positions: Positions,
    n_positions: int,
    n_tokens: int,
    branch: str,
) -> Grid:
    """The cells of a grid, checked.

    Raises:
        InputError: unknown or repeated axes, or groups of positions that do not fit.
        SiteError: sites that cannot be written, or lack an axis.
    """
    names = (site,) if isinstance(site, str) else tuple(site)
    layers = as_layers(layers)
    _check_axes(axes, names)
    if positions is not None and "pos" not in axes:
        raise InputError('positions= groups the axis "pos", which axes do not have.')
    families = {name: writable(lens, name, layers, branch) for name in names}
    for sites in families.values():
        for axis in axes:
            if axis in _TENSOR_AXES:
                tensor_axis(sites[0], axis)
    labels, choices = {}, []
    for axis in axes:
        options = _options(lens, axis, families, positions, n_positions, n_tokens, branch)
        labels[axis] = tuple(options)
        choices.append([(axis, choice) for choice in options.values()])
    cells = [
        _cell(sites, dict(chosen), branch)
        for sites in families.values()
        for chosen in product(*choices)
    ]
    if len(names) > 1:
        labels = {"site": names, **labels}
    return Grid(labels, tuple(cells))


def _check_axes(axes: Sequence[str], names: Sequence[str]) -> None:
    if isinstance(axes, str) or not names:
        raise InputError("axes and sites are given as lists: axes=('layer', 'pos').")
    for axis in axes:
        if axis not in AXES:
            raise InputError(f"no axis {axis!r}: expected some of {', '.join(AXES)}.")
    for given, what in ((axes, "axes"), (names, "sites")):
        if len(set(given)) < len(given):
            raise InputError(f"{what} {tuple(given)} name one twice.")


def writable(
    lens: "AudioLens", name: str, layers: int | Iterable[int] | None, branch: str
) -> tuple[Site, ...]:
    """The sites of one kind that a name means, in some layers, checked for writing."""
    sites = lens.sites.resolve(name, layers=layers)
    check_branch(branch, sites)
    for site in sites:
        if site.write == "no":
            raise SiteError(f"{site.name} is read-only, so nothing can be patched there.")
    if len({site.family for site in sites}) > 1:
        raise SiteError(f"{name!r} means several kinds of sites: give them as a list.")
    return sites


def _options(
    lens: "AudioLens",
    axis: str,
    families: Mapping[str, tuple[Site, ...]],
    positions: Positions,
    n_positions: int,
    n_tokens: int,
    branch: str,
) -> dict[str, Any]:
    """Labels along an axis, and what each chooses."""
    if axis == "pos":
        return dict(group_positions(lens, positions, n_positions))
    if axis == "branch":
        if branch != "both":
            raise InputError(f'axes hold "branch", so branch must be "both", got {branch!r}.')
        for sites in families.values():
            check_branch("uncond", sites)
        return {"cond": "cond", "uncond": "uncond"}
    if axis == "layer":
        return {str(layer): layer for layer in common_layers(families)}
    sizes = {"head": lens.cfg.n_heads, "codebook": lens.cfg.n_codebooks, "text_token": n_tokens}
    return {str(n): (n,) for n in range(sizes[axis])}


def writers(lens: "AudioLens") -> list[str]:
    """Shorthands of the sites at which a block adds to the stream."""
    return [name for name in _WRITERS if name in lens.sites.shorthands]


def common_layers(families: Mapping[str, Sequence[Site]]) -> list[int]:
    """The layers that all kinds of sites are in.

    Raises:
        SiteError: a site without a layer, or kinds in different ones.
    """
    layers = [[site.layer for site in sites] for sites in families.values()]
    if any(layer is None for part in layers for layer in part):
        raise SiteError('a site belongs to no layer: leave "layer" out of axes.')
    if any(part != layers[0] for part in layers):
        raise SiteError("the sites are in different layers: patch them one at a time.")
    return [layer for layer in layers[0] if layer is not None]


def _cell(sites: tuple[Site, ...], chosen: dict[str, Any], branch: str) -> Cell:
    if (layer := chosen.pop("layer", None)) is not None:
        sites = tuple(site for site in sites if site.layer == layer)
    branch = chosen.pop("branch", branch)
    return Cell(sites, branch, chosen)
