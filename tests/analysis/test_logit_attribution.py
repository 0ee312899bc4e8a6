"""Direct logit attribution: the parts sum to the logits, and each is what its own removal takes."""

import pytest
import torch

from audio_lens.analysis.logit_attribution import logit_attribution
from audio_lens.errors import InputError
from audio_lens.testing import planted_circuit

PROMPTS = ["a slow organ", "a fast organ"]


@pytest.fixture(scope="module")
def codes(lens):
    return lens.random_codes(frames=7, batch=2, seed=3)


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize("against", ["nothing", "mean", "codes"])
def test_parts_sum_to_the_logits(lens, codes, heads, against) -> None:
    others = lens.random_codes(frames=7, batch=2, seed=4)
    held = others if against == "codes" else against
    found = logit_attribution(lens, PROMPTS, codes, against=held, heads=heads)
    logits = lens(PROMPTS, codes)
    wanted = logits.gather(-1, codes[..., None])[..., 0]
    if against == "mean":
        wanted = wanted - logits.mean(-1)
    elif against == "codes":
        wanted = wanted - logits.gather(-1, others[..., None])[..., 0]
    assert torch.allclose(found.total, wanted, atol=1e-4)
    assert len(found.parts) == len(found.values) == len(set(found.parts))


def test_what_was_edited_is_a_part_of_its_own(lens, codes) -> None:
    ramp = torch.linspace(-3, 5, 64)
    with lens.hooks([("blocks.1.hook_resid_post", lambda tensor, *, hook: tensor + ramp)]):
        found = logit_attribution(lens, PROMPTS, codes, against="nothing")
        logits = lens(PROMPTS, codes)
    assert torch.allclose(found.total, logits.gather(-1, codes[..., None])[..., 0], atol=1e-3)
    assert "edits" in found.parts
    assert "edits" not in logit_attribution(lens, PROMPTS, codes).parts


def test_halves_of_a_guided_run_are_split_apart(lens, codes) -> None:
    """The unconditional half is what guidance at 3 leaves over: guided = 3 cond - 2 uncond."""
    cond, guided = (lens(PROMPTS, codes, guidance_scale=scale) for scale in (1.0, 3.0))
    for branch, logits in (("cond", cond), ("uncond", (3 * cond - guided) / 2)):
        found = logit_attribution(
            lens, PROMPTS, codes, against="nothing", branch=branch, guidance_scale=3.0
        )
        wanted = logits.gather(-1, codes[..., None])[..., 0]
        assert torch.allclose(found.total, wanted, atol=1e-4)


@pytest.mark.families("mono")
def test_a_head_adds_what_its_result_is_worth_at_the_end(lens) -> None:
    """By hand: the head's result, centred, scaled as the whole stream was, unembedded."""
    codes = lens.random_codes(frames=7, seed=3)
    found = logit_attribution(lens, PROMPTS[0], codes, against="nothing")
    names = ["blocks.1.cross_attn.hook_result", "ln_final.hook_scale"]
    _, cache = lens.run_with_cache(PROMPTS[0], codes, names_filter=names)
    result = cache["cross_attn.result", 1][:, :, 2]
    normed = (result - result.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"]
    normed = normed * lens.ln_final.weight
    logits = torch.stack([normed @ unembedding for unembedding in lens.W_U], dim=1)
    wanted = lens.delay.align(logits).gather(-1, codes[..., None])[..., 0]
    place = found.parts.index("1.cross_attn.2")
    assert torch.allclose(found.values[place], wanted, atol=1e-4)


def test_a_planted_neuron_is_what_makes_its_code_likely() -> None:
    planted = planted_circuit()
    codes = torch.full_like(planted.codes, planted.code)
    found = logit_attribution(planted.lens, planted.clean, codes)
    table = found.to_dataframe()
    heard = table[table["codebook"] == planted.codebook]
    assert heard.loc[heard["logits"].idxmax(), "part"] == f"{planted.mlp_layer}.mlp"


@pytest.mark.families("mono")
def test_pictures_and_bad_input(lens, as_users_see_it) -> None:
    codes = lens.random_codes(frames=7, seed=3)
    found = logit_attribution(lens, PROMPTS[0], codes)
    panels = found.plot(example=0).axes[: lens.cfg.n_codebooks]
    drawn = panels[1].images[0].get_array()
    columns = [f"attn.{h}" for h in range(lens.cfg.n_heads)]
    columns += [f"cross_attn.{h}" for h in range(lens.cfg.n_heads)] + ["mlp"]
    for layer, row in enumerate(drawn):
        for name, cell in zip(columns, row, strict=True):
            added = found.values[found.parts.index(f"{layer}.{name}"), 0, 1].mean()
            assert cell == pytest.approx(float(added), abs=1e-6)
    elsewhere = float(found.total[0, 1].mean()) - drawn.sum()
    assert f"(elsewhere {elsewhere:+.1f})" in panels[1].get_title()
    with pytest.raises(InputError, match="give as many"):
        logit_attribution(lens, PROMPTS[0], codes, against=codes[..., :3])
    with pytest.raises(InputError, match='against must be "mean"'):
        logit_attribution(lens, PROMPTS[0], codes, against="zero")
