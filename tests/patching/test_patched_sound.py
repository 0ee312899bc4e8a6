"""Patching while generating: codes against hooks, twins by seed, measures with their units."""

import math

import pytest
import torch

from audio_lens import InputError, Intervention, SiteError, add, sound_patch

MAKING = {"seconds": 0.3, "guidance_scale": 3.0, "progress": False}


def by_ear(clips):
    """An ear that keeps the clips it hears."""

    def hear(clip):
        clips.append(clip)
        return float(clip.codes.double().mean())

    return hear


@pytest.mark.parametrize("donor", ["mean", "steps", "zero"])
@pytest.mark.parametrize("branch", ["cond", "both"])
def test_clips_are_those_of_a_hook_that_puts_the_same_in(model, donor, branch) -> None:
    heard = []
    result = sound_patch(
        model,
        clean="a slow organ",
        corrupted="a fast organ",
        ear=by_ear(heard),
        donor=donor,
        branch=branch,
        seeds=(3, 4),
        **MAKING,
    )
    assert result.per_example.shape == (3, 2)
    name = "blocks.1.hook_resid_post"
    _, cache = model.generate("a slow organ", seed=3, names_filter=[name], **MAKING)
    prefix = cache.layout.n_prefix

    def put(tensor, *, hook):
        kept = cache.branch(hook.branch)[name]
        values = {
            "mean": kept[:, prefix:].mean(1, keepdim=True).expand_as(kept),
            "steps": kept,
            "zero": torch.zeros_like(kept),
        }[donor]
        start = max(hook.positions.start, 0)
        music = values[:, start + prefix : hook.positions.stop + prefix]
        tensor[:, start - hook.positions.start :] = music  # a prefix is left as it is

    with model.hooks([(name, put)], branch=branch):
        (wanted,) = model.generate("a fast organ", seed=3, **MAKING)
    patched = next(c for c in heard if c.seed == 3 and "blocks.1" in str(c.interventions))
    assert torch.equal(patched.codes, wanted.codes)
    (twin,) = model.generate("a fast organ", seed=3, **MAKING)
    assert float(twin.codes.double().mean()) == pytest.approx(float(result.corrupted[0]))
    assert result.values[1] != pytest.approx(float(result.corrupted.mean()))


def test_windows_leave_what_comes_before_alone(mono) -> None:
    heard = []
    sound_patch(
        mono,
        clean="a slow organ",
        corrupted="a fast organ",
        ear=by_ear(heard),
        layers=1,
        window=(0.16, None),
        **MAKING,
    )
    (twin,) = mono.generate("a fast organ", seed=0, **MAKING)
    patched = next(c for c in heard if "blocks.1" in str(c.interventions))
    assert torch.equal(patched.codes[:, :5], twin.codes[:, :5])
    assert not torch.equal(patched.codes, twin.codes)


def test_several_sites_and_own_names(mono) -> None:
    result = sound_patch(
        mono,
        clean="a slow organ",
        corrupted=["a fast organ", "a song"],
        ear="timbre",
        site=["attn_out", "mlp_out"],
        layers=[0, 2],
        **MAKING,
    )
    assert dict(result.axes) == {"site": ("attn_out", "mlp_out"), "layer": ("0", "2")}
    assert result.provenance["unit"] == "semitones"
    assert result.per_example.shape == (2, 2, 2)


def test_a_block_that_is_skipped_adds_nothing(model) -> None:
    heard = []
    result = sound_patch(
        model,
        corrupted="a fast organ",
        ear=by_ear(heard),
        site="block",
        donor="zero",
        branch="both",
        seeds=(3,),
        **MAKING,
    )
    assert dict(result.axes) == {"layer": ("0", "1", "2")}
    assert torch.equal(result.clean, result.corrupted)  # a knock-out has no second run
    entered = {}

    def remember(tensor, *, hook):
        entered[hook.branch] = tensor.clone()

    def leave_as_entered(tensor, *, hook):
        start = max(hook.positions.start, 0) - hook.positions.start
        tensor[:, start:] = entered[hook.branch][:, start:]

    hooks = [("blocks.1.hook_resid_pre", remember), ("blocks.1.hook_resid_post", leave_as_entered)]
    with model.hooks(hooks, branch="both"):
        (wanted,) = model.generate("a fast organ", seed=3, **MAKING)
    skipped = next(clip for clip in heard if "blocks.1" in str(clip.interventions))
    assert torch.equal(skipped.codes, wanted.codes)


