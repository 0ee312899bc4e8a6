"""Dose and response: bands that hold, ranges that end where clips do, and trends."""

import numpy as np
import pytest
from scipy import stats

from audio_lens import InputError
from audio_lens.analysis.dose_response import curve, monotone, usable_range

DOSES = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


def test_a_band_holds_everywhere_at_once() -> None:
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        effects = rng.standard_normal((5, 16, 1)) + 0.3 * rng.standard_normal((5, 16, 3))
        found = curve(effects + DOSES[:, None, None], draws=300, seed=seed)
        held += bool(((found.low <= DOSES) & (found.high >= DOSES)).all())
    assert 50 <= held  # noqa: SIM300 - fewer has a chance of 0.1 % if the coverage is 95 %


def test_a_cell_without_values_has_no_band() -> None:
    effects = np.random.default_rng(0).standard_normal((3, 8, 2))
    effects[1] = np.nan
    found = curve(effects, draws=100)
    assert np.isnan([found.value[1], found.low[1], found.high[1]]).all()
    assert np.isfinite(found.low[[0, 2]]).all()


def clips(shares, n=96):
    """[coefficient prompt seed]: the first so many are true."""
    return np.stack([(np.arange(n) < round(share * n)).reshape(-1, 4) for share in shares])


def test_a_range_ends_before_its_first_failure() -> None:
    none = clips([0, 0, 0, 0, 0])
    passed = clips([0.5, 0.95, 1.0, 1.0, 0.92])
    assert str(usable_range(DOSES, passed, none, sign=1)) == "to +1 (not bracketed)"
    assert str(usable_range(DOSES, passed, none, sign=-1)) == "to -0.5 (fails at -1)"
    beyond = clips([1.0, 1.0, 1.0, 0.8, 1.0])  # what passes behind a failure does not count
    assert str(usable_range(DOSES, beyond, none, sign=1)) == "to +0 (fails at +0.5)"


def test_few_clips_are_not_sure() -> None:
    few = np.ones((5, 3, 1), bool)
    assert usable_range(DOSES, few, ~few, sign=1).last_pass == 0.0
    assert usable_range(DOSES, few, ~few, sign=1).first_fail == 0.0
    assert str(usable_range(DOSES, few, ~few, sign=1)).startswith("nowhere (too few of the")


def test_missing_values_end_a_range() -> None:
    passed = clips([1, 1, 1, 1, 1])
    missing = clips([0.1, 0.1, 0.1, 0.15, 0.25])
    assert usable_range(DOSES, passed, missing, sign=1).first_fail == 1.0
    assert usable_range(DOSES, passed, missing, sign=-1).first_fail is None
    with pytest.raises(InputError, match="expected 0 once"):
        usable_range(DOSES[3:], passed[3:], missing[3:], sign=1)


def test_a_trend_is_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((5, 24, 4))
    assert not monotone(DOSES, flat, draws=1000).slope.tells
    rising = monotone(DOSES, flat + 2 * DOSES[:, None, None], draws=1000)
    assert rising.slope.tells
    assert rising.slope.value == pytest.approx(2, abs=0.3)
    assert rising.spearman.low > 0.5
    assert monotone(DOSES, np.zeros((5, 3, 2)), draws=100).spearman.value == 0
    with pytest.raises(InputError, match="three coefficients"):
        monotone(DOSES[:2], flat[:2])


def test_rank_correlation_is_of_prompts_and_not_of_their_noisy_clips() -> None:
    rng = np.random.default_rng(1)
    doses = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    effects = doses[:, None, None] + 1.5 * rng.standard_normal((5, 24, 8))
    found = monotone(doses, effects, draws=200).spearman
    by_prompt = [stats.spearmanr(doses, effects[:, n].mean(-1)).statistic for n in range(24)]
    assert found.value == pytest.approx(np.mean(by_prompt))
    clips = [
        stats.spearmanr(doses, effects[:, n, k]).statistic for n in range(24) for k in range(8)
    ]
    assert found.value > np.mean(clips) + 0.2  # which noise in each clip would make of it
