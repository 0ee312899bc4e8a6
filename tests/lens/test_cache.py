"""The cache: names, branches, slices, TransformerLens's methods, gradients, generation."""

import pytest
import torch
from transformer_lens import ActivationCache as TransformerLensCache
from transformer_lens import patching
from transformer_lens.model_protocol import TransformerLensModel
from truth import n_prefix

from audio_lens.errors import SiteError

PROMPTS = ["slow piano", "fast drums"]
UNEVEN = ["a slow piano melody", "fast drums"]
CROSS = pytest.mark.families("mono", "stereo")


@pytest.fixture(scope="module")
def cached(lens):
    codes = lens.random_codes(frames=7, batch=2)
    with torch.no_grad():
        return lens.run_with_cache(PROMPTS, codes, guidance_scale=3.0)


def test_every_site_is_cached(lens, cached):
    _, cache = cached
    assert isinstance(cache, TransformerLensCache)
    assert set(cache.keys()) == {site.name for site in lens.sites}
    assert list(cache.keys()) == [site.name for site in lens.sites]


def test_ways_to_say_a_name(cached):
    _, cache = cached
    expected = cache.cache_dict["blocks.2.hook_resid_post"]
    for key in ["blocks.2.hook_resid_post", ("resid_post", 2), ("resid_post", -1)]:
        assert cache[key] is expected
    assert cache["logits"] is cache.cache_dict["hook_logits"]
    assert cache["z", 1, "attn"] is cache.cache_dict["blocks.1.attn.hook_z"]


@CROSS
def test_ways_to_say_a_name_of_cross_attention(cached):
    _, cache = cached
    cross = cache.cache_dict["blocks.1.cross_attn.hook_z"]
    for key in [("cross_attn.z", 1), ("z", 1, "cross_attn")]:
        assert cache[key] is cross
    # TransformerLens reads the digits behind a word as the layer; here they are part of it.
    assert cache["resid_mid2", 1] is cache.cache_dict["blocks.1.hook_resid_mid2"]


@pytest.mark.parametrize("key", ["nothing", ("y", 1), ("resid_post", 3), "resid_post"])
def test_names_that_are_none(cached, key):
    _, cache = cached
    assert key not in cache
    with pytest.raises(SiteError):
        cache[key]


def test_what_was_left_out_is_said_so(lens):
    _, cache = lens.run_with_cache(PROMPTS[0], lens.random_codes(frames=4), names_filter="mlp_out")
    assert len(cache) == 3
    with pytest.raises(KeyError, match="left out by names_filter"):
        cache["resid_post", 0]


def test_branches(cached, lens):
    _, cache = cached
    assert cache.branches == ("cond", "uncond")
    uncond = cache.branch("uncond")
    assert "text.hook_out" not in set(uncond)
    assert "blocks.0.cross_attn.hook_k" not in set(uncond)
    assert not torch.equal(uncond["resid_post", 2], cache["resid_post", 2])
    null = lens.run_with_cache(None, lens.random_codes(frames=7, batch=2))[1]
    if not lens.cfg.chroma_length:  # where the empty text has a length of its own
        assert torch.allclose(uncond["resid_post", 2], null["resid_post", 2], atol=1e-4)
    with pytest.raises(SiteError, match="no 'uncond' half"):
        null.branch("uncond")


@CROSS
def test_null_rows_attend_to_nothing(lens):
    _, cache = lens.run_with_cache(None, lens.random_codes(frames=4), names_filter="cross_attn.*")
    assert cache["cross_attn.pattern", 0].count_nonzero() == 0
    assert cache["cross_attn.attn_scores", 0].isneginf().all()
    assert cache["cross_attn.z", 0].count_nonzero() == 0


def test_patterns_sum_to_one_and_are_causal(cached, lens):
    _, cache = cached
    pattern = cache["attn.pattern", 1]
    length = n_prefix(lens, PROMPTS[0]) + 10
    assert torch.allclose(pattern.sum(-1), torch.ones(2, 4, length), atol=1e-5)
    assert pattern.triu(1).count_nonzero() == 0


