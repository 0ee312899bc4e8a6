"""How many prompts are enough: a direction from some of them beside the direction from all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from audio_lens.analysis.collect import Key
from audio_lens.analysis.poles import Poles
from audio_lens.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWS = 200


@dataclass(frozen=True, eq=False)
class Stability:
    """Cosine of directions from few pairs with the one from all the other pairs."""

    sizes: tuple[int, ...]
    """Pairs of prompts."""
    cosines: dict[Key, Float[np.ndarray, "size draw"]]

    def interval(self, key: Key) -> Float[np.ndarray, "size three"]:
        """Low, median and high: the middle 95 % of the draws, for each size."""
        return np.percentile(self.cosines[key], [2.5, 50, 97.5], axis=1).T

    def plot(self) -> "Figure":
        """One curve per site and layer."""
        from audio_lens.plots.curves import stability_curves

        return stability_curves(self)


def stability(
    poles: Poles, *, sizes: Sequence[int] = (5, 10, 25, 50), draws: int = _DRAWS, seed: int = 0
) -> Stability:
    """Directions from random subsets of the pairs, against the direction from the rest.

    The two share no prompt: a subset compared with a whole that holds it looks stable for that
    reason alone.

    Args:
        poles: Activations of matched prompts.
        sizes: How many pairs to take; each at most half of them.
        draws: Subsets of each size.
        seed: Of the draws.

    Raises:
        InputError: sizes that leave fewer pairs than they take.

    Example:
        >>> from audio_lens.analysis.collect import Activations
        >>> rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
        >>> up, down = (Activations({("resid_post", 0): sign + rows}, {}, {}) for sign in (3, -3))
        >>> found = stability(Poles(up, down), sizes=[5, 20])
        >>> bool(found.interval(("resid_post", 0))[1, 0] > 0.99)
        True
    """
    if len(set(zip(*poles.texts, strict=True))) < len(poles.texts[0]):
        raise InputError("some pairs of prompts occur twice: a subset would know the rest.")
    if draws < 1 or not sizes:
        raise InputError(f"draws={draws}, sizes={tuple(sizes)}: give at least one of each.")
    pairs = {key: rows.flatten(1) for key, rows in poles.pairs.items()}
    n_pairs = len(next(iter(pairs.values())))
    for size in sizes:
        if not 1 <= size <= n_pairs // 2:
            raise InputError(
                f"sizes={tuple(sizes)}: with {n_pairs} pairs take 1 to {n_pairs // 2}, so that as "
                f"many are left to compare with."
            )
    generator = torch.Generator().manual_seed(seed)
    found: dict[Key, list[list[float]]] = {key: [] for key in pairs}
    for size in sizes:
        for cosines in found.values():
            cosines.append([])
        for _ in range(draws):
            order = torch.randperm(n_pairs, generator=generator)
            for key, rows in pairs.items():
                some, rest = rows[order[:size]].mean(0), rows[order[size:]].mean(0)
                cosine = torch.nn.functional.cosine_similarity(some, rest, dim=0)
                found[key][-1].append(float(cosine))
    return Stability(tuple(sizes), {key: np.array(cosines) for key, cosines in found.items()})