def test_where_nothing_is_heard_the_value_is_missing(mono) -> None:
    result = sound_patch(
        mono,
        clean="a slow organ",
        corrupted="a fast organ",
        seeds=(0, 1),
        layers=0,
        ear=lambda clip: math.nan if clip.seed else 1.0,
        **MAKING,
    )
    assert result.per_example[0, 1].isnan()
    assert result.values[0] == 1


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"ear": "beauty"}, InputError, "no ear 'beauty'"),
        ({"ear": 3}, InputError, "ear must be"),
        ({"site": "text.proj"}, SiteError, "cannot be patched while generating"),
        ({"donor": "noise"}, InputError, "no donor 'noise'"),
        ({"seeds": ()}, InputError, "seeds are empty"),
        ({"window": (5, 6)}, InputError, "begins after the clip"),
        ({"clean": None}, InputError, "donor='mean' is of the clean prompts"),
        ({"site": "block"}, InputError, 'give donor="zero"'),
        ({"window": (0.101, 0.102)}, InputError, "holds no frame"),
        ({"window": 0.1}, InputError, r"window must be \(start, stop\)"),
        ({"seeds": 3}, InputError, r"give seeds=\(3,\)"),
        ({"site": ["mlp_out", "mlp_out"]}, InputError, "each once"),
        ({"rows_at_once": 0}, InputError, "rows_at_once=0"),
        ({"site": "*attn_out"}, SiteError, "several kinds"),
        (
            {"site": ["blocks.0.hook_mlp_out", "blocks.2.hook_mlp_out"]},
            SiteError,
            "different layers",
        ),
    ],
)
def test_bad_input_is_named(mono, as_users_see_it, change, error, match) -> None:
    asked = {"clean": "a slow organ", "corrupted": "a fast organ", "ear": "level", **MAKING}
    with pytest.raises(error, match=match):
        sound_patch(mono, **(asked | change))


def test_silence_has_no_level(mono) -> None:
    result = sound_patch(
        mono,
        clean="a slow organ",
        corrupted="a fast organ",
        layers=0,
        ear=lambda clip: -math.inf,
        **MAKING,
    )
    assert result.per_example.isnan().all()


def test_melody_prompts_of_other_length_are_refused_before_any_work(model) -> None:
    asked = {"clean": "a slow organ", "corrupted": "a very fast organ", "ear": "level", **MAKING}
    if "melody.proj" in model.sites.shorthands:
        with pytest.raises(InputError, match="prefixes have"):
            sound_patch(model, **asked)
    else:
        assert sound_patch(model, layers=0, **asked).per_example.shape == (1, 1)


def test_one_head_at_a_time(mono) -> None:
    heard = []
    asked = {"corrupted": "a fast organ", "donor": "zero", "seeds": (5,), "branch": "both"}
    result = sound_patch(
        mono, site="attn.z", axes=("layer", "head"), ear=by_ear(heard), layers=[0, 2],
        **asked, **MAKING,
    )  # fmt: skip
    assert {name: len(labels) for name, labels in result.axes.items()} == {"layer": 2, "head": 4}

    def silent(z, *, hook):
        z[:, :, 3] = 0

    with mono.hooks([("blocks.2.attn.hook_z", silent)]):
        (wanted,) = mono.generate("a fast organ", seed=5, **MAKING)
    (found,) = [c for c in heard if "blocks.2.attn.hook_z head 3" in str(c.interventions)]
    assert torch.equal(found.codes, wanted.codes)
    assert result.values[1, 3] == pytest.approx(float(wanted.codes.double().mean()))
    with pytest.raises(SiteError, match="has no heads"):
        sound_patch(mono, site="mlp_out", axes=("layer", "head"), ear=len, **asked, **MAKING)
    with pytest.raises(InputError, match="while generating"):
        sound_patch(mono, site="attn.z", axes=("head",), ear=len, **asked, **MAKING)


def test_an_intervention_on_one_row_is_of_that_example_in_every_cell(mono) -> None:
    asked = {
        "corrupted": "a fast organ", "donor": "zero", "site": "mlp_out", "branch": "both",
        "ear": by_ear([]), **MAKING,
    }  # fmt: skip
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0))
    for rows in ({"rows": [0]}, {"coefficient": [4.0]}):
        push = Intervention("resid_pre", add(5 * vector), layers=0, **rows)
        with mono.intervene(push):
            together = sound_patch(mono, **asked)
            apart = sound_patch(mono, rows_at_once=1, **asked)
        assert torch.equal(together.values, apart.values)
    assert not torch.equal(together.values, sound_patch(mono, **asked).values)


def test_an_interrupt_keeps_what_was_heard(mono) -> None:
    asked = {"clean": "a slow organ", "corrupted": "a fast organ", "rows_at_once": 1, **MAKING}
    n_heard = []

    def hear(clip):
        n_heard.append(1)
        if len(n_heard) == 4:  # both baselines come first
            raise KeyboardInterrupt
        return float(clip.codes.double().mean())

    with pytest.warns(UserWarning, match="1 of 3 cells are done"):
        part = sound_patch(mono, ear=hear, **asked)
    n_heard[:] = [1] * 10
    finished = sound_patch(mono, ear=hear, resume=part, **asked)
    assert len(n_heard) == 10 + 2 + 2
    assert torch.equal(finished.values, sound_patch(mono, ear=hear, **asked).values)
    with pytest.raises(InputError, match="its donor is 'mean'"):
        sound_patch(mono, ear=hear, resume=part, donor="steps", **asked)
