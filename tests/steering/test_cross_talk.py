"""Cross-talk: the same clips as a sweep makes, up against down, by direction and measure."""

import numpy as np
import pytest
import torch

from audio_lens import Direction, InputError, add, clamp
from audio_lens.audio.level import loudness
from audio_lens.audio.timbre import spectral_centroid
from audio_lens.steering import cross_talk
from audio_lens.testing import random_musicgen

PROMPTS, SEEDS = ("an organ", "drums", "a song"), (0, 1)
MEASURES = ("loudness", "spectral_centroid")


def direction(seed: int) -> Direction:
    vector = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    return Direction({("resid_post", 1): vector})


@pytest.fixture(scope="module")
def lens():
    return random_musicgen(n_layers=2)


@pytest.fixture(scope="module")
def found(lens):
    named = {"one": direction(0), "other": direction(1), "one again": direction(0)}
    return cross_talk(
        lens, named, PROMPTS, coefficient={"one": 3.0, "other": 3.0, "one again": 3.0},
        measures=MEASURES, seeds=SEEDS, seconds=1.0, progress=False, branch="cond",
    )  # fmt: skip


def test_effects_are_half_of_up_against_down(lens, found) -> None:
    rows = lens.sweep(
        PROMPTS, direction=direction(1), coefficients=[-3.0, 0.0, 3.0], seeds=SEEDS, seconds=1.0,
        branch="cond", progress=False,
    )  # fmt: skip
    heard = {
        (row.prompt, row.seed, row.coefficient): (
            loudness(row.clip.samples, row.clip.sample_rate),
            12 * np.log2(spectral_centroid(row.clip.samples, row.clip.sample_rate)),
        )
        for row in rows
    }
    for p, prompt in enumerate(PROMPTS):
        for s, seed in enumerate(SEEDS):
            up, down = (np.array(heard[prompt, seed, dose]) for dose in (3.0, -3.0))
            assert found.effects[1, :, p, s] == pytest.approx((up - down) / 2)
    twins = np.array([value for (*_, dose), value in heard.items() if dose == 0])
    assert found.spreads == pytest.approx(twins.std(0, ddof=1))


def test_a_direction_under_two_names_is_one(found) -> None:
    assert np.array_equal(found.effects[0], found.effects[2], equal_nan=True)
    assert not np.allclose(found.effects[0], found.effects[1], equal_nan=True)


def test_options_of_steering_reach_the_steered_clips_alone(lens) -> None:
    deep = Direction({("resid_post", n): direction(n).layer(1) for n in range(2)})
    asked = {"measures": ["loudness"], "seeds": [0], "seconds": 0.5, "progress": False}
    added, clamped = (
        cross_talk(lens, {"deep": deep}, PROMPTS, source_layer=1, op=op, **asked)
        for op in (add, clamp)
    )
    assert np.array_equal(added.spreads, clamped.spreads)
    assert not np.array_equal(added.effects, clamped.effects)


def test_the_table_and_the_picture_hold_every_cell(found) -> None:
    table = found.to_dataframe()
    assert len(table) == 6
    assert table["unit"].tolist() == ["LU", "semitones"] * 3
    first = table.iloc[0]
    means = np.nanmean(found.effects[0, 0], axis=-1)
    assert first["change"] == pytest.approx(np.median(means))
    assert first["in spreads"] == pytest.approx(first["change"] / found.spreads[0])
    drawn = found.plot().axes[0].images[0].get_array()
    assert drawn.shape == (2, 3)
    assert np.allclose(np.asarray(drawn[:, 1]), table["in spreads"][2:4])
    assert found.made["options"] == {"branch": "cond"}


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"directions": {}}, "give some by name"),
        ({"measures": ["loudnes"]}, "loudness"),
        ({"coefficient": 0.0}, "above 0"),
        ({"coefficient": {"two": 1.0}}, "the directions are one"),
        ({"coefficient": float("nan")}, "above 0"),
    ],
)
def test_bad_input_is_named(lens, asked, match) -> None:
    given = {"directions": {"one": direction(0)}, "prompts": PROMPTS, "progress": False, **asked}
    with pytest.raises(InputError, match=match):
        cross_talk(lens, **given)
