"""What a lens knows about its model's shape, in one frozen record."""

from dataclasses import dataclass, field
from typing import Any

import torch

HFModule = Any
"""A module of transformers' MusicGen: torch does not know the types of a module's attributes."""


def vocabulary_of(model: HFModule) -> tuple[str, ...] | None:
    """The words that a checkpoint lists as its own in its configuration, or None without a list."""
    words = getattr(model.config, "vocabulary", None)
    return tuple(map(str, words)) if isinstance(words, list | tuple) else None


@dataclass(frozen=True)
class LensConfig:
    """Shape and units of a wrapped MusicGen; field names follow TransformerLens.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> random_musicgen(n_layers=2).cfg.delays
        (0, 1, 2, 3)
    """

    model_name: str
    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_text: int
    """Width of the text encoder's output."""
    n_codebooks: int
    delays: tuple[int, ...]
    """Positions by which each codebook lags behind the first."""
    d_vocab: int
    """Codes per codebook; the id `d_vocab` itself is BOS and padding."""
    n_ctx: int
    """Positions the model was built for."""
    frame_rate: int
    """Frames, and positions, per second of audio."""
    sample_rate: int
    """Samples per second of audio, in Hz."""
    audio_channels: int
    """1, or 2 where the codebooks take turns: left, right, left, right."""
    chroma_length: int
    """Chroma frames in a melody model's prefix; 0 in cross-attending models."""
    act_fn: str
    device: torch.device
    dtype: torch.dtype
    n_key_value_heads: None = None
    normalization_type: str = "LN"
    attn_only: bool = False
    vocabulary: tuple[str, ...] | None = field(default=None, repr=False)
    """The words its prompts may hold, sorted, where a checkpoint lists them as the toy does."""

    @property
    def bos(self) -> int:
        """The id that starts a sequence and fills cells the delay pattern leaves empty."""
        return self.d_vocab

    @property
    def codebooks(self) -> tuple[str, ...]:
        """Names along the `codebook` axis: `"0"` and on, or `"left 0"`, `"right 0"` and on."""
        if self.audio_channels == 1:
            return tuple(map(str, range(self.n_codebooks)))
        return tuple(f"{('left', 'right')[k % 2]} {k // 2}" for k in range(self.n_codebooks))

    @property
    def sizes(self) -> dict[str, int]:
        """How long the sites' own axes are: neither rows, nor time, nor text."""
        return {
            "codebook": self.n_codebooks, "head": self.n_heads, "d_head": self.d_head,
            "d_model": self.d_model, "d_mlp": self.d_mlp, "vocab": self.d_vocab, "1": 1,
        }  # fmt: skip

    @property
    def max_seconds(self) -> float:
        """The longest clip that fits the model's positions, with a text of no length."""
        return (self.n_ctx - self.chroma_length - max(self.delays)) / self.frame_rate

    @classmethod
    def of(cls, model: HFModule, name: str) -> "LensConfig":
        """Read the shape of a MusicGen of either family."""
        decoder, audio = model.config.decoder, model.config.audio_encoder
        channels = decoder.audio_channels
        parameter = next(model.decoder.parameters())
        return cls(
            model_name=name,
            n_layers=decoder.num_hidden_layers,
            n_heads=decoder.num_attention_heads,
            d_model=decoder.hidden_size,
            d_head=decoder.hidden_size // decoder.num_attention_heads,
            d_mlp=decoder.ffn_dim,
            d_text=model.config.text_encoder.hidden_size,
            n_codebooks=decoder.num_codebooks,
            delays=tuple(k // channels for k in range(decoder.num_codebooks)),
            d_vocab=decoder.vocab_size,
            n_ctx=decoder.max_position_embeddings,
            frame_rate=audio.frame_rate,
            sample_rate=audio.sampling_rate,
            audio_channels=channels,
            chroma_length=getattr(model.config, "chroma_length", 0),
            act_fn=decoder.activation_function,
            device=parameter.device,
            dtype=parameter.dtype,
            vocabulary=vocabulary_of(model),
        )
