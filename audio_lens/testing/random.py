"""Random MusicGens at any shape, built from configs without network."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from audio_lens.errors import InputError
from audio_lens.lens.config import HFModule
from audio_lens.lens.lens import AudioLens
from audio_lens.lens.loading import without_padding_notice


@dataclass(frozen=True)
class Shape:
    """The numbers that make a MusicGen."""

    n_layers: int = 3
    """Blocks of the decoder."""
    d_model: int = 64
    """Width of the residual stream."""
    n_heads: int = 4
    """Attention heads; must divide `d_model`."""
    d_mlp: int | None = None
    """Width of the MLP, `4 * d_model` unless given."""
    n_codebooks: int = 4
    """Codebooks, of all channels together."""
    d_vocab: int = 256
    """Codes per codebook."""
    d_text: int = 32
    """Width of the text encoder."""
    n_text_layers: int = 2
    """Layers of the text encoder."""
    audio_channels: int = 1
    """2 for stereo: codebooks take turns, left and right."""
    melody: bool = False
    """Whether the conditions are a prefix, as in the melody checkpoints."""
    chroma_length: int = 8
    """Chroma frames in a melody model's prefix."""
    codec: str = "tiny"
    """`"tiny"`, or `"32khz"` for the shape of the published EnCodec."""


def _published(n_layers: int, d_model: int, *, stereo: bool = False, melody: bool = False) -> Shape:
    """Heads of 64, an MLP of 4 times the width, T5-base and the 32 kHz EnCodec."""
    return Shape(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=d_model // 64,
        n_codebooks=8 if stereo else 4,
        d_vocab=2048,
        d_text=768,
        n_text_layers=12,
        audio_channels=2 if stereo else 1,
        melody=melody,
        chroma_length=235,
        codec="32khz",
    )


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "small": _published(24, 1024),
        "medium": _published(48, 1536),
        "large": _published(48, 2048),
        "melody": _published(48, 1536, melody=True),
        "melody-large": _published(48, 2048, melody=True),
        "stereo-small": _published(24, 1024, stereo=True),
        "stereo-medium": _published(48, 1536, stereo=True),
        "stereo-large": _published(48, 2048, stereo=True),
        "stereo-melody": _published(48, 1536, stereo=True, melody=True),
        "stereo-melody-large": _published(48, 2048, stereo=True, melody=True),
    }
)
"""The hub's checkpoints by name (`facebook/musicgen-...`), in their shapes as transformers'
conversion scripts and the melody checkpoint's configuration give them. The number of heads is
published for small and melody; for the others it is taken from the width, at 64 a head."""

_CODECS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "sampling_rate": 16000,
        "upsampling_ratios": [20, 16],
        "num_filters": 4,
        "hidden_size": 16,
        "codebook_dim": 16,
        "num_lstm_layers": 1,
    },
    "32khz": {
        "sampling_rate": 32000,
        "upsampling_ratios": [8, 5, 4, 4],
        "num_filters": 64,
        "hidden_size": 128,
        "codebook_dim": 128,
        "num_lstm_layers": 2,
    },
}
"""The small codec of made-up shapes, and the published one."""


def random_musicgen(shape: str | None = None, *, seed: int = 0, **numbers: Any) -> AudioLens:
    """A lens over random weights: any shape, no network, the same weights for the same seed.

    The tokenizer reads letters. The unembeddings are enlarged, so that logits differ clearly
    and greedy codes react to edits; the codec's codebooks are filled, so that codes can be heard
    apart (transformers leaves them zero).

    Args:
        shape: A published shape by name, one of `SHAPES`: `"small"`, `"stereo-melody"`.
        seed: Of the weights. The global random state is left as it was.
        numbers: Fields of `Shape`, in place of the shape's own: `n_layers`, `d_model`, `n_heads`,
            `d_mlp`, `n_codebooks`, `d_vocab`, `d_text`, `n_text_layers`, `audio_channels`,
            `melody`, `chroma_length`.

    Example:
        >>> lens = random_musicgen(n_layers=2, d_model=32, n_heads=2, seed=1)
        >>> lens.cfg.d_head
        16
        >>> random_musicgen("stereo-small", n_layers=1).cfg.codebooks[:3]
        ('left 0', 'right 0', 'left 1')
    """
    if shape is not None and shape not in SHAPES:
        raise InputError(f"no shape {shape!r}: known are {', '.join(map(repr, SHAPES))}.")
    size = replace(SHAPES[shape] if shape else Shape(), **numbers)
    if size.d_model % size.n_heads:
        raise InputError(f"n_heads={size.n_heads} must divide d_model={size.d_model}.")
    if size.n_codebooks % size.audio_channels:
        raise InputError(
            f"n_codebooks={size.n_codebooks} must be a multiple of "
            f"audio_channels={size.audio_channels}."
        )
    with torch.random.fork_rng(devices=[]), without_padding_notice():
        torch.manual_seed(seed)
        model = _build(size)
        _liven(model)
    processor = _processor(model.config.audio_encoder.sampling_rate)
    return AudioLens.from_model(model, processor, name=shape or "random")


