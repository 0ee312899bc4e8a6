"""The toys' shapes: two small MusicGens around one codec, one for each way of taking a prompt.

`cross` attends to the text from every block, as musicgen-small does; `melody` reads chroma and
text as a prefix, as musicgen-melody does. Widths, depths, codec and tokenizer are the same.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    EncodecModel,
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)

from audio_lens.audio import words
from audio_lens.audio.melody import N_CHROMA

from ._codec import CODEBOOK_SIZE, N_CODEBOOKS

BOS = CODEBOOK_SIZE
FAMILIES = ("cross", "melody")
#: Chroma frames of ten seconds: 7.8 a second, and the one at the end.
CHROMA_LENGTH = 79
_WIDTH, _TEXT_WIDTH = 160, 64

ToyModel = Any
"""A MusicGen of either family; its parts have no types that a checker could follow."""


def _ids(**tokens: int) -> dict[str, Any]:
    """Token ids as a config takes them; which ones it knows, its base class decides."""
    return {f"{name}_token_id": token for name, token in tokens.items()}


def _decoder_numbers() -> dict[str, Any]:
    return {
        "vocab_size": CODEBOOK_SIZE,
        "max_position_embeddings": 2048,
        "num_hidden_layers": 5,
        "hidden_size": _WIDTH,
        "ffn_dim": 4 * _WIDTH,
        "num_attention_heads": 5,
        "num_codebooks": N_CODEBOOKS,
        "audio_channels": 1,
        "dropout": 0.0,
        **_ids(pad=BOS, bos=BOS, decoder_start=BOS),
    }


def build_model(family: str, codec: EncodecModel, n_tokens: int) -> ToyModel:
    """A MusicGen around a trained codec: decoder 5 x 160, text encoder 2 x 64, both untrained.

    Its configuration lists the words that training holds, as `vocabulary`.
    """
    text = T5Config(
        vocab_size=n_tokens,
        d_model=_TEXT_WIDTH,
        d_kv=16,
        d_ff=2 * _TEXT_WIDTH,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        is_encoder_decoder=False,
        **_ids(pad=0, eos=1, decoder_start=0),
    )
    parts: dict[str, Any] = {"text_encoder": text, "audio_encoder": codec.config}
    model: ToyModel
    if family == "melody":
        parts["decoder"] = MusicgenMelodyDecoderConfig(**_decoder_numbers())
        config = MusicgenMelodyConfig(**parts, chroma_length=CHROMA_LENGTH)
        model = MusicgenMelodyForConditionalGeneration(config)
    else:
        parts["decoder"] = MusicgenDecoderConfig(**_decoder_numbers())
        model = MusicgenForConditionalGeneration(MusicgenConfig(**parts))
    model.config.vocabulary = list(words.vocabulary())
    model.audio_encoder.load_state_dict(codec.state_dict())
    _initialise(model)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS,
        pad_token_id=BOS,
        decoder_start_token_id=BOS,
        do_sample=True,
        guidance_scale=3.0,
        top_k=250,
        max_length=504,
    )
    return model


@torch.no_grad()
def _initialise(model: ToyModel) -> None:
    """Let codes and words enter the residual stream as loud as positions do.

    With the usual small numbers (0.02, three times in a row on the text's way) they arrive a
    hundred to a thousand times weaker, and training goes on for thousands of steps without them.
    """
    decoder = model.decoder.model.decoder
    for table in decoder.embed_tokens:
        nn.init.normal_(table.weight, std=0.35)
    matrices = [model.enc_to_dec_proj]
    for layer in decoder.layers:
        if hasattr(layer, "encoder_attn"):
            matrices += [layer.encoder_attn.v_proj, layer.encoder_attn.out_proj]
    for matrix in matrices:
        nn.init.normal_(matrix.weight, std=matrix.in_features**-0.5)
    nn.init.zeros_(model.enc_to_dec_proj.bias)
    if hasattr(model, "audio_enc_to_dec_proj"):
        nn.init.normal_(model.audio_enc_to_dec_proj.weight, std=0.7)
        nn.init.zeros_(model.audio_enc_to_dec_proj.bias)


def null_chroma(batch: int) -> Float[Tensor, "batch frame 12"]:
    """What stands for no melody: the first pitch class throughout, as transformers has it."""
    chroma = torch.zeros(batch, CHROMA_LENGTH, N_CHROMA)
    chroma[..., 0] = 1
    return chroma


def hidden_states(
    model: ToyModel,
    input_ids: Int[Tensor, "row position"],
    text: tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"]],
    unconditional: Bool[Tensor, " batch"],
    chroma: Float[Tensor, "batch frame 12"] | None,
) -> Float[Tensor, "batch position d_model"]:
    """Last hidden states of delayed codes (row `batch * codebook`) under their conditions.

    text: token ids and their mask. unconditional: rows that get no text and no melody, as in
    guidance. chroma: for the melody family.
    """
    ids, mask = text
    states = model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    mask = mask * (~unconditional)[:, None]
    states = model.enc_to_dec_proj(states) * mask[..., None]
    given: dict[str, Tensor] = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    n_prefix = 0
    if chroma is not None:
        chroma = torch.where(unconditional[:, None, None], null_chroma(len(chroma)), chroma)
        prefix = torch.cat([model.audio_enc_to_dec_proj(chroma), states], dim=1)
        given, n_prefix = {"encoder_hidden_states": prefix}, prefix.shape[1]
    out = model.decoder.model(input_ids=input_ids, use_cache=False, **given)
    return out.last_hidden_state[:, n_prefix:]
