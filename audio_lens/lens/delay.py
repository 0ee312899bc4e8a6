"""The delay pattern: where each code enters the decoder, and which position predicts it.

MusicGen reads its codebooks staggered (Copet et al. 2023, arXiv 2306.05284): frame f of
codebook k enters at position f + delay_k + 1, position 0 holding BOS everywhere, and is
predicted by the logits at position f + delay_k.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.errors import InputError


@dataclass(frozen=True)
class DelayPattern:
    """Translates between codes, positions, frames and seconds.

    Example:
        >>> pattern = DelayPattern((0, 1, 2, 3), bos=256, frame_rate=50)
        >>> pattern.n_positions(100), pattern.entering(10, codebook=2)
        (103, 13)
    """

    delays: tuple[int, ...]
    bos: int
    frame_rate: int

    def n_positions(self, frames: int) -> int:
        """Positions that generation visits for so many frames."""
        return frames + max(self.delays)

    @property
    def first_full(self) -> int:
        """The first position at which every codebook holds a code: behind BOS and the ramp."""
        return max(self.delays) + 1

    def entering(self, frame: int, *, codebook: int) -> int:
        """The position at which a code enters the decoder."""
        return frame + self.delays[codebook] + 1

    def predicting(self, frame: int, *, codebook: int) -> int:
        """The position whose logits predict a code."""
        return frame + self.delays[codebook]

    def seconds(self, position: int) -> float:
        """The time of a position."""
        return position / self.frame_rate

    def frames(self, seconds: float) -> int:
        """The number of frames in a duration, to the nearest frame."""
        return round(seconds * self.frame_rate)

    def grid(self, codes: Int[Tensor, "batch codebook frame"], frames: int) -> Int[Tensor, "..."]:
        """Delayed tokens of a clip of `frames` frames that begins with `codes`.

        Returns `[batch codebook column]` with one column more than there are positions (the
        last one is only predicted); BOS where the pattern is empty, -1 where a code is due.
        """
        batch, n_codebooks, known = codes.shape
        grid = codes.new_full((batch, n_codebooks, self.n_positions(frames) + 1), self.bos)
        for k, delay in enumerate(self.delays):
            grid[:, k, delay + 1 : delay + 1 + frames] = -1
            grid[:, k, delay + 1 : delay + 1 + known] = codes[:, k]
        return grid

    def apply(
        self, codes: Int[Tensor, "batch codebook frame"]
    ) -> Int[Tensor, "batch codebook pos"]:
        """The tokens that a teacher-forced forward reads, one column per position."""
        return self.grid(codes, codes.shape[-1])[..., :-1]

    def undo(self, grid: Int[Tensor, "batch codebook column"]) -> Int[Tensor, "..."]:
        """The codes of a full grid: the inverse of `grid`."""
        frames = grid.shape[-1] - 1 - max(self.delays)
        return torch.stack(
            [grid[:, k, d + 1 : d + 1 + frames] for k, d in enumerate(self.delays)], dim=1
        )

    def align(
        self, logits: Float[Tensor, "batch codebook pos vocab"]
    ) -> Float[Tensor, "batch codebook frame vocab"]:
        """Logits by position, re-indexed so that `[b, k, f]` predicts `codes[b, k, f]`."""
        frames = logits.shape[2] - max(self.delays)
        return torch.stack([logits[:, k, d : d + frames] for k, d in enumerate(self.delays)], dim=1)

    def check_codes(self, codes: Any, *, name: str = "codes") -> None:
        """Raise unless `codes` is `Int[batch codebook frame]` within the vocabulary."""
        if not isinstance(codes, Tensor):
            raise InputError(
                f"{name} must be an integer tensor [batch codebook frame], got "
                f"{type(codes).__name__}. Use `lens.encode(...)` or a clip's `.codes[None]`."
            )
        if codes.ndim != 3 or codes.shape[1] != len(self.delays) or codes.shape[2] == 0:
            raise InputError(
                f"{name} must have shape [batch, {len(self.delays)} codebooks, frames >= 1], got "
                f"{tuple(codes.shape)}. One clip's codes need a batch axis: `codes[None]`."
            )
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise InputError(f"{name} must be integers, got {codes.dtype}.")
        low, high = int(codes.min()), int(codes.max())
        if high == self.bos:
            raise InputError(
                f"{name} hold the padding id {self.bos}: they look delayed. Give the undelayed "
                f"codes (a clip's `.codes`); the lens applies the delay pattern itself."
            )
        if low < 0 or high > self.bos:
            raise InputError(
                f"{name} must lie in 0..{self.bos - 1} (the codebook's entries), found "
                f"{low if low < 0 else high}."
            )

    def check_tokens(self, tokens: Any) -> None:
        """Raise unless `tokens` is `Int[batch codebook pos]` with the delay pattern applied."""
        shape_ok = isinstance(tokens, Tensor) and tokens.ndim == 3
        if not shape_ok or tokens.shape[1] != len(self.delays):
            shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise InputError(
                f"tokens must have shape [batch, {len(self.delays)} codebooks, positions], got "
                f"{shape}. Make them with `bound.to_tokens(codes)`."
            )
        empty = (
            self.grid(tokens[..., :0], tokens.shape[-1] - max(self.delays))[..., :-1] == self.bos
        )
        if not torch.equal(tokens == self.bos, empty.to(tokens.device)):
            raise InputError(
                "tokens are not delayed: the padding id must stand exactly where the delay "
                "pattern is empty. Make them with `bound.to_tokens(codes)`."
            )
