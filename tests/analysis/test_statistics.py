"""Intervals against what is known of them."""

import numpy as np
import pytest

from audio_lens.analysis.statistics import (
    bootstrap,
    mean_over_prompts,
    median_over_prompts,
    slopes,
)
from audio_lens.errors import InputError


def test_median_over_prompts_of_means_over_seeds():
    values = np.array([[1.0, 3.0], [10.0, 10.0], [4.0, np.nan], [np.nan, np.nan]])
    assert median_over_prompts(values) == 4.0  # of 2, 10 and 4
    assert median_over_prompts(values[:2]) == 6.0
    assert np.isnan(median_over_prompts(values[3:]))
    assert np.array_equal(median_over_prompts(np.stack([values, 2 * values])), [4.0, 8.0])


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Prompts differ from each other more than seeds do: the clustering must count that."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        values = rng.normal(size=(12, 1)) + 0.3 * rng.normal(size=(12, 4))
        found = bootstrap(values, mean_over_prompts, draws=400)
        covered += found.low <= 0 <= found.high
    assert 0.86 <= covered / 200 <= 0.99


def test_seeds_are_not_counted_as_prompts():
    rng = np.random.default_rng(1)
    by_prompt = np.repeat(rng.normal(size=(6, 1)), 50, axis=1)
    clustered = bootstrap(by_prompt, mean_over_prompts)
    pooled = bootstrap(by_prompt.reshape(-1, 1), mean_over_prompts)
    assert clustered.high - clustered.low > 4 * (pooled.high - pooled.low)


def test_what_an_interval_tells():
    assert bootstrap(np.array([[1.0], [2.0], [1.5]])).tells
    assert not bootstrap(np.array([[1.0], [-2.0], [0.5]])).tells
    nothing = bootstrap(np.full((3, 2), np.nan))
    assert not nothing.tells
    assert f"{nothing:.1f}" == "none measured"
    assert f"{bootstrap(np.array([[2.0], [2.0]])):.1f}" == "2.0 [2.0, 2.0]"


@pytest.mark.usefixtures("as_users_see_it")
def test_bad_shapes():
    with pytest.raises(InputError, match="prompt seed"):
        bootstrap(np.zeros(3))


def test_slopes_of_lines():
    x = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    effects = np.einsum("c,ps->cps", x, np.array([[2.0, -1.0], [0.0, 3.0]])) + 5
    assert np.allclose(slopes(effects, x), [[2.0, -1.0], [0.0, 3.0]])
