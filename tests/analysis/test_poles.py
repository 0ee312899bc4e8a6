"""Where directions come from: several ways to one vector, and what sets of them say."""

import pytest
import torch

from audio_lens import Direction, InputError, difference_in_means
from audio_lens.analysis.collect import Activations
from audio_lens.analysis.directions import cosine_table, gram_schmidt
from audio_lens.analysis.poles import Poles, gather_poles, ways_of_taking
from audio_lens.analysis.stability import stability
from audio_lens.testing.planted import planted_circuit

FAST, SLOW = ["a fast organ", "a fast song"], ["a slow organ", "a slow song"]
KEY = ("resid_post", 0)


def planted(n=2000, width=10, *, size=2.0, noise=1.0) -> tuple[Poles, torch.Tensor]:
    """Matched pairs that share a look of their own and differ along one direction."""
    generator = torch.Generator().manual_seed(0)
    true = torch.nn.functional.normalize(torch.randn(width, generator=generator), dim=0)
    look = 5 * torch.randn(n, width, generator=generator)
    sides = []
    for sign in (1, -1):
        rows = look + noise * torch.randn(n, width, generator=generator) + sign * size / 2 * true
        sides.append(Activations({KEY: rows}, {KEY: float(rows.norm(dim=1).mean())}, {}))
    return Poles(*sides), size * true


@pytest.mark.parametrize("method", ["difference_in_means", "principal_component"])
def test_a_planted_direction_is_recovered_with_sign_and_length(method) -> None:
    poles, true = planted()
    found = getattr(poles, method)()
    assert torch.cosine_similarity(found.layer(0), true, dim=0) > 0.99
    assert found.norms[KEY] == pytest.approx(float(true.norm()), rel=0.05)
    assert found.provenance["method"] == method
    turned = Poles(poles.negative, poles.positive)
    assert torch.cosine_similarity(getattr(turned, method)().layer(0), true, dim=0) < -0.99


def test_gathered_poles_give_the_difference_in_means(lens) -> None:
    asked = {"positive": FAST, "negative": SLOW, "seconds": 0.2, "progress": False}
    poles = gather_poles(lens, site=["resid_post", "mlp_out"], **asked)
    both = poles.difference_in_means()
    alone = difference_in_means(lens, site="mlp_out", **asked)
    assert both.sites == ("mlp_out", "resid_post")
    assert torch.allclose(both.layer(1, site="mlp_out"), alone.layer(1))
    assert both.provenance["prompts_sha256"] == alone.provenance["prompts_sha256"]
    assert (both.provenance["n_positive"], both.provenance["n_negative"]) == (2, 2)


def test_ways_of_taking_are_the_ways_that_are_named(lens) -> None:
    asked = {"positive": FAST, "negative": SLOW, "progress": False}
    found = ways_of_taking(lens, seconds=0.2, seed=3, **asked)
    assert set(found) == {"free", "same_codes", "first_step"} | (
        {"eos_text"} if lens.cfg.chroma_length else set()
    )
    clips = lens.generate(FAST, seconds=0.2, seed=3, progress=False)
    codes = torch.stack([clip.codes for clip in clips])
    wanted = {
        "free": {"seconds": 0.2, "seed": 3},
        "same_codes": {"codes": codes},
        "first_step": {"pool": "first_step", "seed": 3},
        "eos_text": {"pool": "end_of_text", "seed": 3},
    }
    for way, direction in found.items():
        own = difference_in_means(lens, **asked, **wanted[way])
        assert torch.allclose(direction.layer(2), own.layer(2))
    few = ways_of_taking(lens, ways=["first_step"], **asked)
    assert list(few) == ["first_step"]
    with pytest.raises(InputError, match="no way 'eos': there are free"):
        ways_of_taking(lens, ways=["eos"], **asked)


def made(*vectors) -> list[Direction]:
    return [Direction({KEY: torch.tensor(v)}) for v in vectors]


def test_what_earlier_directions_say_is_taken_off() -> None:
    first, second, third = gram_schmidt(*made([2.0, 0, 0], [1.0, 1, 0], [1.0, 1, 1]))
    assert torch.equal(first.layer(0), torch.tensor([2.0, 0, 0]))
    assert torch.allclose(second.layer(0), torch.tensor([0.0, 1, 0]))
    assert torch.allclose(third.layer(0), torch.tensor([0.0, 0, 1]))
    with pytest.raises(InputError, match="direction 1 lies wholly in those before it"):
        gram_schmidt(*made([2.0, 0, 0], [-1.0, 0, 0]))
    other = Direction({("resid_post", 1): torch.tensor([1.0, 0, 0])})
    with pytest.raises(InputError, match="same sites and layers"):
        gram_schmidt(made([1.0, 0, 0])[0], other)


def test_cosines_stand_in_a_table() -> None:
    a, b, c = made([1.0, 0], [1.0, 1], [0.0, -1])
    table = cosine_table({"a": a, "b": b, "c": c})
    assert table[["site", "layer"]].to_numpy().tolist() == [["resid_post", 0]]
    assert table["a, b"][0] == pytest.approx(0.5**0.5)
    assert table["b, c"][0] == pytest.approx(-(0.5**0.5))
    with pytest.raises(InputError, match="at least two"):
        cosine_table({"a": a})


@pytest.mark.families("mono")
def test_a_direction_written_into_the_weights_is_recovered_where_it_is_written() -> None:
    """A head writes a marker when it reads a word: the difference in means is that marker."""
    planted = planted_circuit(layer=1, mlp_layer=3)
    lens = planted.lens
    marker = lens.hf_model.decoder.model.decoder.layers[1].encoder_attn.out_proj.weight
    marker = marker[:, planted.head * lens.cfg.d_head].detach()
    found = difference_in_means(
        lens,
        positive=[planted.clean],
        negative=[planted.corrupted],
        site=["resid_post", "cross_attn.z"],
        codes=lens.random_codes(frames=40, seed=5),
        progress=False,
    ).vectors
    for layer in (1, 2):
        assert torch.cosine_similarity(found["resid_post", layer], marker, dim=0) > 0.99
    assert found["resid_post", 0].norm() < 1e-4 * found["resid_post", 1].norm()
    heads = found["cross_attn.z", 1].norm(dim=-1)
    assert heads[planted.head] > 0.99 * heads.norm()


@pytest.mark.parametrize(("n", "size"), [(60, 30), (200, 20)])
def test_the_interval_of_the_stability_curve_covers_the_planted_directions_cosine(n, size) -> None:
    """Noise of length 20 beside a difference of length 1: what two means share is known."""
    truth = torch.eye(20)[0]
    wanted = 1 / ((1 + 20 / size) * (1 + 20 / (n - size))) ** 0.5
    covered = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        rows = truth + torch.randn(n, 20, generator=generator)
        sides = [Activations({KEY: values}, {}, {}) for values in (rows, torch.zeros(n, 20))]
        low, _, high = stability(Poles(*sides), sizes=[size], draws=100).interval(KEY)[0]
        assert high - low < 0.6
        covered += low < wanted < high
    assert covered >= 38
