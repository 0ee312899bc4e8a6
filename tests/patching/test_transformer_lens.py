"""TransformerLens's own patching functions, on a bound lens, give our numbers."""

import pytest
import torch
from transformer_lens import patching

from audio_lens import activation_patch, metrics
from audio_lens.errors import InputError


@pytest.mark.parametrize(
    ("theirs", "site"),
    [
        (patching.get_act_patch_resid_pre, "resid_pre"),
        (patching.get_act_patch_attn_out, "attn_out"),
        (patching.get_act_patch_mlp_out, "mlp_out"),
    ],
)
def test_layers_by_positions(mono, theirs, site) -> None:
    clean, corrupted = (mono.random_codes(frames=6, seed=seed) for seed in (1, 2))
    metric = metrics.logprob(clean)
    ours = activation_patch(
        mono,
        clean=("a slow organ", clean),
        corrupted=("a fast organ", corrupted),
        site=site,
        metric=metric,
        progress=False,
    )
    bound = mono.bind("a fast organ")
    with torch.no_grad():
        _, cache = mono.run_with_cache("a slow organ", clean)
        found = theirs(
            bound, bound.to_tokens(corrupted), cache, lambda logits: metric(logits).mean()
        )
    assert torch.allclose(found.cpu(), ours.values, atol=1e-5)
    assert ours.effect.abs().max() > 1e-3


def test_codes_that_are_not_delayed_are_refused(mono) -> None:
    with pytest.raises(InputError, match="not delayed"):
        mono.bind("a fast organ")(mono.random_codes(frames=6))


VARIANTS = {
    "get_act_patch_attn_head_out_all_pos": ("attn.z", ("layer", "head")),
    "get_act_patch_attn_head_q_all_pos": ("attn.q", ("layer", "head")),
    "get_act_patch_attn_head_k_all_pos": ("attn.k", ("layer", "head")),
    "get_act_patch_attn_head_v_all_pos": ("attn.v", ("layer", "head")),
    "get_act_patch_attn_head_pattern_all_pos": ("attn.pattern", ("layer", "head")),
}


@pytest.mark.parametrize("theirs", VARIANTS)
def test_heads(mono, theirs) -> None:
    site, axes = VARIANTS[theirs]
    clean, corrupted = (mono.random_codes(frames=6, seed=seed) for seed in (1, 2))
    metric = metrics.logprob(clean)
    ours = activation_patch(
        mono, clean=("a slow organ", clean), corrupted=("a fast organ", corrupted), site=site,
        axes=axes, metric=metric, progress=False,
    )  # fmt: skip
    bound = mono.bind("a fast organ")
    with torch.no_grad():
        _, cache = mono.run_with_cache("a slow organ", clean)
        found = getattr(patching, theirs)(
            bound, bound.to_tokens(corrupted), cache, lambda logits: metric(logits).mean()
        )
    assert torch.allclose(found.cpu(), ours.values, atol=1e-5)
    assert ours.effect.abs().max() > 1e-5


def test_heads_by_position(mono) -> None:
    clean, corrupted = (mono.random_codes(frames=5, seed=seed) for seed in (1, 2))
    metric = metrics.logprob(clean)
    ours = activation_patch(
        mono, clean=("a slow organ", clean), corrupted=("a fast organ", corrupted), site="attn.z",
        axes=("layer", "pos", "head"), metric=metric, progress=False,
    )  # fmt: skip
    bound = mono.bind("a fast organ")
    with torch.no_grad():
        _, cache = mono.run_with_cache("a slow organ", clean)
        found = patching.get_act_patch_attn_head_out_by_pos(
            bound, bound.to_tokens(corrupted), cache, lambda logits: metric(logits).mean()
        )
    assert torch.allclose(found.cpu(), ours.values, atol=1e-5)
