"""Listening lessons: while it learns codes, the decoder is also asked where the beat is.

Codes alone teach a beat slowly, since most of a code is about other things. So linear read-outs
of the last hidden state are asked for beat phase, tempo and brightness at every position, and are
thrown away after training. That these are linearly present in the toy is therefore by design.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from audio_lens.audio.synthesis import BPM_RANGE, Recipe

FRAME_RATE = 50
#: cosine and sine of the beat's phase, tempo, brightness
N_TARGETS = 4


def facts(recipes: Sequence[Recipe]) -> Float[Tensor, "clip fact"]:
    """Per clip: beats a frame, beats passed at the start, tempo and brightness (-1 to 1), drums."""
    low, high = (torch.tensor(bpm).log() for bpm in BPM_RANGE)
    bpm = torch.tensor([recipe.bpm for recipe in recipes])
    return torch.stack(
        [
            bpm / 60 / FRAME_RATE,
            torch.tensor([recipe.phase for recipe in recipes]) % 1,
            2 * (bpm.log() - low) / (high - low) - 1,
            2 * torch.tensor([recipe.brightness for recipe in recipes]) - 1,
            torch.tensor([float(recipe.drums) for recipe in recipes]),
        ],
        dim=1,
    )


def targets(
    facts: Float[Tensor, "batch fact"], starts: Int[Tensor, " batch"], frames: int
) -> Float[Tensor, "batch frame target"]:
    """What the read-outs should say at each frame of windows that start at frame `starts`."""
    rate, phase, tempo, brightness, _ = facts.unbind(1)
    position = starts[:, None] + torch.arange(frames)
    angle = 2 * torch.pi * (phase[:, None] + rate[:, None] * position)
    level = [fact[:, None].expand(-1, frames) for fact in (tempo, brightness)]
    return torch.stack([angle.cos(), angle.sin(), *level], dim=2)


def listening_loss(
    heads: nn.Linear,
    states: Float[Tensor, "batch position d_model"],
    facts: Float[Tensor, "batch fact"],
    starts: Int[Tensor, " batch"],
    frames: int,
) -> Float[Tensor, ""]:
    """Mean squared error of the read-outs; clips without drums have no beat to be found."""
    wanted = targets(facts, starts, frames)
    error = (heads(states[:, :frames]) - wanted).pow(2)
    audible = torch.ones_like(error)
    audible[..., :3] = facts[:, 4, None, None]
    return (error * audible).sum() / audible.sum()
