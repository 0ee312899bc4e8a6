"""What a study makes of its rows: choices, doses, ranks."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from few import FEW

from audio_lens import Direction
from audio_lens.recipes import tempo
from audio_lens.recipes.study.baselines import wrong_layer
from audio_lens.recipes.study.beside import scatter, stand_beside
from audio_lens.recipes.study.choosing import Choice, reach, ways, within_chance
from audio_lens.recipes.study.comparing import Compared, best_of_each, still_music
from audio_lens.recipes.study.doses import dose_response
from audio_lens.recipes.study.hearing import Hearing, Way
from audio_lens.recipes.study.layers import _up_against_down
from audio_lens.recipes.study.ledger import Ledger
from audio_lens.recipes.study.listening import _some
from audio_lens.recipes.study.settings import StudySettings
from audio_lens.recipes.study.strengths import strength_for, strengths_at
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


@pytest.mark.parametrize(("n", "passed"), [(1, 1), (8, 6), (16, 13), (32, 26), (1000, 880)])
def test_of_few_clips_one_or_two_fail_by_chance(n, passed) -> None:
    """The closed form of Wilson's upper end, solved for its count."""
    least = within_chance(n)
    z2 = 1.959964**2

    def high(share):
        middle = share + z2 / (2 * n)
        spread = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5
        return (middle + spread) / (1 + z2 / n)

    assert high(least) >= 0.9
    assert least == 0 or high(least - 1 / n) < 0.9
    assert round(least * n) == pytest.approx(passed, abs=2 if n == 1000 else 0)


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
    assert scatter(_twins(values), tempo, n_seeds=2) == pytest.approx(found / np.sqrt(2), rel=0.3)
    four = scatter(_twins(values), tempo, n_seeds=4)  # of two pairs a prompt, scaled
    assert four == pytest.approx(found / 2, rel=0.3)
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


def test_a_strength_is_found_between_distortions_that_were_measured() -> None:
    square = [dose**2 for dose in (1 / 64, 1 / 16, 1 / 4, 1.0, 4.0)]
    for dose in (0.004, 0.03, 0.25, 0.7, 3.0):
        assert strength_for(dose**2, square) == pytest.approx(dose, rel=0.02)
    assert strength_for(99.0, square) == 4.0
    assert strength_for(0.5, [0.0] * 5) == 4.0
    assert strength_for(0.2, [0.0, 0.0, 0.4, 0.1, 0.3]) <= 0.25  # where it is first reached


def test_every_way_is_tried_where_it_bends_the_model_as_much(tmp_path) -> None:
    lens = random_musicgen(n_layers=3)
    vectors = {("resid_post", n): torch.randn(64, generator=torch.Generator().manual_seed(n))
               for n in range(3)}  # fmt: skip
    up, ledger = Direction(vectors), Ledger(tmp_path / "s", {})
    hearing = Hearing(lens, FEW, ledger, seconds=2.2, rows_at_once=8, progress=False)
    bent = {}
    for way in (Way("one_to_one", 1), Way("one_to_all", 1), Way("one_to_one", 1, "cond")):
        doses = strengths_at(hearing, up, way, (0.01, 0.1))
        assert doses["+"][0] > 0 > doses["-"][0]
        every = [dose for side in doses.values() for dose in side]
        bent[way] = list(hearing.nats(up, way, every, 4).values()), doses["+"]
    for nats, _ in bent.values():
        assert nats == pytest.approx([0.01, 0.1, 0.01, 0.1], rel=0.5)
    one, all_layers, _ = (doses for _, doses in bent.values())
    assert all_layers[0] < one[0]


def test_an_effect_towards_one_side_whatever_the_sign_is_no_trend() -> None:
    rng = np.random.default_rng(0)
    doses = (-2.0, -1.0, 0.0, 1.0, 2.0)
    rows = at_doses(
        {d: [{**row, "change": abs(d) * (1 if d > 0 else 0.3) + 0.05 * rng.standard_normal()}
             for row in heard(0.0, n=24)] for d in doses}
    )  # fmt: skip
    choice = Choice(Way(), {"+": 1.0, "-": -1.0}, {"+": 1.0, "-": 1.0})
    found = dose_response(rows, choice, {"+": 1.0, "-": -1.0}, draws=300)
    assert found.trends["+"].slope.value == pytest.approx(1.0, abs=0.1)
    assert found.trends["-"].slope.value == pytest.approx(-0.3, abs=0.1)


