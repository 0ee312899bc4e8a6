"""The planted circuit: every method must find exactly what was planted."""

import pytest
import torch

from audio_lens import ablate, activation_patch, attribution_patch, metrics, path_patch
from audio_lens.errors import InputError
from audio_lens.testing import Planted, planted_circuit

PLANTS = {
    "default": {},
    "elsewhere": {"layer": 0, "head": 3, "mlp_layer": 3, "window": range(6, 9), "codebook": 2},
    "one block": {"layer": 2, "head": 0, "mlp_layer": 2, "window": range(1, 3), "code": 200},
}


@pytest.fixture(scope="module", params=PLANTS)
def planted(request: pytest.FixtureRequest) -> Planted:
    return planted_circuit(**PLANTS[request.param])


@pytest.fixture
def asked(planted):
    return {
        "clean": (planted.clean, planted.codes),
        "corrupted": (planted.corrupted, planted.codes),
        "metric": metrics.logprob(
            torch.full_like(planted.codes, planted.code), codebooks=planted.codebook
        ),
        "progress": False,
    }


def others(values: torch.Tensor, *place: int) -> torch.Tensor:
    """All values but one, as sizes."""
    mask = torch.ones_like(values, dtype=torch.bool)
    mask[place] = False
    return values[mask].abs()


def test_the_word_makes_the_code_likely_in_the_window_alone(planted) -> None:
    lens = planted.lens
    delay = lens.cfg.delays[planted.codebook]
    chance = []
    for prompt in (planted.clean, planted.corrupted):
        probabilities = lens(prompt, planted.codes).softmax(-1)
        chance.append(probabilities[0, planted.codebook, :, planted.code])
    frames = torch.arange(planted.codes.shape[-1])
    inside = torch.tensor([int(f) + delay in planted.window for f in frames])
    assert (chance[0][inside] > 0.9).all()
    assert (chance[0][~inside] < 0.05).all()
    assert (chance[1] < 0.05).all()


def test_activation_patching_finds_head_layer_window_and_codebook(planted, asked) -> None:
    lens = planted.lens
    heads = activation_patch(lens, site="cross_attn.z", axes=("layer", "head"), **asked)
    assert heads.best() == {"layer": str(planted.layer), "head": str(planted.head)}
    assert heads.recovery[planted.layer, planted.head] == pytest.approx(1, abs=0.01)
    assert others(heads.recovery, planted.layer, planted.head).max() < 0.01
    layers = activation_patch(lens, site="mlp_out", axes=("layer",), **asked)
    assert layers.best() == {"layer": str(planted.mlp_layer)}
    assert layers.recovery[planted.mlp_layer] == pytest.approx(1, abs=0.02)
    assert others(layers.recovery, planted.mlp_layer).max() < 0.02
    stream = activation_patch(lens, site="resid_post", axes=("layer", "pos"), **asked)
    found = (stream.recovery > 0.05).nonzero().tolist()
    delay, frames = lens.cfg.delays[planted.codebook], planted.codes.shape[-1]
    heard = [p for p in planted.window if delay <= p < delay + frames]
    assert found == [[n, p] for n in range(planted.layer, 4) for p in heard]
    tokens = activation_patch(lens, site="text.proj", axes=("text_token",), **asked)
    assert tokens.best() == {"text_token": str(planted.token)}
    out = activation_patch(lens, site="hook_logits", axes=("codebook",), **asked)
    assert out.best() == {"codebook": str(planted.codebook)}
    assert others(out.effect[:, 0], planted.codebook).max() == 0


def test_attribution_ranks_the_same_cells_first(planted, asked) -> None:
    del asked["progress"]
    heads = attribution_patch(
        planted.lens, site="cross_attn.z", axes=("layer", "head"), into="clean", **asked
    )
    assert heads.best() == {"layer": str(planted.layer), "head": str(planted.head)}
    tokens = attribution_patch(
        planted.lens, site="text.proj", axes=("text_token",), into="clean", **asked
    )
    assert tokens.best() == {"text_token": str(planted.token)}


def test_ablation_removes_the_effect_and_of_others_not(planted, asked) -> None:
    lens, gap = planted.lens, None
    for site, axes, place in [
        ("cross_attn.z", ("layer", "head"), (planted.layer, planted.head)),
        ("mlp_out", ("layer",), (planted.mlp_layer,)),
    ]:
        lost = ablate(
            lens,
            planted.clean,
            planted.codes,
            site=site,
            axes=axes,
            donor="zero",
            metric=asked["metric"],
            progress=False,
        ).effect[..., 0]
        gap = gap or float(lost[place])
        assert lost[place] < -1
        assert lost[place] == lost.min()
        if site == "cross_attn.z":
            assert others(lost, *place).max() < 0.02 * abs(gap)


def test_path_patching_finds_the_edge_and_no_other(planted, asked) -> None:
    receivers = [f"blocks.{n}.mlp.hook_pre" for n in range(4)]
    for receiver in [*receivers, "hook_logits"]:
        result = path_patch(planted.lens, sender="cross_attn.z", receivers=receiver, **asked)
        direct, total = result.direct.recovery, result.total.recovery
        assert total[planted.layer, planted.head] == pytest.approx(1, abs=0.01)
        if receiver == f"blocks.{planted.mlp_layer}.mlp.hook_pre":
            assert direct[planted.layer, planted.head] == pytest.approx(1, abs=0.02)
            assert others(direct, planted.layer, planted.head).max() < 0.01
        else:
            assert direct.abs().max() < 0.02
    edge = path_patch(
        planted.lens, sender="mlp_out", axes=("layer",), receivers="hook_logits", **asked
    )
    assert edge.direct.recovery[planted.mlp_layer] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"layer": 3, "mlp_layer": 1}, "must come first"), ({"window": range(9, 20)}, "window=")],
)
def test_what_cannot_be_planted(settings, match) -> None:
    with pytest.raises(InputError, match=match):
        planted_circuit(**settings)
