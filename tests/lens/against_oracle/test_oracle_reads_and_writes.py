"""Reads, ways of writing, and rows, against plain torch hooks."""

import pytest
import torch
from checks import (
    CLEAR,
    EVERYWHERE,
    FRAMES,
    PROMPTS,
    READABLE,
    SITES,
    TOLERANCE,
    Untouched,
    assert_agree,
    expected,
    furthest,
    in_place,
    in_place_and_returned,
    masked,
    noise,
    on_row,
    returning,
    spread,
)
from oracle import AXES, Oracle, Visit, family, sees_text_only
from torch import Tensor

from audio_lens import AudioLens, Intervention

pytestmark = pytest.mark.families("mono")


def oracle_reads(oracle: Oracle, codes: Tensor, scale: float) -> dict[str, Tensor]:
    visits = {name: Visit(kept=[]) for name in READABLE}
    with torch.no_grad(), oracle.visiting(visits):
        oracle.positional(PROMPTS, codes, guidance_scale=scale)
    reads = {}
    for name, visit in visits.items():
        parts = visit.kept
        read = torch.cat(parts, 1) if "codebook" in AXES.get(family(name), "") else parts[0]
        reads[name] = masked(read) if name.endswith("attn_scores") else read
    return reads


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
def test_forward_reads_are_the_oracles(
    lens: AudioLens, oracle: Oracle, codes: Tensor, scale: float, grad: bool
) -> None:
    _, cache = lens.run_with_cache(PROMPTS, codes, names_filter=READABLE, guidance_scale=scale)
    for name, wanted in oracle_reads(oracle, codes, scale).items():
        branches = ("cond",) if sees_text_only(name) else cache.branches
        for branch, half in zip(branches, wanted.split(len(PROMPTS)), strict=False):
            actual = cache.branch(branch)[name]
            message = f"{name}, {branch}"
            assert not actual.requires_grad
            torch.testing.assert_close(
                actual, half, rtol=0, atol=TOLERANCE, msg=lambda said, m=message: f"{m}: {said}"
            )


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
def test_generation_cache_is_a_teacher_forced_read(
    lens: AudioLens, oracle: Oracle, scale: float
) -> None:
    clips, cache = lens.generate(
        PROMPTS,
        seconds=FRAMES / 50,
        guidance_scale=scale,
        names_filter=READABLE,
        progress=False,
    )
    codes = torch.stack([clip.codes for clip in clips])
    for name, wanted in oracle_reads(oracle, codes, scale).items():
        branches = ("cond",) if sees_text_only(name) else cache.branches
        for branch, half in zip(branches, wanted.split(len(PROMPTS)), strict=False):
            message = f"{name}, {branch}"
            atol = TOLERANCE * spread(half)
            torch.testing.assert_close(
                cache.branch(branch)[name],
                half,
                rtol=0,
                atol=atol,
                msg=lambda said, m=message: f"{m}: {said}",
            )


def test_reading_everything_changes_nothing(lens: AudioLens, codes: Tensor, grad: bool) -> None:
    read, _ = lens.run_with_cache(PROMPTS, codes, guidance_scale=3.0)
    assert torch.equal(read, lens(PROMPTS, codes, guidance_scale=3.0))


@pytest.mark.parametrize("site", SITES)
def test_a_cache_around_an_edit_holds_what_was_there(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str, grad: bool
) -> None:
    """Before the edit what was found, even where the same memory is written later; then after."""
    visits = {name: Visit(kept=[]) for name in EVERYWHERE} | {site: Visit(noise(site), kept=[])}
    with torch.no_grad(), oracle.visiting(visits):
        oracle.positional(PROMPTS, codes)
    with lens.hooks([(site, in_place(noise(site)))]):
        _, cache = lens.run_with_cache(PROMPTS, codes, names_filter=EVERYWHERE)
    for name, visit in visits.items():
        stacked = "codebook" in AXES[family(name)]
        wanted = torch.cat(visit.kept, 1) if stacked else visit.kept[0]
        wanted = masked(wanted) if name.endswith("attn_scores") else wanted
        atol = TOLERANCE * spread(wanted)
        torch.testing.assert_close(
            cache[name], wanted, rtol=0, atol=atol, msg=lambda said, n=name: f"{n}: {said}"
        )


