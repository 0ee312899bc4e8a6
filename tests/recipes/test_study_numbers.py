"""What a study makes of its rows: choices, doses, ranks."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from few import FEW

from audio_lens.recipes import tempo
from audio_lens.recipes.study.baselines import wrong_layer
from audio_lens.recipes.study.beside import scatter, stand_beside
from audio_lens.recipes.study.choosing import Choice, reach, ways
from audio_lens.recipes.study.comparing import Compared, still_music
from audio_lens.recipes.study.doses import dose_response
from audio_lens.recipes.study.hearing import Way
from audio_lens.recipes.study.layers import _up_against_down
from audio_lens.recipes.study.settings import StudySettings
from audio_lens.testing import random_musicgen


def test_ways_are_compared_between_what_was_tried_and_not_beyond() -> None:
    way = Compared(Way("one_to_one", 0), "+", (0.0, 0.5, 1.0), (0.0, 0.1, 0.3), (0.0, 1.0, 2.0))
    assert way.at(0.2) == pytest.approx(1.5)
    assert np.isnan(way.at(0.4))
    assert np.isnan(replace(way, nats=(0.0, 0.1, 0.1)).at(0.05))


def test_reach_is_a_share_of_the_prompted_shift_and_nothing_where_music_breaks() -> None:
    whole = [
        {"prompt": prompt, "change": change, "failed": ""}
        for prompt, change in (("a", 0.3), ("b", 0.5), ("c", float("nan")))
    ]
    assert reach(whole, 0.6) == pytest.approx(0.5)
    assert reach(whole, -0.6) == pytest.approx(-0.5)
    broken = [
        {"prompt": str(n), "change": 0.6, "failed": "" if n < 8 else "level"} for n in range(10)
    ]
    assert reach(broken, 0.6) == float("-inf")


def test_every_way_of_steering_is_a_candidate() -> None:
    candidates = ways(random_musicgen(n_layers=5), StudySettings())
    assert len(candidates) == len(set(candidates)) == 44
    assert {way.site for way in candidates} == {"resid_post", "cross_attn_out"}
    assert {way.strategy for way in candidates} == {"one_to_one", "one_to_all", "all_to_all"}
    deep = random_musicgen(n_layers=20, melody=True)
    few = ways(deep, StudySettings(branches=("both",)))
    assert len(few) == 50
    assert {way.site for way in few} == {"resid_post", "attn_out"}
    assert {0, 19} <= {way.source_layer for way in few}


def test_the_wrong_layer_is_the_worst_of_the_chosen_way() -> None:
    scan = [
        {**asdict(Way("one_to_one", layer, branch)), "reached": reached}
        for layer, branch, reached in ((2, "both", 0.9), (0, "both", 0.1), (1, "cond", 0.0))
    ]
    chosen = Choice(Way("one_to_one", 2), {"+": 1.0, "-": -1.0}, {"+": 0.9, "-": 0.9}, tuple(scan))
    assert wrong_layer(chosen) == Way("one_to_one", 0)
    assert wrong_layer(replace(chosen, way=Way("all_to_all"))) is None


def heard(change, n=8, **said):
    """Rows of eight prompts with one change, at each dose."""
    made = {"failed": "", "suspect": False, "seed": 0, "value": 1.0, **said}
    return [{**made, "prompt": str(place), "change": change} for place in range(n)]


def at_doses(by_dose):
    return [{**row, "coefficient": dose} for dose, rows in by_dose.items() for row in rows]


def test_a_way_that_breaks_the_music_is_worse_than_one_that_does_nothing() -> None:
    broken = [{**row, "failed": "level"} for row in heard(5.0)]
    assert reach(broken, 1.0) < reach(heard(-0.1), 1.0) < reach(heard(0.5), 1.0)


def test_the_dose_response_keeps_its_signs_and_its_edge_apart() -> None:
    broken = [{**row, "failed": "codes"} for row in heard(3.0, n=24)]
    rows = at_doses({-1.0: heard(-0.5, 24), 0.0: heard(0.0, 24), 1.0: heard(1.5, 24), 2.0: broken})
    choice = Choice(Way(), {"+": 2.0, "-": -1.0}, {"+": 1.0, "-": 0.5})
    found = dose_response(rows, choice, {"+": 3.0, "-": -1.0}, draws=200)
    up, down = found.sides["+"], found.sides["-"]
    assert (up.usable.last_pass, up.usable.first_fail) == (1.0, 2.0)
    assert up.at_edge.value == pytest.approx(1.5)
    assert (up.share.value, down.share.value) == pytest.approx((1.0, 0.5))
    assert down.usable.first_fail is None


def test_controls_are_compared_on_the_same_seeds_and_what_is_unheard_is_no_comfort() -> None:
    choice = Choice(Way(), {"+": 1.0, "-": -1.0}, {"+": 1.0, "-": 1.0})
    real = at_doses({d: [*heard(2.0 * d), *heard(9.0, seed=1)] for d in (-1.0, 1.0)})
    draws = [at_doses({d: heard(change) for d in (-1.0, 1.0)}) for change in (0.1, -0.4)]
    nats = {1.0: 0.1, -1.0: 0.2}
    up, down = stand_beside(real, draws, "isotropic", choice, nats)
    assert (up.rank, up.p, up.nats, down.nats) == (1, 1 / 3, 0.1, 0.2)
    assert up.share_of_real == pytest.approx(0.385 / 2.0)
    unheard = at_doses({d: heard(float("nan")) for d in (-1.0, 1.0)})
    up, _ = stand_beside(real, [*draws, unheard], "isotropic", choice, nats)
    assert up.rank == 2
    assert up.share_of_real == float("inf")


def test_silence_is_missing_and_no_infinite_change() -> None:
    louder = replace(FEW, heard="loudness", per_doubling=None)
    assert np.isnan(louder.change(float("-inf"), -20.0))
    assert np.isnan(louder.change(-20.0, float("-inf")))


def test_ways_are_compared_while_hardly_more_clips_break_than_unsteered() -> None:
    tried = np.array([-1.0, 0.0, 0.5, 1.0, 2.0])
    share = np.array([1.0, 0.85, 0.8, 0.5, 0.9])
    passed = np.arange(20)[None, :, None] < 20 * share[:, None, None]
    assert still_music(tried, passed, 1.0) == [0.0, 0.5]
    assert still_music(tried, passed, -1.0) == [0.0, -1.0]


def _twins(values) -> list[dict]:
    return [
        {"prompt": str(prompt), "seed": seed, "coefficient": 0.0, "value": value}
        for (prompt, seed), value in np.ndenumerate(values)
    ]


def test_scatter_is_that_of_other_seeds_and_shrinks_with_their_number() -> None:
    rng = np.random.default_rng(0)
    # Octaves of standard deviation 0.3 around each prompt's own tempo.
    values = 100 * 2 ** (0.3 * rng.standard_normal((200, 4)) + rng.standard_normal((200, 1)))
    found = scatter(_twins(values), tempo, n_seeds=1)
    # The median of 200 differences, each of deviation 0.3 * sqrt(2).
    expected = 1.96 * np.sqrt(np.pi / 2) * 0.3 * np.sqrt(2) / np.sqrt(200)
    assert found == pytest.approx(expected, rel=0.4)
    assert scatter(_twins(values), tempo, n_seeds=2) < found
    assert np.isnan(scatter(_twins(values[:, :1]), tempo, n_seeds=1))
    assert scatter(_twins(np.full((5, 4), 90.0)), tempo, n_seeds=1) == 0


def _steered(changes) -> list[dict]:
    return [
        {"coefficient": dose, "prompt": str(n), "seed": 0, "change": change, "failed": failed}
        for dose, (change, failed) in changes.items()
        for n in range(12)
    ]


def test_a_layer_that_moves_both_ways_alike_was_not_steered() -> None:
    moved = _steered({-1.0: (-0.4, ""), 1.0: (0.3, "")})
    assert _up_against_down(moved) == pytest.approx(np.full((12, 1), 0.35))
    either = _steered({-1.0: (0.4, ""), 1.0: (0.4, "")})
    assert _up_against_down(either) == pytest.approx(np.zeros((12, 1)))
    broken = _steered({-1.0: (-0.4, "flatness"), 1.0: (float("nan"), "")})
    assert _up_against_down(broken) == pytest.approx(np.zeros((12, 1)))
