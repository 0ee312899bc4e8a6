"""Attribution against finite differences and exact patches."""

import pytest
import torch

from audio_lens import activation_patch, agreement, attribution_patch, metrics
from audio_lens.errors import InputError


@pytest.fixture(scope="module")
def asked(mono):
    codes = mono.random_codes(frames=6, batch=2, seed=1)
    return {
        "clean": ("a slow organ", codes),
        "corrupted": ("a fast organ", codes),
        "metric": metrics.logprob(codes),
    }


def test_it_is_exact_for_small_changes(mono) -> None:
    """A donor a thousandth away: to first order is then to the last digit that counts."""
    codes = mono.random_codes(frames=6, seed=1)
    side = ("a slow organ", codes)
    _, cache = mono.run_with_cache(*side, names_filter="resid_post")
    generator = torch.Generator().manual_seed(0)
    donor = {
        f"blocks.{n}.hook_resid_post": cache["resid_post", n]
        + 1e-2 * torch.randn(1, 9, 64, generator=generator)
        for n in range(3)
    }
    asked = {"clean": side, "corrupted": side, "donor": donor, "metric": metrics.logprob(codes)}
    exact = activation_patch(mono, progress=False, **asked)
    estimated = attribution_patch(mono, **asked)
    found = agreement(estimated, exact)
    assert found.correlation > 0.999
    assert found.slope == pytest.approx(1, abs=0.02)
    assert found.n_cells == 27


@pytest.mark.parametrize(
    "site", ["attn.z", "mlp_out", "cross_attn_out", "resid_mid", "attn.pattern"]
)
def test_it_agrees_with_a_gradient_taken_by_hand(mono, asked, site) -> None:
    """The gradient at a site by a tiny step along the donor's difference."""
    step = 1e-2
    result = attribution_patch(mono, site=site, axes=("layer",), **asked)
    for layer in range(3):
        name = next(s.name for s in mono.sites if s.shorthand == site and s.layer == layer)
        kept = {
            side: mono.run_with_cache(*asked[side], names_filter=[name])[1][name]
            for side in ("clean", "corrupted")
        }
        scored = []
        for sign in (-1, 1):
            moved = torch.lerp(kept["corrupted"], kept["clean"], sign * step)
            logits = mono.run_with_hooks(
                *asked["corrupted"], fwd_hooks=[(name, lambda t, *, hook, v=moved: v)]
            )
            scored.append(asked["metric"](logits))
        slope = (scored[1] - scored[0]) / (2 * step)
        assert torch.allclose(result.effect[layer], slope, atol=2e-3, rtol=2e-2)


def test_integrated_gradients_of_what_enters_add_up(mono, asked) -> None:
    """Completeness: over the whole way they sum to the difference of the two runs."""
    result = attribution_patch(mono, site="text.proj", axes=(), steps=32, **asked)
    gap = result.clean - result.corrupted
    assert torch.allclose(result.effect, gap, rtol=0.02, atol=1e-3)
    once = attribution_patch(mono, site="text.proj", axes=(), **asked)
    assert (once.effect - gap).abs().sum() > (result.effect - gap).abs().sum()


def test_branches(mono, asked) -> None:
    guided = attribution_patch(
        mono, site="attn_out", axes=("branch", "layer"), guidance_scale=3.0, **asked
    )
    one = attribution_patch(
        mono, site="attn_out", axes=("layer",), branch="cond", guidance_scale=3.0, **asked
    )
    assert torch.allclose(guided.select(branch="cond").values, one.values)


def test_it_leaves_no_gradients_behind(mono, asked) -> None:
    before = [p.requires_grad for p in mono.hf_model.parameters()]
    attribution_patch(mono, **asked)
    assert [p.requires_grad for p in mono.hf_model.parameters()] == before
    assert all(p.grad is None for p in mono.hf_model.parameters())


def test_agreement_needs_the_same_grid_and_enough_cells(mono, asked) -> None:
    estimated = attribution_patch(mono, axes=("layer",), **asked)
    exact = activation_patch(mono, axes=("layer",), sample=2, progress=False, **asked)
    with pytest.raises(InputError, match="share 2 cells"):
        agreement(estimated, exact)
    with pytest.raises(InputError, match="different axes"):
        agreement(estimated, activation_patch(mono, axes=("pos",), progress=False, **asked))
    whole = agreement(estimated, activation_patch(mono, axes=("layer",), progress=False, **asked))
    assert "3 cells: correlation" in str(whole)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 2, "donor": "zero"}, "no meaning with a donor"),
        ({"metric": lambda logits: logits.detach()[:, 0, 0, 0]}, "does not differentiate"),
        ({"metric": metrics.read_out(torch.ones(64), layer=2)}, "reads sites"),
        ({"corrupted": ("a fast", None), "steps": 2}, "no way between them"),
    ],
)
def test_bad_input_is_named(mono, asked, change, match) -> None:
    if "corrupted" in change:
        change = change | {"corrupted": ("a fast", asked["clean"][1])}
    with pytest.raises(InputError, match=match):
        attribution_patch(mono, **(asked | change))


def test_in_a_melody_model_the_way_is_walked_once(model) -> None:
    """Completeness again: over what enters, effects add up to the difference of the runs."""
    codes = model.random_codes(frames=6, seed=1)
    asked = {
        "clean": ("a slow organ", codes),
        "corrupted": ("a fast organ", codes),
        "metric": metrics.logprob(codes),
    }
    site = "hook_embed" if "melody.proj" in model.sites.shorthands else "text.proj"
    result = attribution_patch(model, site=site, axes=(), steps=32, **asked)
    assert torch.allclose(result.effect, result.clean - result.corrupted, rtol=0.02, atol=2e-3)
