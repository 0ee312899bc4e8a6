"""Runs to patch between, on models whose text is as loud as their stream."""

import pytest
from torch import Tensor
from truth import loud

from audio_lens import AudioLens
from audio_lens.testing import random_musicgen

FAMILIES = {
    "mono": {},
    "stereo": {"audio_channels": 2, "n_codebooks": 8},
    "melody": {"melody": True},
}
CLEAN, CORRUPTED = "a slow organ", "a fast organ"
FRAMES = 6


@pytest.fixture(scope="session", params=["mono", "melody"])
def model(request: pytest.FixtureRequest) -> AudioLens:
    """Of either kind; tests that name stereo get that too."""
    return loud(
        random_musicgen(n_layers=3, d_model=64, n_heads=4, seed=0, **FAMILIES[request.param])
    )


@pytest.fixture(scope="session")
def mono() -> AudioLens:
    return loud(random_musicgen(n_layers=3, d_model=64, n_heads=4, seed=0))


@pytest.fixture(scope="session")
def sides(model: AudioLens) -> dict[str, tuple[str, Tensor]]:
    """Clean and corrupted, two examples each, different in prompt and in codes."""
    codes = [model.random_codes(frames=FRAMES, batch=2, seed=seed) for seed in (1, 2)]
    return {"clean": (CLEAN, codes[0]), "corrupted": (CORRUPTED, codes[1])}
