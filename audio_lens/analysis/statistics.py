"""Estimates with intervals for effects measured on prompts, seeds nested in prompts.

The unit is the prompt: seeds of one prompt are not independent of each other, so the bootstrap
draws prompts first and then seeds within each.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from audio_lens.errors import InputError

DRAWS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def tells(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0

    def __format__(self, spec: str) -> str:
        if np.isnan(self.value):
            return "none measured"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def median_over_prompts(
    values: Float[np.ndarray, "*draw prompt seed"],
) -> Float[np.ndarray, "*draw"]:
    """Median over prompts of each prompt's mean over seeds, missing values left out."""
    missing = np.isnan(values)
    n_seen = (~missing).sum(-1)
    means = np.where(missing, 0.0, values).sum(-1) / np.where(n_seen == 0, np.nan, n_seen)
    ordered = np.sort(means, axis=-1)  # NaN sorts to the end
    n_prompts = np.asarray((~np.isnan(means)).sum(-1, keepdims=True))
    low = np.take_along_axis(ordered, np.maximum(n_prompts - 1, 0) // 2, -1)
    high = np.take_along_axis(ordered, np.minimum(n_prompts // 2, means.shape[-1] - 1), -1)
    return np.asarray((low + high)[..., 0] / 2)


def mean_over_prompts(values: Float[np.ndarray, "*draw prompt seed"]) -> Float[np.ndarray, "*draw"]:
    """Mean over prompts of each prompt's mean over seeds."""
    return np.asarray(values.mean((-2, -1)))


def bootstrap(
    values: Float[np.ndarray, "prompt seed"],
    statistic: Callable[[np.ndarray], np.ndarray] = median_over_prompts,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """A statistic with its clustered percentile interval (Efron and Tibshirani 1993).

    Draws in which nothing was measured are left out of the interval.

    Example:
        >>> values = np.array([[1.0, 1.2], [0.8, 1.0], [1.1, 0.9]])
        >>> bootstrap(values).tells
        True
    """
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"expected values [prompt seed], got shape {values.shape}.")
    return estimate(float(statistic(values)), statistic(resampled(values, draws=draws, seed=seed)))


def estimate(value: float, drawn: Float[np.ndarray, " draw"]) -> Estimate:
    """A number with the percentile interval of its draws; those that are NaN are left out."""
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def resampled(
    values: Float[np.ndarray, "*cell prompt seed"], *, draws: int, seed: int
) -> Float[np.ndarray, "*cell draw prompt seed"]:
    """Values drawn anew: prompts first, then seeds within them, alike in all cells."""
    rng = np.random.default_rng(seed)
    n_prompts, n_seeds = values.shape[-2:]
    prompts = rng.integers(n_prompts, size=(draws, n_prompts, 1))
    seeds = rng.integers(n_seeds, size=(draws, n_prompts, n_seeds))
    return values[..., prompts, seeds]


def slopes(
    effects: Float[np.ndarray, "coefficient prompt seed"],
    coefficients: Float[np.ndarray, "coefficient"],
) -> Float[np.ndarray, "prompt seed"]:
    """Least-squares slope of the effect against the coefficient, for each prompt and seed.

    Example:
        >>> slopes(np.array([[[-2.0]], [[0.0]], [[2.0]]]), np.array([-1.0, 0.0, 1.0]))
        array([[2.]])
    """
    centred = coefficients - coefficients.mean()
    return np.einsum("c,cps->ps", centred, effects) / (centred**2).sum()
