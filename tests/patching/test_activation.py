"""Activation patching: what grids, donors and groups mean."""

from dataclasses import replace

import pytest
import torch

from audio_lens import (
    Clip,
    Intervention,
    activation_patch,
    add,
    beats_of,
    every_seconds,
    mean_of,
    metrics,
)
from audio_lens.audio.synthesis import SAMPLE_RATE, draw, render
from audio_lens.errors import InputError


def test_the_branch_axis_holds_the_halves_apart(mono) -> None:
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    asked = {
        "clean": ("a slow organ", codes[0]),
        "corrupted": ("a fast organ", codes[1]),
        "site": "attn_out",
        "metric": metrics.logprob(codes[0]),
        "guidance_scale": 3.0,
        "progress": False,
    }
    both = activation_patch(mono, axes=("branch", "layer"), **asked)
    for branch in ("cond", "uncond"):
        one = activation_patch(mono, axes=("layer",), branch=branch, **asked)
        assert torch.equal(both.select(branch=branch).values, one.values)


@pytest.mark.parametrize(
    ("site", "axes", "shape"),
    [
        ("attn.z", ("layer", "head"), (3, 4)),
        ("attn.result", ("head", "pos"), (4, 9)),
        ("attn.pattern", ("layer", "head", "pos"), (3, 4, 9)),
        ("embed.codebook", ("codebook", "pos"), (4, 9)),
        ("logits", ("codebook",), (4,)),
        ("hook_embed", ("pos",), (9,)),
        (["attn_out", "mlp_out"], ("layer",), (2, 3)),
    ],
)
def test_axes_have_their_labels(mono, site, axes, shape) -> None:
    site = "hook_logits" if site == "logits" else site
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    result = activation_patch(
        mono,
        clean=("a slow organ", codes[0]),
        corrupted=("a slow organ", codes[1]),
        site=site,
        axes=axes,
        metric=metrics.logprob(codes[0]),
        progress=False,
    )
    assert result.values.shape == shape
    assert result.values.isfinite().all()
    assert list(result.axes)[-len(axes) :] == list(axes)


@pytest.mark.parametrize("site", ["text.proj", "text.out", "cross_attn.k", "cross_attn.pattern"])
def test_text_tokens_are_an_axis_and_together_they_are_the_prompt(mono, site) -> None:
    codes = mono.random_codes(frames=6, seed=1)
    asked = {
        "clean": ("a slow organ", codes),
        "corrupted": ("a fast organ", codes),
        "site": site,
        "metric": metrics.logprob(codes),
        "progress": False,
    }
    result = activation_patch(mono, axes=("text_token",), **asked)
    tokens = mono.text_tokens("a slow organ")
    assert len(result.axes["text_token"]) == len(tokens)
    assert (result.effect.abs() > 1e-6).any()
    if site.startswith("text"):
        whole = activation_patch(mono, axes=(), **asked)
        assert whole.recovery.item() == pytest.approx(1, abs=1e-3)


def test_a_run_patched_with_itself_is_itself_to_the_bit(model, sides) -> None:
    side = sides["clean"]
    metric = metrics.logprob(side[1])
    for site in ("resid_post", "attn.z", "mlp_out"):
        result = activation_patch(
            model,
            clean=side,
            corrupted=side,
            site=site,
            metric=metric,
            method="full",
            max_rows=2,
            progress=False,
        )
        assert torch.equal(result.effect, torch.zeros_like(result.effect))


def test_a_whole_layer_recovers_what_theory_says(mono) -> None:
    """Codes alone differ: the stream leaving a block is all there is. The prompt differs too:
    later cross-attention still reads the corrupted one, until no block is left.
    """
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    metric = metrics.logprob(codes[0])
    same_prompt = activation_patch(
        mono,
        clean=("a slow organ", codes[0]),
        corrupted=("a slow organ", codes[1]),
        axes=("layer",),
        metric=metric,
        progress=False,
    )
    assert torch.allclose(same_prompt.recovery, torch.ones(3), atol=1e-4)
    other_prompt = activation_patch(
        mono,
        clean=("a slow organ", codes[0]),
        corrupted=("a fast organ", codes[1]),
        axes=("layer",),
        metric=metric,
        progress=False,
    )
    assert other_prompt.recovery[-1] == pytest.approx(1, abs=1e-4)
    assert (other_prompt.recovery[:-1] - 1).abs().min() > 1e-3


def test_noising_is_denoising_the_other_way(mono) -> None:
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    a, b = ("a slow organ", codes[0]), ("a fast organ", codes[1])
    asked = {"axes": ("layer", "pos"), "metric": metrics.logprob(codes[0]), "progress": False}
    noised = activation_patch(mono, clean=a, corrupted=b, into="clean", **asked)
    mirrored = activation_patch(mono, clean=b, corrupted=a, **asked)
    assert torch.allclose(noised.values, mirrored.values, atol=1e-6)
    assert torch.equal(noised.effect, noised.per_example - noised.clean)


