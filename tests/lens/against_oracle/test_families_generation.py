"""Stereo and melody: edits and reads of a generation, against plain torch hooks."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from checks import FRAMES, POSITIONS, TOLERANCE, assert_moved_at_every_step, returning, spread
from oracle import Visit
from oracle_melody import at_positions
from pairs import (
    CHROMA,
    KINDS,
    OTHER_GENERATIONS,
    PARTS,
    SEEDS,
    Pair,
    before,
    generated_before,
    halves,
    pair,
    within,
)
from torch import Tensor


@pytest.mark.parametrize(("kind", "site", "scale", "branch", "sampled"), OTHER_GENERATIONS)
def test_generation_edit_of_stereo_and_melody(
    kind: str, site: str, scale: float, branch: str, sampled: bool
) -> None:
    """Written at every step; where codes are drawn, each row has a seed of its own."""
    own = pair(kind)
    edit, seeds = own.noise(site), SEEDS if sampled else None
    with own.lens.hooks([(site, returning(edit))], branch=branch):
        codes, logits = own.generated(scale, seeds)
    with own.oracle.editing(site, edit, branch=branch):
        wanted = own.wanted(scale, seeds)
    assert torch.equal(codes, wanted)
    codes_before, logits_before = generated_before(kind, scale, sampled)
    assert not torch.equal(codes, codes_before)
    audio = (logits[:, :, -POSITIONS:], logits_before[:, :, -POSITIONS:])
    assert_moved_at_every_step(*audio, site, scale, branch)


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("kind", KINDS)
def test_unedited_codes_are_transformers(kind: str, scale: float) -> None:
    own, one = pair(kind), pair(kind).of([1])
    greedy, _ = own.generated(scale)
    assert torch.equal(greedy, own.wanted(scale))
    sampled, _ = own.generated(scale, SEEDS)
    assert torch.equal(sampled, own.wanted(scale, SEEDS))
    alone, _ = one.generated(scale, SEEDS[1:2])
    assert torch.equal(alone, one.wanted(scale, SEEDS[1]))  # from torch's own generator
    assert torch.equal(alone, sampled[1:2])
    assert not torch.equal(sampled, greedy)


@pytest.mark.parametrize("kind", KINDS)
def test_sound_is_transformers(kind: str) -> None:
    """The codecs of these models have codebooks, so here sound tells codes and channels apart."""
    own = pair(kind).of([1])
    (clip,) = own.lens.generate(own.conditions, seconds=FRAMES / 50, seed=3, progress=False)
    own.wanted(3.0, 3)
    assert torch.equal(clip.waveform, own.oracle.sound[0])
    assert clip.waveform.std() > 0
    assert kind == "melody" or not torch.equal(clip.waveform[0], clip.waveform[1])


@pytest.mark.parametrize("site", [None, "blocks.1.hook_resid_pre", "blocks.1.attn.hook_v"])
@pytest.mark.parametrize("kind", KINDS)
def test_continuations_are_transformers_edited_or_not(kind: str, site: str | None) -> None:
    """With known codes the first call covers them too, behind the prefix."""
    own = pair(kind)
    known = own.codes[..., :3]
    edit = None if site is None else own.noise(site)
    with own.lens.hooks([(site, returning(edit))] if site else []):
        codes, _ = own.generated(3.0, prefix=known)
    with own.oracle.visiting({site: Visit(edit)} if site else {}):
        wanted = own.wanted(3.0, known=known)
    assert torch.equal(codes[..., :3], known)
    assert torch.equal(codes, wanted)


@pytest.mark.parametrize("part", ["end_of_text", "chroma", "audio"])
@pytest.mark.parametrize(
    "site",
    ["hook_embed", "hook_pos_embed", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid",
     "blocks.1.attn.hook_k", "blocks.1.attn.hook_z", "blocks.1.hook_mlp_out"],
)  # fmt: skip
def test_generation_edit_of_one_part_of_the_sequence(site: str, part: str) -> None:
    own = pair("melody")
    edit = own.noise(site, strength=4.0)
    with own.lens.hooks([(site, within(part, edit))]):
        codes, _ = own.generated(3.0, SEEDS)
    with own.oracle.editing(site, at_positions(edit, PARTS[part])):
        wanted = own.wanted(3.0, SEEDS)
    assert torch.equal(codes, wanted)
    assert not torch.equal(codes, generated_before("melody", 3.0, True)[0])


@pytest.mark.parametrize("known", [0, 3])
def test_melodys_hooks_are_called_where_the_sequence_is(known: int) -> None:
    """Each site once per step and branch, told where it is; its tensor is as long as that."""
    own = pair("melody")
    calls: dict[tuple[str, str], list[tuple[int, range]]] = {}

    def note(tensor: Tensor, *, hook: object) -> None:
        calls.setdefault((hook.name, hook.branch), []).append((hook.step, hook.positions))
        axes = hook.site.axes
        if axes[1] in ("token", "chroma"):
            assert hook.step == 0
            return
        (axis,) = [i for i, name in enumerate(axes) if name in ("pos", "query", "audio_pos")]
        assert tensor.shape[axis] == len(hook.positions), hook.name
        assert hook.seconds == [position / 50 for position in hook.positions]
        if "key" in axes:
            assert tensor.shape[axes.index("key")] == 6 + CHROMA + hook.positions.stop
        layout, of_audio = hook.layout, "audio_pos" in axes
        parts = {name: getattr(layout, name) for name in ("chroma", "text", "audio")}
        found = {name: list(hook.positions[place]) for name, place in parts.items()}
        prefix = hook.step == 0 and not of_audio
        assert found == {
            "chroma": list(range(-6 - CHROMA, -6)) * prefix,
            "text": list(range(-6, 0)) * prefix,
            "audio": [position for position in hook.positions if position >= 0],
        }, hook.name
        if prefix:
            assert hook.positions[layout.end_of_text] == -1

    with own.lens.hooks([(lambda name: True, note)]):
        own.generated(3.0, prefix=own.codes[..., :known] if known else None)
    steps = range(POSITIONS - known)
    for site in own.lens.sites:
        cond = calls[site.name, "cond"]
        assert calls.get((site.name, "uncond")) == (None if own.cond_only(site.name) else cond)
        if site.name.startswith(("text.", "melody.")):
            assert [step for step, _ in cond] == [0]
            continue
        first = range(0 if site.name == "embed.hook_codebook" else -6 - CHROMA, known + 1)
        later = [(step, range(known + step, known + step + 1)) for step in steps[1:]]
        assert cond == [(0, first), *later]


def assert_reads(own: Pair, cache: Any, codes: Tensor, scale: float) -> None:
    for name, wanted in replace(own, codes=codes).oracle_reads(own.readable, scale).items():
        actual = cache[name] if own.cond_only(name) else halves(cache, name)
        assert not actual.requires_grad
        torch.testing.assert_close(
            actual,
            wanted[: len(actual)] if own.cond_only(name) else wanted,
            rtol=0,
            atol=TOLERANCE * spread(wanted),
            msg=lambda said, n=name: f"{n}: {said}",
        )


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("kind", KINDS)
def test_reads_of_stereo_and_melody(kind: str, scale: float, grad: bool) -> None:
    own = pair(kind)
    logits, cache = own.lens.run_with_cache(
        own.conditions, own.codes, names_filter=own.readable, guidance_scale=scale
    )
    assert_reads(own, cache, own.codes, scale)
    assert torch.equal(logits, before(kind, scale, grad)[0])


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("kind", KINDS)
def test_reads_of_a_generation_of_stereo_and_melody(kind: str, scale: float) -> None:
    own = pair(kind)
    clips, cache = own.lens.generate(
        own.conditions,
        seconds=FRAMES / 50,
        seed=SEEDS,
        guidance_scale=scale,
        names_filter=own.readable,
        progress=False,
    )
    codes = torch.stack([clip.codes for clip in clips])
    assert torch.equal(codes, generated_before(kind, scale, True)[0])
    assert_reads(own, cache, codes, scale)
