"""Gradients, against autograd through the oracle."""

from collections.abc import Iterator

import pytest
import torch
from checks import (
    PROMPTS,
    SITES,
    TOLERANCE,
    Untouched,
    assert_gradients,
    expected,
    furthest,
    in_place,
    learnable,
    loss,
    noise,
    returning,
)
from oracle import Edit, Oracle, Visit, sees_text_only
from torch import Tensor

from audio_lens import AudioLens

pytestmark = pytest.mark.families("mono")


def oracle_gradients(
    oracle: Oracle, codes: Tensor, scale: float, edits: dict[str, Edit]
) -> dict[str, Tensor]:
    """The loss's gradient at every site: autograd's own, from tensors that retain it."""
    visits = {name: Visit(edits.get(name), kept=[]) for name in SITES}
    with torch.enable_grad(), oracle.visiting(visits):
        loss(expected(oracle, codes, scale)[0], codes).backward()
    oracle.model.zero_grad()
    gradients = {}
    for name, visit in visits.items():
        parts = [tensor.grad for tensor in visit.kept]
        gradients[name] = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    return gradients


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("site", SITES)
def test_backward_hooks_see_autograds_gradients(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str, scale: float
) -> None:
    got: dict[str, Tensor] = {}

    def keep(gradient: Tensor, *, hook: object) -> None:
        got[hook.branch] = gradient.clone()

    logits = lens.run_with_hooks(PROMPTS, codes, bwd_hooks=[(site, keep)], guidance_scale=scale)
    assert got == {}
    loss(logits, codes).backward()
    lens.hf_model.zero_grad()
    wanted = oracle_gradients(oracle, codes, scale, {})[site]
    halves = wanted.split(len(PROMPTS))
    for branch, half in zip(got, halves, strict=False):
        assert_gradients(got[branch], half, f"{site}, {branch}")
    guided = scale > 1 and not sees_text_only(site)
    assert list(got) == (["cond", "uncond"] if guided else ["cond"])


@pytest.mark.parametrize("edited", [None, "blocks.1.attn.hook_z", "blocks.1.hook_resid_mid"])
def test_incl_bwd_is_autograd_through_the_oracle(
    lens: AudioLens, oracle: Oracle, codes: Tensor, edited: str | None
) -> None:
    edits = {edited: noise(edited)} if edited else {}
    with lens.hooks([(name, returning(edit)) for name, edit in edits.items()]):
        _, cache = lens.run_with_cache(PROMPTS, codes, names_filter=SITES, incl_bwd=True)
    lens.hf_model.zero_grad()
    for name, wanted in oracle_gradients(oracle, codes, 1.0, edits).items():
        assert_gradients(cache[f"{name}_grad"], wanted, name)


@pytest.mark.parametrize("site", SITES)
def test_weights_get_the_oracles_gradients_through_an_edit(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str
) -> None:
    """An edit that scales what it finds must scale the gradient on its way back, not cut it."""
    edit = noise(site)
    loss(lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[(site, in_place(edit))]), codes).backward()
    with oracle.editing(site, edit):
        loss(expected(oracle, codes, 1.0)[0], codes).backward()
    theirs = dict(oracle.model.named_parameters())
    for name, parameter in lens.hf_model.named_parameters():
        ours, wanted = parameter.grad, theirs[name].grad
        assert (ours is None) == (wanted is None), name
        if ours is not None and float(wanted.abs().max()) > 1e-7:
            assert_gradients(ours, wanted, name, relative=10 * TOLERANCE)
    lens.hf_model.zero_grad()
    oracle.model.zero_grad()


@pytest.fixture
def frozen(lens: AudioLens) -> Iterator[None]:
    """No weight asks for a gradient, as after `model.requires_grad_(False)`."""
    lens.hf_model.requires_grad_(False)
    yield
    lens.hf_model.requires_grad_(True)


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("site", SITES)
def test_gradients_reach_a_site_of_a_frozen_model(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str
) -> None:
    _, cache = lens.run_with_cache(PROMPTS, codes, names_filter=site, incl_bwd=True)
    wanted = oracle_gradients(oracle, codes, 1.0, {})[site]
    assert_gradients(cache[f"{site}_grad"], wanted, site)


LEARNED = [
    pytest.param(site, learned, id=f"{site}-{learned}")
    for site in SITES
    for learned in ("gain", "shift")
    # A factor on minus infinity has no gradient that is a number.
    if not (learned == "gain" and site.endswith("attn_scores"))
]


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize(("site", "learned"), LEARNED)
def test_gradients_reach_what_a_hook_brings(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str, learned: str
) -> None:
    """A vector learned by descent: the only thing that asks for a gradient.

    That of a gain needs the tensor as the hook found it, which a write must not destroy.
    """
    ours, theirs = learnable(noise(site), learned), learnable(noise(site), learned)
    way = returning if learned == "gain" else in_place
    loss(lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[(site, way(ours))]), codes).backward()
    with oracle.editing(site, theirs):
        loss(expected(oracle, codes, 1.0)[0], codes).backward()
    oracle.model.zero_grad()
    assert_gradients(getattr(ours, learned).grad, getattr(theirs, learned).grad, site)


def test_watching_gradients_changes_no_logit(
    lens: AudioLens, codes: Tensor, untouched: Untouched
) -> None:
    hooks = [(SITES, lambda gradient, *, hook: None)]
    logits = lens.run_with_hooks(PROMPTS, codes, bwd_hooks=hooks, guidance_scale=3.0)
    assert logits.requires_grad
    assert torch.equal(logits, untouched[3.0, True][0]), furthest(logits, untouched[3.0, True][0])


def test_a_backward_hook_can_change_the_gradient(
    lens: AudioLens, oracle: Oracle, codes: Tensor
) -> None:
    """Doubled at one site, everything before it gets what autograd gives it for that."""
    site, before = "blocks.1.hook_resid_post", "blocks.0.hook_resid_pre"
    got: list[Tensor] = []

    def double(gradient: Tensor, *, hook: object) -> Tensor:
        return 2 * gradient

    def keep(gradient: Tensor, *, hook: object) -> None:
        got.append(gradient.clone())

    logits = lens.run_with_hooks(PROMPTS, codes, bwd_hooks=[(site, double), (before, keep)])
    loss(logits, codes).backward()
    lens.hf_model.zero_grad()
    visits = {before: Visit(kept=[])}
    with oracle.visiting(visits):
        loss(expected(oracle, codes, 1.0)[0], codes).backward()
    oracle.model.zero_grad()
    assert_gradients(got[0], 2 * visits[before].kept[0].grad, before)
