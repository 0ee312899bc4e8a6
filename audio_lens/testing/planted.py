"""A planted circuit: a random model into which one mechanism was written by hand.

A word of the prompt sets off a head of one block's cross-attention, which writes a marker into the
stream; a neuron of a later MLP sees the marker, within a window of positions, and makes one code of
one codebook likely. Nothing else reads or writes what the mechanism uses. So what a method should
find is known: the word's token, the head, the neuron's block, the window, the codebook, and the one
edge between head and MLP.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from audio_lens.errors import InputError
from audio_lens.lens.config import HFModule
from audio_lens.lens.lens import AudioLens
from audio_lens.testing.random import random_musicgen


@dataclass(frozen=True, eq=False)
class Planted:
    """A model with a mechanism in it, and where it is."""

    lens: AudioLens
    clean: str
    """A prompt with the word that sets it off."""
    corrupted: str
    """The same with another word."""
    codes: Int[Tensor, "1 codebook frame"]
    token: int
    """The word's text token."""
    layer: int
    head: int
    """The head of cross-attention that reads it."""
    mlp_layer: int
    neuron: int
    window: range
    """Positions at which the neuron listens."""
    codebook: int
    code: int
    """What becomes likely."""


def planted_circuit(
    *,
    n_layers: int = 4,
    layer: int = 1,
    head: int = 2,
    mlp_layer: int = 2,
    window: range = range(4, 8),
    codebook: int = 1,
    code: int = 17,
    frames: int = 10,
    seed: int = 0,
) -> Planted:
    """Plant the mechanism in a random model of width 64 with four heads.

    Args:
        n_layers: Blocks of the model.
        layer: Where cross-attention reads the word.
        head: Which of its heads.
        mlp_layer: Where the neuron sits, at or behind `layer`.
        window: Positions at which the neuron listens.
        codebook: Which codebook hears of it.
        code: Which of its entries becomes likely.
        frames: Frames of the codes.
        seed: Of the random weights and codes.

    Raises:
        InputError: a neuron in front of its head, or a window outside of the positions.

    Example:
        >>> from audio_lens import ablate, metrics
        >>> planted = planted_circuit()
        >>> metric = metrics.probability([planted.code], codebooks=planted.codebook)
        >>> lost = ablate(planted.lens, planted.clean, planted.codes, site="cross_attn.z",
        ...               donor="zero", metric=metric, progress=False)
        >>> lost.best()
        {'layer': '1', 'head': '2'}
    """
    lens = random_musicgen(n_layers=n_layers, d_model=64, n_heads=4, d_text=48, seed=seed)
    n_positions = frames + max(lens.cfg.delays)
    if not 0 <= layer <= mlp_layer < n_layers:
        raise InputError(f"layer={layer} and mlp_layer={mlp_layer}: the head must come first.")
    if not 0 <= window.start < window.stop <= n_positions:
        raise InputError(f"window={window}: expected positions within 0 to {n_positions}.")
    clean, corrupted = "a slow organ", "a fast organ"
    model, decoder = lens.hf_model, lens.hf_model.decoder.model.decoder
    neuron = 0
    with torch.no_grad():
        positions = decoder.embed_positions.weights[:n_positions]
        marker, gate, target = _directions(positions, seed)
        outside = torch.tensor([position not in window for position in range(n_positions)])
        positions[outside] -= 2 * gate  # what tells the neuron to keep silent
        for norm in (each for each in decoder.modules() if isinstance(each, nn.LayerNorm)):
            nn.init.ones_(norm.weight)  # else what is read would be a mixture of directions
            nn.init.zeros_(norm.bias)
        for block in decoder.layers:
            _clear(block, torch.stack([marker, gate, target]))
        for table in decoder.embed_tokens:
            table.weight.copy_(_without(table.weight, marker, gate, target))
        for each in model.decoder.lm_heads:
            each.weight.copy_(_without(each.weight, marker, gate, target))
        token, word = _plant_word(lens, clean, corrupted)
        for block in decoder.layers:
            for projection in (block.encoder_attn.k_proj, block.encoder_attn.v_proj):
                projection.weight.copy_(_without(projection.weight, word))
        reads = decoder.layers[layer].encoder_attn
        first = head * lens.cfg.d_head
        reads.v_proj.weight[first] = word
        reads.out_proj.weight[:, first] = 0.5 * marker
        mlp = decoder.layers[mlp_layer]
        # Little is written and much is made of it: LayerNorms then scale nothing else by it.
        mlp.fc1.weight[neuron] = 36 * marker + 144 * gate
        mlp.fc2.weight[:, neuron] = 0.05 * target
        model.decoder.lm_heads[codebook].weight[code] += 100 * target
    return Planted(
        lens, clean, corrupted, lens.random_codes(frames=frames, seed=seed), token, layer, head,
        mlp_layer, neuron, window, codebook, code,
    )  # fmt: skip


def _without(weight: Tensor, *directions: Tensor) -> Tensor:
    """Rows of a weight without their part along some directions."""
    basis = torch.linalg.qr(torch.stack(directions).T)[0]
    return weight - weight @ basis @ basis.T


def _directions(
    positions: Float[Tensor, "pos d_model"], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Marker, gate and target: at right angles to positions and to each other, and their entries
    sum to zero, so that none moves a LayerNorm's mean.
    """
    free = torch.cat([positions, torch.ones(1, positions.shape[1])]).double()
    taken = torch.linalg.svd(free, full_matrices=False)
    basis = taken.Vh[taken.S > 1e-6]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, positions.shape[1], generator=generator, dtype=torch.double)
    marker, gate, target = torch.linalg.qr((drawn - drawn @ basis.T @ basis).T)[0].T.float()
    return marker, gate, target


def _clear(block: HFModule, directions: Tensor) -> None:
    """Have a block neither read nor write along some directions."""
    for attention in (block.self_attn, block.encoder_attn):
        attention.out_proj.weight.copy_(_without(attention.out_proj.weight.T, *directions).T)
        readers = [attention.q_proj]
        if attention is block.self_attn:
            readers += [attention.k_proj, attention.v_proj]
        for reader in readers:
            reader.weight.copy_(_without(reader.weight, *directions))
    block.fc1.weight.copy_(_without(block.fc1.weight, *directions))
    block.fc2.weight.copy_(_without(block.fc2.weight.T, *directions).T)


def _plant_word(lens: AudioLens, clean: str, corrupted: str) -> tuple[int, Tensor]:
    """Let the projected text be one direction, there for one token of the clean prompt alone.

    Returns the token's place and the direction.
    """
    model, tokens = lens.hf_model, lens.text_tokens(clean)
    others = lens.text_tokens(corrupted)
    place = next(n for n, pair in enumerate(zip(tokens, others, strict=False)) if len({*pair}) > 1)
    states = []
    for prompt in (clean, corrupted):
        inputs = lens.processor.tokenizer(prompt, return_tensors="pt")
        states.append(model.text_encoder(**inputs).last_hidden_state[0])
    wanted = torch.zeros(sum(map(len, states)), 1, dtype=torch.double)
    wanted[place] = len(tokens)  # uniform attention divides by it
    solved = torch.linalg.lstsq(torch.cat(states).double(), wanted, driver="gelsd")
    reader = solved.solution[:, 0].float()
    word = torch.zeros(lens.cfg.d_model)
    word[0] = 1
    model.enc_to_dec_proj.weight.copy_(word[:, None] * reader)
    model.enc_to_dec_proj.bias.zero_()
    return place, word
