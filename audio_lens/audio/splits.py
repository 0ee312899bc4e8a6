"""Splits that leak nothing: what belongs together stays together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from audio_lens.errors import InputError

SPLITS = ("train", "validation", "test")
_SHARES = (0.6, 0.2, 0.2)


def split_by(groups: Sequence[Any] | np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Three fifths of the groups to train on, a fifth to choose on, a fifth to report.

    Args:
        groups: For each example what it belongs to: its clip, prompt or seed.
        seed: Of the draw.

    Raises:
        InputError: fewer than five groups.

    Example:
        >>> split = split_by([n // 10 for n in range(100)])
        >>> [int((split == name).sum()) for name in SPLITS]
        [60, 20, 20]
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 5:
        raise InputError(f"{len(names)} groups cannot be split: a probe needs at least five.")
    order = np.random.default_rng(seed).permutation(len(names))
    edges = np.round(np.cumsum(_SHARES) * len(names)).astype(int)
    of_group = np.empty(len(names), dtype="<U10")
    for name, places in zip(SPLITS, np.split(order, edges[:-1]), strict=True):
        of_group[places] = name
    return of_group[member]


def check_split(split: np.ndarray, groups: np.ndarray) -> None:
    """Raise unless every example is in one split, every split has some, and no group is in two."""
    if len(split) != len(groups):
        raise InputError(f"the split has {len(split)} entries for {len(groups)} clips.")
    unknown = set(split.tolist()) - set(SPLITS)
    if unknown:
        raise InputError(f"splits are {', '.join(SPLITS)}, got {sorted(unknown)[0]!r}.")
    for name in SPLITS:
        if not (split == name).any():
            raise InputError(f"no clip is in the {name} split: a probe needs all three.")
    names, member = np.unique(groups, return_inverse=True)
    for n, group in enumerate(names):
        within = set(split[member == n].tolist())
        if len(within) > 1:
            raise InputError(
                f"group {str(group)!r} is in the splits {' and '.join(sorted(within))}: what "
                f"belongs together would be both learned from and tested on."
            )
