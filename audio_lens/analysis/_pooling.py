"""Pooling over time while activations pass: which positions count, and what is kept of them."""

from math import inf
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.errors import InputError
from audio_lens.lens.recording import along_rows
from audio_lens.lens.schedules import as_window

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens
    from audio_lens.lens.run import Hook

Pool = Literal["mean_steps", "max_steps", "last", "every_step", "first_step", "end_of_text"]
Window = tuple[float, float | None]
"""From and to which second; to the end if the latter is None."""
Key = tuple[str, int]
"""A site's shorthand and a layer: -1 for a site in front of the blocks."""

FIRST_CALL = {"first_step": range(0, 1), "end_of_text": range(-1, 0)}
"""Pools that need no more than the first decoder call, and their position."""


def positions_to_pool(lens: "AudioLens", frames: int, window: Window | None, pool: str) -> range:
    """Positions to pool: where every codebook holds a real code, within the window."""
    if pool in FIRST_CALL:
        if window is not None:
            raise InputError(f"pool={pool!r} is one position: it takes no window.")
        return FIRST_CALL[pool]
    full = range(lens.delay.first_full, frames + 1)
    if len(full) == 0:
        raise InputError(
            f"{frames} frames leave no position at which all codebooks hold a code: give at least "
            f"{lens.delay.first_full}."
        )
    if window is None:
        return full
    if any(edge is not None and not 0 <= edge < inf for edge in as_window(window)):
        raise InputError(f"window={window}: seconds count from the beginning, from 0.")
    start, stop = (None if edge is None else lens.delay.frames(edge) for edge in window)
    within = range(max(full.start, start or 0), min(full.stop, full.stop if stop is None else stop))
    if len(within) == 0:
        rate = lens.cfg.frame_rate
        raise InputError(
            f"window={window} holds none of the positions that can be pooled, "
            f"{full.start / rate:g} to {(full.stop - 1) / rate:g} s."
        )
    return within


class Pooling:
    """A hook that pools activations over positions while they pass."""

    def __init__(self, pool: str, positions: range) -> None:
        self._pool = pool
        self._positions = positions[-1:] if pool == "last" else positions
        self._found: dict[Key, dict[tuple[int, ...], Tensor]] = {}
        self._norms: dict[Key, dict[tuple[int, ...], Tensor]] = {}

    def __call__(self, tensor: Tensor, *, hook: "Hook") -> None:
        axes = hook.site.axes
        tensor = tensor.movedim(axes.index("pos" if "pos" in axes else "audio_pos"), 1)
        start = hook.positions.start
        first = max(self._positions.start - start, 0)
        last = min(self._positions.stop - start, tensor.shape[1])
        if first >= last:
            return
        part = tensor[:, first:last].detach().float()
        key = hook.site.key
        found, norms = self._found.setdefault(key, {}), self._norms.setdefault(key, {})
        norm = part.flatten(2).norm(dim=-1).sum(1)
        norms[hook.rows] = norms.get(hook.rows, 0) + norm
        found[hook.rows] = self._joined(found.get(hook.rows), part)

    def _joined(self, known: Tensor | None, part: Float[Tensor, "row pos *site"]) -> Tensor:
        """What was pooled so far with some more positions."""
        if self._pool == "every_step":
            return part.clone() if known is None else torch.cat([known, part], 1)
        if self._pool == "max_steps":
            most = part.amax(1)
            return most if known is None else torch.maximum(known, most)
        return part.sum(1) if known is None else known + part.sum(1)

    def results(self) -> dict[Key, tuple[Tensor, Tensor]]:
        """Pooled activation and mean length, per row."""
        n = len(self._positions)
        summed = self._pool not in ("every_step", "max_steps")
        return {
            key: (
                (_in_order(found) / (n if summed else 1)).cpu(),
                (_in_order(self._norms[key]) / n).cpu(),
            )
            for key, found in self._found.items()
        }


def _in_order(groups: dict[tuple[int, ...], Tensor]) -> Tensor:
    """Rows that ran apart, in the caller's order."""
    return along_rows(groups, ())
