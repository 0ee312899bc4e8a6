"""Activation patching: what is refused, by name, before anything runs."""

import numpy as np
import pytest
import torch

from audio_lens import (
    PatchingResult,
    activation_patch,
    metrics,
)
from audio_lens.errors import InputError, SiteError


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"corrupted": ("a fast organ", 5)}, InputError, "codes must be an integer tensor"),
        ({"corrupted": "a fast organ"}, InputError, r"corrupted must be \(prompts, codes\)"),
        ({"frames": 5}, InputError, "clean has 6 frames and corrupted 5"),
        ({"axes": ("layer", "token")}, InputError, "no axis 'token': expected some of layer"),
        ({"axes": ("layer", "layer")}, InputError, "name one twice"),
        ({"axes": ("head",)}, SiteError, "resid_post has no 'head' axis"),
        ({"axes": ("branch",), "branch": "cond"}, InputError, 'branch must be "both"'),
        ({"site": "z"}, SiteError, "'attn.z' or 'cross_attn.z'"),
        ({"site": "ln1.scale"}, SiteError, "read-only"),
        ({"site": "hook_embed"}, SiteError, "belongs to no layer"),
        ({"layers": 7}, SiteError, "layer 7 is out of range"),
        ({"positions": {"far": range(8, 12)}}, InputError, "'far' is range"),
        ({"into": "dirty"}, InputError, "into must be"),
        ({"donor": "noise"}, InputError, "no donor 'noise'"),
        ({"branch": "uncond"}, InputError, "no unconditional half"),
        ({"axes": ("branch",)}, InputError, "no unconditional half"),
        (
            {"clean": (None, torch.zeros(1, 4, 6, dtype=torch.long)), "guidance_scale": 3.0},
            InputError,
            "one run has an unconditional half",
        ),
        ({"axes": ("layer",), "positions": 3}, InputError, 'groups the axis "pos"'),
        ({"positions": {"even": range(0, 8, 2)}}, InputError, "'even' is range"),
        ({"site": ["mlp_out", "mlp_out"]}, InputError, "name one twice"),
        (
            {"site": "cross_attn.pattern", "corrupted_prompt": "a very very fast organ"},
            InputError,
            "do not align at cross_attn.pattern",
        ),
        ({"donor": "resample"}, InputError, "at least two"),
        ({"donor": torch.zeros(3, 5)}, InputError, "does not stretch"),
        ({"metric": 3}, InputError, "metric must be a function"),
        ({"metric": lambda logits: logits.mean()}, InputError, r"got \(\)"),
        ({"metric": lambda logits: logits[:, 0, 0, 0] * float("nan")}, InputError, "is NaN on"),
        (
            {"metric": metrics.read_out(torch.ones(64), layer=0), "layers": 2},
            InputError,
            "acts after what the metric reads",
        ),
        ({"method": "quick"}, InputError, 'method must be "auto"'),
        ({"sites": "mlp_out"}, InputError, "no argument 'sites': did you mean 'site'"),
        ({"colour": 3}, InputError, "no argument 'colour': there are clean, corrupted"),
        ({"max_row": 4}, InputError, "no argument 'max_row': did you mean 'max_rows'"),
        ({"score_base": False}, InputError, "no argument 'score_base'"),
        ({"max_rows": 0}, InputError, "max_rows=0"),
        ({"max_gib": 0}, InputError, "max_gib=0"),
        ({"max_gib": 1e-6}, InputError, "max_gib=1e-06 is too little: what is kept takes"),
        ({"method": "reuse", "site": "hook_embed", "axes": ("pos",)}, InputError, "not exact here"),
    ],
)
def test_bad_input_is_named(mono, as_users_see_it, change, error, match) -> None:
    change = dict(change)
    frames, prompt = change.pop("frames", 6), change.pop("corrupted_prompt", "a fast organ")
    codes = mono.random_codes(frames=6, seed=1)
    asked = {
        "clean": ("a slow organ", codes),
        "corrupted": (prompt, mono.random_codes(frames=frames, seed=2)),
        "metric": metrics.logprob(codes),
        "progress": False,
    }
    with pytest.raises(error, match=match):
        activation_patch(mono, **(asked | change))


