"""Recording: hooks that keep what passes, made into a cache when the run is over."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from audio_lens.errors import SiteError
from audio_lens.lens.engine import Registration
from audio_lens.lens.run import Hook
from audio_lens.lens.sites import Site

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

    def _keep_gradient(self, gradient: Tensor, *, hook: Hook) -> None:
        self._keep(gradient, hook=hook, suffix="_grad")

    def cache(self, lens: "AudioLens") -> "ActivationCache":
        """Everything kept: steps joined along positions, groups along rows."""
        from audio_lens.lens.cache import ActivationCache

        branches: dict[str, dict[str, Tensor]] = {"cond": {}}
        ordered = sorted(self._steps.items(), key=lambda item: (item[0][2], item[0][1].rank))
        for (branch, site, suffix), groups in ordered:
            joined = {rows: along_positions(steps, site) for rows, steps in groups.items()}
            branches.setdefault(branch, {})[site.name + suffix] = along_rows(joined, site)
        return ActivationCache(branches, lens)


def along_positions(steps: list[Tensor], site: Site) -> Tensor:
    """One tensor from a site's values at every step of a generation.

    Keys accumulate over the steps; where an early step had fewer of them, the missing ones hold
    what a masked key holds: minus infinity as a score, zero in a pattern.
    """
    if len(steps) == 1:
        return steps[0]
    if "key" in site.axes:
        steps = _widen(steps, site)
    return torch.cat(steps, dim=site.axes.index("query" if "query" in site.axes else "pos"))


def along_rows(groups: dict[Rows, Tensor], site: Site) -> Tensor:
    """One tensor from the groups of rows that ran apart, in the caller's order."""
    if len(groups) == 1:
        return next(iter(groups.values()))
    tensors = list(groups.values())
    if site.axes[-1] == "token":
        tensors = _widen(tensors, site)
    order = torch.tensor([row for rows in groups for row in rows]).argsort()
    return torch.cat(tensors)[order]


def _widen(tensors: list[Tensor], site: Site) -> list[Tensor]:
    """Scores or patterns made equally wide, with what a masked key holds."""
    fill = 0.0 if site.name.endswith("pattern") else float("-inf")
    width = max(tensor.shape[-1] for tensor in tensors)
    return [pad(tensor, (0, width - tensor.shape[-1]), value=fill) for tensor in tensors]