def random_twin(lens: AudioLens, *, seed: int = 0) -> AudioLens:
    """The same architecture and codec with decoder and text encoder drawn anew.

    What can be read off it, no training put there: the baseline of probes.

    Example:
        >>> lens = random_musicgen(n_layers=2)
        >>> twin = random_twin(lens, seed=7)
        >>> codes = lens.random_codes(frames=5)
        >>> torch.equal(twin(None, codes), lens(None, codes))
        False
    """
    model = lens.hf_model
    config = deepcopy(model.config)
    with torch.random.fork_rng(devices=[]), without_padding_notice():
        torch.manual_seed(seed)
        twin = type(model)(config)
    twin.audio_encoder.load_state_dict(model.audio_encoder.state_dict())
    twin.to(lens.cfg.device, next(model.decoder.parameters()).dtype)
    return AudioLens.from_model(
        twin, lens.processor, name=f"{lens.cfg.model_name} with random weights"
    )


def _build(size: Shape) -> HFModule:
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        MusicgenMelodyConfig,
        MusicgenMelodyForConditionalGeneration,
        T5Config,
    )
    from transformers.models.musicgen_melody.configuration_musicgen_melody import (
        MusicgenMelodyDecoderConfig,
    )

    text_heads = max(4, size.d_text // 64)  # 12, as T5-base has
    text = T5Config(
        vocab_size=_VOCABULARY + 3,
        d_model=size.d_text,
        d_kv=size.d_text // text_heads,
        d_ff=4 * size.d_text,
        num_layers=size.n_text_layers,
        num_heads=text_heads,
    )
    bits = (size.d_vocab - 1).bit_length()  # EnCodec counts in powers of two
    codec = EncodecConfig(
        **_CODECS[size.codec],
        audio_channels=1,  # in stereo models too: each channel is coded for itself
        codebook_size=1 << bits,
        use_causal_conv=False,
        target_bandwidths=[size.n_codebooks // size.audio_channels * 50 * bits / 1000],
    )
    decoder = (MusicgenMelodyDecoderConfig if size.melody else MusicgenDecoderConfig)(
        vocab_size=size.d_vocab,
        hidden_size=size.d_model,
        num_hidden_layers=size.n_layers,
        num_attention_heads=size.n_heads,
        ffn_dim=size.d_mlp or 4 * size.d_model,
        num_codebooks=size.n_codebooks,
        audio_channels=size.audio_channels,
        pad_token_id=size.d_vocab,
        bos_token_id=size.d_vocab,
    )
    parts: dict[str, Any] = {
        "text_encoder": text.to_dict(),
        "audio_encoder": codec.to_dict(),
        "decoder": decoder.to_dict(),
    }
    model: HFModule
    if size.melody:
        config = MusicgenMelodyConfig(**parts, chroma_length=size.chroma_length)
        model = MusicgenMelodyForConditionalGeneration(config)
    else:
        model = MusicgenForConditionalGeneration(MusicgenConfig(**parts))
    generation = model.generation_config
    generation.bos_token_id = generation.pad_token_id = size.d_vocab
    generation.decoder_start_token_id = size.d_vocab
    generation.do_sample, generation.guidance_scale = True, 3.0
    return model


@torch.no_grad()
def _liven(model: HFModule) -> None:
    """Weights far enough from their tiny initial scale that every part matters."""
    for head in model.decoder.lm_heads:
        head.weight.mul_(4 / (head.weight.std() * head.weight.shape[1] ** 0.5))
    for block in model.decoder.model.decoder.layers:
        for name, weight in block.named_parameters():
            if name.endswith("weight") and weight.ndim == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
            elif weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
    for name in ("enc_to_dec_proj", "audio_enc_to_dec_proj"):
        if hasattr(model, name):
            projection = getattr(model, name).weight
            projection.normal_(std=projection.shape[1] ** -0.5)
    _fill_codebooks(model.audio_encoder)


def _fill_codebooks(codec: HFModule) -> None:
    """Codebooks that tell sounds apart: what the encoder makes of noise, then finer and finer."""
    first, *finer = [layer.codebook.embed for layer in codec.quantizer.layers]
    samples = len(first) * codec.config.hop_length
    heard = codec.encoder(0.1 * torch.randn(1, 1, samples))[0].T
    first.copy_(heard[: len(first)])
    for codebook in finer:
        codebook.normal_(std=float(heard.std(0).mean()) / 2)


_VOCABULARY = 96
"""The printable characters, one token each."""


def _processor(sample_rate: int) -> Any:
    """A processor whose tokenizer reads any text, letter by letter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import EncodecFeatureExtractor, MusicgenProcessor, PreTrainedTokenizerFast

    characters = ["<pad>", "</s>", "<unk>", *(chr(32 + i) for i in range(_VOCABULARY))]
    letters = Tokenizer(
        models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<unk>")
    )
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    letters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    return MusicgenProcessor(EncodecFeatureExtractor(sampling_rate=sample_rate), tokenizer)
