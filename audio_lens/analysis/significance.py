"""What chance alone would show: sign flips over prompts, Holm, and ranks among controls."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from audio_lens.analysis.statistics import mean_over_prompts
from audio_lens.errors import InputError

Statistic = Callable[[np.ndarray], np.ndarray]

_DRAWS = 10_000
_AT_ONCE = 500


def sign_flip(
    effects: Float[np.ndarray, "prompt seed"],
    statistic: Statistic = mean_over_prompts,
    *,
    draws: int = _DRAWS,
    seed: int = 0,
) -> float:
    """Two-sided p that effects lie about zero by chance, signs flipped prompt by prompt.

    Seeds of one prompt are flipped together, since they are not independent. Where nothing was
    measured, no change is counted. The mean is tested, not the median that effects are reported
    by: were all effects alike, nearly every set of signs would leave a median of the same size.

    Example:
        >>> effects = np.full((12, 2), 0.5) + np.linspace(-0.1, 0.1, 12)[:, None]
        >>> sign_flip(effects) < 0.01
        True
    """
    return float(max_statistic(effects[None], statistic, draws=draws, seed=seed)[0])


def max_statistic(
    effects: Float[np.ndarray, "cell prompt seed"],
    statistic: Statistic = mean_over_prompts,
    *,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Float[np.ndarray, " cell"]:
    """p of every cell of a map, corrected for their number (Westfall and Young 1993).

    Signs are flipped prompt by prompt, in all cells alike; a cell is compared with the largest of
    all cells in each draw.

    Args:
        effects: Changes; NaN counts as none.
        statistic: Of [... prompt seed], one number each.
        draws: Of the flips.
        seed: Of the draws.

    Raises:
        InputError: effects without cells, prompts and seeds.
    """
    if effects.ndim != 3 or effects.size == 0:
        raise InputError(f"expected effects [cell prompt seed], got shape {effects.shape}.")
    effects = np.nan_to_num(effects)
    rng = np.random.default_rng(seed)
    found = np.abs(statistic(effects))
    as_large = np.zeros(len(found))
    for start in range(0, draws, _AT_ONCE):
        n = min(_AT_ONCE, draws - start)
        flips = rng.choice([-1.0, 1.0], size=(n, 1, effects.shape[1], 1))
        largest = np.abs(statistic(flips * effects)).max(-1)
        as_large += (largest[:, None] >= found - 1e-12).sum(0)
    return (1 + as_large) / (1 + draws)


def holm(p: Sequence[float]) -> list[float]:
    """p values of several tests, corrected by Holm's steps (Holm 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    p = [1.0 if np.isnan(each) else each for each in p]  # nothing measured shows nothing
    order = np.argsort(p)
    corrected, so_far = [0.0] * len(p), 0.0
    for place, n in enumerate(order):
        so_far = max(so_far, (len(p) - place) * p[n])
        corrected[n] = min(1.0, float(so_far))
    return corrected


def rank_among(value: float, controls: Sequence[float]) -> tuple[int, float]:
    """How a value stands among controls: its rank by size (1 is the largest), and its p.

    `p = (1 + controls at least as large) / (1 + controls)`: with twenty controls it cannot be
    below 0.048.

    Example:
        >>> rank_among(-0.9, [0.1, -0.2, 0.95])
        (2, 0.5)
    """
    as_large = sum(not abs(control) < abs(value) for control in controls)  # NaN shows nothing
    return 1 + as_large, (1 + as_large) / (1 + len(controls))