@CROSS
def test_padded_text_is_not_attended_to(lens):
    _, cache = lens.run_with_cache(UNEVEN, lens.random_codes(frames=7, batch=2))
    padded = cache["cross_attn.pattern", 1][1].sum((0, 1))
    assert padded[: len("fast drums") + 1].min() > 0
    assert padded[len("fast drums") + 1 :].count_nonzero() == 0


def test_slices_keep_the_class_and_both_branches(cached, lens):
    _, cache = cached
    second = cache.apply_slice_to_batch_dim([1])
    assert type(second) is type(cache)
    assert torch.equal(second["resid_post", 0], cache["resid_post", 0][1:])
    assert torch.equal(
        second.branch("uncond")["resid_post", 0], cache.branch("uncond")["resid_post", 0][1:]
    )
    alone = cache.apply_slice_to_batch_dim(1)
    assert alone["resid_post", 0].shape == (n_prefix(lens, PROMPTS[1]) + 10, 64)
    assert alone.layout == second.layout == cache.layouts[1]
    assert torch.equal(second.remove_batch_dim()["attn.z", 1], alone["attn.z", 1])
    with pytest.raises(SiteError, match="slice one first"):
        cache.remove_batch_dim()


@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_decompositions_sum_to_the_stream(cached, lens, branch):
    cache = cached[1].branch(branch)
    stack, labels = cache.decompose_resid(return_labels=True)
    crossing = [] if lens.cfg.chroma_length else ["0_cross_attn_out"]
    first = ["embed", "pos_embed", "0_attn_out", *crossing, "0_mlp_out"]
    assert labels[: len(first)] == first
    assert torch.allclose(stack.sum(0), cache["resid_post", 2], atol=1e-5)
    at_mlp = cache.decompose_resid(layer=1, mlp_input=True)
    before = "resid_mid" if lens.cfg.chroma_length else "resid_mid2"
    assert torch.allclose(at_mlp.sum(0), cache[before, 1], atol=1e-5)


@CROSS
def test_decomposition_into_cross_attention(cached):
    cache = cached[1]
    crossing = cache.decompose_resid(mode="cross_attn", incl_embeds=False)
    assert torch.equal(crossing, cache.stack_activation("cross_attn_out"))


def test_layer_norm_of_a_stack_gives_the_logits(cached, lens):
    _, cache = cached
    cond = cache.branch("cond")
    norm = lens.ln_final
    parts = cond.apply_ln_to_stack(cond.decompose_resid())
    normalized = parts.sum(0) * norm.weight + norm.bias
    assert torch.allclose(normalized, cond["ln_final.normalized"], atol=1e-4)
    final = cond.accumulated_resid(apply_ln=True)[-1]
    for k, unembedding in enumerate(lens.W_U):
        assert torch.allclose(final @ unembedding, cond["logits"][:, k], atol=1e-4)


@pytest.mark.parametrize(
    "method",
    [
        "logit_lens",
        "logit_attrs",
        "get_full_resid_decomposition",
        "get_neuron_results",
        "stack_neuron_results",
    ],
)
def test_single_vocabulary_methods_refuse(cached, method):
    with pytest.raises(NotImplementedError, match="one per codebook"):
        getattr(cached[1], method)()


def test_a_stack_that_would_leave_a_stream_out_is_refused(cached):
    with pytest.raises(NotImplementedError, match="would leave resid_mid2 out"):
        cached[1].accumulated_resid(incl_mid=True)


def test_head_results(cached, lens):
    cache = cached[1].branch("cond")
    results = cache.stack_head_results()
    assert results.shape[0] == 12
    total = cache["attn.result", 1].sum(2)
    assert torch.allclose(total, cache["attn_out", 1], atol=1e-5)
    if lens.cfg.chroma_length:
        return
    by_weights = torch.einsum("bphd,hdm->bphm", cache["cross_attn.z", 1], lens.cross_W_O[1])
    assert torch.allclose(by_weights, cache["cross_attn.result", 1], atol=1e-5)


def test_stop_at_layer(lens):
    codes = lens.random_codes(frames=5)
    _, whole = lens.run_with_cache(PROMPTS[0], codes)
    for layer in (0, 2, -1):
        stream, cache = lens.run_with_cache(PROMPTS[0], codes, stop_at_layer=layer)
        assert torch.equal(stream, whole["resid_pre", layer])
        assert ("resid_pre", layer) in cache
        assert ("attn_out", layer) not in cache


