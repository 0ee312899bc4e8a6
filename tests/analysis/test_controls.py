"""Controls: as long as the direction, drawn as they say, and about as large as chance has it."""

import math

import pytest
import torch

from audio_lens import Direction, InputError
from audio_lens.analysis.collect import Activations
from audio_lens.analysis.controls import controls
from audio_lens.analysis.poles import Poles
from audio_lens.analysis.stability import stability

KEYS = [("resid_post", 0), ("resid_post", 1)]


def poles(n=200, width=16, *, size=3.0, seed=0) -> tuple[Poles, Direction]:
    """Matched pairs whose first dimension differs, in a space that is far from round."""
    generator = torch.Generator().manual_seed(seed)
    shape = torch.linspace(0.1, 5, width)
    sides = []
    for sign in (1, -1):
        values = {key: torch.randn(n, width, generator=generator) * shape for key in KEYS}
        for rows in values.values():
            rows[:, 0] += sign * size / 2
        sides.append(Activations(values, dict.fromkeys(KEYS, 1.0), {"model": "made up"}))
    pair = Poles(*sides)
    return pair, pair.difference_in_means()


def test_every_control_is_as_long_as_the_direction_at_every_layer() -> None:
    pair, direction = poles()
    other = 7 * direction.random_like(3)
    made = controls(direction, n=3, poles=pair, others={"timbre": other})
    assert {name: len(drawn) for name, drawn in made.items()} == {
        "isotropic": 3, "matched": 3, "flipped": 3, "timbre": 1,
    }  # fmt: skip
    for drawn in made.values():
        for control in drawn:
            assert control.norms == pytest.approx(direction.norms)
    assert made["timbre"][0].cosine(other)[KEYS[0]] == pytest.approx(1)
    assert made["flipped"][0].provenance["method"] == "control (flipped)"


def test_draws_differ_and_can_be_made_again() -> None:
    pair, direction = poles()
    first, second = (controls(direction, n=2, poles=pair, seed=4) for _ in range(2))
    other = controls(direction, n=2, poles=pair, seed=5)
    for kind, drawn in first.items():
        for a, b, c in zip(drawn, second[kind], other[kind], strict=True):
            assert torch.equal(a.layer(1), b.layer(1))
            assert not torch.equal(a.layer(1), c.layer(1))
        assert not torch.equal(drawn[0].layer(1), drawn[1].layer(1))


def test_matched_controls_have_the_activations_spread_and_not_the_concept() -> None:
    pair, direction = poles(size=50.0)
    drawn = controls(direction, n=400, kinds=["matched"], poles=pair)["matched"]
    vectors = torch.stack([control.layer(0) / control.norms[KEYS[0]] for control in drawn])
    sizes = vectors.square().mean(0)
    wanted = torch.linspace(0.1, 5, 16).square()
    assert torch.allclose(sizes, wanted / wanted.sum(), atol=0.03)
    # The first dimension is where the poles differ; it is the narrowest otherwise.
    assert sizes[0] < 0.01


def test_flipped_labels_lose_the_concept_and_isotropic_draws_are_round() -> None:
    pair, direction = poles(size=20.0)
    made = controls(direction, n=200, kinds=["flipped", "isotropic"], poles=pair)
    for drawn in made.values():
        cosines = torch.tensor([control.cosine(direction)[KEYS[0]] for control in drawn])
        assert cosines.mean().abs() < 0.15
    usual = 1 / math.sqrt(16)
    isotropic = [control.cosine(direction)[KEYS[0]] for control in made["isotropic"]]
    assert torch.tensor(isotropic).square().mean().sqrt() == pytest.approx(usual, rel=0.2)


def test_stability_rises_to_what_theory_says() -> None:
    """Pairs differ by size +- noise: the cosine of two independent means has a closed form."""
    generator = torch.Generator().manual_seed(0)
    n, width, size = 400, 30, 1.0
    rows = torch.randn(n, width, generator=generator)
    rows[:, 0] += size
    zero = Activations({KEYS[0]: torch.zeros(n, width)}, {}, {})
    pair = Poles(Activations({KEYS[0]: rows}, {}, {}), zero)
    found = stability(pair, sizes=[5, 20, 80, 200], draws=300)
    middle = found.interval(KEYS[0])[:, 1]
    assert (middle[1:] > middle[:-1]).all()
    for n_some, cosine in zip(found.sizes, middle, strict=True):
        lengths = [math.sqrt(size**2 + width / count) for count in (n_some, n - n_some)]
        # Of one sample of 400, so the means of its halves lean the same way a little.
        assert cosine == pytest.approx(size**2 / math.prod(lengths), abs=0.08)
    assert found.plot().axes[0].get_xlabel() == "pairs of prompts"


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"n": 0}, "n=0"),
        ({"kinds": ["shuffled"]}, "no kind 'shuffled': there are isotropic"),
        ({"kinds": ["matched"]}, "'matched' controls are drawn from activations: give poles="),
    ],
)
def test_bad_input_is_named(asked, match, as_users_see_it) -> None:
    _, direction = poles()
    with pytest.raises(InputError, match=match):
        controls(direction, **asked)


