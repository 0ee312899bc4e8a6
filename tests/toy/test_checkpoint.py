"""The packaged checkpoint: small, loadable by transformers alone, and it obeys its words."""

import json

import numpy as np
import pytest
import torch

from audio_lens import AudioLens
from audio_lens.audio import words
from audio_lens.audio.level import silent_fraction
from audio_lens.audio.synthesis import SAMPLE_RATE, draw, render
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import spectral_centroid
from audio_lens.lens.loading import CHECKPOINTS
from audio_lens.provenance import weights_sha256
from audio_lens.toy import _card
from audio_lens.toy._codec import decode, encode

CONTEXTS = (0, 23, 51, 94)


@pytest.fixture(scope="module")
def prompted(toy, processor):
    """Six seconds for four matched prompts at each pole of each concept, in one batch."""
    prompts = {}
    for concept in ("tempo", "timbre"):
        poles = words.pole_prompts(concept)
        prompts[concept, "+"] = [poles.positive[i] for i in CONTEXTS]
        prompts[concept, "-"] = [poles.negative[i] for i in CONTEXTS]
    text = processor(
        text=[p for pole in prompts.values() for p in pole], padding=True, return_tensors="pt"
    )
    torch.manual_seed(5)
    audio = toy.generate(**text, max_new_tokens=303)[:, 0].numpy()
    return dict(zip(prompts, np.split(audio, 4), strict=True))


def test_it_is_under_ten_megabytes():
    weights = sum(f.stat().st_size for f in CHECKPOINTS["toy"].glob("*.safetensors"))
    assert 1e6 < weights < 10e6
    assert not list(CHECKPOINTS["toy"].rglob("*.bin"))
    assert not list(CHECKPOINTS["toy"].rglob("*.pt"))


def test_it_loads_in_single_precision_with_its_settings(toy):
    assert {p.dtype for p in toy.parameters()} == {torch.float32}
    settings = toy.generation_config
    assert settings.bos_token_id == settings.pad_token_id == settings.decoder_start_token_id == 256
    assert settings.do_sample
    assert settings.guidance_scale == 3.0
    assert settings.top_k == 250
    assert toy.config.audio_encoder.sampling_rate == SAMPLE_RATE
    assert toy.config.audio_encoder.frame_rate == 50


def test_the_codebooks_are_stored(toy):
    for layer in toy.audio_encoder.quantizer.layers:
        entries = layer.codebook.embed
        assert entries.std() > 1e-3
        assert len(torch.unique(entries, dim=0)) > 200


def test_fast_and_slow_prompts_are_obeyed(prompted):
    heard = {
        pole: np.array([pulse_bpm(wave, SAMPLE_RATE) for wave in prompted["tempo", pole]])
        for pole in "+-"
    }
    assert np.nanmedian(heard["+"]) > 120 > 98 > np.nanmedian(heard["-"])
    assert np.mean(np.isnan(np.concatenate(list(heard.values())))) <= 0.5


def test_bright_and_dark_prompts_are_obeyed(prompted):
    heard = {
        pole: np.median([spectral_centroid(w, SAMPLE_RATE) for w in prompted["timbre", pole]])
        for pole in "+-"
    }
    assert heard["+"] > 2 * heard["-"]


def test_no_prompted_clip_is_silent_or_clipped(prompted):
    for waves in prompted.values():
        assert max(silent_fraction(wave, SAMPLE_RATE) for wave in waves) < 0.2
        assert np.abs(waves).max() < 1.0


def test_the_codec_keeps_tempo_and_brightness(toy):
    recipes = [draw(seed) for seed in range(3_000_000, 3_000_012)]
    waves = np.stack([render(recipe, 6.0) for recipe in recipes])
    codes = encode(toy.audio_encoder, torch.from_numpy(waves))
    assert codes.shape == (12, 4, 300)
    assert codes.min() >= 0
    assert codes.max() < 256
    back = decode(toy.audio_encoder, codes).numpy()
    assert back.shape == waves.shape
    before, after = (
        np.log2([spectral_centroid(wave, SAMPLE_RATE) for wave in side]) for side in (waves, back)
    )
    slope = np.polyfit(before, after, 1)[0]
    assert 0.85 < slope < 1.15
    assert np.median(np.abs(after - before)) < 3 / 12
    right = [
        abs(pulse_bpm(wave, SAMPLE_RATE) / recipe.bpm - 1) < 0.04
        for wave, recipe in zip(back, recipes, strict=True)
        if recipe.drums
    ]
    assert np.mean(right) >= 0.9


def _kept(name, file):
    return json.loads((CHECKPOINTS[name] / file).read_text())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_card_is_the_one_its_log_writes(name):
    card = (CHECKPOINTS[name] / "README.md").read_text()
    assert card == _card.write(name, _kept(name, "training.json"), _kept(name, "evaluation.json"))
    assert card.splitlines()[2].startswith("Results on this toy show that a tool works")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_was_measured_is_of_these_weights(name):
    model = AudioLens.from_pretrained(name).hf_model
    found = _kept(name, "evaluation.json")
    assert found["weights"] == weights_sha256(model)
    assert not found["settings"]["quick"]
    decoder, codec = model.config.decoder, model.config.audio_encoder
    assert (decoder.num_hidden_layers, decoder.hidden_size) == (5, 160)
    assert (decoder.num_attention_heads, decoder.num_codebooks) == (5, 4)
    assert (codec.upsampling_ratios, codec.num_filters) == ([320], 24)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_bars_that_were_met(name):
    """Those of the codec and of obedience; the card tells which were missed."""
    found = _kept(name, "evaluation.json")
    codec = found["codec"]
    assert codec["clips"] >= 300
    assert 0.9 <= codec["centroid_slope"] <= 1.1
    assert codec["centroid_median_error_semitones"] <= 1.5
    assert codec["centroid_p95_error_semitones"] <= 4
    assert codec["tempo_within_4_percent"] >= 0.95
    assert codec["level_within_1_db"] >= 0.95
    assert min(found["obedience"][f"timbre {sign}"]["clips"] for sign in "+-") >= 200
    for concept in ("timbre",) if name == "toy-melody" else ("tempo", "timbre"):
        apart = found["obedience"][f"{concept} told apart"]
        assert apart["balanced_accuracy"] >= 0.95
        assert apart["low"] >= 0.92
