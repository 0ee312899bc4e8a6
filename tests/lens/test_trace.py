"""Raw nnsight traces on the named sites, alone and together with hooks."""

import nnsight
import pytest
import torch
from truth import n_prefix

from audio_lens import Intervention, add
from audio_lens.errors import HookError, InputError, SiteError

PROMPT = "a slow piano melody"
# Not a constant: LayerNorms would take that out again.
PUSH = torch.randn(64, generator=torch.Generator().manual_seed(2))


def test_read_and_write_in_a_forward(lens):
    codes, length = lens.random_codes(frames=6), n_prefix(lens, PROMPT) + 9
    with torch.no_grad(), lens.trace(PROMPT, codes) as tracer:
        z = lens.site("blocks.0.attn.hook_z").save()
        scores = lens.site("blocks.1.attn.hook_attn_scores").save()
        lens.site("blocks.1.hook_resid_mid")[:, 3:] = 0
        lens.set_site("blocks.2.hook_mlp_out", torch.zeros(1, length, 64))
        logits = tracer.result.save()

    def zero(tensor, *, hook):
        tensor[:, 3 if "mid" in hook.name else 0 :] = 0

    names = ["blocks.1.hook_resid_mid", "blocks.2.hook_mlp_out"]
    with torch.no_grad():
        hooked = lens.run_with_hooks(PROMPT, codes, fwd_hooks=[(name, zero) for name in names])
        cache = lens.run_with_cache(PROMPT, codes)[1]
    assert torch.equal(logits, hooked)
    assert torch.equal(z, cache["attn.z", 0])
    assert torch.equal(scores, cache["attn.attn_scores", 1])


def test_every_site_can_be_read(lens):
    codes = lens.random_codes(frames=4)
    names = [site.name for site in lens.sites]
    with torch.no_grad(), lens.trace(PROMPT, codes):
        read = nnsight.save({})
        for name in names:
            read[name] = lens.site(name).clone()
    with torch.no_grad():
        cache = lens.run_with_cache(PROMPT, codes)[1]
    assert set(read) == set(cache.keys())
    for name in names:
        assert torch.equal(read[name], cache[name]), name


def test_branches_of_a_guided_forward(lens):
    codes = lens.random_codes(frames=5)
    zeros = torch.zeros(1, n_prefix(lens, PROMPT) + 8, 64)
    with torch.no_grad(), lens.trace(PROMPT, codes, guidance_scale=3.0) as tracer:
        lens.set_site("blocks.1.hook_mlp_out", zeros, branch="uncond")
        logits = tracer.result.save()

    def zero(tensor, *, hook):
        return torch.zeros_like(tensor)

    hooks = [("blocks.1.hook_mlp_out", zero)]
    with torch.no_grad():
        expected = lens.run_with_hooks(
            PROMPT, codes, fwd_hooks=hooks, branch="uncond", guidance_scale=3.0
        )
        other = lens.run_with_hooks(
            PROMPT, codes, fwd_hooks=hooks, branch="cond", guidance_scale=3.0
        )
    assert torch.equal(logits, expected)
    assert not torch.equal(logits, other)


def test_hooks_act_inside_a_trace(lens):
    codes = lens.random_codes(frames=5)
    push = Intervention("resid_post", add(PUSH), layers=0)
    with torch.no_grad(), lens.intervene(push):
        with lens.trace(PROMPT, codes) as tracer:
            stream = lens.site("blocks.0.hook_resid_post").save()
            logits = tracer.result.save()
        hooked, cache = lens.run_with_cache(PROMPT, codes)
    assert torch.equal(logits, hooked)
    assert torch.equal(stream, cache["resid_post", 0])
    assert not torch.equal(logits, lens(PROMPT, codes))


def test_a_generation_step_by_step(lens):
    settings = {"seconds": 0.2, "seed": 4, "progress": False}
    with lens.trace(PROMPT, fn=lens.generate, **settings) as tracer:
        streams = nnsight.save([])
        for _ in tracer.iter[0:13]:
            stream = lens.site("blocks.1.hook_resid_post")
            stream += PUSH
            streams.append(stream.clone())
        clips = tracer.result.save()
    with lens.intervene(Intervention("resid_post", add(PUSH), layers=1, branch="cond")):
        expected, cache = lens.generate(PROMPT, names_filter="blocks.1.hook_resid_post", **settings)
    assert torch.equal(clips[0].codes, expected[0].codes)
    assert torch.equal(torch.cat(streams, 1), cache["resid_post", 1])
    assert not torch.equal(clips[0].codes, lens.generate(PROMPT, **settings)[0].codes)


def test_gradients_in_a_trace(lens):
    codes = lens.random_codes(frames=4)
    with lens.trace(PROMPT, codes) as tracer:
        stream = lens.site("blocks.1.hook_resid_post")
        loss = tracer.result.sum()
        with loss.backward():
            gradient = stream.grad.save()
    cache = lens.run_with_cache(
        PROMPT, codes, names_filter="resid_post", incl_bwd=lambda logits: logits.sum()
    )[1]
    assert torch.allclose(gradient, cache["resid_post_grad", 1], atol=1e-4)


def test_what_a_trace_refuses(lens):
    codes = lens.random_codes(frames=4)
    with pytest.raises(HookError, match="shape"), lens.trace(PROMPT, codes):
        lens.set_site("blocks.1.hook_mlp_out", torch.zeros(1, 2, 64))
    with pytest.raises(HookError, match="wrote NaN"), lens.trace(PROMPT, codes):
        lens.site("blocks.1.hook_mlp_out")[:] = float("nan")
    with pytest.raises(HookError, match="read-only"), lens.trace(PROMPT, codes):
        lens.set_site("blocks.1.ln1.hook_scale", torch.zeros(1, 7, 1))
    with pytest.raises(SiteError, match="every layer"), lens.trace(PROMPT, codes):
        lens.site("resid_post")
    with pytest.raises(SiteError, match="belong inside"):
        lens.site("blocks.0.hook_resid_post")
    with pytest.raises(SiteError, match="no unconditional half"), lens.trace(PROMPT, codes):
        lens.site("blocks.1.hook_mlp_out", branch="uncond")
    shape = (1, lens.cfg.n_codebooks, 4, 256)
    assert lens(PROMPT, codes).shape == shape  # nothing of them is left behind


@pytest.mark.families("mono", "stereo")
def test_a_trace_refuses_to_write_where_no_text_is_read(lens):
    codes = lens.random_codes(frames=4)
    with pytest.raises(HookError, match="this run has no prompt"), lens.trace(None, codes):
        lens.site("blocks.1.cross_attn.hook_q")[:] = 1.0


def test_a_trace_of_rows_that_run_apart_is_refused(lens):
    """It would see the first of them alone."""
    with (
        pytest.raises(InputError, match="follows one run"),
        lens.trace([PROMPT, PROMPT], fn=lens.generate, seconds=0.1, row_group=1, progress=False),
    ):
        lens.site("blocks.1.hook_mlp_out").save()


@pytest.mark.families("melody")
def test_a_trace_of_uneven_prefixes_is_refused(lens):
    with (
        pytest.raises(InputError, match="follows one run"),
        lens.trace([PROMPT, "organ"], lens.random_codes(frames=4)),
    ):
        lens.site("blocks.1.hook_mlp_out").save()
