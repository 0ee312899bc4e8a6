"""Stereo and melody: ways of writing, and rows of different length."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from checks import (
    CLEAR,
    FRAMES,
    TOLERANCE,
    HookFunction,
    assert_agree,
    assert_gradients,
    furthest,
    in_place,
    in_place_and_returned,
    learnable,
    loss,
    on_row,
    returning,
    spread,
)
from oracle import Visit
from pairs import CHROMA, LONGEST, MELODIES, MELODY_SITES, OTHER_LENGTHS, SEEDS, Pair, before, pair
from torch import Tensor

from audio_lens import Intervention


@pytest.mark.parametrize("site", MELODY_SITES)
def test_melody_written_in_place_returned_or_left_as_it_was(site: str, grad: bool) -> None:
    own, calls = pair("melody"), []
    edit = own.noise(site)

    def same(tensor: Tensor, *, hook: object) -> Tensor:
        calls.append(hook.branch)
        return tensor.clone()

    def logits(hook: HookFunction) -> Tensor:
        hooks = [(site, hook)]
        return own.lens.run_with_hooks(
            own.conditions, own.codes, fwd_hooks=hooks, guidance_scale=3.0
        )

    untouched, _ = before("melody", 3.0, grad)
    assert torch.equal(logits(same), untouched)
    assert calls == (["cond"] if own.cond_only(site) else ["cond", "uncond"])
    returned = logits(returning(edit))
    assert torch.equal(logits(in_place(edit)), returned)
    assert torch.equal(logits(in_place_and_returned(edit)), returned)
    assert furthest(returned, untouched) > CLEAR


@pytest.mark.parametrize("branch", ["cond", "both"])
@pytest.mark.parametrize("site", MELODY_SITES)
def test_melodys_other_rows_keep_their_bits(site: str, branch: str) -> None:
    own = pair("melody")
    edit = own.noise(site)
    act = Intervention(
        site, op=lambda tensor, _, hook: edit(tensor, hook.positions), rows=[1], branch=branch
    )
    with own.lens.intervene(act):
        by_intervention = own.seen(3.0)
    with own.lens.hooks([(site, on_row(edit, 1))], branch=branch):
        by_hook = own.seen(3.0)
    with own.oracle.editing(site, edit, rows=[1], branch=branch):
        wanted = own.expected(3.0)
    untouched = before("melody", 3.0, True)
    for ours, others, theirs, were in zip(by_intervention, by_hook, wanted, untouched, strict=True):
        assert_agree(ours, theirs, site)
        assert torch.equal(ours, others)
        rows = [row for row in range(len(were)) if row % 3 != 1]
        assert torch.equal(ours[rows], were[rows])
    assert furthest(by_intervention[0][1], untouched[0][1]) > CLEAR


@pytest.mark.parametrize("site", MELODY_SITES)
def test_melodys_gradients_are_the_oracles(site: str) -> None:
    own, visit = pair("melody"), Visit(kept=[])
    _, cache = own.lens.run_with_cache(own.conditions, own.codes, names_filter=site, incl_bwd=True)
    own.lens.hf_model.zero_grad()
    with torch.enable_grad(), own.oracle.visiting({site: visit}):
        loss(own.expected(1.0)[0], own.codes).backward()
    own.oracle.model.zero_grad()
    wanted = torch.cat([part.grad for part in visit.kept], 1)
    assert_gradients(cache[f"{site}_grad"], wanted, site)


@pytest.mark.parametrize("learned", ["gain", "shift"])
@pytest.mark.parametrize(
    "site",
    ["text.hook_out", "text.hook_proj", "melody.hook_proj", "embed.hook_codebook", "hook_embed",
     "hook_pos_embed", "blocks.1.hook_resid_mid", "blocks.1.hook_resid_post"],
)  # fmt: skip
def test_gradients_reach_what_a_hook_brings_to_melody(site: str, learned: str) -> None:
    """The sites whose tensors are made in another way than where the text is attended to."""
    own = pair("melody")
    ours, theirs = learnable(own.noise(site), learned), learnable(own.noise(site), learned)
    with own.lens.hooks([(site, returning(ours))]):
        loss(own.lens(own.conditions, own.codes), own.codes).backward()
    own.lens.hf_model.zero_grad()
    with own.oracle.editing(site, theirs):
        loss(own.expected(1.0)[0], own.codes).backward()
    own.oracle.model.zero_grad()
    assert_gradients(getattr(ours, learned).grad, getattr(theirs, learned).grad, site)


GROUPS = ([0, 2], [1])
"""Rows of `OTHER_LENGTHS` with equally many tokens: they run together, by the oracle too."""


def unequal(kind: str) -> Pair:
    return replace(pair(kind), prompts=OTHER_LENGTHS)


def innermost(actual: Tensor, wanted: Tensor, axes: Sequence[str]) -> Tensor:
    """What rows of a cache hold of their own: NaN is in front of it, or zeros behind the text."""
    for axis, (label, size) in enumerate(zip(axes, wanted.shape, strict=True)):
        surplus = actual.shape[axis] - size
        if label == "token":
            assert not actual.narrow(axis, size, surplus).any()
            actual = actual.narrow(axis, 0, size)
        else:
            assert actual.narrow(axis, 0, surplus).isnan().all()
            actual = actual.narrow(axis, surplus, size)
    return actual


def assert_right_aligned(own: Pair, cache: Any, codes: Tensor) -> None:
    """Rows of a cache against their group, with music and the end of the text in line."""
    for rows in GROUPS:
        for name, read in own.of(rows, codes).oracle_reads(own.readable, 3.0).items():
            axes, atol = own.lens.sites[name].axes, TOLERANCE * spread(read)
            for branch, wanted in zip(cache.branches, read.split(len(rows)), strict=False):
                actual = innermost(cache.branch(branch)[name][rows], wanted, axes)
                message = f"{name}, {branch}"
                torch.testing.assert_close(
                    actual, wanted, rtol=0, atol=atol, msg=lambda said, m=message: f"{m}: {said}"
                )


@pytest.mark.parametrize("kind", MELODIES)
def test_rows_of_different_length_are_those_rows_alone(kind: str, grad: bool) -> None:
    own = unequal(kind)
    logits, cache = own.lens.run_with_cache(
        own.conditions, own.codes, names_filter=own.readable, guidance_scale=3.0
    )
    for rows in GROUPS:
        wanted, _ = own.of(rows).expected(3.0)
        assert torch.equal(logits[rows], wanted)
    assert_right_aligned(own, cache, own.codes)
    for row, prompt in enumerate(OTHER_LENGTHS):
        layout = cache.layouts[row]
        tokens = len(prompt) + 1
        ahead = LONGEST - CHROMA - tokens
        assert layout.pad == ahead
        assert layout.chroma == slice(ahead, ahead + CHROMA)
        assert layout.text == slice(ahead + CHROMA, LONGEST)
        assert layout.audio.start == LONGEST
        assert layout.end_of_text == LONGEST - 1


@pytest.mark.parametrize("site", MELODY_SITES)
def test_edits_of_rows_of_different_length(site: str) -> None:
    own = unequal("melody")
    edit = own.noise(site)
    with own.lens.hooks([(site, returning(edit))]):
        actual = own.lens(own.conditions, own.codes, guidance_scale=3.0)
    with own.oracle.editing(site, edit):
        for rows in GROUPS:
            assert_agree(actual[rows], own.of(rows).expected(3.0)[0], site)
    assert furthest(actual, own.lens(own.conditions, own.codes, guidance_scale=3.0)) > CLEAR


@pytest.mark.parametrize("row", [1, 2])
@pytest.mark.parametrize("site", ["text.hook_proj", "melody.hook_proj", "blocks.1.hook_resid_pre"])
def test_interventions_find_their_row_among_different_lengths(site: str, row: int) -> None:
    own = unequal("melody")
    edit = own.noise(site, strength=4.0)
    act = Intervention(site, op=lambda tensor, _, hook: edit(tensor, hook.positions), rows=[row])
    untouched, (drawn, _) = own.lens(own.conditions, own.codes), own.generated(3.0, SEEDS)
    with own.lens.intervene(act):
        actual, (codes, _) = own.lens(own.conditions, own.codes), own.generated(3.0, SEEDS)
    rows = next(rows for rows in GROUPS if row in rows)
    group, place = own.of(rows), rows.index(row)
    with own.oracle.editing(site, edit, rows=[place]):
        assert torch.equal(actual[row], group.expected(1.0)[0][place])
        wanted = group.wanted(3.0, [SEEDS[other] for other in rows])
        assert torch.equal(codes[row], wanted[place])
    others = [other for other in range(3) if other != row]
    assert torch.equal(actual[others], untouched[others])
    assert torch.equal(codes[others], drawn[others])
    assert not torch.equal(codes[row], drawn[row])


@pytest.mark.parametrize(
    "site", ["text.hook_proj", "hook_embed", "blocks.1.attn.hook_pattern", "hook_logits"]
)
def test_gradients_of_rows_of_different_length(site: str) -> None:
    own, visits = unequal("melody"), [Visit(kept=[]) for _ in GROUPS]
    _, cache = own.lens.run_with_cache(own.conditions, own.codes, names_filter=site, incl_bwd=True)
    own.lens.hf_model.zero_grad()
    logits = []
    for rows, visit in zip(GROUPS, visits, strict=True):
        with own.oracle.visiting({site: visit}):
            logits.append(own.of(rows).expected(1.0)[0])
    loss(torch.cat(logits), own.codes[[row for rows in GROUPS for row in rows]]).backward()
    own.oracle.model.zero_grad()
    for rows, visit in zip(GROUPS, visits, strict=True):
        wanted = torch.cat([part.grad for part in visit.kept], 1)
        actual = cache[f"{site}_grad"][rows]
        assert_gradients(innermost(actual, wanted, own.lens.sites[site].axes), wanted, site)


@pytest.mark.parametrize("kind", MELODIES)
def test_generated_rows_of_different_length_are_those_rows_alone(kind: str) -> None:
    own = unequal(kind)
    clips, cache = own.lens.generate(
        own.conditions,
        seconds=FRAMES / 50,
        seed=SEEDS,
        guidance_scale=3.0,
        names_filter=own.readable,
        progress=False,
    )
    codes = torch.stack([clip.codes for clip in clips])
    for rows in GROUPS:
        assert torch.equal(codes[rows], own.of(rows).wanted(3.0, [SEEDS[row] for row in rows]))
    for row in range(3):
        assert torch.equal(codes[row], own.of([row]).wanted(3.0, SEEDS[row])[0])
        assert str(clips[row].prompt) == OTHER_LENGTHS[row]
    assert_right_aligned(own, cache, codes)


@pytest.mark.parametrize("row_group", [1, 2, 4])
def test_row_groups_of_melody_change_no_code(row_group: int) -> None:
    own = unequal("melody")
    codes, _ = own.generated(3.0, SEEDS, row_group=row_group)
    for rows in GROUPS:
        assert torch.equal(codes[rows], own.of(rows).wanted(3.0, [SEEDS[row] for row in rows]))
