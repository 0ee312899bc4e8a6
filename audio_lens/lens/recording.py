"""Recording: hooks that keep what passes, made into a cache when the run is over."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from audio_lens.errors import SiteError
from audio_lens.lens.engine import Registration
from audio_lens.lens.layout import Layout
from audio_lens.lens.run import Hook, Run
from audio_lens.lens.sites import TIMES, Site

if TYPE_CHECKING:
    from audio_lens.lens.cache import ActivationCache
    from audio_lens.lens.lens import AudioLens

Rows = tuple[int, ...]


class Recording:
    """Keeps the tensors at some sites, by branch, group of rows and step."""

    def __init__(self, sites: tuple[Site, ...], device: str | torch.device | None) -> None:
        if not sites:
            raise SiteError("names_filter matches no site. `print(lens.sites)` lists them all.")
        self._sites = sites
        self._device = device
        self._steps: dict[tuple[str, Site, str], dict[Rows, list[Tensor]]] = {}
        self._runs: dict[Rows, Run] = {}

    def registrations(self, *, gradients: bool = False) -> list[Registration]:
        """What to have in place while the run lasts."""
        kept = [Registration(self._keep, self._sites, "both", "read")]
        if gradients:
            flowing = tuple(site for site in self._sites if site.write != "no")
            kept.append(Registration(self._keep_gradient, flowing, "both", "backward"))
        return kept

    def _keep(self, tensor: Tensor, *, hook: Hook, suffix: str = "") -> None:
        # A copy, since later sites of the same stream may be edited in place.
        device = tensor.device if self._device is None else self._device
        kept = tensor.detach().to(device, copy=True)
        groups = self._steps.setdefault((hook.branch, hook.site, suffix), {})
        groups.setdefault(hook.rows, []).append(kept)
        self._runs[hook.rows] = hook._run  # it knows its layout once the prompts are encoded

    def _keep_gradient(self, gradient: Tensor, *, hook: Hook) -> None:
        self._keep(gradient, hook=hook, suffix="_grad")

    def cache(self, lens: "AudioLens") -> "ActivationCache":
        """Everything kept: steps joined along positions, groups along rows."""
        from audio_lens.lens.cache import ActivationCache

        branches: dict[str, dict[str, Tensor]] = {"cond": {}}
        ordered = sorted(self._steps.items(), key=lambda item: (item[0][2], item[0][1].rank))
        for (branch, site, suffix), groups in ordered:
            joined = {rows: along_positions(steps, site) for rows, steps in groups.items()}
            joined_rows = along_rows(joined, site.axes, fill=_masked(site))
            branches.setdefault(branch, {})[site.name + suffix] = joined_rows
        return ActivationCache(branches, lens, layouts=self._rows_layouts())

    def _rows_layouts(self) -> tuple[Layout, ...]:
        """Where prefix and music lie, for each row in the caller's order."""
        longest = max((run.layout.n_prefix for run in self._runs.values()), default=0)
        by_row = {
            row: replace(run.layout, pad=longest - run.layout.n_prefix)
            for rows, run in self._runs.items()
            for row in rows
        }
        return tuple(by_row[row] for row in sorted(by_row))


def along_positions(steps: list[Tensor], site: Site) -> Tensor:
    """One tensor from a site's values at every step of a generation.

    Keys accumulate over the steps; where an early step had fewer of them, the missing ones hold
    what a masked key holds: minus infinity as a score, zero in a pattern.
    """
    if len(steps) == 1:
        return steps[0]
    if "key" in site.axes:
        steps = _widened(steps, site.axes.index("key"), fill=_masked(site))
    times = [axis for axis in site.axes if axis in _TIMES]
    return torch.cat(steps, dim=site.axes.index(times[0]))


def along_rows(groups: Mapping[Rows, Tensor], axes: tuple[str, ...], fill: float = 0.0) -> Tensor:
    """One tensor from the groups of rows that ran apart, in the caller's order.

    Text is padded behind with `fill`. Positions are padded in front with NaN: prefixes differ in
    length, and so the music and the end of the text line up, and nothing made up goes unseen.
    """
    if len(groups) == 1:
        return next(iter(groups.values()))
    tensors = list(groups.values())
    for dim, axis in enumerate(axes):
        if axis == "token":
            tensors = _widened(tensors, dim, fill=fill)
        elif axis in (*_TIMES, "key"):
            tensors = _widened(tensors, dim, fill=float("nan"), front=True)
    order = torch.tensor([row for rows in groups for row in rows]).argsort()
    return torch.cat(tensors)[order.to(tensors[0].device)]


_TIMES = (*TIMES, "query")


def _masked(site: Site) -> float:
    """What a key that may not be attended to holds."""
    return {"hook_attn_scores": float("-inf")}.get(site.name.rpartition(".")[2], 0.0)


def _widened(tensors: list[Tensor], dim: int, *, fill: float, front: bool = False) -> list[Tensor]:
    """Tensors made equally long along an axis."""
    length = max(tensor.shape[dim] for tensor in tensors)
    behind = [0, 0] * (tensors[0].ndim - dim - 1)
    missing = [length - tensor.shape[dim] for tensor in tensors]
    return [
        pad(tensor, (*behind, *((n, 0) if front else (0, n))), value=fill) if n else tensor
        for tensor, n in zip(tensors, missing, strict=True)
    ]