def test_donors(mono) -> None:
    codes = mono.random_codes(frames=6, batch=3, seed=1)
    others = mono.random_codes(frames=6, batch=5, seed=2)
    side = ("a slow organ", codes)
    asked = {
        "clean": side,
        "corrupted": side,
        "site": "mlp_out",
        "axes": ("layer",),
        "metric": metrics.logprob(codes),
        "progress": False,
    }
    _, cache = mono.run_with_cache(*side, names_filter="mlp_out")
    _, elsewhere = mono.run_with_cache("a fast organ", others, names_filter="mlp_out")
    name = "blocks.1.hook_mlp_out"
    wanted = {
        "zero": torch.zeros_like(cache[name]),
        "mean": cache[name].mean(0, keepdim=True).expand(3, -1, -1),
        "resample": cache[name].roll(1, 0),
        mean_of("a fast organ", others): elsewhere[name].mean(0, keepdim=True).expand(3, -1, -1),
    }
    for donor, tensor in wanted.items():
        result = activation_patch(mono, donor=donor, **asked)
        logits = mono.run_with_hooks(*side, fwd_hooks=[(name, lambda t, *, hook, v=tensor: v)])
        expected = metrics.logprob(codes)(logits)
        assert torch.allclose(result.per_example[1], expected, atol=1e-5)
        given = activation_patch(
            mono, donor={f"blocks.{n}.hook_mlp_out": tensor for n in range(3)}, **asked
        )
        assert torch.allclose(given.per_example[1], expected, atol=1e-5)


def test_positions_can_be_grouped(mono) -> None:
    codes = [mono.random_codes(frames=40, seed=seed) for seed in (1, 2)]
    asked = {
        "clean": ("a slow organ", codes[0]),
        "corrupted": ("a slow organ", codes[1]),
        "axes": ("pos",),
        "layers": 1,
        "metric": metrics.logprob(codes[0]),
        "progress": False,
    }
    assert activation_patch(mono, positions=20, **asked).axes["pos"] == ("0", "20", "40")
    seconds = activation_patch(mono, positions=every_seconds(0.2), **asked)
    assert seconds.axes["pos"] == ("0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s")
    whole = activation_patch(mono, positions={"all": range(43)}, **asked)
    assert torch.allclose(
        whole.values[0], activation_patch(mono, **(asked | {"axes": ()})).values, atol=1e-5
    )


def test_metrics_that_read_sites_and_ones_own(mono, as_users_see_it) -> None:
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    direction = torch.randn(64, generator=torch.Generator().manual_seed(0))
    asked = {
        "clean": ("a slow organ", codes[0]),
        "corrupted": ("a slow organ", codes[1]),
        "axes": ("layer",),
        "progress": False,
    }
    read = activation_patch(mono, metric=metrics.read_out(direction, layer=2), **asked)
    assert read.recovery[2] == pytest.approx(1, abs=1e-4)
    own = metrics.reads(
        lambda logits, cache: cache["resid_post", 2] @ direction.div(direction.norm()),
        "blocks.2.hook_resid_post",
    )
    with pytest.raises(InputError, match=r"one number per row, \[1\], got \(1, 9\)"):
        activation_patch(mono, metric=own, **asked)
    plain = activation_patch(mono, metric=lambda logits: logits[:, 0, 0, 0], **asked)
    assert plain.values.shape == (3,)


def test_hooks_that_are_in_place_stay_in_force(mono) -> None:
    """Steering while patching: by whole forwards, rows meaning examples."""
    codes = [mono.random_codes(frames=6, batch=2, seed=seed) for seed in (1, 2)]
    sides = {"clean": ("a slow organ", codes[0]), "corrupted": ("a fast organ", codes[1])}
    metric = metrics.logprob(codes[0])
    push = Intervention("resid_pre", add(torch.ones(64)), layers=0, rows=[1])
    with mono.intervene(push):
        result = activation_patch(
            mono, **sides, site="mlp_out", axes=("layer",), metric=metric, progress=False
        )
        assert result.provenance["method"] == "full"
        _, cache = mono.run_with_cache(*sides["clean"], names_filter="mlp_out")
        for layer in range(3):
            donor = cache["mlp_out", layer]
            logits = mono.run_with_hooks(
                *sides["corrupted"],
                fwd_hooks=[(f"blocks.{layer}.hook_mlp_out", lambda t, *, hook, v=donor: v)],
            )
            assert torch.allclose(result.per_example[layer], metric(logits), atol=1e-5)
        with pytest.raises(InputError, match="other hooks are in place"):
            activation_patch(mono, **sides, metric=metric, method="reuse", progress=False)


def test_under_inference_mode(mono) -> None:
    codes = mono.random_codes(frames=6, seed=1)
    with torch.inference_mode():
        result = activation_patch(
            mono,
            clean=("a slow organ", codes),
            corrupted=("a fast organ", codes),
            site="resid_pre",
            metric=metrics.logprob(codes),
            progress=False,
        )
    assert result.values.isfinite().all()


def test_beats_group_positions_from_beat_to_beat(mono) -> None:
    recipe = replace(draw(3), bpm=120.0, drums=True, hats=0)
    clip = Clip(torch.from_numpy(render(recipe, 6.0))[None], SAMPLE_RATE)
    codes = mono.random_codes(frames=200)
    spans = beats_of(clip)(mono, 203)
    lengths = [len(span) for name, span in spans.items() if name != "upbeat"][:-1]
    assert set(lengths) <= {24, 25, 26}  # half a second a beat, 50 positions a second
    assert [span.start for span in spans.values()][1:] == [s.stop for s in spans.values()][:-1]
    result = activation_patch(
        mono, clean=("a", codes), corrupted=("b c", codes), positions=beats_of(clip), layers=2,
        metric=metrics.logprob(codes), progress=False,
    )  # fmt: skip
    assert result.axes["pos"] == tuple(spans)
    assert result.values.isfinite().all()
