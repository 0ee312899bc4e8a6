"""Erasure: take everything linear about a label out of the activations, and see what is left.

Least-squares concept erasure (LEACE: Belrose et al. 2023, arXiv 2306.03819): no linear probe can
read the label afterwards, and the activations are changed as little as that allows. The authors'
package `concept-erasure` gives the same maps (the tests compare); it compiles itself by a part of
torch that is on its way out, so the closed form stands here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.analysis.collect import Activations, Key
from audio_lens.errors import InputError
from audio_lens.lens.intervention import Intervention
from audio_lens.lens.sites import BEFORE

if TYPE_CHECKING:
    from audio_lens.lens.run import Hook


@dataclass(frozen=True, eq=False)
class Eraser:
    """What erases a label at each site and layer: `x - (x - mean) @ right.T @ left.T`.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
        >>> eraser = Eraser.fit({("resid_post", 1): x}, np.arange(50) % 2)
        >>> with lens.intervene(*eraser.interventions()):
        ...     clips = lens.generate("a song", seconds=0.1, progress=False)
    """

    parts: Mapping[Key, tuple[Tensor, Tensor, Tensor]]
    """`left` [d k], `right` [k d] and the mean [d], float32 on the CPU."""
    made: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        activations: Activations | Mapping[Key, Float[Tensor, "clip *step d_model"]],
        labels: Sequence[Any] | np.ndarray,
    ) -> "Eraser":
        """Fit an eraser wherever activations were gathered.

        Args:
            activations: Of training clips, at sites of width d_model. Pooled over time, they
                erase what the average says; of every step (`pool="every_step"`), what any step
                says.
            labels: One per clip: classes, or floats for graded labels.

        Raises:
            InputError: counts that differ, a single class, or activations with heads.
        """
        values = activations.values if isinstance(activations, Activations) else activations
        made = activations.made if isinstance(activations, Activations) else {}
        z = _as_numbers(np.asarray(labels))
        parts = {}
        for (site, layer), x in values.items():
            if len(x) != len(z):
                raise InputError(f"{len(x)} rows at {site} {layer} and {len(z)} labels.")
            if x.ndim not in (2, 3):
                raise InputError(f"{site} has heads: erase at a site of width d_model.")
            if not x.isfinite().all():
                raise InputError(f"activations at {site} {layer} are not finite.")
            if z.shape[1] > x.shape[-1]:
                raise InputError(
                    f"{z.shape[1]} classes in {x.shape[-1]} dimensions leave nothing standing: if "
                    f"the label is a quantity, give it as floats."
                )
            rows = x.double().flatten(0, -2)
            repeated = z.repeat_interleave(len(rows) // len(z), 0)
            parts[site, layer] = _leace(rows, repeated)
        how = {"method": "leace", "clips": len(z), "label_dimensions": z.shape[1]}
        return cls(MappingProxyType(parts), MappingProxyType({**made, **how}))

    def __call__(self, x: Float[Tensor, "*rows d_model"], site: str, layer: int) -> Tensor:
        """Activations without the label."""
        left, right, mean = (part.to(x) for part in self.parts[site, layer])
        return x - ((x - mean) @ right.T) @ left.T

    def interventions(self, **where: Any) -> list[Intervention]:
        """One for each site and layer, for `lens.intervene(*...)`.

        where: `branch`, `when`, `rows` of `Intervention`.
        """
        return [self._intervention(site, layer, where) for site, layer in self.parts]

    def _intervention(self, site: str, layer: int, where: dict[str, Any]) -> Intervention:
        def erase(tensor: Tensor, coefficient: Any, hook: "Hook") -> Tensor:
            return tensor + coefficient * (self(tensor, site, layer) - tensor)

        label = f"erased at {site} {layer}"
        at = None if layer == BEFORE else layer
        return Intervention(site, erase, layers=at, label=label, **where)


_NEGLIGIBLE = 1e-9


def _leace(
    x: Float[Tensor, "row d_model"], z: Float[Tensor, "row label"]
) -> tuple[Float[Tensor, "d_model k"], Float[Tensor, "k d_model"], Float[Tensor, " d_model"]]:
    """Whiten, project off what correlates with the label, and unwhiten (theorem 4.3)."""
    mean = x.mean(0)
    centred, labels = x - mean, z - z.mean(0)
    sizes, axes = torch.linalg.eigh(centred.T @ centred / len(x))
    roots = sizes.clamp_min(0).sqrt()
    there = roots > roots.max() * _NEGLIGIBLE**0.5
    whiten = (axes * torch.where(there, 1 / roots, 0.0)) @ axes.T
    unwhiten = (axes * roots) @ axes.T
    found, strengths, _ = torch.linalg.svd(
        whiten @ (centred.T @ labels / len(x)), full_matrices=False
    )
    kept = found[:, strengths > strengths.max() * _NEGLIGIBLE]
    return (unwhiten @ kept).float(), (kept.T @ whiten).float(), mean.float()


def _as_numbers(labels: np.ndarray) -> Float[Tensor, "clip label"]:
    """Graded labels as they are, classes one-hot."""
    if labels.ndim != 1:
        raise InputError(f"labels must be one per clip, got shape {labels.shape}.")
    if labels.dtype.kind == "f":
        z = torch.from_numpy(labels.astype(float))[:, None]
    else:
        names, places = np.unique(labels, return_inverse=True)
        if len(names) == 1:
            raise InputError(f"all labels are {names[0]}: there is nothing to erase.")
        z = torch.nn.functional.one_hot(torch.from_numpy(places), len(names)).double()
    if not z.isfinite().all():
        raise InputError("a label is not finite: leave such clips out.")
    if (z == z[0]).all():
        raise InputError("all labels are the same: there is nothing to erase.")
    return z
