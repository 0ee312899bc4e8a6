"""The demo on settings small enough for a test: what it writes, and what it dares to say."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from audio_lens import AudioLens, Clip, Direction
from audio_lens.analysis.controls import controls
from audio_lens.analysis.statistics import Estimate
from audio_lens.recipes.concept import concept
from audio_lens.recipes.demo import (
    DemoSettings,
    Outcome,
    Row,
    choices_of,
    report,
    run_demo,
    strengths,
    write,
)
from audio_lens.recipes.study.choosing import SIGNS, Choice
from audio_lens.recipes.study.hearing import Way

SMALL = DemoSettings(
    seconds=2.0, n_prompts=2, seeds=(1, 2), n_random=1, pairs=(0, 11), direction_seconds=0.2
)


@pytest.fixture(scope="module")
def toy() -> AudioLens:
    return AudioLens.from_pretrained("toy")


@pytest.fixture(scope="module")
def outcomes(toy):
    return [run_demo(toy, name, settings=SMALL, progress=False) for name in ("tempo", "timbre")]


def test_what_the_demo_runs(outcomes):
    for outcome in outcomes:
        real = [row for row in outcome.rows if row.direction == "real"]
        random = [row for row in outcome.rows if row.direction != "real"]
        assert len(real) == 5 * 2 * 2
        assert len(random) == 2 * 2 * 2 * 2
        assert {row.coefficient for row in random} == {
            outcome.coefficients[0],
            outcome.coefficients[-1],
        }
        assert outcome.direction.provenance["n_positive"] == 2
        assert {row.direction for row in random} == {"isotropic 1", "matched 1"}


def test_what_the_demo_runs_by_default():
    settings = DemoSettings()
    assert (settings.n_prompts, len(settings.seeds)) == (8, 2)
    assert settings.n_random * len(settings.random_kinds) == 4
    assert settings.seconds >= 6


def test_unsteered_rows_are_the_twins(toy, outcomes):
    row = next(r for r in outcomes[1].rows if r.direction == "real" and r.coefficient == 0)
    assert row.change == 0 or np.isnan(row.change)
    (alone,) = toy.generate(row.prompt, seed=row.seed, seconds=2.0, progress=False)
    assert (alone.codes == row.clip.codes).float().mean() > 0.95  # batch rounding may flip some


@pytest.mark.parametrize("name", ["real", "isotropic 1"])
def test_every_row_is_steered_by_its_own_direction(toy, outcomes, name):
    outcome = outcomes[1]
    row = [r for r in outcome.rows if r.direction == name][-1]
    random = controls(outcome.direction, n=1, kinds=["isotropic"])["isotropic"][0]
    direction = outcome.direction if name == "real" else random
    with toy.steer(direction, coefficient=row.coefficient, **outcome.choice.way.options()):
        (alone,) = toy.generate(row.prompt, seed=row.seed, seconds=2.0, progress=False)
    (plain,) = toy.generate(row.prompt, seed=row.seed, seconds=2.0, progress=False)
    assert (alone.codes == row.clip.codes).float().mean() > 0.95
    assert (plain.codes == row.clip.codes).float().mean() < 0.9


def test_what_the_demo_writes(toy, outcomes, tmp_path):
    outcome = outcomes[0]
    out = write(outcome, tmp_path / "demo", SMALL, toy.cfg.model_name)
    rows = list(csv.DictReader((out / "rows.csv").read_text().splitlines()))
    assert len(rows) == 20 + 16
    clips = [row["clip"] for row in rows if row["clip"]]
    assert len(set(clips)) == len(clips) == 20
    for path in clips[:3]:
        assert Clip.load(out / path).seconds == 2.0
        assert (out / path).with_name("+0.flac").exists()
    assert Direction.load(out / "direction.safetensors").layers == (0, 1, 2, 3, 4)
    configuration = json.loads((out / "config.json").read_text())
    assert configuration["settings"]["seconds"] == 2.0
    assert configuration["direction"]["prompts_sha256"]
    assert Choice.of_json(configuration["choice"]) == outcome.choice
    assert (out / "curve.png").stat().st_size > 5000
    assert (out / "report.txt").read_text() == report(outcome) + "\n"


def planted(slope: float, noise: float, *, n_prompts: int = 8) -> Outcome:
    """Rows in which tempo follows the coefficient exactly so much."""
    rng = np.random.default_rng(0)
    clip = Clip(torch.zeros(1, 16), 16000)
    rows = []
    for coefficient in (-1.0, -0.5, 0.0, 0.5, 1.0):
        for prompt in range(n_prompts):
            for seed in (1, 2):
                change = slope * coefficient + noise * rng.normal() * (coefficient != 0)
                bpm = 100 * 2**change
                rows.append(Row("real", coefficient, str(prompt), seed, bpm, bpm, 900.0,
                                change, "", clip))  # fmt: skip
                if abs(coefficient) == 1:
                    rows.append(replace(rows[-1], direction="isotropic 1", change=0.01))
    vectors = {("resid_post", 2): torch.ones(4)}
    direction = Direction(vectors, provenance={"n_positive": 34})
    return Outcome(concept("tempo"), direction, tuple(rows), Choice(Way("one_to_one", 2), SIGNS))


def test_a_planted_effect_is_found():
    outcome = planted(0.3, 0.05)
    assert outcome.slope.value == pytest.approx(0.3, abs=0.03)
    assert outcome.slope.low < 0.3 < outcome.slope.high
    text = report(outcome)
    assert "sounds faster" in text
    assert f"{outcome.slope.value:+.2f} [" in text
    assert outcome.random_changes() == {"isotropic 1": pytest.approx(0.01)}
    assert "random directions change it as much" not in text
    assert "sounds slower" in report(planted(-0.3, 0.05))


def test_random_directions_that_do_as_much_are_admitted():
    outcome = planted(0.3, 0.05)
    rows = tuple(
        replace(row, change=0.5) if row.direction == "isotropic 1" else row for row in outcome.rows
    )
    text = report(replace(outcome, rows=rows))
    assert "sounds faster" in text
    assert "1 of 1 random directions change it as much" in text


def test_no_effect_is_called_too_few_clips_to_tell():
    assert "too few clips to tell" in report(planted(0.0, 0.3))


def test_clips_without_a_tempo_count_as_no_change():
    outcome = planted(0.3, 0.01)
    silent = tuple(
        replace(row, bpm=float("nan"), change=float("nan")) if row.coefficient == 1.0 else row
        for row in outcome.rows
    )
    lessened = replace(outcome, rows=silent)
    assert 0 < lessened.slope.value < outcome.slope.value - 0.05
    assert "16 of 16" in report(lessened)
    assert "none measured" in report(lessened)


def test_changes_are_never_folded():
    tempo, timbre = concept("tempo"), concept("timbre")
    assert tempo.change(200.0, 100.0) == 1.0
    assert tempo.change(70.0, 100.0) == pytest.approx(-0.5146, abs=1e-4)
    assert timbre.change(880.0, 440.0) == 12.0
    assert np.isnan(tempo.change(float("nan"), 100.0))
    with pytest.raises(ValueError, match="there are tempo, timbre"):
        concept("mood")


def test_an_estimate_prints_its_interval():
    assert f"{Estimate(1.0, 0.5, 1.5):+.2f}" == "+1.00 [+0.50, +1.50]"


def test_what_was_chosen_lies_beside_the_model(toy, tmp_path):
    chosen = choices_of(toy)
    assert set(chosen) == {"tempo", "timbre"}
    for choice in chosen.values():
        low, high = choice.coefficients["-"], choice.coefficients["+"]
        assert low < 0 < high
        assert strengths(choice) == (low, low / 2, 0.0, high / 2, high)


def test_clips_that_are_no_music_fail_the_guard_and_are_counted():
    outcome = planted(0.3, 0.05)
    rows = tuple(
        replace(row, failed="silent") if row.coefficient == 1.0 else row for row in outcome.rows
    )
    assert outcome.n_passed(1.0) == 16
    broken = replace(outcome, rows=rows)
    assert broken.n_passed(1.0) == 0
    assert "0 pass" in report(broken)
