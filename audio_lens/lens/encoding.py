"""Audio to codes, by the model's own EnCodec."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.audio.clip import Clip
from audio_lens.audio.sound import is_sound, samples_of
from audio_lens.errors import InputError

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


def encode(
    lens: "AudioLens", audio: Any, sample_rate: float | None
) -> Int[Tensor, "batch codebook frame"]:
    """See `AudioLens.encode`."""
    items: Sequence[Any] = [audio] if is_sound(audio) else list(audio)
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
def _encode_one(lens: "AudioLens", item: Any, sample_rate: float | None) -> Tensor:
    if isinstance(item, str | Path):
        item = Clip.load(item)
    if isinstance(item, Clip) and item.codes is not None and _fits(lens, item.codes):
        return item.codes.to(lens.cfg.device)
    samples = samples_of(item, sample_rate, wanted=lens.cfg.sample_rate)
    codec = lens._module.audio_encoder
    channels = _channels(samples, lens.cfg.audio_channels).to(lens.cfg.device, codec.dtype)
    # Each channel is coded for itself, as one row; EnCodec is a mono codec in stereo models too.
    encoded = codec.encode(channels[:, None], bandwidth=max(codec.config.target_bandwidths))
    books = encoded.audio_codes[0, :, : lens.cfg.n_codebooks // lens.cfg.audio_channels]
    return books.transpose(0, 1).flatten(0, 1)  # left 0, right 0, left 1, right 1, ...


def _fits(lens: "AudioLens", codes: Tensor) -> bool:
    """Whether codes can be this model's own: a mono clip has too few books for a stereo model."""
    return len(codes) == lens.cfg.n_codebooks


def _channels(
    samples: Float[Tensor, "channel sample"], wanted: int
) -> Float[Tensor, "wanted sample"]:
    if len(samples) == wanted:
        return samples
    return samples.mean(0, keepdim=True).expand(wanted, -1)
