"""What a toy is worth before anything is steered: its codec, and its obedience to words."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from tqdm import tqdm
from transformers import EncodecModel

from audio_lens.audio import words
from audio_lens.audio.level import loudness, silent_fraction
from audio_lens.audio.melody import Prompt
from audio_lens.audio.synthesis import SAMPLE_RATE, draw, render
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import flatness, spectral_centroid

from ._codec import decode, encode
from ._data import FIRST_HELD_OUT_SEED

if TYPE_CHECKING:
    from audio_lens.audio.clip import Clip
    from audio_lens.lens.lens import AudioLens

#: Where a clip counts as fast (BPM) or bright (Hz): the middle of the range on a log scale, and
#: the median of rendered clips of middle brightness.
BOUNDARIES = {"tempo": 98.0, "timbre": 1200.0}
#: Which measure hears a concept.
HEARD = {"tempo": "bpm", "timbre": "centroid"}
_MEASURES = {
    "bpm": pulse_bpm,
    "centroid": spectral_centroid,
    "level": loudness,
    "silent": silent_fraction,
    "flatness": flatness,
}
#: Seeds of measurement, apart from those that choices are made on (0-99).
TEST_SEEDS = range(1000, 1100)


def heard(waves: Sequence[np.ndarray]) -> dict[str, Float[np.ndarray, " clip"]]:
    """Every measure of every clip."""
    return {
        name: np.array([measure(wave, SAMPLE_RATE) for wave in waves])
        for name, measure in _MEASURES.items()
    }


def codec_report(codec: EncodecModel, n_clips: int, seconds: float) -> dict[str, float]:
    """Held-out clips through the codec and back: slope and errors of centroid, tempo, level."""
    recipes = [draw(FIRST_HELD_OUT_SEED + n) for n in range(n_clips)]
    waves = [render(recipe, seconds) for recipe in recipes]
    codes = encode(codec, torch.from_numpy(np.stack(waves)))
    before, after = heard(waves), heard(list(decode(codec, codes).numpy()))
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


def _quartiles(values: Float[np.ndarray, " clip"]) -> list[float]:
    """25th, 50th and 75th percentile of what could be measured; NaN where nothing could."""
    finite = values[np.isfinite(values)]
    return np.percentile(finite, [25, 50, 75]).tolist() if len(finite) else [float("nan")] * 3


def _summary(waves: Sequence[np.ndarray]) -> dict:
    values = heard(waves)
    bpm, centroid = _quartiles(values["bpm"]), _quartiles(values["centroid"])
    return {
        "clips": len(waves),
        "bpm_quartiles": bpm,
        "bpm_nan_rate": float(np.mean(np.isnan(values["bpm"]))),
        "centroid_quartiles_hz": centroid,
        "level_median_lufs": _quartiles(values["level"])[1],
        "silent_clips": float(np.mean(values["silent"] > 0.2)),
        "flatness_median": _quartiles(values["flatness"])[1],
        "values": {name: np.round(values[name], 1).tolist() for name in ("bpm", "centroid")},
    }


def generate(
    lens: "AudioLens", prompts: Sequence[str], seeds: Sequence[int], seconds: float
) -> "list[Clip]":
    """One clip for each prompt with its seed, as the generation configuration says."""
    clips: list[Clip] = []
    for first in tqdm(range(0, len(prompts), 64), desc="clips"):
        part = slice(first, first + 64)
        clips += lens.generate(
            list(prompts[part]),
            seed=list(seeds[part]),
            seconds=seconds,
            guidance_scale=3.0,
            progress=False,
        )
    return clips


def melody_report(lens: "AudioLens", n_clips: int, seconds: float) -> dict[str, float]:
    """How often a clip sounds the pitch class of its melody, beside others' melodies and none.

    Melodies are held-out rendered clips, prompts neutral. The codec is the ceiling: melodies that
    went through it and back.
    """
    recipes = [draw(FIRST_HELD_OUT_SEED + n) for n in range(n_clips)]
    waves = torch.from_numpy(np.stack([render(recipe, seconds) for recipe in recipes]))
    said = [p for p, _ in zip(cycle(words.neutral_prompts("test")), recipes, strict=False)]
    asked = [
        Prompt(text, melody=wave, sample_rate=SAMPLE_RATE)
        for text, wave in zip(said, waves, strict=True)
    ]
    seeds = list(range(TEST_SEEDS[0], TEST_SEEDS[0] + n_clips))
    codec = lens.hf_model.audio_encoder
    played = {
        "with": [clip.samples for clip in generate(lens, asked, seeds, seconds)],
        "without": [clip.samples for clip in generate(lens, said, seeds, seconds)],
        "codec": list(decode(codec, encode(codec, waves))),
    }
    wanted = _pitch_classes(waves)
    own = np.eye(n_clips, dtype=bool)
    report: dict[str, float] = {"clips": n_clips}
    for name, clips in played.items():
        found = _pitch_classes(clips)
        frames = min(found.shape[1], wanted.shape[1])
        same = (found[:, None, :frames] == wanted[None, :, :frames]).mean(-1)
        report[name] = float(same[own].mean())
        report[f"{name}, others"] = float(same[~own].mean())
    return report


def _pitch_classes(waves: Iterable[Any]) -> Int[np.ndarray, "clip chroma_frame"]:
    """The loudest pitch class of every chroma frame."""
    prompts = [
        Prompt(melody=torch.as_tensor(np.asarray(w)), sample_rate=SAMPLE_RATE) for w in waves
    ]
    shortest = min(len(p.chroma) for p in prompts if p.chroma is not None)
    return np.stack(
        [p.chroma[:shortest].argmax(-1).numpy() for p in prompts if p.chroma is not None]
    )


def told_apart(positive: Sequence[float], negative: Sequence[float], boundary: float) -> dict:
    """Balanced accuracy at a boundary, with Wilson's 95 % interval; no value counts as wrong."""
    right = [value > boundary for value in positive], [value < boundary for value in negative]
    hits, n = sum(map(sum, right)), sum(map(len, right))
    interval = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return {
        "boundary": boundary,
        "balanced_accuracy": float(np.mean([np.mean(side) for side in right])),
        "low": float(interval.low),
        "high": float(interval.high),
    }


def obedience_report(lens: "AudioLens", n_prompts: int, n_seeds: int, seconds: float) -> dict:
    """Clips prompted at each pole, and neutral ones: what is heard, and how well poles differ.

    The combinations of instrument, genre and template in pole prompts were never trained on.
    """
    chosen = np.linspace(0, 99, n_prompts).round().astype(int)
    neutral = words.neutral_prompts("test")[:n_prompts]
    sets = {"neutral": list(neutral)}
    for concept in BOUNDARIES:
        poles = words.pole_prompts(concept)
        sets[f"{concept} +"] = [poles.positive[i] for i in chosen]
        sets[f"{concept} -"] = [poles.negative[i] for i in chosen]
    report: dict = {}
    for name, prompts in sets.items():
        seeds = list(TEST_SEEDS[:n_seeds])
        texts = [prompt for prompt in prompts for _ in seeds]
        clips = generate(lens, texts, seeds * len(prompts), seconds)
        report[name] = _summary([clip.samples for clip in clips])
    for concept, boundary in BOUNDARIES.items():
        what = HEARD[concept]
        high, low = (report[f"{concept} {sign}"]["values"][what] for sign in "+-")
        report[f"{concept} told apart"] = told_apart(high, low, boundary)
    return report