def test_gradients_beside_activations(lens):
    codes = lens.random_codes(frames=5)
    logits, cache = lens.run_with_cache(PROMPTS[0], codes, incl_bwd=True)
    assert logits.shape == (1, lens.cfg.n_codebooks, 5, 256)
    stream = cache["resid_post_grad", 2]
    assert stream.shape == cache["resid_post", 2].shape
    step = -0.01 * stream / stream.norm()
    before = torch.nn.functional.cross_entropy(logits.flatten(0, 2), codes.flatten())
    after_logits = lens.run_with_hooks(
        PROMPTS[0], codes, fwd_hooks=[("blocks.2.hook_resid_post", lambda t, *, hook: t + step)]
    )
    after = torch.nn.functional.cross_entropy(after_logits.flatten(0, 2), codes.flatten())
    assert float((before - after).detach()) == pytest.approx(0.01 * float(stream.norm()), rel=0.05)


def test_a_later_write_does_not_reach_back_into_the_cache(lens):
    codes = lens.random_codes(frames=5)
    plain = lens.run_with_cache(PROMPTS[0], codes, names_filter="resid_post")[1]

    def wipe(tensor, *, hook):
        tensor.zero_()

    # Block 1's input is the very tensor that block 0 put out.
    with lens.hooks([("blocks.1.hook_resid_pre", wipe)]):
        cache = lens.run_with_cache(PROMPTS[0], codes, names_filter="resid_post")[1]
    assert torch.equal(cache["resid_post", 0], plain["resid_post", 0])
    assert not torch.equal(cache["resid_post", 1], plain["resid_post", 1])


def test_a_generation_is_cached_as_teacher_forcing_sees_it(lens):
    clips, cache = lens.generate(PROMPTS, seconds=0.3, names_filter="*", progress=False)
    codes = torch.stack([clip.codes for clip in clips])
    _, forced = lens.run_with_cache(PROMPTS, codes, guidance_scale=3.0)
    assert set(cache.keys()) == set(forced.keys())
    for branch in ("cond", "uncond"):
        for name, value in cache.branch(branch).items():
            assert torch.allclose(value, forced.branch(branch)[name], atol=1e-4), name


def test_patching_a_guided_run_into_itself_changes_nothing(lens):
    bound = lens.bind(PROMPTS[0], guidance_scale=3.0)
    tokens = bound.to_tokens(lens.random_codes(frames=4))
    with torch.no_grad():
        plain, cache = bound.run_with_cache(tokens)

        def itself(tensor, *, hook):
            tensor[:] = cache[hook.name]

        hooks = [("blocks.1.hook_resid_pre", itself)]
        assert torch.equal(bound.run_with_hooks(tokens, fwd_hooks=hooks), plain)


def test_transformer_lens_patches_a_bound_lens(lens):
    codes = lens.random_codes(frames=4)
    bound = lens.bind(PROMPTS[0])
    assert isinstance(bound, TransformerLensModel)
    tokens = bound.to_tokens(codes)
    _, clean = lens.bind(PROMPTS[1]).run_with_cache(tokens)

    def metric(logits):
        return logits[0].log_softmax(-1).gather(-1, codes[0, ..., None]).mean()

    with torch.no_grad():
        grid = patching.get_act_patch_resid_pre(bound, tokens, clean, metric)
        mlp = patching.get_act_patch_mlp_out(bound, tokens, clean, metric)
    before = n_prefix(lens, PROMPTS[0])
    assert grid.shape == mlp.shape == (3, before + 7)

    def by_hand(layer, position):
        def patch(tensor, *, hook):
            tensor[:, position] = clean["resid_pre", layer][:, position]

        name = f"blocks.{layer}.hook_resid_pre"
        with torch.no_grad():
            return metric(lens.run_with_hooks(PROMPTS[0], codes, fwd_hooks=[(name, patch)]))

    for layer, position in {(1, 0), (2, 3), (2, 6), (1, before + 2), (2, before + 6)}:
        assert torch.equal(grid[layer, position], by_hand(layer, position))
    assert grid[2].unique().numel() > 1
