"""Tests of effects: right as often as they say, on data whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from audio_lens import InputError
from audio_lens.analysis.significance import holm, max_statistic, rank_among, sign_flip


def noise(rng, *shape):
    """Prompts with a shift of their own, so that seeds are not independent."""
    return rng.standard_normal((*shape[:-1], 1)) + 0.3 * rng.standard_normal(shape)


def test_chance_is_called_an_effect_once_in_twenty() -> None:
    rng = np.random.default_rng(0)
    p = [sign_flip(noise(rng, 12, 4), draws=400, seed=n) for n in range(200)]
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.1
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_an_effect_is_found_whatever_its_sign() -> None:
    rng = np.random.default_rng(0)
    for shift in (-3.0, 3.0):
        assert sign_flip(noise(rng, 16, 4) + shift, draws=2000) < 0.01
    assert sign_flip(np.full((12, 2), 0.5), draws=5000) < 0.01


def test_a_single_prompt_can_show_nothing() -> None:
    assert sign_flip(np.full((1, 50), 9.0), draws=500) == 1.0


def test_flips_of_the_mean_are_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    effects = noise(rng, 10, 3) + 0.5
    ours = sign_flip(effects, draws=20_000)
    theirs = stats.permutation_test(
        (effects.mean(1),), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.01)


def test_a_map_is_corrected_for_its_cells() -> None:
    rng = np.random.default_rng(2)
    wrong = [max_statistic(noise(rng, 10, 12, 2), draws=300, seed=n).min() for n in range(100)]
    assert np.mean(np.array(wrong) <= 0.05) <= 0.12
    effects = noise(rng, 10, 12, 2)
    effects[4] += 4.0
    p = max_statistic(effects, draws=2000)
    assert p[4] < 0.01
    assert np.delete(p, 4).min() > 0.05
    with pytest.raises(InputError, match=r"\[cell prompt seed\]"):
        max_statistic(np.zeros((0, 3, 2)))


def test_missing_values_are_no_change() -> None:
    effects = np.full((12, 2), 2.0)
    effects[:8] = np.nan
    assert sign_flip(effects, draws=4000) == pytest.approx(2 / 16, abs=0.02)
    assert sign_flip(effects) == sign_flip(np.nan_to_num(effects))


def test_holm_and_ranks() -> None:
    assert holm([0.5, 0.001, 0.02, 0.04]) == pytest.approx([0.5, 0.004, 0.06, 0.08])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert rank_among(3.0, [1.0, -2.0]) == (1, pytest.approx(1 / 3))
    assert rank_among(0.0, [1.0, -2.0]) == (3, 1.0)
    assert rank_among(np.nan, [1.0, -2.0]) == (3, 1.0)
    assert rank_among(3.0, [1.0, np.nan]) == (2, pytest.approx(2 / 3))
    assert holm([0.01, np.nan]) == [0.02, 1.0]
