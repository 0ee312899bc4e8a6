"""Means and covariances of activations, summed while they pass: memory of one batch, any number."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.analysis.collect import Gathering, Key
from audio_lens.lens.rows import Prompts

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


@dataclass(frozen=True, eq=False)
class Moments:
    """Of pooled activations, over rows; float64 while summing, float32 here."""

    count: int
    """Rows; positions too, where they were not pooled."""
    means: Mapping[Key, Float[Tensor, "*site"]]
    variances: Mapping[Key, Float[Tensor, "*site"]]
    """Of each number, over count - 1; NaN for a single row."""
    covariances: Mapping[Key, Float[Tensor, "feature feature"]]
    """Over count - 1, sites flattened; empty unless they were asked for."""
    typical_norms: Mapping[Key, float]
    """Mean length of the activation over the pooled positions and rows."""
    made: Mapping[str, Any]


class _Sums:
    """Running mean and squared deviations, merged batch by batch (Chan, Golub, LeVeque 1983)."""

    def __init__(self, covariance: bool) -> None:
        self.count, self.norms = 0, 0.0
        self._covariance = covariance
        self.mean: Tensor | None = None
        self.spread: Tensor | None = None

    def add(self, rows: Float[Tensor, "row feature"]) -> None:
        rows = rows.double()
        mean = rows.mean(0)
        away = rows - mean
        spread = away.T @ away if self._covariance else away.square().sum(0)
        if self.mean is None or self.spread is None:
            self.count, self.mean, self.spread = len(rows), mean, spread
            return
        total, gap = self.count + len(rows), mean - self.mean
        between = torch.outer(gap, gap) if self._covariance else gap.square()
        self.spread = self.spread + spread + between * (self.count * len(rows) / total)
        self.mean = self.mean + gap * (len(rows) / total)
        self.count = total


def moments(
    lens: "AudioLens", prompts: Prompts, *, covariance: bool = False, **asked: Any
) -> Moments:
    """Run prompts, codes or sounds and keep mean and variance of what is pooled.

    Args:
        lens: The model.
        prompts: As for `collect`.
        covariance: Keep whole covariances too: the square of a site's width in memory.
        asked: `site`, `layers`, `pool`, `codes`, `audio`, ... as for `collect`.

    Raises:
        SiteError: as `collect` does.
        InputError: as `collect` does.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> codes = lens.random_codes(frames=8, batch=20)
        >>> found = moments(lens, None, codes=codes, rows_at_once=5, progress=False)
        >>> found.count, found.means["resid_post", 1].shape
        (20, torch.Size([64]))
    """
    plan = Gathering(lens, prompts, **asked)
    sums: dict[Key, _Sums] = {}
    shapes: dict[Key, tuple[int, ...]] = {}
    n_rows = 0
    for batch in plan.batches():
        for key, (values, norms) in batch.items():
            kept = sums.setdefault(key, _Sums(covariance))
            shapes[key] = tuple(values.shape[2 if plan.pool == "every_step" else 1 :])
            kept.add(values.reshape(-1, prod(shapes[key])))
            kept.norms += float(norms.double().sum())
        n_rows += len(norms)
    return _finished(sums, shapes, n_rows, covariance, plan.made)


def _finished(
    sums: Mapping[Key, _Sums],
    shapes: Mapping[Key, tuple[int, ...]],
    n_rows: int,
    covariance: bool,
    made: Mapping[str, Any],
) -> Moments:
    means, variances, covariances = {}, {}, {}
    for key, kept in sums.items():
        assert kept.mean is not None
        assert kept.spread is not None
        spread = kept.spread / (kept.count - 1) if kept.count > 1 else kept.spread * torch.nan
        means[key] = kept.mean.float().view(shapes[key])
        if covariance:
            covariances[key] = spread.float()
            spread = spread.diagonal()
        variances[key] = spread.float().view(shapes[key])
    return Moments(
        count=next(iter(sums.values())).count,
        means=MappingProxyType(means),
        variances=MappingProxyType(variances),
        covariances=MappingProxyType(covariances),
        typical_norms={key: kept.norms / n_rows for key, kept in sums.items()},
        made=MappingProxyType(dict(made)),
    )
