"""What transformers itself says, and what can be counted without the lens."""

import functools

import torch
from torch import Tensor

from audio_lens import AudioLens


def n_prefix(lens: AudioLens, prompt: str) -> int:
    """Chroma frames and text tokens before the music; 0 where the text is cross-attended."""
    if not lens.cfg.chroma_length:
        return 0
    return lens.cfg.chroma_length + len(lens.processor.tokenizer(prompt).input_ids)


def transformers_codes(lens: AudioLens, prompts: list[str] | None, **settings: object) -> Tensor:
    """The codes that transformers' own `generate` hands to the codec."""
    model, seen = lens.hf_model, []
    decode = model.audio_encoder.decode

    @functools.wraps(decode)
    def spy(codes: Tensor, *args: object, **kwargs: object) -> object:
        seen.append(codes[0].clone())
        return decode(codes, *args, **kwargs)

    if prompts is None:
        inputs = lens.processor(text=[""], return_tensors="pt")
        inputs["attention_mask"][:] = 0  # what transformers calls unconditional inputs
    else:
        inputs = lens.processor(text=prompts, padding=True, return_tensors="pt")
    model.audio_encoder.decode = spy
    try:
        model.generate(**inputs, **settings)
    finally:
        del model.audio_encoder.decode
    return torch.stack(seen, 2).flatten(1, 2)  # stereo decodes left, then right


def our_codes(lens: AudioLens, prompts: list[str] | None, **settings: object) -> Tensor:
    """The codes of the lens's clips."""
    return torch.stack([c.codes for c in lens.generate(prompts, progress=False, **settings)])


def loud(lens: AudioLens) -> AudioLens:
    """A random model with its text as loud as its stream, so that prompts matter."""
    weight = lens.hf_model.enc_to_dec_proj.weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight.data.copy_(noise / weight.shape[1] ** 0.5)
    return lens
