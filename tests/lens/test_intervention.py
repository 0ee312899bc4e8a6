"""The one primitive: operations, windows, rows, coefficients and branches."""

import numpy as np
import pytest
import torch
from truth import n_prefix

from audio_lens import Intervention, add, project_out, replace, window
from audio_lens.testing import random_musicgen

PROMPTS = ["slow piano", "fast drums"]
VECTOR = torch.randn(64, generator=torch.Generator().manual_seed(1))


def streams(lens, *interventions, layer=1, prompts=PROMPTS, **settings):
    """resid_post of a layer, plain and under interventions, on the same codes."""
    codes = lens.random_codes(frames=7, batch=len(prompts))
    names = f"blocks.{layer}.hook_resid_post"
    with torch.no_grad():
        plain = lens.run_with_cache(prompts, codes, names_filter=names, **settings)[1]
        with lens.intervene(*interventions):
            edited = lens.run_with_cache(prompts, codes, names_filter=names, **settings)[1]
    return plain["resid_post", layer], edited["resid_post", layer]


def test_add(lens):
    plain, edited = streams(
        lens, Intervention("resid_post", add(VECTOR), layers=1, coefficient=0.5)
    )
    assert torch.equal(edited, plain + 0.5 * VECTOR)


def test_interventions_add_up_in_order(lens):
    first = Intervention("resid_post", add(VECTOR), layers=1)
    second = Intervention("resid_post", replace(VECTOR), layers=1, coefficient=0.5)
    plain, edited = streams(lens, first, second)
    assert torch.allclose(edited, torch.lerp(plain + VECTOR, VECTOR.expand_as(plain), 0.5))


def test_replace_and_project_out(lens):
    _, replaced = streams(lens, Intervention("resid_post", replace(VECTOR), layers=1))
    assert torch.equal(replaced, VECTOR.expand_as(replaced))
    plain, edited = streams(lens, Intervention("resid_post", project_out(VECTOR), layers=1))
    unit = VECTOR / VECTOR.norm()
    assert (plain @ unit).abs().min() > 1e-3
    assert torch.allclose(edited @ unit, torch.zeros(edited.shape[:2]), atol=1e-4)
    across = torch.linalg.qr(torch.stack([unit, torch.ones(64)], 1))[0][:, 1]
    assert torch.allclose(edited @ across, plain @ across, atol=1e-4)


def test_vectors_by_layer_and_any_operation(lens):
    by_layer = Intervention("resid_post", add({0: 0 * VECTOR, 1: VECTOR, 2: VECTOR}))
    plain, edited = streams(lens, by_layer)
    assert torch.equal(edited, plain + VECTOR)
    plain, edited = streams(
        lens, Intervention("resid_post", lambda t, c, hook: -c * t, layers=1, coefficient=2.0)
    )
    assert torch.equal(edited, -2 * plain)


def test_rows_and_coefficients_by_row(lens):
    only = Intervention("resid_post", add(VECTOR), layers=1, rows=[1])
    plain, edited = streams(lens, only)
    assert torch.equal(edited[0], plain[0])
    assert torch.equal(edited[1], plain[1] + VECTOR)
    both = Intervention("resid_post", add(VECTOR), layers=1, coefficient=[0.0, -2.0])
    plain, edited = streams(lens, both)
    assert torch.equal(edited[0], plain[0])
    assert torch.equal(edited[1], plain[1] - 2 * VECTOR)


@pytest.mark.parametrize("returns", [True, False])
def test_operations_in_place_keep_to_rows_and_times(lens, returns):
    def halve(tensor, coefficient, hook):
        tensor.mul_(0.5)
        return tensor if returns else None

    plain, edited = streams(lens, Intervention("resid_post", halve, layers=1, rows=[1]))
    assert torch.equal(edited[0], plain[0])
    assert torch.equal(edited[1], plain[1] / 2)
    late = Intervention("resid_post", halve, layers=1, when=window(0.04))
    before = n_prefix(lens, PROMPTS[0]) + 2
    plain, edited = streams(lens, late)
    assert torch.equal(edited[:, :before], plain[:, :before])
    assert torch.equal(edited[:, before:], plain[:, before:] / 2)
    plain, edited = streams(lens, Intervention("resid_post", halve, layers=1))
    assert torch.equal(edited, plain / 2)


@pytest.mark.parametrize("rows", [torch.tensor([1]), np.array([1]), (1,), range(1, 2)])
def test_rows_in_any_form(lens, rows):
    plain, edited = streams(lens, Intervention("resid_post", add(VECTOR), layers=1, rows=rows))
    assert torch.equal(edited[0], plain[0])
    assert torch.equal(edited[1], plain[1] + VECTOR)


@pytest.mark.families("mono")
@pytest.mark.parametrize("op", [add, replace, project_out])
def test_a_vector_that_changes_is_followed(lens, op):
    vector = VECTOR.clone()
    push = Intervention("resid_post", op(vector), layers=1, coefficient=2.0)
    codes = lens.random_codes(frames=5)
    with torch.no_grad(), lens.intervene(push):
        first = lens(PROMPTS[0], codes)
        vector[:32].mul_(5)
        second = lens(PROMPTS[0], codes)
    fresh = Intervention("resid_post", op(vector.clone()), layers=1, coefficient=2.0)
    with torch.no_grad(), lens.intervene(fresh):
        assert torch.equal(lens(PROMPTS[0], codes), second)
    assert not torch.equal(first, second)


