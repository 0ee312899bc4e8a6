"""Stereo and melody: edits of a forward, against plain torch hooks."""

from dataclasses import replace

import pytest
import torch
from checks import (
    CLEAR,
    FRAMES,
    LAYER,
    POSITIONS,
    SETTINGS,
    TOLERANCE,
    assert_agree,
    furthest,
    returning,
    spread,
)
from oracle import Visit, family
from oracle_melody import MELODY_AXES, MelodyOracle, at_positions
from pairs import KINDS, MELODIES, MELODY_SITES, PARTS, before, cases_of, pair, within
from torch import Tensor

from audio_lens import AudioLens, Intervention
from audio_lens.testing import random_musicgen


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_are_the_same_model(kind: str, scale: float, grad: bool) -> None:
    for actual, wanted in zip(pair(kind).seen(scale), pair(kind).expected(scale), strict=True):
        assert torch.equal(actual, wanted), furthest(actual, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_both_are_transformers_own_forward(kind: str) -> None:
    """Said once more with nothing of the oracle's but its model."""
    own, model = pair(kind), pair(kind).oracle.model
    inputs = own.oracle.tokenizer(list(own.prompts), padding=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    if own.melody is not None:
        inputs["input_features"] = own.melody
    start = torch.full((len(own.codes) * own.oracle.n_codebooks, 1), own.oracle.bos)
    _, ids = model.decoder.build_delay_pattern_mask(
        torch.cat([start, own.codes.flatten(0, 1)], 1), own.oracle.bos, max_length=POSITIONS + 1
    )
    logits = model(**inputs, decoder_input_ids=ids[:, :POSITIONS]).logits
    audio = logits.unflatten(0, (len(own.codes), -1))[:, :, -POSITIONS:]
    actual = own.lens(own.conditions, own.codes)
    for k in range(own.oracle.n_codebooks):
        delay = k // 2 if kind.startswith("stereo") else k
        assert torch.equal(actual[:, k], audio[:, k, delay : delay + FRAMES])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
def test_the_oracle_generates_what_it_forwards(kind: str, scale: float) -> None:
    """`generate` builds the guided prefix, the positions and the delays in ways of its own."""
    own = pair(kind)
    codes = own.wanted(scale)
    forced, _ = replace(own, codes=codes).expected(scale)
    assert torch.equal(forced.argmax(-1), codes)
    assert len(codes.unique()) > 10


@pytest.mark.parametrize("kind", MELODIES)
def test_the_oracles_sites_are_what_they_are_called(kind: str) -> None:
    """Each site of a block told by its neighbours, so that no name stands at a wrong place."""
    own = pair(kind)
    names = [name.replace("{i}", str(i)) for name in MELODY_AXES for i in range(3)]
    read = own.oracle_reads([*dict.fromkeys(names), *own.readable], 3.0)
    model = own.oracle.model
    stack = model.decoder.model.decoder

    def same(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE * spread(other))

    prefix = torch.cat([read["melody.hook_proj"], read["text.hook_proj"]], 1)
    same(read["hook_embed"][:, : own.oracle.prefix], prefix)
    same(read["hook_embed"][:, own.oracle.prefix :], read["embed.hook_codebook"].sum(1))
    same(read["text.hook_proj"][:3], model.enc_to_dec_proj(read["text.hook_out"]))
    assert not read["text.hook_proj"][3:].any()
    same(read["hook_embed"] + read["hook_pos_embed"], read["blocks.0.hook_resid_pre"])
    for i, block in enumerate(stack.layers):
        at = {name.split(f"blocks.{i}.")[1]: read[name] for name in read if f"blocks.{i}." in name}
        same(block.self_attn_layer_norm(at["hook_resid_pre"]), at["ln1.hook_normalized"])
        for letter in "qkv":
            projected = getattr(block.self_attn, f"{letter}_proj")(at["ln1.hook_normalized"])
            same(at[f"attn.hook_{letter}"].flatten(-2), projected)
        q, k, v = (at[f"attn.hook_{letter}"].transpose(1, 2) for letter in "qkv")
        scores = q @ k.mT / q.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
        same(at["attn.hook_attn_scores"], scores)
        same(at["attn.hook_pattern"], scores.softmax(-1))
        same(at["attn.hook_z"], (at["attn.hook_pattern"] @ v).transpose(1, 2))
        same(at["attn.hook_result"].sum(-2), at["hook_attn_out"])
        same(block.self_attn.out_proj(at["attn.hook_z"].flatten(-2)), at["hook_attn_out"])
        same(at["hook_resid_pre"] + at["hook_attn_out"], at["hook_resid_mid"])
        same(block.final_layer_norm(at["hook_resid_mid"]), at["ln2.hook_normalized"])
        same(block.fc1(at["ln2.hook_normalized"]), at["mlp.hook_pre"])
        same(block.activation_fn(at["mlp.hook_pre"]), at["mlp.hook_post"])
        same(block.fc2(at["mlp.hook_post"]), at["hook_mlp_out"])
        same(at["hook_resid_mid"] + at["hook_mlp_out"], at["hook_resid_post"])
    same(stack.layer_norm(read["blocks.2.hook_resid_post"]), read["ln_final.hook_normalized"])
    heads = [head(read["ln_final.hook_normalized"]) for head in model.decoder.lm_heads]
    same(read["hook_logits"], torch.stack(heads, 1))


@pytest.mark.parametrize("site", MELODY_SITES)
def test_the_oracle_edits_at_the_same_places_in_a_generation(site: str) -> None:
    """Codes that it generates under an edit are those of a forward under it."""
    own = pair("melody")
    with own.oracle.editing(site, own.noise(site)):
        codes = own.wanted(3.0)
        forced, _ = replace(own, codes=codes).expected(3.0)
    assert torch.equal(forced.argmax(-1), codes)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_have_these_families_and_no_other(kind: str) -> None:
    own = pair(kind)
    scales = {family(name) for name in own.readable if name.endswith("hook_scale")}
    assert {site.family for site in own.lens.sites} == set(own.axes) | scales
    for site in own.lens.sites:
        if site.family in own.axes:
            assert " ".join(site.axes) == f"batch {own.axes[site.family]}"
        branches = ("cond",) if own.cond_only(site.name) else ("cond", "uncond")
        assert tuple(site.branches) == branches


FORWARDS = [
    *cases_of("stereo", SETTINGS[::3], False),
    *cases_of("melody", SETTINGS, False),
    *cases_of("melody", SETTINGS, True),
    *cases_of("stereo melody", SETTINGS, False),
]
"""The last is whether autograd watches."""


@pytest.mark.parametrize(("kind", "site", "scale", "branch", "watching"), FORWARDS)
def test_forward_edit_of_stereo_and_melody(
    kind: str, site: str, scale: float, branch: str, watching: bool
) -> None:
    own, untouched = pair(kind), before(kind, scale, watching)
    edit = own.noise(site)
    with torch.set_grad_enabled(watching):
        with own.lens.hooks([(site, returning(edit))], branch=branch):
            actual = own.seen(scale)
        with own.oracle.editing(site, edit, branch=branch):
            wanted = own.expected(scale)
    for ours, theirs in zip(actual, wanted, strict=True):
        assert_agree(ours, theirs, site)
    assert furthest(actual[0], untouched[0]) > CLEAR
    cond, uncond = slice(0, 3), slice(3, None)
    if branch != "both":
        edited, other = (cond, uncond) if branch == "cond" else (uncond, cond)
        assert torch.equal(actual[1][other], untouched[1][other])
        assert furthest(actual[1][edited], untouched[1][edited]) > CLEAR


@pytest.mark.parametrize("kind", KINDS)
def test_stereo_and_melody_edited_everywhere_at_once(kind: str, grad: bool) -> None:
    own = pair(kind)
    names = [name.replace("{i}", str(layer)) for layer in range(3) for name in own.axes]
    edits = {name: own.noise(name, strength=0.1) for name in dict.fromkeys(names)}
    with own.lens.hooks([(name, returning(edit)) for name, edit in edits.items()]):
        actual = own.seen(3.0)
    only = {name: "cond" if own.cond_only(name) else "both" for name in edits}
    visits = {name: Visit(edit, only[name]) for name, edit in edits.items()}
    with own.oracle.visiting(visits):
        wanted = own.expected(3.0)
    for ours, theirs, were in zip(actual, wanted, before(kind, 3.0, grad), strict=True):
        atol = 5 * TOLERANCE * spread(theirs)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
        assert furthest(ours, were) > CLEAR


@pytest.mark.parametrize("layer", [0, 2])
def test_melodys_first_and_last_layer(layer: int) -> None:
    own = pair("melody")
    for name in (name for name in MELODY_AXES if name.startswith("blocks.")):
        site = name.replace("{i}", str(layer))
        with own.lens.hooks([(site, returning(own.noise(site)))]):
            actual = own.seen(3.0)
        with own.oracle.editing(site, own.noise(site)):
            wanted = own.expected(3.0)
        for ours, theirs in zip(actual, wanted, strict=True):
            assert_agree(ours, theirs, site)


@pytest.mark.parametrize("point", ["attn_scores", "pattern"])
def test_attention_edit_on_melodys_eager_kernel(point: str) -> None:
    source = random_musicgen(seed=0, melody=True)
    source.hf_model.decoder.set_attn_implementation("eager")
    lens = AudioLens.from_model(source.hf_model, source.processor)
    oracle = MelodyOracle.copying(lens.hf_model, lens.processor.tokenizer)
    own = replace(pair("melody"), lens=lens, oracle=oracle)
    site = f"blocks.{LAYER}.attn.hook_{point}"
    with lens.hooks([(site, returning(own.noise(site)))], branch="cond"):
        actual, _ = own.seen(3.0)
    with oracle.editing(site, own.noise(site), branch="cond"):
        wanted, _ = own.expected(3.0)
    assert_agree(actual, wanted, site)
    assert furthest(actual, own.seen(3.0)[0]) > CLEAR


def test_melodys_text_of_the_decoders_own_width_needs_no_projection() -> None:
    lens = random_musicgen(n_layers=2, d_text=64, seed=0, melody=True)
    oracle = MelodyOracle.copying(lens.hf_model, lens.processor.tokenizer)
    assert not hasattr(oracle.model, "enc_to_dec_proj")
    own, site = replace(pair("melody"), lens=lens, oracle=oracle), "text.hook_proj"
    with lens.hooks([(site, returning(own.noise(site)))]):
        actual, _ = own.seen(3.0)
    with oracle.editing(site, own.noise(site)):
        wanted, _ = own.expected(3.0)
    assert torch.equal(actual, wanted)
    assert furthest(actual, own.seen(3.0)[0]) > CLEAR


POSITIONED = [
    site for site in MELODY_SITES if {"pos", "query"} & set(MELODY_AXES[family(site)].split())
]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("site", POSITIONED)
def test_forward_edit_of_one_part_of_the_sequence(site: str, part: str) -> None:
    """By layout in one run, by positions in another, and the oracle counts for itself."""
    own = pair("melody")
    edit = own.noise(site)
    with own.lens.hooks([(site, within(part, edit))]):
        by_layout = own.seen(3.0)
    act = Intervention(
        site,
        op=lambda tensor, _, hook: edit(tensor, hook.positions),
        when=lambda hook: [position in PARTS[part] for position in hook.positions],
    )
    with own.lens.intervene(act):
        by_position = own.seen(3.0)
    with own.oracle.editing(site, at_positions(edit, PARTS[part])):
        wanted = own.expected(3.0)
    for ours, others, theirs in zip(by_layout, by_position, wanted, strict=True):
        assert_agree(ours, theirs, site)
        assert torch.equal(ours, others)
    untouched = before("melody", 3.0, True)[1]
    assert furthest(by_layout[1], untouched) > CLEAR
    ahead = own.oracle.prefix + PARTS[part].start
    if ahead:
        assert_agree(by_layout[1][:, :, :ahead], untouched[:, :, :ahead], site)
