"""Dose and response: how an effect grows with the coefficient, and how far it can be trusted."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from audio_lens.analysis.statistics import (
    DRAWS,
    Estimate,
    bootstrap,
    mean_over_prompts,
    median_over_prompts,
    resampled,
    slopes,
)
from audio_lens.errors import InputError

Doses = Float[np.ndarray, " coefficient"]
PerClip = Float[np.ndarray, "coefficient prompt seed"]

_LEAST_PASSED = 0.9
_LEAST_PASSED_SURELY = 0.8
_MOST_MISSING_MORE = 0.1


@dataclass(frozen=True)
class Curve:
    """The effect at every coefficient with a band that holds everywhere at once."""

    value: Doses
    low: Doses
    high: Doses


def curve(effects: PerClip, *, draws: int = DRAWS, seed: int = 0) -> Curve:
    """Median over prompts at every coefficient, with a simultaneous 95 % band.

    The bootstrap draws prompts, then seeds within them, for all coefficients alike; the band is as
    many standard errors wide as the largest deviation of a draw needs (Davison and Hinkley 1997).

    Args:
        effects: Changes; where clips have no value, NaN. A cell without any value has no band.
        draws: Of the bootstrap.
        seed: Of the draws.
    """
    found = median_over_prompts(effects)
    drawn = median_over_prompts(resampled(effects, draws=draws, seed=seed)).T
    width = np.full(len(found), np.nan)
    seen = ~np.isnan(found)
    if seen.any():
        error = np.nanstd(drawn[:, seen], axis=0)
        apart = np.abs(drawn[:, seen] - found[seen]) / np.where(error > 0, error, np.inf)
        largest = np.where(np.isnan(apart), 0, apart).max(1)  # a draw may miss a rare value
        width[seen] = np.percentile(largest, 95) * error
    return Curve(found, found - width, found + width)


@dataclass(frozen=True)
class UsableRange:
    """How far one sign can be turned while clips stay music."""

    last_pass: float
    """The outermost coefficient, reached from 0 without a failure."""
    first_fail: float | None
    """The next one; None if none was tried, so that the range is not bracketed. 0 where the
    unsteered clips fail already."""

    def __str__(self) -> str:
        if self.first_fail == 0:
            return "nowhere (too few of the unsteered clips pass)"
        end = "not bracketed" if self.first_fail is None else f"fails at {self.first_fail:+g}"
        return f"to {self.last_pass:+g} ({end})"


def usable_range(
    coefficients: Doses,
    passed: Bool[np.ndarray, "coefficient prompt seed"],
    missing: Bool[np.ndarray, "coefficient prompt seed"],
    *,
    sign: float,
) -> UsableRange:
    """The longest run of tested coefficients from 0 on whose clips are still music.

    A coefficient passes if at least 90 % of its clips pass the quality guard, with Wilson's lower
    bound at 80 % or above, and its clips lack a value at most 10 points more often than those at 0.

    Args:
        coefficients: Tested, 0 among them.
        passed: Which clips pass the guard.
        missing: Which clips have no value.
        sign: +1 or -1.

    Raises:
        InputError: no coefficient 0.

    Example:
        >>> good = np.ones((3, 24, 2), bool)
        >>> good[2] = False
        >>> print(usable_range(np.array([0.0, 0.5, 1.0]), good, ~good & False, sign=1))
        to +0.5 (fails at +1)
    """
    at_zero = np.flatnonzero(coefficients == 0)
    if len(at_zero) != 1:
        raise InputError(f"coefficients {coefficients.tolist()}: expected 0 once, for the twins.")
    usual = missing[at_zero[0]].mean()
    doses = [n for n in np.argsort(np.abs(coefficients)) if coefficients[n] * sign >= 0]
    last = 0.0
    for n in doses:
        hits, total = int(passed[n].sum()), passed[n].size
        surely = stats.binomtest(hits, total).proportion_ci(method="wilson").low
        ok = hits / total >= _LEAST_PASSED and surely >= _LEAST_PASSED_SURELY
        if not ok or missing[n].mean() > usual + _MOST_MISSING_MORE:
            return UsableRange(last, float(coefficients[n]))
        last = float(coefficients[n])
    return UsableRange(last, None)


@dataclass(frozen=True)
class Monotone:
    """Whether more is more: averaged over prompts, with clustered intervals."""

    slope: Estimate
    """Effect per unit of coefficient."""
    spearman: Estimate
    """Rank correlation of coefficient and effect."""


def monotone(
    coefficients: Doses, effects: PerClip, *, draws: int = DRAWS, seed: int = 0
) -> Monotone:
    """Slope and rank correlation of each prompt's curve, the mean over its seeds; where clips have
    no value, no change.

    Give the coefficients of one sign alone, 0 among them, inside its usable range: were signs
    pooled, two effects towards the same side would pass for one that grows.

    Raises:
        InputError: fewer than three coefficients.

    Example:
        >>> doses = np.array([0.0, 0.5, 1.0])
        >>> effects = doses[:, None, None] * np.array([[1.0, 2.0], [3.0, 2.0]])
        >>> found = monotone(doses, effects)
        >>> found.slope.value, found.spearman.value
        (2.0, 1.0)
    """
    if len(coefficients) < 3:
        raise InputError(f"a trend needs three coefficients, got {coefficients.tolist()}.")
    effects = np.nan_to_num(effects).mean(-1, keepdims=True)
    ranks = stats.rankdata(effects, axis=0)
    ranks -= ranks.mean(0)
    doses = stats.rankdata(coefficients)
    doses -= doses.mean()
    lengths = np.sqrt((ranks**2).sum(0) * (doses**2).sum())
    rho = np.einsum("c,cps->ps", doses, ranks) / np.where(lengths > 0, lengths, np.inf)
    asked = {"draws": draws, "seed": seed}
    return Monotone(
        bootstrap(slopes(effects, coefficients), mean_over_prompts, **asked),
        bootstrap(rho, mean_over_prompts, **asked),
    )
