"""Gathering: what is refused before anything runs."""

import pytest

from audio_lens import InputError
from audio_lens.analysis.collect import collect
from audio_lens.testing import random_musicgen


def test_halves_are_not_summed(as_users_see_it) -> None:
    with pytest.raises(InputError, match="gathered from one half"):
        collect(random_musicgen(n_layers=1), "organ", branch="both", seconds=0.2, progress=False)
