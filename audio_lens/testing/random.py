"""Random MusicGens at any shape, built from configs without network."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from audio_lens.errors import InputError
from audio_lens.lens.config import HFModule
from audio_lens.lens.lens import AudioLens
from audio_lens.lens.loading import without_padding_notice

SHAPES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "small": {
            "n_layers": 24,
            "d_model": 1024,
            "n_heads": 16,
            "d_mlp": 4096,
            "n_codebooks": 4,
            "d_vocab": 2048,
            "d_text": 768,
            "n_text_layers": 12,
        },
    }
)
"""Published shapes by name, as in the checkpoints' conversion scripts; with T5-base and the
32 kHz EnCodec that they come with."""

_CODECS: Mapping[bool, Mapping[str, Any]] = {
    False: {
        "sampling_rate": 16000,
        "upsampling_ratios": [20, 16],
        "num_filters": 4,
        "hidden_size": 16,
        "codebook_dim": 16,
        "num_lstm_layers": 1,
    },
    True: {
        "sampling_rate": 32000,
        "upsampling_ratios": [8, 5, 4, 4],
        "num_filters": 64,
        "hidden_size": 128,
        "codebook_dim": 128,
        "num_lstm_layers": 2,
    },
}
"""The small codec of made-up shapes, and the published one."""


def random_musicgen(
    shape: str | None = None,
    *,
    n_layers: int = 3,
    d_model: int = 64,
    n_heads: int = 4,
    d_mlp: int | None = None,
    n_codebooks: int = 4,
    d_vocab: int = 256,
    d_text: int = 32,
    n_text_layers: int = 2,
    seed: int = 0,
) -> AudioLens:
    """A lens over random weights: any shape, no network, the same weights for the same seed.

    The tokenizer reads letters. The unembeddings are enlarged, so that logits differ clearly
    and greedy codes react to edits; the codec's codebooks are filled, so that codes can be heard
    apart (transformers leaves them zero).

    Args:
        shape: A published shape by name (`"small"`), instead of the numbers that follow.
        n_layers: Blocks of the decoder.
        d_model: Width of the residual stream.
        n_heads: Attention heads; must divide `d_model`.
        d_mlp: Width of the MLP, `4 * d_model` unless given.
        n_codebooks: Codebooks, each delayed by one position more than the one before.
        d_vocab: Codes per codebook.
        d_text: Width of the text encoder.
        n_text_layers: Layers of the text encoder.
        seed: Of the weights. The global random state is left as it was.

    Example:
        >>> lens = random_musicgen(n_layers=2, d_model=32, n_heads=2, seed=1)
        >>> lens.cfg.d_head
        16
    """
    size: dict[str, int] = {
        "n_layers": n_layers,
        "d_model": d_model,
        "n_heads": n_heads,
        "d_mlp": d_mlp or 4 * d_model,
        "n_codebooks": n_codebooks,
        "d_vocab": d_vocab,
        "d_text": d_text,
        "n_text_layers": n_text_layers,
    }
    if shape is not None:
        if shape not in SHAPES:
            raise InputError(f"no shape {shape!r}: known are {', '.join(map(repr, SHAPES))}.")
        size |= SHAPES[shape]
    if size["d_model"] % size["n_heads"]:
        raise InputError(f"n_heads={size['n_heads']} must divide d_model={size['d_model']}.")
    with torch.random.fork_rng(devices=[]), without_padding_notice():
        torch.manual_seed(seed)
        model = _build(size, _CODECS[shape is not None])
        _liven(model)
    processor = _processor(model.config.audio_encoder.sampling_rate)
    return AudioLens.from_model(model, processor, name=shape or "random")


def _build(size: Mapping[str, int], sound: Mapping[str, Any]) -> HFModule:
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        T5Config,
    )

    text_heads = max(4, size["d_text"] // 64)  # 12, as T5-base has
    text = T5Config(
        vocab_size=_VOCABULARY + 3,
        d_model=size["d_text"],
        d_kv=size["d_text"] // text_heads,
        d_ff=4 * size["d_text"],
        num_layers=size["n_text_layers"],
        num_heads=text_heads,
    )
    bits = (size["d_vocab"] - 1).bit_length()  # EnCodec counts in powers of two
    codec = EncodecConfig(
        **sound,
        audio_channels=1,
        codebook_size=1 << bits,
        use_causal_conv=False,
        target_bandwidths=[size["n_codebooks"] * 50 * bits / 1000],
    )
    decoder = MusicgenDecoderConfig(
        vocab_size=size["d_vocab"],
        hidden_size=size["d_model"],
        num_hidden_layers=size["n_layers"],
        num_attention_heads=size["n_heads"],
        ffn_dim=size["d_mlp"],
        num_codebooks=size["n_codebooks"],
        pad_token_id=size["d_vocab"],
        bos_token_id=size["d_vocab"],
    )
    config = MusicgenConfig(
        text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict()
    )
    model = MusicgenForConditionalGeneration(config)
    generation = model.generation_config
    generation.bos_token_id = generation.pad_token_id = size["d_vocab"]
    generation.decoder_start_token_id = size["d_vocab"]
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
    if hasattr(model, "enc_to_dec_proj"):
        projection = model.enc_to_dec_proj.weight
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