def test_missing_values_are_counted_of_steered_clips_alone() -> None:
    silent_twins = [{**row, "value": float("nan") if n < 6 else 1.0, "change": float("nan")}
                    for n, row in enumerate(heard(0.0, n=24))]  # fmt: skip
    steered = [
        {**row, "change": float("nan") if n < 6 else 0.5} for n, row in enumerate(heard(0.5, n=24))
    ]
    rows = at_doses({-1.0: steered, 0.0: silent_twins, 1.0: steered})
    choice = Choice(Way(), {"+": 1.0, "-": -1.0}, {"+": 1.0, "-": 1.0})
    side = dose_response(rows, choice, {"+": 1.0, "-": -1.0}, draws=100).sides["+"]
    assert (side.missing, side.missing_of_twins) == (0.0, 0.25)
    assert side.usable.first_fail is None


def test_a_share_is_as_uncertain_as_the_shift_it_is_of() -> None:
    rng = np.random.default_rng(0)
    rows = at_doses(
        {d: [{**row, "change": d + 0.1 * rng.standard_normal()} for row in heard(0.0, n=24)]
         for d in (-1.0, 0.0, 1.0)}
    )  # fmt: skip
    choice, shifts = Choice(Way(), {"+": 1.0, "-": -1.0}, {"+": 1, "-": 1}), {"+": 2.0, "-": -2.0}
    drawn = {"+": 2 + 0.5 * rng.standard_normal(300), "-": -2 + 0.5 * rng.standard_normal(300)}
    known = dose_response(rows, choice, shifts, draws=300).sides["+"].share
    unsure = dose_response(rows, choice, shifts, drawn_shifts=drawn, draws=300).sides["+"].share
    assert known.value == unsure.value
    assert unsure.high - unsure.low > 2 * (known.high - known.low)


def test_the_table_of_doses_has_every_way_of_counting() -> None:
    rows = at_doses({-1.0: heard(-0.5), 0.0: heard(0.0), 1.0: heard(0.5)})
    for n, row in enumerate(row for row in rows if row["coefficient"] == 1.0):
        row.update({"change": float("nan")} if n < 5 else {"suspect": n == 5, "change": 0.4})
    choice = Choice(Way(), {"+": 1.0, "-": -1.0}, {"+": 1.0, "-": 1.0})
    found = dose_response(rows, choice, {"+": 1.0, "-": -1.0}, draws=50).table.iloc[-1]
    assert (found["change"], found["missing as none"]) == (0.4, 0.0)
    assert found["without suspects"] == 0.4


def test_a_choice_is_json_that_others_can_read() -> None:
    scan = tuple(
        {**asdict(Way("one_to_one", n)), "reached": r} for n, r in enumerate((0.4, -np.inf))
    )
    chosen = Choice(Way("one_to_one", 0), {"+": 1.0, "-": -1.0}, {"+": 0.4, "-": -np.inf}, scan)
    text = json.dumps(chosen.as_json(), allow_nan=False)
    assert Choice.of_json(json.loads(text)) == chosen


def test_ways_that_left_no_music_are_not_called_the_best_of_their_kind() -> None:
    tried = {("one_to_one", 2): 0.5, ("one_to_all", 0): -np.inf, ("one_to_all", 1): -np.inf}
    scan = tuple({**asdict(Way(*way)), "reached": reached} for way, reached in tried.items())
    chosen = Choice(Way("one_to_one", 2), {"+": 1.0, "-": -1.0}, {"+": 0.5, "-": 0.5}, scan)
    assert best_of_each(chosen) == [Way("one_to_one", 2)]


def test_no_twin_comes_back_in_a_listening_test_while_there_are_others() -> None:
    rows = [{"prompt": f"p{n}", "seed": seed} for n in range(6) for seed in range(2)]
    rng, taken = np.random.default_rng(0), set()
    first = [(r["prompt"], r["seed"]) for r in _some(rows, 4, taken, rng)]
    then = [(r["prompt"], r["seed"]) for r in _some(rows, 8, taken, rng)]
    assert len({prompt for prompt, _ in first}) == 4
    assert len({prompt for prompt, _ in then}) == 6
    assert len({*first, *then}) == 12
    again = list(_some(rows, 12, taken, rng))  # none is left: they come back, each once
    assert len({(r["prompt"], r["seed"]) for r in again}) == 12
    assert list(_some(rows[:1], 5, set(), rng)) == rows[:1]
