"""Distortion: how far steering bends what the model predicts, so that ways of it can be compared.

A coefficient means another thing for every layer, strategy, branch and guidance scale; distortion
means the same for all of them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.analysis.directions import Direction
from audio_lens.audio.clip import Clip
from audio_lens.errors import InputError
from audio_lens.steering.steer import steer
from audio_lens.steering.sweep import check_batched

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


def distortion(
    lens: "AudioLens",
    clips: Sequence[Clip],
    *,
    direction: Direction,
    coefficients: Sequence[float],
    guidance_scale: float = 3.0,
    rows_at_once: int = 32,
    **options: Any,
) -> Float[np.ndarray, "coefficient clip"]:
    """Mean divergence of steered from unsteered predictions, in nats per code.

    Both read the unsteered clip's codes under its prompt, so that nothing but the steering is
    different; Kullback-Leibler divergence of the steered prediction from the unsteered one, after
    guidance and before top-k, averaged over codebooks and frames.

    Args:
        lens: The model.
        clips: Unsteered, of equal length, with their codes and prompts.
        direction: What is added.
        coefficients: How strongly.
        guidance_scale: As in the generation that is meant.
        rows_at_once: Rows per batch.
        options: Of `steer`.

    Raises:
        InputError: no clips, clips without codes, or of several lengths.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> twins = lens.generate(["organ", "drums"], seconds=0.2, progress=False)
        >>> up = Direction({("resid_post", 1): torch.ones(64)})
        >>> found = distortion(lens, twins, direction=up, coefficients=[0.0, 1.0])
        >>> found.shape, float(found[0].max())
        ((2, 2), 0.0)
    """
    known = [clip.codes for clip in clips if clip.codes is not None]
    if not known or len(known) < len(clips):
        raise InputError("distortion is measured on clips with their codes: give generated ones.")
    if len({each.shape for each in known}) > 1:
        raise InputError("the clips have several lengths: cut them to one.")
    return distortion_of_codes(
        lens,
        [clip.prompt for clip in clips],
        torch.stack(known),
        direction=direction,
        coefficients=coefficients,
        guidance_scale=guidance_scale,
        rows_at_once=rows_at_once,
        **options,
    )


@torch.no_grad()
def distortion_of_codes(
    lens: "AudioLens",
    prompts: Sequence[str | None],
    codes: Int[Tensor, "clip codebook frame"],
    *,
    direction: Direction,
    coefficients: Sequence[float],
    guidance_scale: float = 3.0,
    rows_at_once: int = 32,
    **options: Any,
) -> Float[np.ndarray, "coefficient clip"]:
    """As `distortion`, of codes that are known without their sound.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens, up = random_musicgen(n_layers=2), Direction({("resid_post", 1): torch.ones(64)})
        >>> codes = torch.zeros(2, lens.cfg.n_codebooks, 8, dtype=torch.long)
        >>> distortion_of_codes(
        ...     lens, ["organ", "drums"], codes, direction=up, coefficients=[1.0]).shape
        (1, 2)
    """
    check_batched(options)
    found = np.zeros((len(coefficients), len(codes)))
    for start in range(0, len(codes), rows_at_once):
        some = slice(start, start + rows_at_once)
        part, said = codes[some].to(lens.cfg.device), list(prompts[some])
        plain = lens(said, part, guidance_scale=guidance_scale).float().log_softmax(-1)
        for place, coefficient in enumerate(coefficients):
            with steer(lens, direction, coefficient=float(coefficient), **options):
                bent = lens(said, part, guidance_scale=guidance_scale).float().log_softmax(-1)
            nats = (bent.exp() * (bent - plain)).sum(-1)
            found[place, some] = nats.mean((1, 2)).cpu().numpy()
    return found


def at_distortion(
    nats: Float[np.ndarray, " coefficient"],
    effects: Float[np.ndarray, " coefficient"],
    target: float,
) -> float:
    """The effect where the distortion is `target`, between tested coefficients; NaN beyond them.

    Args:
        nats: Distortion at coefficients of one sign, from 0 outwards.
        effects: The effect there.
        target: In nats per code.

    Raises:
        InputError: distortions that do not grow with the coefficient.

    Example:
        >>> at_distortion(np.array([0.0, 0.1, 0.4]), np.array([0.0, 1.0, 2.0]), 0.25)
        1.5
    """
    if len(nats) != len(effects) or (np.diff(nats) <= 0).any():
        raise InputError(
            f"distortions {np.round(nats, 4).tolist()}: expected one for each effect, growing "
            f"from 0 outwards. Leave coefficients out where the model is past bending."
        )
    return float(np.interp(target, nats, effects, left=np.nan, right=np.nan))