@pytest.mark.parametrize("site", SITES)
def test_in_place_edits_count_returned_or_not(
    lens: AudioLens,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    grad: bool,
) -> None:
    edit = noise(site)
    before, _ = untouched[1.0, grad]
    returned, unreturned, both = (
        lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[(site, way(edit))])
        for way in (returning, in_place, in_place_and_returned)
    )
    assert torch.equal(returned, unreturned)
    assert torch.equal(returned, both)
    assert furthest(returned, before) > CLEAR


@pytest.mark.parametrize("site", SITES)
def test_other_rows_keep_their_bits(
    lens: AudioLens,
    oracle: Oracle,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    grad: bool,
) -> None:
    edit = noise(site)
    before, _ = untouched[3.0, grad]
    with lens.hooks([(site, on_row(edit, 1))]):
        after = lens(PROMPTS, codes, guidance_scale=3.0)
    with oracle.editing(site, edit, rows=[1], branch="cond" if sees_text_only(site) else "both"):
        wanted, _ = expected(oracle, codes, 3.0)
    assert torch.equal(after[[0, 2]], before[[0, 2]]), furthest(after[[0, 2]], before[[0, 2]])
    assert_agree(after[1], wanted[1], site)
    assert furthest(after[1], before[1]) > CLEAR


@pytest.mark.parametrize("site", SITES)
def test_intervention_on_rows_is_the_hook_on_rows(
    lens: AudioLens,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    grad: bool,
) -> None:
    edit = noise(site)
    with lens.hooks([(site, on_row(edit, 1))], branch="cond"):
        by_hook = lens(PROMPTS, codes, guidance_scale=3.0)
    act = Intervention(
        site, op=lambda tensor, _, hook: edit(tensor, hook.positions), rows=[1], branch="cond"
    )
    with lens.intervene(act):
        by_intervention = lens(PROMPTS, codes, guidance_scale=3.0)
    assert torch.equal(by_intervention, by_hook)
    assert furthest(by_hook[1], untouched[3.0, grad][0][1]) > CLEAR


@pytest.mark.parametrize("site", SITES)
def test_writing_what_was_there_keeps_every_bit(
    lens: AudioLens,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    grad: bool,
) -> None:
    calls: list[str] = []

    def same(tensor: Tensor, *, hook: object) -> Tensor:
        calls.append(hook.branch)
        return tensor.clone()

    before, _ = untouched[3.0, grad]
    with lens.hooks([(site, same)]):
        after = lens(PROMPTS, codes, guidance_scale=3.0)
    assert calls == (["cond"] if sees_text_only(site) else ["cond", "uncond"])
    assert torch.equal(after, before), furthest(after, before)


@pytest.mark.parametrize("site", SITES)
def test_edits_count_in_inference_mode(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str
) -> None:
    with torch.inference_mode():
        actual = lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[(site, in_place(noise(site)))])
    with torch.no_grad(), oracle.editing(site, noise(site)):
        wanted, _ = expected(oracle, codes, 1.0)
    assert_agree(actual, wanted, site)


@pytest.mark.parametrize("site", ["blocks.1.hook_resid_pre", "blocks.1.attn.hook_pattern"])
def test_rows_are_the_callers_when_they_run_in_groups(
    lens: AudioLens, oracle: Oracle, site: str
) -> None:
    """The last group holds one row and a copy of it; the edit is on that row."""
    act = Intervention(
        site, op=lambda tensor, _, hook: noise(site)(tensor, hook.positions), rows=[2]
    )
    with lens.intervene(act):
        clips = lens.generate(
            PROMPTS, seconds=FRAMES / 50, do_sample=False, row_group=2, progress=False
        )
    made = torch.stack([clip.codes for clip in clips])
    with oracle.editing(site, noise(site), rows=[2]):
        wanted = oracle.generate(PROMPTS, frames=FRAMES, guidance_scale=3.0)
    unedited = oracle.generate(PROMPTS, frames=FRAMES, guidance_scale=3.0)
    assert torch.equal(made, wanted)
    assert torch.equal(made[:2], unedited[:2])
    assert not torch.equal(made[2], unedited[2])
