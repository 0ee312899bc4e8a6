"""Audio in whatever form it comes, as samples at the rate that is wanted."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.audio.clip import Clip
from audio_lens.audio.waveform import resampled
from audio_lens.errors import InputError


def is_sound(audio: Any) -> bool:
    """Whether it is one piece of audio: a clip, a path or an array."""
    return isinstance(audio, Clip | str | Path | np.ndarray | Tensor)


def samples_of(
    audio: Any, sample_rate: float | None, *, wanted: int
) -> Float[Tensor, "channel sample"]:
    """The samples of a clip, a file or an array `[sample]` or `[channel sample]`.

    Args:
        audio: Clips and files know their own rate.
        sample_rate: Of an array, in Hz.
        wanted: The rate to resample to, in Hz.

    Raises:
        InputError: no rate, no floating-point samples, another shape, NaN or infinity.
    """
    if isinstance(audio, str | Path):
        audio = Clip.load(audio)
    if isinstance(audio, Clip):
        audio, sample_rate = audio.waveform, audio.sample_rate
    if sample_rate is None:
        raise InputError("arrays have no sample rate of their own: give sample_rate= in Hz.")
    if not sample_rate > 0 or sample_rate != int(sample_rate):
        raise InputError(f"sample_rate must be a whole number of Hz above 0, got {sample_rate}.")
    given = torch.as_tensor(np.asarray(audio))
    if not given.is_floating_point():
        raise InputError(
            f"audio must be floating point between -1 and 1, got {given.dtype}: divide 16-bit "
            f"samples by 32768."
        )
    samples = given.float()
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or samples.numel() == 0:
        raise InputError(f"audio must be [sample] or [channel sample], got {tuple(given.shape)}.")
    if len(samples) > 8:
        raise InputError(
            f"audio of shape {tuple(given.shape)} would have {len(samples)} channels: arrays are "
            f"[channel sample], so transpose what soundfile.read gives."
        )
    if not samples.isfinite().all():
        raise InputError("audio holds NaN or infinity.")
    return _resampled(samples, int(sample_rate), wanted)


def _resampled(samples: Tensor, rate: int, wanted: int) -> Tensor:
    if rate == wanted:
        return samples
    made = resampled(samples.numpy(), rate, wanted)
    return torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32))
