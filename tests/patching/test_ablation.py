"""Ablation against hooks that zero, average, swap and skip."""

import pytest
import torch

from audio_lens import ablate, metrics
from audio_lens.errors import InputError


@pytest.fixture(scope="module")
def codes(mono):
    return mono.random_codes(frames=6, batch=2, seed=1)


def hooked(mono, codes, name, change):
    logits = mono.run_with_hooks("a slow organ", codes, fwd_hooks=[(name, change)])
    return metrics.logprob(codes)(logits)


def test_zero_mean_and_resample(mono, codes) -> None:
    def average(z, *, hook):
        z[:, :, 2] = z[:, :, 2].mean((0, 1), keepdim=True)

    def zero(z, *, hook):
        z[:, :, 2] = 0

    def swap(z, *, hook):
        z[:, :, 2] = z[:, :, 2].flip(0)

    for donor, change in (("zero", zero), ("mean", average), ("resample", swap)):
        result = ablate(
            mono, "a slow organ", codes, donor=donor, metric=metrics.logprob(codes), progress=False
        )
        assert result.values.shape == (3, 4)
        wanted = hooked(mono, codes, "blocks.1.attn.hook_z", change)
        assert torch.allclose(result.per_example[1, 2], wanted, atol=1e-5)
        assert result.effect.abs().max() > 1e-4


def test_a_skipped_block_hands_on_what_entered(mono, codes) -> None:
    result = ablate(
        mono,
        "a slow organ",
        codes,
        site="block",
        axes=("layer",),
        metric=metrics.logprob(codes),
        progress=False,
    )
    entering = {}

    def keep(stream, *, hook):
        entering["x"] = stream.clone()

    def skip(stream, *, hook):
        return entering["x"]

    logits = mono.run_with_hooks(
        "a slow organ",
        codes,
        fwd_hooks=[("blocks.1.hook_resid_pre", keep), ("blocks.1.hook_resid_post", skip)],
    )
    assert torch.allclose(result.per_example[1], metrics.logprob(codes)(logits), atol=1e-5)
    with pytest.raises(InputError, match='needs the axis "layer"'):
        ablate(
            mono,
            "a slow organ",
            codes,
            site="block",
            axes=("pos",),
            metric=metrics.logprob(codes),
            progress=False,
        )


def test_effects_are_read_and_recovery_has_nothing_to_recover(mono, codes) -> None:
    result = ablate(mono, "a slow organ", codes, metric=metrics.logprob(codes), progress=False)
    assert torch.equal(result.clean, result.corrupted)
    with pytest.raises(InputError, match="nothing to recover"):
        _ = result.recovery
    assert result.plot().axes[-1].get_ylabel().startswith("change in log-probability")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"site": "attn.pattern"}, "no mean or zero"),
        ({"site": "block", "axes": ("layer",), "donor": "zero"}, "takes no donor"),
        ({"positions": 3}, 'groups the axis "pos"'),
    ],
)
def test_bad_input_is_named(mono, codes, change, match) -> None:
    with pytest.raises(InputError, match=match):
        ablate(mono, "a slow organ", codes, metric=metrics.logprob(codes), progress=False, **change)


def test_in_a_melody_model_the_mean_is_of_the_music(model) -> None:
    codes = model.random_codes(frames=6, batch=2, seed=1)
    result = ablate(
        model, "a slow organ", codes, site="attn_out", axes=("layer",),
        metric=metrics.logprob(codes), progress=False,
    )  # fmt: skip
    _, cache = model.run_with_cache("a slow organ", codes, names_filter="attn_out")
    mean = cache["attn_out", 1][:, cache.layout.audio].mean((0, 1))
    logits = model.run_with_hooks(
        "a slow organ", codes,
        fwd_hooks=[("blocks.1.hook_attn_out", lambda t, *, hook: mean.expand_as(t).clone())],
    )  # fmt: skip
    assert torch.allclose(result.per_example[1], metrics.logprob(codes)(logits), atol=1e-5)
