"""The packaged melody toy: loadable by transformers alone, and it obeys words in its prefix."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, MusicgenMelodyForConditionalGeneration

from audio_lens import AudioLens, Prompt
from audio_lens.audio.synthesis import SAMPLE_RATE, draw, render
from audio_lens.lens.loading import CHECKPOINTS
from audio_lens.recipes.concept import CONCEPTS

FOLDER = CHECKPOINTS["toy-melody"]
CONTEXTS = (0, 23, 51, 94)


@pytest.fixture(scope="module")
def toy_melody():
    return AudioLens.from_pretrained("toy-melody")


@pytest.fixture(scope="module")
def prompted(toy_melody):
    """Six seconds for four matched prompts at each pole of each concept, in one batch."""
    asked = {
        (name, sign): [side[n] for n in CONTEXTS]
        for name, concept in CONCEPTS.items()
        for sign, side in (("+", concept.positive), ("-", concept.negative))
    }
    texts = [text for side in asked.values() for text in side]
    clips = toy_melody.generate(texts, seed=list(range(16)), seconds=6.0, progress=False)
    return {pole: clips[4 * n : 4 * n + 4] for n, pole in enumerate(asked)}


def test_both_toys_are_under_twenty_megabytes() -> None:
    weights = [file for path in CHECKPOINTS.values() for file in path.glob("*.safetensors")]
    assert len(weights) == 2
    assert sum(file.stat().st_size for file in weights) < 20e6


def test_transformers_alone_loads_and_plays_it(toy_melody) -> None:
    model = MusicgenMelodyForConditionalGeneration.from_pretrained(FOLDER).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    text = AutoTokenizer.from_pretrained(FOLDER)(["Slow dark jazz cello"], return_tensors="pt")
    torch.manual_seed(0)
    audio = model.generate(**text, do_sample=True, guidance_scale=3.0, max_new_tokens=54)
    assert audio.shape == (1, 1, 320 * 51)  # three of the 54 steps are the delay's
    assert 0.001 < audio.abs().max() < 1
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, toy_melody.hf_model.state_dict()[name])


@pytest.mark.parametrize(("name", "apart"), [("tempo", 0.5), ("timbre", 12.0)])
def test_words_in_the_prefix_are_obeyed(prompted, name, apart) -> None:
    concept = CONCEPTS[name]
    more, less = (
        np.nanmedian([concept.measure(clip.samples, SAMPLE_RATE) for clip in prompted[name, sign]])
        for sign in "+-"
    )
    assert concept.change(float(more), float(less)) > apart


def test_a_melody_changes_what_is_played(toy_melody) -> None:
    wave = torch.from_numpy(render(draw(1_000_000), 4.0))
    asked = Prompt("a folk piano", melody=wave, sample_rate=SAMPLE_RATE)
    (with_tune,) = toy_melody.generate(asked, seed=0, seconds=1.0, progress=False)
    (without,) = toy_melody.generate("a folk piano", seed=0, seconds=1.0, progress=False)
    assert (with_tune.codes != without.codes).float().mean() > 0.3