@pytest.mark.families("mono")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vector_can_be_learnt(dtype):
    own = random_musicgen(n_layers=2).to(dtype)
    vector = VECTOR.clone().requires_grad_()
    push = Intervention("resid_post", add(vector), layers=0)
    codes, losses = own.random_codes(frames=5), []
    for _ in range(3):
        with own.intervene(push):
            loss = -own(PROMPTS[0], codes).float().log_softmax(-1)[..., 7].mean()
        (gradient,) = torch.autograd.grad(loss, vector)
        losses.append(float(loss.detach()))
        with torch.no_grad():
            vector -= 5 * gradient / gradient.norm()
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.families("mono")
@pytest.mark.parametrize("op", [add, replace, project_out])
def test_a_coefficient_alone_and_in_a_list_are_one(op):
    half = random_musicgen(n_layers=2).to(torch.bfloat16)
    codes = half.random_codes(frames=5)
    with torch.no_grad():
        results = []
        for coefficient in (0.3, [0.3]):
            push = Intervention("resid_post", op(VECTOR), layers=1, coefficient=coefficient)
            with half.intervene(push):
                results.append(half(PROMPTS[0], codes))
    assert torch.equal(*results)


def test_windows_in_seconds(lens):
    when = window(0.04, 0.12)
    plain, edited = streams(lens, Intervention("resid_post", add(VECTOR), layers=1, when=when))
    changed = (edited != plain).any(-1)
    before = n_prefix(lens, PROMPTS[0])
    expected = [False] * (before + 2) + [True] * 4 + [False] * 4
    assert changed[0].tolist() == expected
    inside = slice(before + 2, before + 6)
    assert torch.equal(edited[:, inside], plain[:, inside] + VECTOR)


def test_a_window_while_generating_leaves_what_came_before(lens):
    settings = {"seconds": 0.6, "seed": 1, "progress": False}
    plain = lens.generate(PROMPTS[0], **settings)[0].codes
    late = Intervention("resid_post", add(20 * VECTOR), when=window(0.3, None))
    with lens.intervene(late):
        steered = lens.generate(PROMPTS[0], **settings)[0].codes
    assert torch.equal(steered[:, :12], plain[:, :12])
    assert (steered[:, 15:] != plain[:, 15:]).float().mean() > 0.2


def test_coefficients_by_function_see_time_and_rows(lens):
    seen = []

    def fading(hook):
        seen.append((hook.step, tuple(hook.positions), hook.rows, hook.branch))
        return [0.5**hook.step, 0.0]

    with lens.intervene(Intervention("resid_post", add(VECTOR), layers=2, coefficient=fading)):
        lens.generate(PROMPTS, seconds=0.06, progress=False)
    first = tuple(range(-n_prefix(lens, PROMPTS[0]), 1))
    assert seen[:3] == [
        (0, first, (0, 1), "cond"),
        (0, first, (0, 1), "uncond"),
        (1, (1,), (0, 1), "cond"),
    ]
    assert len(seen) == 2 * 6


@pytest.mark.parametrize("branch", ["cond", "uncond", "both"])
def test_branches(lens, branch):
    codes = lens.random_codes(frames=7, batch=2)
    settings = {"names_filter": ["hook_logits", "resid_post"], "guidance_scale": 3.0}
    push = Intervention("resid_post", add(VECTOR), layers=1, branch=branch)
    with torch.no_grad():
        guided, plain = lens.run_with_cache(PROMPTS, codes, **settings)
        with lens.intervene(push):
            steered, edited = lens.run_with_cache(PROMPTS, codes, **settings)
    for half in ("cond", "uncond"):
        a, b = plain.branch(half), edited.branch(half)
        if branch in (half, "both"):
            assert torch.equal(b["resid_post", 1], a["resid_post", 1] + VECTOR)
            assert not torch.equal(b["logits"], a["logits"])
        else:
            assert torch.equal(b["logits"], a["logits"])
    assert not torch.equal(guided, steered)
    cond, uncond = edited["logits"], edited.branch("uncond")["logits"]
    by_position = (uncond + (cond - uncond) * 3.0)[:, :, edited.layout.audio]
    assert torch.equal(steered, lens.delay.align(by_position))


def test_the_dtype_of_a_vector_follows_the_site(lens):
    plain, edited = streams(lens, Intervention("resid_post", add(VECTOR.double()), layers=1))
    assert torch.equal(edited, plain + VECTOR)


def test_clips_say_what_was_done_to_their_row(lens):
    named = Intervention("resid_post", add(VECTOR), coefficient=[1.0, 2.0], label="pushed")
    first = Intervention("mlp_out", replace(0 * VECTOR), layers=2, rows=[0])
    with lens.intervene(named, first):
        clips = lens.generate(PROMPTS, seconds=0.1, progress=False)
    assert clips[0].interventions == ("pushed x 1", "replace x 1 at mlp_out, layers 2, both")
    assert clips[1].interventions == ("pushed x 2",)