def test_controls_that_would_be_the_direction_itself_are_refused() -> None:
    pair, direction = poles(n=5)
    with pytest.raises(InputError, match="at least 6 pairs, got 5"):
        controls(direction, kinds=["flipped"], poles=pair)
    pair, _ = poles()
    with pytest.raises(InputError, match="this direction is a principal_component"):
        controls(pair.principal_component(), kinds=["flipped"], poles=pair)
    with pytest.raises(InputError, match="'isotropic' is a kind of its own"):
        controls(direction, kinds=["isotropic"], others={"isotropic": direction})
    sides = pair.positive, pair.negative
    with pytest.raises(InputError, match="occur twice"):
        stability(Poles(*sides, texts=(("a",) * 200, ("b",) * 200)), sizes=[5])
    with pytest.raises(InputError, match="draws=0"):
        stability(pair, sizes=[5], draws=0)


def test_poles_that_do_not_match_are_refused() -> None:
    pair, _ = poles()
    fewer = Activations({key: rows[:5] for key, rows in pair.negative.values.items()}, {}, {})
    with pytest.raises(InputError, match="the poles have 200 and 5 prompts: pairs need"):
        _ = Poles(pair.positive, fewer).pairs
    elsewhere = Activations({("resid_post", 7): torch.zeros(200, 16)}, {}, {})
    with pytest.raises(InputError, match="different sites or layers"):
        Poles(pair.positive, elsewhere)
    with pytest.raises(InputError, match="with 200 pairs take 1 to 100"):
        stability(pair, sizes=[150])


@pytest.mark.parametrize("n", [7, 8, 101])
def test_flipped_labels_leave_nothing_of_what_all_pairs_share(n) -> None:
    """Pairs that are all alike but for noise: no flipped control leans to the direction."""
    rows = 0.01 * torch.randn(n, 40, generator=torch.Generator().manual_seed(n))
    zero = Activations({KEYS[0]: torch.zeros(n, 40)}, {}, {})
    pair = Poles(Activations({KEYS[0]: rows + 1}, {}, {}), zero)
    direction = pair.difference_in_means()
    drawn = controls(direction, n=40, kinds=["flipped"], poles=pair)["flipped"]
    leaning = torch.tensor([control.cosine(direction)[KEYS[0]] for control in drawn])
    assert leaning.abs().max() < 0.7
    assert leaning.abs().mean() < 0.3
    left_out = {tuple(control.layer(0).round(decimals=4).tolist()) for control in drawn}
    assert len(left_out) > 10


def test_steps_that_were_kept_count_as_their_clip_does() -> None:
    """Every step of a clip the same: pairs, components, controls and stability are the pooled."""
    pooled, _ = poles(n=12)
    sides = [
        Activations(
            {key: rows[:, None].expand(-1, 5, -1).clone() for key, rows in side.values.items()},
            side.typical_norms,
            {"pool": "every_step"},
        )
        for side in (pooled.positive, pooled.negative)
    ]
    kept = Poles(*sides)
    for key, rows in pooled.pairs.items():
        assert torch.allclose(kept.pairs[key], rows, atol=1e-6)
    for of_steps, of_means in (
        (kept.difference_in_means(), pooled.difference_in_means()),
        (kept.principal_component(), pooled.principal_component()),
    ):
        assert torch.allclose(of_steps.layer(1), of_means.layer(1), atol=1e-5)
    direction = kept.difference_in_means()
    for drawn in controls(direction, n=2, poles=kept).values():
        assert drawn[0].layer(1).shape == direction.layer(1).shape
    same = stability(pooled, sizes=[3]).cosines[KEYS[0]]
    assert stability(kept, sizes=[3]).cosines[KEYS[0]] == pytest.approx(same, abs=1e-5)


def test_controls_of_a_direction_turned_round_and_beside_others() -> None:
    pair, direction = poles()
    turned = controls(-direction, n=1, kinds=["flipped"], poles=pair)["flipped"][0]
    assert turned.norms == pytest.approx(direction.norms)
    other = direction.random_like(1)
    made = controls(direction.only(0), n=1, kinds=["isotropic"], others={"timbre": other})
    assert list(made["timbre"][0]) == [KEYS[0]]
    with pytest.raises(InputError, match=r"'timbre' has no vector at .*1"):
        controls(direction, n=1, kinds=["isotropic"], others={"timbre": other.only(0)})
