"""Promise 3: a result depends on what was asked, not on how it was batched."""

import pytest
import torch

from audio_lens import Intervention, add
from audio_lens.errors import InputError

PROMPTS = ["a slow piano melody", "fast drums", "organ", "a bright trumpet over a steady beat"]
SEEDS = [3, 1, 4, 1]


def codes_of(clips):
    return [clip.codes for clip in clips]


def run(lens, rows, **more):
    return codes_of(
        lens.generate(
            [PROMPTS[r] for r in rows],
            seed=[SEEDS[r] for r in rows],
            seconds=0.5,
            progress=False,
            **more,
        )
    )


@pytest.mark.parametrize("group", [1, 3, 4])
def test_row_group_makes_results_bit_equal_however_rows_are_grouped(lens, group):
    together = run(lens, [0, 1, 2, 3], row_group=group)
    for order in ([3, 1, 0, 2], [2, 2, 0, 1, 3, 3, 1]):
        again = run(lens, order, row_group=group)
        for row, codes in zip(order, again, strict=True):
            assert torch.equal(codes, together[row])
    alone = [run(lens, [row], row_group=group)[0] for row in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_row_group_holds_under_steering_by_row(lens):
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0)) * 3
    with lens.intervene(Intervention("resid_post", add(vector), coefficient=[0, 1, 2, 3.0])):
        grouped = run(lens, [0, 1, 2, 3], row_group=2)
    for row in range(4):
        with lens.intervene(Intervention("resid_post", add(vector), coefficient=float(row))):
            (alone,) = run(lens, [row], row_group=2)
        assert torch.equal(alone, grouped[row])


def test_equal_rows_of_a_batch_are_equal(lens):
    first, second = codes_of(lens.generate(["organ"] * 2, seed=7, seconds=0.4, progress=False))
    assert torch.equal(first, second)


def test_the_seed_of_a_row_is_its_own(lens):
    a, b = codes_of(lens.generate(["organ"] * 2, seed=[1, 2], seconds=0.4, progress=False))
    assert not torch.equal(a, b)


def test_logits_agree_across_batch_sizes_to_rounding(lens):
    codes = lens.random_codes(frames=12, batch=4)
    with torch.no_grad():
        together = lens(PROMPTS, codes, guidance_scale=3.0)
        alone = [lens(p, codes[i : i + 1], guidance_scale=3.0) for i, p in enumerate(PROMPTS)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def test_prompts_and_codes_meet(lens):
    codes = lens.random_codes(frames=5, batch=3)
    assert lens("organ", codes).shape[0] == 3
    assert lens(PROMPTS, codes[:1]).shape[0] == 4
    assert lens(None, codes).shape[0] == 3
    with pytest.raises(InputError, match="4 prompts for 3 rows"):
        lens(PROMPTS, codes)


def test_a_row_without_prompt_is_the_unconditional_run(lens):
    codes = lens.random_codes(frames=5)
    with torch.no_grad():
        mixed = lens(["organ", None], codes)
        null = lens(None, codes)
    assert torch.allclose(mixed[1:], null, atol=1e-5)
    assert not torch.allclose(mixed[:1], null, atol=1e-2)


@pytest.mark.parametrize("branch", ["cond", "both"])
def test_a_row_without_prompt_does_not_depend_on_its_company(lens, branch):
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0)) * 3
    codes = lens.random_codes(frames=5)
    push = Intervention("resid_post", add(vector), layers=1, branch=branch)
    with torch.no_grad(), lens.intervene(push):
        alone = lens([None], codes, guidance_scale=3.0)
        beside = lens([None, "organ"], codes, guidance_scale=3.0)
    assert torch.allclose(beside[:1], alone, atol=1e-4)
    made = {"seconds": 0.3, "seed": 2, "progress": False}
    with lens.intervene(push):
        (single,) = lens.generate([None], **made)
        first, _ = lens.generate([None, "organ"], **made)
    assert torch.equal(single.codes, first.codes)


def test_text_of_rows_without_prompt_is_in_the_cache(lens):
    prompts = [None, "organ", "a bright organ", None]
    _, cache = lens.run_with_cache(prompts, lens.random_codes(frames=4), names_filter="text.*")
    assert len(cache["text.out"]) == len(cache["text.proj"]) == 4
    assert cache["text.proj"][[0, 3]].count_nonzero() == 0
    for row, prompt in ((1, "organ"), (2, "a bright organ")):
        alone = lens.run_with_cache(prompt, lens.random_codes(frames=4), names_filter="text.*")[1]
        n_tokens = alone["text.out"].shape[1]
        ours = cache["text.out"][row, :n_tokens]
        assert torch.allclose(ours, alone["text.out"][0], atol=1e-5)


def test_a_list_of_seeds_repeats_a_single_prompt(lens):
    clips = lens.generate("organ", seed=[1, 2, 3], seconds=0.1, progress=False)
    assert [clip.seed for clip in clips] == [1, 2, 3]
    assert {clip.prompt for clip in clips} == {"organ"}


def test_cache_of_grouped_rows_is_in_order(lens):
    settings = {"seed": SEEDS, "seconds": 0.2, "progress": False}
    names = ["resid_post", "attn.attn_scores", "text.proj"]
    names += ["cross_attn.pattern", "cross_attn.k"] if not lens.cfg.chroma_length else []
    _, whole = lens.generate(PROMPTS, names_filter=names, row_group=4, **settings)
    _, pieces = lens.generate(
        PROMPTS[::-1],
        names_filter=names,
        row_group=4,
        seconds=0.2,
        seed=SEEDS[::-1],
        progress=False,
    )
    _, by_ones = lens.generate(PROMPTS, names_filter=names, row_group=1, **settings)
    for name in whole:
        # Rows whose prefix is shorter than the longest have NaN in front.
        assert torch.allclose(whole[name], pieces[name].flip(0), rtol=0, atol=0, equal_nan=True), (
            name
        )
        assert torch.allclose(whole[name], by_ones[name], atol=1e-4, equal_nan=True), name
