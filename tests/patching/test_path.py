"""Path patching against a model with every writer but the sender held still by hand."""

import pytest
import torch

from audio_lens import activation_patch, metrics, path_patch
from audio_lens.errors import InputError, SiteError
from audio_lens.patching import path


@pytest.fixture(scope="module")
def asked(mono):
    codes = [mono.random_codes(frames=6, batch=2, seed=seed) for seed in (1, 2)]
    return {
        "clean": ("a slow organ", codes[0]),
        "corrupted": ("a fast organ", codes[1]),
        "metric": metrics.logprob(codes[0]),
        "progress": False,
    }


def test_direct_effects_on_the_output_are_additions_to_the_stream(mono, asked) -> None:
    """Straight to the logits, a sender's change is added to the last stream and nothing else."""
    result = path_patch(mono, sender="mlp_out", axes=("layer",), **asked)
    kept = {
        side: mono.run_with_cache(*asked[side], names_filter=["mlp_out", "resid_post"])[1]
        for side in ("clean", "corrupted")
    }
    for layer in range(3):
        change = kept["clean"]["mlp_out", layer] - kept["corrupted"]["mlp_out", layer]
        last = kept["corrupted"]["resid_post", 2] + change
        logits = mono.run_with_hooks(
            *asked["corrupted"],
            fwd_hooks=[("blocks.2.hook_resid_post", lambda t, *, hook, v=last: v)],
        )
        wanted = asked["metric"](logits)
        assert torch.allclose(result.direct.per_example[layer], wanted, atol=1e-4)


def test_the_total_effect_is_activation_patching(mono, asked) -> None:
    result = path_patch(mono, sender="attn.z", receivers="blocks.2.mlp.hook_pre", **asked)
    total = activation_patch(mono, site="attn.z", axes=("layer", "head"), **asked)
    assert torch.allclose(result.total.values, total.values, atol=1e-5)
    assert result.direct.provenance["receivers"] == ["blocks.2.mlp.hook_pre"]


def test_a_receiver_in_front_of_its_sender_hears_nothing(mono, asked) -> None:
    result = path_patch(
        mono, sender="mlp_out", axes=("layer",), receivers="blocks.1.attn.hook_q", **asked
    )
    assert result.direct.effect[1:].abs().max() < 1e-5
    assert result.direct.effect[0].abs().max() > 1e-4


def test_one_head_of_a_receiver_hears_part_of_it(mono, asked) -> None:
    whole, one = (
        path_patch(
            mono,
            sender="mlp_out",
            axes=("layer",),
            layers=0,
            receivers="blocks.2.attn.hook_v",
            receiver_head=head,
            **asked,
        ).direct.effect
        for head in (None, 1)
    )
    assert one.abs().sum() > 0
    assert not torch.allclose(whole, one, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sender": "resid_post"}, "does not write to the stream"),
        ({"sender": "attn.z", "receivers": "ln1.scale"}, "read-only"),
        ({"sender": "attn.z", "receivers": "mlp.pre", "receiver_head": 1}, "has no heads"),
        ({"sender": "attn.z", "receivers": "attn.q", "receiver_head": 9}, "heads 0 to 3"),
        ({"sender": "attn.z", "receivers": "blocks.9.hook_mlp_out"}, "out of range"),
    ],
)
def test_bad_input_is_named(mono, asked, change, match) -> None:
    with pytest.raises(SiteError, match=match):
        path_patch(mono, **(asked | change))


def test_a_sender_is_in_one_layer(mono, asked) -> None:
    with pytest.raises(InputError, match="sender in one layer"):
        path_patch(mono, sender="attn.z", axes=("head",), **asked)


def test_a_writer_can_receive(mono, asked) -> None:
    """What an MLP writes as a receiver is the direct effect on that MLP alone."""
    through = path_patch(
        mono, sender="attn_out", axes=("layer",), layers=0, receivers="blocks.1.hook_mlp_out",
        **asked,
    )  # fmt: skip
    entering = path_patch(
        mono, sender="attn_out", axes=("layer",), layers=0, receivers="blocks.1.mlp.hook_pre",
        **asked,
    )  # fmt: skip
    assert torch.allclose(through.direct.values, entering.direct.values, atol=1e-5)
    assert through.direct.effect.abs().max() > 1e-5


def test_receivers_hear_the_sender_and_not_each_other(mono, asked) -> None:
    """What one receiving MLP tells the next is no direct path of the sender."""
    asked = asked | {"sender": "attn.z", "layers": 0}
    writing, reading = (
        path_patch(mono, receivers=[f"blocks.{n}.{site}" for n in (1, 2)], **asked).direct
        for site in ("hook_mlp_out", "mlp.hook_pre")
    )
    assert writing.effect.abs().max() > 1e-4
    assert torch.allclose(writing.values, reading.values, atol=1e-5)


def test_a_sender_does_not_hear_itself(mono, asked) -> None:
    """Behind the last sender that receives, nothing is left to hear it."""
    result = path_patch(mono, sender="mlp_out", receivers="mlp_out", axes=("layer",), **asked)
    assert result.direct.effect[2].abs().max() < 1e-5
    assert result.total.effect[2].abs().max() > 1e-4
    assert result.direct.effect[0].abs().max() > 1e-4


def test_an_interrupt_keeps_what_was_done(mono, asked, monkeypatch) -> None:
    whole = path_patch(mono, **asked)
    measured, n_calls = path._direct, []

    def interrupted(*args):
        n_calls.append(1)
        if len(n_calls) == 5:
            raise KeyboardInterrupt
        return measured(*args)

    monkeypatch.setattr(path, "_direct", interrupted)
    with pytest.warns(UserWarning, match="4 of 12 cells are done"):
        part = path_patch(mono, **asked)
    monkeypatch.setattr(path, "_direct", lambda *args: n_calls.append(1) or measured(*args))
    finished = path_patch(mono, resume=part, **asked)
    assert len(n_calls) == 5 + 8
    assert torch.equal(finished.direct.values, whole.direct.values)
    assert torch.equal(finished.total.values, whole.total.values)
    with pytest.raises(InputError, match="its receivers is"):
        path_patch(mono, resume=part, receivers="blocks.2.hook_mlp_out", **asked)
