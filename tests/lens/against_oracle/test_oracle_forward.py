"""Edits of a forward, against plain torch hooks; and that both are the same model."""

import pytest
import torch
from checks import (
    CASES,
    CLEAR,
    EVERYWHERE,
    LAYER,
    POSITIONS,
    PROMPTS,
    SITES,
    TOLERANCE,
    Untouched,
    assert_agree,
    expected,
    furthest,
    in_place,
    loud_lens,
    noise,
    returning,
    seen,
    silence,
    spread,
)
from oracle import AXES, SCALES, Oracle, Visit, family, sees_text_only
from torch import Tensor

from audio_lens import AudioLens
from audio_lens.testing import random_musicgen

pytestmark = pytest.mark.families("mono")


def test_oracle_and_lens_are_the_same_model(lens: AudioLens, oracle: Oracle, codes: Tensor) -> None:
    for scale in (1.0, 3.0):
        for actual, wanted in zip(
            seen(lens, codes, scale), expected(oracle, codes, scale), strict=True
        ):
            assert torch.equal(actual, wanted)


def test_delay_is_transformers_own(oracle: Oracle, codes: Tensor) -> None:
    ids = oracle.delayed(codes)
    bos = torch.full((len(ids), 1), oracle.bos)
    _, mask = oracle.model.decoder.build_delay_pattern_mask(
        torch.cat([bos, codes.flatten(0, 1)], 1), pad_token_id=oracle.bos, max_length=POSITIONS + 1
    )
    assert torch.equal(ids, mask[:, :POSITIONS])


def test_table_has_these_families_and_no_other(lens: AudioLens) -> None:
    scales = {f"blocks.{{i}}.{norm}.hook_scale" for norm in SCALES[:3]} | {"ln_final.hook_scale"}
    assert {site.family for site in lens.sites} == set(AXES) | scales
    for site in lens.sites:
        if site.family in AXES:
            assert " ".join(site.axes) == f"batch {AXES[site.family]}"


@pytest.mark.parametrize(("site", "scale", "branch"), CASES)
def test_forward_edit_gives_the_oracles_logits(
    lens: AudioLens,
    oracle: Oracle,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    scale: float,
    branch: str,
    grad: bool,
) -> None:
    edit = noise(site)
    with lens.hooks([(site, returning(edit))], branch=branch):
        actual = seen(lens, codes, scale)
    with oracle.editing(site, edit, branch=branch):
        wanted = expected(oracle, codes, scale)
    for ours, theirs in zip(actual, wanted, strict=True):
        assert_agree(ours, theirs, site)
    assert furthest(actual[0], untouched[scale, grad][0]) > CLEAR


@pytest.mark.parametrize(
    ("site", "axis"),
    [
        pytest.param(site, axis, id=f"{site}-{axis}")
        for site in SITES
        for axis in ("head", "d_mlp", "codebook")
        # Zero times a masked score is NaN, and the scores' zero is no absence anyway.
        if axis in AXES[family(site)].split() and not site.endswith("attn_scores")
    ],
)
def test_one_silenced_part(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str, axis: str
) -> None:
    edit = silence(site, axis, 2)
    before = lens(PROMPTS, codes)
    actual = lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[(site, in_place(edit))])
    with oracle.editing(site, edit):
        wanted, _ = expected(oracle, codes, 1.0)
    assert_agree(actual, wanted, site)
    assert furthest(actual, before) > CLEAR


def test_edits_everywhere_at_once(
    lens: AudioLens, oracle: Oracle, codes: Tensor, grad: bool
) -> None:
    """All sites of all layers: they must compose in the order of the computation."""
    edits = {name: noise(name, strength=0.1) for name in EVERYWHERE}
    with lens.hooks([(name, returning(edit)) for name, edit in edits.items()]):
        actual, _ = seen(lens, codes, 3.0)
    visits = {
        name: Visit(edit, "cond" if sees_text_only(name) else "both")
        for name, edit in edits.items()
    }
    with oracle.visiting(visits):
        wanted, _ = expected(oracle, codes, 3.0)
    torch.testing.assert_close(actual, wanted, rtol=0, atol=5 * TOLERANCE * spread(wanted))
    assert furthest(actual, lens(PROMPTS, codes, guidance_scale=3.0)) > CLEAR


@pytest.mark.parametrize("layer", [0, 2])
def test_first_and_last_layer(lens: AudioLens, oracle: Oracle, codes: Tensor, layer: int) -> None:
    for name in (name for name in AXES if name.startswith("blocks.")):
        site = name.replace("{i}", str(layer))
        with oracle.editing(site, noise(site)):
            wanted, _ = expected(oracle, codes, 1.0)
        hooks = [(site, returning(noise(site)))]
        actual = lens.run_with_hooks(PROMPTS, codes, fwd_hooks=hooks)
        assert_agree(actual, wanted, site)


@pytest.mark.parametrize("point", ["attn_scores", "pattern"])
@pytest.mark.parametrize("kind", ["attn", "cross_attn"])
def test_attention_edit_on_the_eager_kernel(
    oracle: Oracle, codes: Tensor, kind: str, point: str
) -> None:
    source = loud_lens()
    model = source.hf_model
    model.decoder.set_attn_implementation("eager")
    lens = AudioLens.from_model(model, source.processor)
    site = f"blocks.{LAYER}.{kind}.hook_{point}"
    with lens.hooks([(site, returning(noise(site)))], branch="cond"):
        actual, _ = seen(lens, codes, 3.0)
    with oracle.editing(site, noise(site), branch="cond"):
        wanted, _ = expected(oracle, codes, 3.0)
    assert_agree(actual, wanted, site)
    assert furthest(actual, lens(PROMPTS, codes, guidance_scale=3.0)) > CLEAR


def test_text_of_the_decoders_own_width_needs_no_projection(codes: Tensor) -> None:
    lens = random_musicgen(n_layers=2, d_model=64, n_heads=4, d_text=64, seed=0)
    oracle = Oracle.copying(lens.hf_model, lens.processor.tokenizer)
    assert not hasattr(oracle.model, "enc_to_dec_proj")
    edit = noise("text.hook_proj")
    actual = lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[("text.hook_proj", returning(edit))])
    with oracle.editing("text.hook_proj", edit):
        wanted, _ = expected(oracle, codes, 1.0)
    assert torch.equal(actual, wanted)
    assert furthest(actual, lens(PROMPTS, codes)) > CLEAR
