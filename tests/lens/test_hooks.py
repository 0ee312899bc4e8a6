"""Hooks: what they see, how often, and that nothing of a run stays behind."""

import gc

import torch
from truth import n_prefix

from audio_lens.testing import random_musicgen

PROMPT = "a slow piano melody"
# Not a constant: LayerNorms would take that out again.
PUSH = torch.randn(64, generator=torch.Generator().manual_seed(2))


def test_what_a_hook_is_told(lens):
    seen = []

    def note(tensor, *, hook):
        hook.ctx["calls"] = hook.ctx.get("calls", 0) + 1
        seen.append(
            (hook.name, hook.layer(), hook.branch, hook.step, hook.positions, hook.ctx["calls"])
        )
        assert hook.seconds == [p / 50 for p in hook.positions]
        assert tensor.shape == (2, len(hook.positions), 64)
        assert tensor[:, hook.layout.audio].shape[1] == len([p for p in hook.positions if p >= 0])

    with lens.hooks([("blocks.1.hook_mlp_out", note)]):
        lens.generate([PROMPT, PROMPT[::-1]], seconds=0.04, prefix=lens.random_codes(frames=1),
                      progress=False)  # fmt: skip
    name = "blocks.1.hook_mlp_out"
    first = -n_prefix(lens, PROMPT)
    assert seen[:4] == [
        (name, 1, "cond", 0, range(first, 2), 1),
        (name, 1, "uncond", 0, range(first, 2), 2),
        (name, 1, "cond", 1, range(2, 3), 3),
        (name, 1, "uncond", 1, range(2, 3), 4),
    ]
    assert [entry[3] for entry in seen[::2]] == [0, 1, 2, 3]
    assert seen[-1][4] == range(4, 5)


def test_prefill_happens_once_and_text_sites_fire_once(lens):
    calls = {}

    def count(tensor, *, hook):
        calls.setdefault(hook.name, []).append(hook.step)

    with lens.hooks([(lambda name: True, count)], branch="cond"):
        lens.generate(PROMPT, seconds=0.2, progress=False)
    for site in lens.sites:
        steps = [0] if site.steps == "first" else list(range(13))
        assert calls[site.name] == steps, site.name


def test_sites_fire_in_the_order_of_the_table(lens):
    order = []
    lens.run_with_hooks(
        PROMPT,
        lens.random_codes(frames=4),
        fwd_hooks=[(lambda name: True, lambda tensor, *, hook: order.append(hook.name))],
    )
    assert order == [site.name for site in lens.sites]


def test_hooks_nest_and_end_with_their_block(lens):
    codes = lens.random_codes(frames=4)
    plain = lens(PROMPT, codes)

    def push(tensor, *, hook):
        return tensor + PUSH

    with lens.hooks([("blocks.0.hook_mlp_out", push)]):
        once = lens(PROMPT, codes)
        with lens.hooks([("blocks.0.hook_mlp_out", push)]):
            twice = lens(PROMPT, codes)
        assert torch.equal(lens(PROMPT, codes), once)
    by_hand = lens.run_with_hooks(
        PROMPT, codes, fwd_hooks=[("blocks.0.hook_mlp_out", lambda t, *, hook: t + PUSH + PUSH)]
    )
    assert torch.equal(twice, by_hand)
    assert torch.equal(lens(PROMPT, codes), plain)
    assert not torch.allclose(once, plain, atol=0.1)


def test_inference_mode_is_served(lens):
    codes = lens.random_codes(frames=4)
    with torch.inference_mode():
        hooked = lens.run_with_hooks(
            PROMPT, codes, fwd_hooks=[("resid_post", lambda t, *, hook: t.mul_(2))]
        )
    assert not torch.equal(hooked, lens(PROMPT, codes))


def test_two_lenses_do_not_meddle():
    one, two = random_musicgen(n_layers=2, seed=1), random_musicgen(n_layers=2, seed=2)
    codes = one.random_codes(frames=4)
    plain = two(PROMPT, codes)

    def zero(tensor, *, hook):
        return tensor * 0

    with one.hooks([("attn.pattern", zero), ("resid_post", zero)]):
        assert torch.equal(two(PROMPT, codes), plain)


def test_two_hundred_runs_keep_no_memory(lens):
    codes = lens.random_codes(frames=4)

    def held():
        gc.collect()
        return sum(1 for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))

    def run():
        with torch.no_grad():
            lens.run_with_cache(PROMPT, codes, guidance_scale=3.0)
            with lens.hooks([("resid_post", lambda tensor, *, hook: tensor + 1)]):
                lens(PROMPT, codes)

    run()
    before = held()
    for _ in range(200):
        run()
    assert held() <= before


def test_a_lens_can_be_freed():
    import weakref

    lens = random_musicgen(n_layers=1)
    lens.check()
    model = weakref.ref(lens.hf_model)
    del lens
    gc.collect()
    assert model() is None


def test_gradients_stay_finite_where_nothing_is_attended_to():
    """The unconditional half's cross-attention is masked everywhere."""
    own = random_musicgen(n_layers=2)
    own.run_with_cache(
        PROMPT,
        own.random_codes(frames=4),
        guidance_scale=3.0,
        names_filter=["cross_attn.attn_scores", "cross_attn.pattern"],
        incl_bwd=True,
    )
    gradients = [p.grad for p in own.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
