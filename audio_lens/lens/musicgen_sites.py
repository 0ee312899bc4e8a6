"""The site tables of MusicGen: names, locations, axes, order of execution.

Two families share them. In one the blocks cross-attend to the text; in the other, melody, the
conditions are a prefix of the decoder's own sequence, and the blocks have no cross-attention.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from audio_lens.errors import AudioLensError
from audio_lens.lens import ports
from audio_lens.lens.config import HFModule
from audio_lens.lens.ports import Port
from audio_lens.lens.sites import Site, SiteTable

DECODER = "model.decoder.model.decoder"
TEXT_PROJECTION = "text.projection"
"""Virtual location: the projected, masked text states, as the decoder is given them."""
MELODY_PROJECTION = "melody.projection"
"""Virtual location: the projected chroma of a melody, as the decoder is given it."""

COND = ("cond",)
STREAM = ("batch", "pos", "d_model")
HEADS = ("batch", "pos", "head", "d_head")
MLP = ("batch", "pos", "d_mlp")


def attention_location(kind: str, layer: int, point: str) -> str:
    """Virtual location inside the attention function of a layer (kind `self` or `cross`)."""
    return f"attention.{kind}.{layer}.{point}"


def has_prefix(model: HFModule) -> bool:
    """Whether a MusicGen reads its conditions as a prefix, as the melody checkpoints do."""
    return model.config.model_type == "musicgen_melody"


def musicgen_sites(model: HFModule) -> SiteTable:
    """The sites of a MusicGen of either family, in order of execution."""
    _assert_residual_aliasing(model)
    decoder, prefix = model.decoder.model.decoder, has_prefix(model)
    sites = [*_text(prefix=prefix), *(_melody() if prefix else [])]
    sites += _embedding(len(decoder.embed_tokens), "model.decoder.input" if prefix else "")
    for layer, block in enumerate(decoder.layers):
        sites += _block(layer, block)
    sites += _norm("ln_final", f"{DECODER}.layer_norm", decoder.layer_norm, "the final LayerNorm")
    sites.append(
        Site(
            "hook_logits",
            "model.decoder.output",
            ports.Logits(len(decoder.embed_tokens)),
            ("batch", "codebook", "pos", "vocab"),
            "logits by position, per branch, before guidance",
        )
    )
    return SiteTable(sites)


def _text(*, prefix: bool) -> Iterator[Site]:
    yield Site(
        "text.hook_out",
        "model.text_encoder.output",
        ports.TextStates(),
        ("batch", "token", "d_text"),
        "the text encoder's last hidden state",
        steps="first",
        branches=COND,
    )
    # A prefix holds the unconditional half's zeros too, and can be written there.
    halves: dict[str, Any] = {} if prefix else {"branches": COND}
    reader = "it enters the prefix" if prefix else "cross-attention reads it"
    yield Site(
        "text.hook_proj",
        TEXT_PROJECTION,
        Port(),
        ("batch", "token", "d_model"),
        f"the text as {reader}: projected, padding zeroed",
        steps="first",
        **halves,
    )


def _melody() -> Iterator[Site]:
    yield Site(
        "melody.hook_proj",
        MELODY_PROJECTION,
        Port(),
        ("batch", "chroma", "d_model"),
        "the melody's chroma as it enters the prefix: projected",
        steps="first",
    )


def _embedding(n_codebooks: int, prefix: str) -> Iterator[Site]:
    first = f"{DECODER}.layers.0.input"
    codebooks = tuple(f"{DECODER}.embed_tokens.{k}.output" for k in range(n_codebooks))
    positions = f"{DECODER}.embed_positions.output"
    yield Site(
        "embed.hook_codebook",
        first,
        ports.Codebooks(codebooks, positions, prefix),
        ("batch", "codebook", "audio_pos" if prefix else "pos", "d_model"),
        "each codebook's embedding, before they are summed",
    )
    yield Site(
        "hook_embed",
        first,
        ports.Embedding(codebooks, positions, prefix),
        STREAM,
        "the prefix, and the sum of the codebooks' embeddings"
        if prefix
        else "the sum of the codebooks' embeddings",
    )
    yield Site(
        "hook_pos_embed",
        first,
        ports.Positions(codebooks, positions, prefix),
        STREAM,
        "the positional embedding",
    )


def _norm(
    name: str, path: str, norm: nn.LayerNorm, about: str, **normalized: Any
) -> Iterator[Site]:
    yield Site(
        f"{name}.hook_scale",
        f"{path}.input",
        ports.Scale(norm),
        ("batch", "pos", "1"),
        f"the standard deviation {about} divides by",
        write="no",
    )
    yield Site(
        f"{name}.hook_normalized",
        f"{path}.output",
        Port(),
        STREAM,
        f"the output of {about}, weight and bias applied",
        **normalized,
    )


def _block(layer: int, block: HFModule) -> Iterator[Site]:
    name, path = f"blocks.{layer}", f"{DECODER}.layers.{layer}"
    cross = hasattr(block, "encoder_attn")
    yield Site(
        f"{name}.hook_resid_pre",
        f"{path}.input",
        ports.Argument(),
        STREAM,
        "the residual stream entering the block",
    )
    yield from _norm(
        f"{name}.ln1",
        f"{path}.self_attn_layer_norm",
        block.self_attn_layer_norm,
        "the LayerNorm before self-attention",
    )
    yield from _attention(name, path, layer, block.self_attn, kind="self")
    yield Site(
        f"{name}.hook_resid_mid",
        f"{path}.{'encoder_attn' if cross else 'final'}_layer_norm.input",
        ports.Residual(),
        STREAM,
        "the residual stream after self-attention",
    )
    if cross:
        yield from _cross_attention(name, path, layer, block)
    yield from _norm(
        f"{name}.ln2",
        f"{path}.final_layer_norm",
        block.final_layer_norm,
        "the LayerNorm before the MLP",
    )
    yield Site(
        f"{name}.mlp.hook_pre", f"{path}.fc1.output", Port(), MLP, "MLP neurons before activation"
    )
    yield Site(
        f"{name}.mlp.hook_post",
        f"{path}.fc2.input",
        ports.Argument(),
        MLP,
        "MLP neurons, activated",
    )
    yield Site(
        f"{name}.hook_mlp_out",
        f"{path}.fc2.output",
        Port(),
        STREAM,
        "what the MLP adds to the stream",
    )
    yield Site(
        f"{name}.hook_resid_post",
        f"{path}.output",
        Port() if cross else ports.First(),
        STREAM,
        "the residual stream leaving the block",
    )


def _cross_attention(name: str, path: str, layer: int, block: HFModule) -> Iterator[Site]:
    yield from _norm(
        f"{name}.ln_cross",
        f"{path}.encoder_attn_layer_norm",
        block.encoder_attn_layer_norm,
        "the LayerNorm before cross-attention",
        branches=COND,  # it feeds cross-attention's queries alone
    )
    yield from _attention(name, path, layer, block.encoder_attn, kind="cross")
    yield Site(
        f"{name}.hook_resid_mid2",
        f"{path}.final_layer_norm.input",
        ports.Residual(),
        STREAM,
        "the residual stream after cross-attention",
    )


def _attention(block: str, path: str, layer: int, module: HFModule, *, kind: str) -> Iterator[Site]:
    cross = kind == "cross"
    name, path = (
        (f"{block}.cross_attn", f"{path}.encoder_attn")
        if cross
        else (f"{block}.attn", f"{path}.self_attn")
    )
    what = "cross-attention" if cross else "self-attention"
    heads = ports.Heads(module.num_heads)
    # The unconditional half has no text: nothing written to these could change its output.
    text_only: dict[str, Any] = {"branches": COND} if cross else {}
    source: dict[str, Any] = {**text_only, "steps": "first"} if cross else {}
    source_axes = ("batch", "token", "head", "d_head") if cross else HEADS
    square = ("batch", "head", "query", "token" if cross else "key")

    yield Site(
        f"{name}.hook_q", f"{path}.q_proj.output", heads, HEADS, f"queries of {what}", **text_only
    )
    yield Site(
        f"{name}.hook_k", f"{path}.k_proj.output", heads, source_axes, f"keys of {what}", **source
    )
    yield Site(
        f"{name}.hook_v", f"{path}.v_proj.output", heads, source_axes, f"values of {what}", **source
    )
    for point, about in (
        ("attn_scores", f"scores of {what}: scaled and masked"),
        ("pattern", f"softmax of the scores of {what}"),
    ):
        location = attention_location(kind, layer, point)
        yield Site(f"{name}.hook_{point}", location, Port(), square, about, **text_only)
    yield Site(
        f"{name}.hook_z",
        f"{path}.out_proj.input",
        ports.ArgumentHeads(module.num_heads),
        HEADS,
        f"values mixed by the pattern of {what}, per head",
    )
    yield Site(
        f"{name}.hook_result",
        f"{path}.out_proj.output",
        ports.Result(module.out_proj, module.num_heads, f"{path}.out_proj.input"),
        ("batch", "pos", "head", "d_model"),
        f"what each head of {what} adds to the stream",
        write="delta",
    )
    yield Site(
        f"{block}.hook_cross_attn_out" if cross else f"{block}.hook_attn_out",
        f"{path}.out_proj.output",
        Port(),
        STREAM,
        f"what {what} adds to the stream",
    )


@torch.no_grad()
def _assert_residual_aliasing(model: HFModule) -> None:
    """The in-place write of resid_mid rests on the norm's input being the stream itself."""
    block = model.decoder.model.decoder.layers[0]
    d_model, weight = model.config.decoder.hidden_size, block.fc1.weight
    x = torch.ones(1, 1, d_model, device=weight.device, dtype=weight.dtype)
    outputs: list[Tensor] = []

    def empty_the_stream(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        args[0].zero_()

    handles = [
        block.final_layer_norm.register_forward_pre_hook(empty_the_stream),
        block.fc2.register_forward_hook(lambda module, args, out: outputs.append(out)),
    ]
    try:
        out = block(x.clone(), None) if has_prefix(model) else block(x.clone(), None, x)
    finally:
        for handle in handles:
            handle.remove()
    out = out[0] if isinstance(out, tuple) else out
    if not torch.equal(out, outputs[0]):
        raise AudioLensError(
            "this transformers version no longer hands the residual stream itself to the "
            "LayerNorms, so resid_mid and resid_mid2 could not be written. Install the versions "
            "in constraints.txt."
        )
