"""Edits of a generation, branch by branch and step by step, against plain torch hooks."""

import pytest
import torch
from checks import (
    CLEAR,
    FRAMES,
    GENERATIONS,
    ONE_BRANCH,
    POSITIONS,
    PROMPTS,
    SITES,
    TOLERANCE,
    Untouched,
    assert_moved_at_every_step,
    expected,
    furthest,
    generated,
    noise,
    returning,
    seen,
    spread,
)
from oracle import Oracle, sees_text_only
from torch import Tensor

from audio_lens import AudioLens
from audio_lens.errors import SiteError

pytestmark = pytest.mark.families("mono")


def oracle_generated(oracle: Oracle, scale: float, seed: int | None, **edit: object) -> Tensor:
    with oracle.editing(**edit):
        prompts = PROMPTS[:2] if seed is None else PROMPTS[:1]
        return oracle.generate(prompts, frames=FRAMES, guidance_scale=scale, seed=seed)


@pytest.mark.parametrize(("site", "scale", "branch", "seed"), GENERATIONS)
def test_generation_edit_gives_the_oracles_codes(
    lens: AudioLens,
    oracle: Oracle,
    unedited: dict[tuple[float, int | None], tuple[Tensor, Tensor]],
    site: str,
    scale: float,
    branch: str,
    seed: int | None,
) -> None:
    edit = noise(site)
    with lens.hooks([(site, returning(edit))], branch=branch):
        codes, logits = generated(lens, scale, seed)
    wanted = oracle_generated(oracle, scale, seed, name=site, edit=edit, branch=branch)
    assert torch.equal(codes, wanted)
    codes_before, logits_before = unedited[scale, seed]
    assert not torch.equal(codes, codes_before)
    assert_moved_at_every_step(logits, logits_before, site, scale, branch)


def test_continuation_is_edited_at_the_prefixs_positions(lens: AudioLens, codes: Tensor) -> None:
    """With a prefix the first call covers many positions: edits land where a forward puts them."""
    site = "blocks.1.hook_resid_pre"
    with lens.hooks([(site, returning(noise(site)))]):
        clips, cache = lens.generate(
            PROMPTS,
            prefix=codes[..., :3],
            seconds=FRAMES / 50,
            do_sample=False,
            guidance_scale=1.0,
            names_filter="hook_logits",
            progress=False,
        )
        made = torch.stack([clip.codes for clip in clips])
        _, logits = seen(lens, made, 1.0)
    assert torch.equal(made[..., :3], codes[..., :3])
    torch.testing.assert_close(
        cache["hook_logits"], logits, rtol=0, atol=TOLERANCE * spread(logits)
    )


@pytest.mark.parametrize(("site", "scale", "branch"), ONE_BRANCH)
def test_other_branch_keeps_its_bits(
    lens: AudioLens,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    scale: float,
    branch: str,
    grad: bool,
) -> None:
    _, before = untouched[scale, grad]
    with lens.hooks([(site, returning(noise(site)))], branch=branch):
        _, after = seen(lens, codes, scale)
    cond, uncond = (slice(0, len(PROMPTS)), slice(len(PROMPTS), None))
    edited, other = (cond, uncond) if branch == "cond" else (uncond, cond)
    assert torch.equal(after[other], before[other]), furthest(after[other], before[other])
    assert furthest(after[edited], before[edited]) > CLEAR


@pytest.mark.parametrize("site", [site for site in SITES if sees_text_only(site)])
def test_what_only_the_text_has_refuses_the_other_branch(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str
) -> None:
    """And rightly: the oracle shows that an edit there would change nothing."""
    with pytest.raises(SiteError, match="uncond"), lens.hooks([(site, print)], branch="uncond"):
        pass
    before = expected(oracle, codes, 3.0)[1]
    with oracle.editing(site, noise(site), branch="uncond"):
        after = expected(oracle, codes, 3.0)[1]
    torch.testing.assert_close(after, before, rtol=0, atol=TOLERANCE * spread(before))


@pytest.mark.parametrize("known", [0, 3])
def test_every_hook_is_called_once_per_step_and_branch(
    lens: AudioLens, oracle: Oracle, codes: Tensor, known: int
) -> None:
    calls: dict[tuple[str, str], list[tuple[int, range]]] = {}

    def note(tensor: Tensor, *, hook: object) -> None:
        calls.setdefault((hook.name, hook.branch), []).append((hook.step, hook.positions))

    with lens.hooks([(lambda name: True, note)]):
        lens.generate(
            PROMPTS,
            prefix=codes[..., :known] if known else None,
            seconds=FRAMES / 50,
            progress=False,
        )
    later = [(step, range(known + step, known + step + 1)) for step in range(1, POSITIONS - known)]
    for site in lens.sites:
        once = site.name.startswith("text.") or site.name.endswith(
            ("cross_attn.hook_k", "cross_attn.hook_v")
        )
        cond = calls[site.name, "cond"]
        assert [step for step, _ in cond] == ([0] if once else list(range(POSITIONS - known)))
        if not site.name.startswith("text."):  # the decoder has no positions yet
            assert cond == [(0, range(known + 1))] + [] * once + later * (not once)
        assert calls.get((site.name, "uncond")) == (None if sees_text_only(site.name) else cond)


def test_oracle_prefills_twice_and_the_lens_once(oracle: Oracle) -> None:
    """Why step counts are not compared with `generate`: it runs its first call twice."""
    oracle.generate(PROMPTS[:1], frames=FRAMES, guidance_scale=3.0)
    assert len(oracle.calls) == POSITIONS + 1
