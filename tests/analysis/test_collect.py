"""Gathering: rows with seeds of their own, provenance, and what is refused at once."""

import pytest
import torch

from audio_lens import AudioLens, InputError
from audio_lens.analysis.collect import collect
from audio_lens.audio.clip import Clip
from audio_lens.testing import random_musicgen


def test_halves_are_not_summed(as_users_see_it) -> None:
    with pytest.raises(InputError, match="gathered from one half"):
        collect(random_musicgen(n_layers=1), "organ", branch="both", seconds=0.2, progress=False)


@pytest.mark.families("mono")
def test_seeds_of_rows_are_theirs_in_every_batch() -> None:
    lens = random_musicgen(n_layers=1)
    asked = {"seconds": 0.2, "progress": False}
    prompts = ["organ", "flute", None]
    one = collect(lens, prompts, seed=[5, 6, 7], rows_at_once=2, **asked)
    assert one.made["seed"] == [5, 6, 7]
    for row, seed in enumerate((5, 6, 7)):
        alone = collect(lens, [prompts[row]], seed=seed, **asked).values["resid_post", 0]
        assert torch.allclose(one.values["resid_post", 0][row], alone[0], atol=1e-5)


def test_sounds_and_versions_are_in_the_provenance() -> None:
    lens = random_musicgen(n_layers=1)
    sounds = [Clip(torch.sin(torch.arange(16000) * f)[None], 16000) for f in (0.1, 0.2, 0.3)]
    made = [
        collect(lens, None, audio=heard, rows_at_once=n, progress=False).made
        for heard, n in ((sounds, 2), (sounds, 3), (sounds[::-1], 3))
    ]
    assert made[0]["codes_sha256"] == made[1]["codes_sha256"] != made[2]["codes_sha256"]
    assert made[0]["torch"] == torch.__version__


def test_the_revision_of_a_checkpoint_is_in_the_provenance() -> None:
    lens = random_musicgen(n_layers=1)
    again = AudioLens(lens.hf_model, lens.processor, name="hub/model", revision="abc123")
    for known, wanted in ((lens, None), (again, "abc123")):
        made = collect(known, "organ", seconds=0.2, progress=False).made
        assert made.get("revision") == wanted
