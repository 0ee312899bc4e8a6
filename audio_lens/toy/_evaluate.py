"""What the toy is worth, in measured numbers: its codec, and its obedience to words."""

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor
from transformers import EncodecModel, MusicgenForConditionalGeneration, MusicgenProcessor

from audio_lens.audio import words
from audio_lens.audio.level import loudness, silent_fraction
from audio_lens.audio.synthesis import SAMPLE_RATE, draw, render
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import flatness, spectral_centroid

from ._codec import decode, encode

#: Seeds of clips that training never draws.
FIRST_HELD_OUT_SEED = 1_000_000
_FRAME_RATE = 50
_TEMPO_BOUNDARY = 98.0


def _measure(waves: list[np.ndarray]) -> dict[str, Float[np.ndarray, " clip"]]:
    measures = {
        "bpm": pulse_bpm,
        "centroid": spectral_centroid,
        "level": loudness,
        "silent": silent_fraction,
        "flatness": flatness,
    }
    return {
        name: np.array([measure(wave, SAMPLE_RATE) for wave in waves])
        for name, measure in measures.items()
    }


def codec_report(codec: EncodecModel, n_clips: int, seconds: int) -> dict[str, float]:
    """Held-out clips through the codec and back: slope and errors of centroid, tempo, level."""
    recipes = [draw(FIRST_HELD_OUT_SEED + n) for n in range(n_clips)]
    waves = [render(recipe, seconds) for recipe in recipes]
    codes = encode(codec, torch.from_numpy(np.stack(waves)))
    back = decode(codec, codes).numpy()
    before, after = _measure(waves), _measure(list(back))
    log_in, log_out = np.log2(before["centroid"]), np.log2(after["centroid"])
    fit = stats.linregress(log_in, log_out)
    off = np.abs(12 * (log_out - log_in))
    drummed = np.array([recipe.drums for recipe in recipes])
    bpm = np.array([recipe.bpm for recipe in recipes])
    return {
        "clips": n_clips,
        "centroid_slope": float(fit.slope),
        "centroid_correlation": float(fit.rvalue),
        "centroid_median_error_semitones": float(np.median(off)),
        "centroid_p95_error_semitones": float(np.percentile(off, 95)),
        "tempo_within_4_percent": float(np.mean(np.abs(after["bpm"] / bpm - 1)[drummed] < 0.04)),
        "level_within_1_db": float(np.mean(np.abs(after["level"] - before["level"]) < 1)),
        "entries_used": float(np.mean([len(book.unique()) for book in codes.unbind(1)])),
    }


@torch.no_grad()
def generate(
    model: MusicgenForConditionalGeneration,
    processor: MusicgenProcessor,
    prompts: list[str],
    *,
    seconds: int,
    seed: int,
) -> Float[Tensor, "clip sample"]:
    """One clip for each prompt, sampled as the generation configuration says."""
    frames = _FRAME_RATE * seconds
    text = processor(text=prompts, padding=True, return_tensors="pt")
    torch.manual_seed(seed)
    audio = model.generate(
        **text, do_sample=True, guidance_scale=3.0, top_k=250, max_new_tokens=frames + 3
    )
    return audio[:, 0]


def _quartiles(values: Float[np.ndarray, " clip"]) -> list[float]:
    """25th, 50th and 75th percentile of what could be measured; NaN where nothing could."""
    finite = values[np.isfinite(values)]
    return np.percentile(finite, [25, 50, 75]).tolist() if len(finite) else [float("nan")] * 3


def _summary(waves: Float[Tensor, "clip sample"]) -> dict:
    heard = _measure(list(waves.numpy()))
    bpm, centroid = _quartiles(heard["bpm"]), _quartiles(heard["centroid"])
    return {
        "clips": len(waves),
        "bpm_median": bpm[1],
        "bpm_quartiles": [bpm[0], bpm[2]],
        "bpm_nan_rate": float(np.mean(np.isnan(heard["bpm"]))),
        "bpm_above_98": int(np.sum(heard["bpm"] > _TEMPO_BOUNDARY)),
        "centroid_median_hz": centroid[1],
        "centroid_quartiles_hz": [centroid[0], centroid[2]],
        "level_median_lufs": _quartiles(heard["level"])[1],
        "silent_clips": float(np.mean(heard["silent"] > 0.2)),
        "flatness_median": _quartiles(heard["flatness"])[1],
    }


def obedience_report(
    model: MusicgenForConditionalGeneration,
    processor: MusicgenProcessor,
    n_prompts: int,
    seconds: int,
) -> dict[str, dict]:
    """Clips prompted at each pole, and neutral ones: what is heard in them.

    Pole prompts are spread over the 100 contexts; their combinations were never trained on.
    """
    chosen = np.linspace(0, 99, n_prompts).round().astype(int)
    sets = {"neutral": list(words.neutral_prompts("test"))[:n_prompts]}
    for concept in ("tempo", "timbre"):
        prompts = words.pole_prompts(concept)
        sets[f"{concept} +"] = [prompts.positive[i] for i in chosen]
        sets[f"{concept} -"] = [prompts.negative[i] for i in chosen]
    return {
        name: _summary(generate(model, processor, prompts, seconds=seconds, seed=1000))
        for name, prompts in sets.items()
    }
