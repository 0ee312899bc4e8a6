"""Schedules: the same factors in a forward and step by step, and what their products are."""

import numpy as np
import pytest
import torch
from truth import n_prefix

from audio_lens import InputError, Intervention, add, clamp, schedules, window
from audio_lens.lens.schedules import chance, decay, every, over_time, ramp

PROMPTS = ["slow piano", "fast drums"]
VECTOR = torch.randn(64, generator=torch.Generator().manual_seed(1))
N = 10  # positions of seven frames

FACTORS = {
    "every": (every(3), [1, 0, 0, 1, 0, 0, 1, 0, 0, 1]),
    "every from 2": (every(3, first=2), [0, 0, 1, 0, 0, 1, 0, 0, 1, 0]),
    "decay": (decay(0.5), [0.5**n for n in range(N)]),
    "floor": (decay(0.5, floor=0.25), [max(0.5**n, 0.25) for n in range(N)]),
    "window": (window(0.04, 0.12), [0, 0, 1, 1, 1, 1, 0, 0, 0, 0]),
    "ramp": (ramp(0.04, 0.12), [0, 0, 0, 0.14645, 0.5, 0.85355, 1, 1, 1, 1]),
    "fall": (ramp(0.0, 0.08, low=2, high=0), [2, 1.70711, 1, 0.29289, 0, 0, 0, 0, 0, 0]),
    "own": (over_time(lambda s: 10 * s, "rising"), [0.2 * n for n in range(N)]),
    "product": (
        2 * every(2) * decay(0.5) * window(0.04),
        [0, 0, 0.5, 0, 0.125, 0, 2**-5, 0, 2**-7, 0],
    ),
}


def stream(lens, **settings):
    """resid_post of layer 1, in a forward over random codes."""
    codes = lens.random_codes(frames=7, batch=2)
    with torch.no_grad():
        _, cache = lens.run_with_cache(PROMPTS, codes, names_filter="resid_post", **settings)
    return cache["resid_post", 1]


@pytest.mark.parametrize("name", FACTORS)
def test_a_forward_is_scaled_position_by_position(lens, name) -> None:
    schedule, expected = FACTORS[name]
    plain = stream(lens)
    with lens.intervene(Intervention("resid_post", add(VECTOR), layers=1, coefficient=schedule)):
        edited = stream(lens)
    added = ((edited - plain) @ VECTOR / VECTOR.norm() ** 2)[:, n_prefix(lens, PROMPTS[0]) :]
    assert added[0].tolist() == pytest.approx(expected, abs=1e-3)
    assert added[1].tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", FACTORS)
def test_a_generation_is_scaled_step_by_step(lens, name) -> None:
    schedule, expected = FACTORS[name]
    seen = {}

    def note(tensor, coefficient, hook):
        position = hook.positions[-1]
        seen[position] = float(torch.as_tensor(coefficient).flatten()[-1])
        return tensor

    with lens.intervene(Intervention("resid_post", note, layers=1, coefficient=schedule)):
        lens.generate(PROMPTS, seconds=0.14, progress=False)
    assert [seen[n] for n in range(N)] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("strengths", [[0.0, 2.0], np.array([0.0, 2.0]), torch.tensor([0.0, 2.0])])
def test_rows_multiply_from_either_side(lens, strengths) -> None:
    plain = stream(lens)
    for schedule in (strengths * every(2), every(2) * strengths):
        push = Intervention("resid_post", add(VECTOR), layers=1, coefficient=schedule)
        with lens.intervene(push):
            edited = stream(lens)
        assert torch.equal(edited[0], plain[0])
        first = n_prefix(lens, PROMPTS[0])
        assert torch.allclose(edited[1, first], plain[1, first] + 2 * VECTOR, atol=1e-5)
        assert torch.equal(edited[1, first + 1], plain[1, first + 1])


def test_a_schedule_as_when_leaves_the_rest_to_the_bit(lens) -> None:
    plain = stream(lens)
    halve = Intervention("resid_post", lambda t, c, hook: t / 2, layers=1, when=every(2))
    with lens.intervene(halve):
        edited = stream(lens)
    first = n_prefix(lens, PROMPTS[0])
    assert torch.equal(edited[:, first::2], plain[:, first::2] / 2)
    assert torch.equal(edited[:, first + 1 :: 2], plain[:, first + 1 :: 2])
    assert torch.equal(edited[:, :first], plain[:, :first])


@pytest.mark.families("mono")
def test_chance_is_drawn_from_its_own_seed(lens) -> None:
    def drawn(schedule, rows=(0, 1)):
        found: dict = {}

        def note(tensor, coefficient, hook):
            found.setdefault(hook.layer(), coefficient[..., 0])
            return tensor

        codes = lens.random_codes(frames=400)
        with lens.intervene(Intervention("resid_post", note, coefficient=schedule)):
            lens(["organ"] * len(rows), codes)
        assert all(torch.equal(found[0], other) for other in found.values())
        return found[0]

    alike = drawn(chance(0.3, seed=1))
    assert alike.shape == (1, 403)
    assert 0.2 < alike.mean() < 0.4
    assert torch.equal(alike, drawn(chance(0.3, seed=1), rows=(0,)))
    assert not torch.equal(alike, drawn(chance(0.3, seed=2)))
    assert drawn(chance(0.0)).sum() == 0
    assert drawn(chance(1.0)).min() == 1


