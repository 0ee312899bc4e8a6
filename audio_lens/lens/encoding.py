"""Audio to codes, by the model's own EnCodec."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from audio_lens.audio.clip import Clip
from audio_lens.errors import InputError

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


def encode(
    lens: "AudioLens", audio: Any, sample_rate: int | None
) -> Int[Tensor, "batch codebook frame"]:
    """See `AudioLens.encode`."""
    single = isinstance(audio, Clip | str | Path | np.ndarray | Tensor)
    items: Sequence[Any] = [audio] if single else list(audio)
    if not items:
        raise InputError("nothing to encode: give a clip, a path, an array, or a list of them.")
    codes = [_encode_one(lens, item, sample_rate) for item in items]
    lengths = {c.shape[-1] for c in codes}
    if len(lengths) > 1:
        raise InputError(
            f"clips of {sorted(lengths)} frames do not fit one batch: cut them to one length."
        )
    return torch.stack(codes).to(lens.cfg.device)


@torch.no_grad()
def _encode_one(lens: "AudioLens", item: Any, sample_rate: int | None) -> Tensor:
    if isinstance(item, str | Path):
        item = Clip.load(item)
    if isinstance(item, Clip):
        if item.codes is not None:
            return item.codes.to(lens.cfg.device)
        item, sample_rate = item.waveform, item.sample_rate
    waveform = _mono(item, sample_rate, lens.cfg.sample_rate).to(lens.cfg.device, lens.cfg.dtype)
    encoded = lens._module.audio_encoder.encode(
        waveform[None, None], bandwidth=max(lens._module.config.audio_encoder.target_bandwidths)
    )
    return encoded.audio_codes[0, 0, : lens.cfg.n_codebooks]


def _mono(audio: Any, sample_rate: int | None, wanted: int) -> Tensor:
    if sample_rate is None:
        raise InputError("arrays have no sample rate of their own: give sample_rate= in Hz.")
    given = torch.as_tensor(np.asarray(audio))
    if not given.is_floating_point():
        raise InputError(
            f"audio must be floating point between -1 and 1, got {given.dtype}: divide 16-bit "
            f"samples by 32768."
        )
    samples = given.float()
    if samples.ndim == 2:
        samples = samples.mean(0)
    if samples.ndim != 1 or samples.numel() == 0:
        raise InputError(f"audio must be [sample] or [channel sample], got {tuple(samples.shape)}.")
    if not samples.isfinite().all():
        raise InputError("audio holds NaN or infinity.")
    if sample_rate == wanted:
        return samples
    from math import gcd

    from scipy.signal import resample_poly

    divisor = gcd(sample_rate, wanted)
    resampled = resample_poly(samples.numpy(), wanted // divisor, sample_rate // divisor)
    return torch.from_numpy(np.ascontiguousarray(resampled, dtype=np.float32))