def test_melody_prompts_of_other_length_are_refused(model) -> None:
    codes = model.random_codes(frames=6, seed=1)
    asked = {"metric": metrics.logprob(codes), "progress": False}
    sides = {"clean": ("a slow organ", codes), "corrupted": ("a very fast organ melody", codes)}
    if "melody.proj" not in model.sites.shorthands:
        assert activation_patch(model, **sides, **asked).values.isfinite().all()
        return
    with pytest.raises(InputError, match="prefixes have"):
        activation_patch(model, **sides, **asked)


def test_clean_and_corrupted_must_differ_for_a_recovery(mono) -> None:
    codes = mono.random_codes(frames=6, seed=1)
    side = ("a slow organ", codes)
    result = activation_patch(
        mono, clean=side, corrupted=side, metric=metrics.logprob(codes), progress=False
    )
    with pytest.raises(InputError, match="nothing to recover"):
        _ = result.recovery
    assert isinstance(result, PatchingResult)


@pytest.mark.parametrize("donor", ["zero", "mean"])
def test_scores_that_would_open_the_mask_are_refused(mono, donor) -> None:
    codes = mono.random_codes(frames=4)
    asked = {"clean": ("a", codes), "corrupted": ("b", codes), "metric": metrics.logprob(codes)}
    for site in ("attn.attn_scores", "attn.pattern"):
        with pytest.raises(InputError, match=f"has no {donor} that a query may attend by"):
            activation_patch(mono, site=site, axes=("layer",), donor=donor, **asked)


def test_a_site_of_the_table_is_named_by_its_shorthand(mono, as_users_see_it) -> None:
    codes = mono.random_codes(frames=4)
    asked = {"clean": ("a", codes), "corrupted": ("b c", codes), "metric": metrics.logprob(codes)}
    with pytest.raises(InputError, match=r"give 'attn\.z' with layers=1"):
        activation_patch(mono, site=mono.sites["blocks.1.attn.hook_z"], **asked)


def test_a_function_of_two_things_must_say_what_it_reads(mono) -> None:
    codes = mono.random_codes(frames=4)

    def mine(logits, cache):
        return cache["resid_post", 2].mean((1, 2))

    asked = {"clean": ("a", codes), "corrupted": ("b c", codes), "axes": ("layer",)}
    with pytest.raises(InputError, match=r"metrics.reads\(mine, "):
        activation_patch(mono, metric=mine, **asked)
    read = metrics.reads(mine, "blocks.2.hook_resid_post")
    result = activation_patch(mono, metric=read, progress=False, **asked)
    assert result.effect.abs().max() > 0


def test_whole_numbers_of_numpy_are_whole_numbers(mono, as_users_see_it) -> None:
    codes = mono.random_codes(frames=5)
    asked = {"clean": ("a", codes), "corrupted": ("b c", codes), "progress": False}
    plain, numpys = (
        activation_patch(
            mono, layers=n(1), positions=n(3), metric=metrics.logprob(codes, codebooks=n(2)),
            **asked,
        )
        for n in (int, np.int64)
    )  # fmt: skip
    assert torch.equal(plain.values, numpys.values)
    for change, match in (
        ({"positions": 2.5}, "expected how many at a time"),
        ({"positions": {}}, "at least one range"),
        ({"sample": 2.5}, "a number of cells"),
        ({"metric": metrics.read_out(torch.ones(7), layer=2)}, r"the direction has shape \(7,\)"),
    ):
        with pytest.raises(InputError, match=match):
            activation_patch(mono, **{"metric": metrics.logprob(codes), **asked, **change})
    with pytest.raises(InputError, match="a Direction or a vector, got list"):
        metrics.read_out([1.0, 2.0], layer=1)
