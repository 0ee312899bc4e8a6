"""What lengths mean where a direction lies: how long activations are, how far they spread on it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from audio_lens.analysis.collect import Activations, Key
from audio_lens.analysis.directions import Direction
from audio_lens.errors import InputError


def measured(direction: Direction, *groups: Activations) -> Direction:
    """The same direction, knowing what `scale="resid_norm"` and `scale="proj_std"` mean for it.

    Differences in means know that of their poles. Sums, projections, random directions and those
    of probes know less and are measured before they are added by such a scale.

    Args:
        direction: To be measured.
        groups: Activations gathered where it lies, by `collect` or at the poles. Each spreads about
            its own mean: given apart, what tells them apart does not count.

    Raises:
        InputError: no activations, or some that lack a site or layer of the direction or are of
            another width.

    Example:
        >>> rows = Activations({("embed", -1): torch.eye(2)}, {("embed", -1): 1.0}, {})
        >>> up = measured(Direction({("embed", -1): torch.tensor([0.0, 2.0])}), rows)
        >>> round(up.spreads["embed", -1], 3), up.typical_norms["embed", -1]
        (0.707, 1.0)
    """
    if not groups:
        raise InputError("nothing to measure on: give activations, of collect(...) or of poles.")
    for key, vector in direction.vectors.items():
        for group in groups:
            _check(key, vector, group)
    known = set.intersection(*(set(group.typical_norms) for group in groups))
    spreads = {
        key: _spread(vector, [group.values[key] for group in groups])
        for key, vector in direction.vectors.items()
    }
    return replace(
        direction,
        typical_norms={
            key: sum(group.typical_norms[key] for group in groups) / len(groups)
            for key in sorted(known)
        },
        spreads={key: spread for key, spread in spreads.items() if spread > 0},
    )


def _check(key: Key, vector: Tensor, group: Activations) -> None:
    site, layer = key
    if key not in group.values:
        raise InputError(
            f"no activations at {site}, layer {layer}, where the direction has a vector; there are "
            f"some at {', '.join(f'{name} {n}' for name, n in group.values)}."
        )
    width = tuple(group.values[key].shape[-vector.ndim :])
    if width != tuple(vector.shape):
        raise InputError(
            f"the direction's vector at {site}, layer {layer} has shape {tuple(vector.shape)}, the "
            f"activations there have {width}: they are of different models."
        )


def _spread(vector: Tensor, groups: Sequence[Tensor]) -> float:
    """Standard deviation along a vector, each group about its own mean; 0 where nothing is."""
    unit = (vector / vector.norm()).flatten() if vector.any() else vector.flatten()
    along = [(values.flatten(-vector.ndim) @ unit).flatten() for values in groups]
    away = torch.cat([side - side.mean() for side in along])
    return float((away.square().sum() / max(len(away) - len(groups), 1)).sqrt())