def test_schedules_say_what_they_are() -> None:
    fading = 0.7 * every(5) * decay(0.998)
    assert repr(fading) == "0.7 x every 5 steps x decaying by 0.998 a step"
    assert repr(every(5) * [1, -1]) == "[1, -1] x every 5 steps"
    assert repr(window(2)) == "from 2 s"
    assert (2 * every(5) * [1, -1]).describe(1) == "-1 x 2 x every 5 steps"
    assert repr([2, 3] * (every(2) * [1, -1])) == "[2, -3] x every 2 steps"
    with pytest.raises(InputError, match="one of each"):
        [2, 3] * (every(2) * [1, 2, 3])


@pytest.mark.families("mono")
def test_clips_say_how_they_were_steered(lens) -> None:
    push = Intervention("resid_post", add(VECTOR), coefficient=0.5 * every(5), label="pushed")
    with lens.intervene(push):
        (clip,) = lens.generate("organ", seconds=0.1, progress=False)
    assert clip.interventions == ("pushed x 0.5 x every 5 steps",)
    push = Intervention("resid_post", add(VECTOR), coefficient=[1, 2] * every(5), label="pushed")
    with lens.intervene(push):
        clips = lens.generate(PROMPTS, seconds=0.1, progress=False)
    assert clips[1].interventions == ("pushed x 2 x every 5 steps",)
    held = Intervention("resid_post", clamp(VECTOR), coefficient=every(2))
    with pytest.raises(InputError, match="clamp acts at a coefficient of 0"), lens.intervene(held):
        pass


@pytest.mark.families("mono")
def test_a_window_behind_the_end_is_refused_before_anything_runs(lens) -> None:
    late = Intervention("resid_post", add(VECTOR), when=window(0.5))
    calls = []
    with lens.hooks([("embed", lambda tensor, hook: calls.append(hook))]), lens.intervene(late):
        with pytest.raises(InputError, match=r"window\(0.5, None\) begins behind the end.*0.26 s"):
            lens.generate("organ", seconds=0.2, progress=False)
        with pytest.raises(InputError, match="begins behind the end"):
            lens("organ", lens.random_codes(frames=7))
    assert not calls
    for never in (every(2, first=40), ramp(0.5, 1.0)):
        push = Intervention("resid_post", add(VECTOR), coefficient=never)
        with lens.intervene(push), pytest.raises(InputError, match="begins behind the end"):
            lens.generate("organ", seconds=0.2, progress=False)
    three = Intervention("resid_post", add(VECTOR), coefficient=every(2) * [1, 2, 3])
    with (
        lens.intervene(three),
        pytest.raises(InputError, match="3 numbers, but the run has 1 rows"),
    ):
        lens.generate("organ", seconds=0.2, progress=False)


@pytest.mark.families("mono")
@pytest.mark.parametrize(
    ("coefficient", "match"),
    [
        (lambda hook: torch.ones(3, 10), r"shape \(3, 10\)"),
        (lambda hook: torch.ones(1, 3), "3 values at blocks.1"),
        (lambda hook: torch.full((1, 1), torch.nan), "NaN or infinity"),
        (lambda hook: [1.0, 2.0, 3.0], "3,"),
    ],
)
def test_what_does_not_fit_is_named(lens, coefficient, match) -> None:
    push = Intervention("resid_post", add(VECTOR), layers=1, coefficient=coefficient)
    with lens.intervene(push), pytest.raises(InputError, match=match):
        stream(lens)


@pytest.mark.families("mono")
def test_nothing_varies_in_time_where_there_is_no_time(lens) -> None:
    push = Intervention("text.out", add(torch.zeros(32)), coefficient=every(2), branch="cond")
    with pytest.raises(InputError, match="no position axis"), lens.intervene(push):
        pass
    once = Intervention("cross_attn.v", lambda t, c, hook: t, when=window(0.02), branch="cond")
    with pytest.raises(InputError, match="no position axis"), lens.intervene(once):
        pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: every(0),
        lambda: every(2, first=-1),
        lambda: chance(1.5),
        lambda: decay(0.0),
        lambda: decay(0.9, floor=2),
        lambda: ramp(2, 1),
        lambda: window(2, 1),
        lambda: window(float("nan")),
        lambda: window(0, float("nan")),
        lambda: every(2.5),
        lambda: every(2) * float("nan"),
        lambda: every(2) * [[1.0]],
    ],
)
def test_bad_schedules(make, as_users_see_it) -> None:
    with pytest.raises(InputError):
        make()


def test_they_are_found_at_the_face() -> None:
    assert repr(schedules.every(2)) == "every 2 steps"
