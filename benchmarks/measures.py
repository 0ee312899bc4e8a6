"""How often the measures err, over the whole range, on synthesised clips whose truth is exact.

    python -m benchmarks.measures            # print the tables
    python -m benchmarks.measures --write    # and put them into docs/measuring.md

Tables go between `<!-- measured: NAME -->` and `<!-- end -->`: none of their numbers is typed by
hand. Everything is seeded: the same versions give the same tables. With `--toy` the guard
is also tried on what the toys generate, which takes minutes.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from audio_lens.audio._score import score
from audio_lens.audio.beat import beat_bpm
from audio_lens.audio.measures import evaluate
from audio_lens.audio.quality import Limits, Vitals, quality_guard, vitals
from audio_lens.audio.register import register
from audio_lens.audio.synthesis import BPM_RANGE, SAMPLE_RATE, Recipe, draw, render, with_labels
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import (
    harmonic_centroid,
    high_band_ratio,
    rolloff,
    semitones,
    spectral_centroid,
)

PAGE = Path(__file__).parents[1] / "docs" / "measuring.md"
SECONDS = 8.0
FIRST_SEED = 4_000_000
"""Of clips that no test and no training uses."""

FAMILIES: dict[str, dict[str, object]] = {
    "drums, no hats": {"drums": True, "hats": 0},
    "drums, quarter-note hats": {"drums": True, "hats": 1},
    "drums, eighth-note hats": {"drums": True, "hats": 2},
    "drums, eighths everywhere": {"drums": True, "hats": 2, "snare": True, "density": 2.0},
    "drums, off-beat chords": {"drums": True, "genre": "country"},
    "drums, swung chords": {"drums": True, "genre": "blues"},
    "no drums": {"drums": False},
}
TIMBRES: dict[str, Callable[..., float]] = {
    "spectral_centroid": spectral_centroid,
    "harmonic_centroid": harmonic_centroid,
    "rolloff": rolloff,
}
NOISES = {"white": 0.0, "pink": 0.5, "brown": 1.0}


def clips(n: int, **labels: object) -> Iterator[tuple[Recipe, np.ndarray]]:
    """Clips of any words and patterns, tempo log-uniform and brightness uniform in their range."""
    for index in range(n):
        rng = np.random.default_rng([index, 0xBE])
        drawn = {
            "bpm": float(np.exp(rng.uniform(*np.log(BPM_RANGE)))),
            "brightness": float(rng.uniform()),
            "template": 5,
        }
        recipe = with_labels(draw(FIRST_SEED + index), **drawn | labels)
        yield recipe, render(recipe, SECONDS).astype(float)


def noise(colour: float, seed: int) -> np.ndarray:
    """Noise whose power falls with frequency to the power of twice the colour."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(round(SECONDS * 16000)))
    spectrum /= np.maximum(np.arange(len(spectrum)) / SECONDS, 20) ** colour
    wave = np.fft.irfft(spectrum)
    return 0.1 * wave / wave.std()


def librosa_bpm(wave: np.ndarray, sample_rate: int) -> float:
    """librosa's beat tracker at its defaults, and the slope of its beat times."""
    import librosa
    from scipy.stats import theilslopes

    _, beats = librosa.beat.beat_track(y=wave, sr=sample_rate, hop_length=256, units="time")
    if len(beats) < 5:
        return float("nan")
    return 60 / float(theilslopes(beats, np.arange(len(beats)))[0])


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def share(hits: object) -> str:
    """In percent, without a decimal that so few clips could not carry."""
    return f"{100 * float(np.mean(hits)):.0f} %"


def judged(heard: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Which readings are right within 4 %, an octave off, off by 3:2, missing, or else wrong."""
    ratio = heard / truth

    def near(*ratios: float) -> np.ndarray:
        return np.any([np.abs(ratio / r - 1) < 0.04 for r in ratios], axis=0)

    found = {"right": near(1), "octave": near(0.5, 2), "3:2": near(1.5, 2 / 3)}
    found["none"] = np.isnan(heard)
    found["other"] = ~np.any(list(found.values()), axis=0)
    return found


def tempo_table(n: int, measures: dict[str, Callable[..., float]]) -> str:
    rows = []
    for family, labels in FAMILIES.items():
        made = list(clips(n, **labels))
        truth = np.array([recipe.bpm for recipe, _ in made])
        for name, measure in measures.items():
            heard = np.array([measure(wave, SAMPLE_RATE) for _, wave in made])
            found = judged(heard, truth)
            off = np.abs(heard / truth - 1)[found["right"]]
            median = f"{100 * np.median(off):.2f} %" if len(off) else "-"
            cells = [share(found[kind]) for kind in ("right", "octave", "3:2", "other", "none")]
            rows.append([family, f"`{name}`", *cells, median])
    head = ["clips", "measure", "within 4 %", "octave off", "3:2 off", "else wrong", "no tempo"]
    return table([*head, "median error of the right ones"], rows)


def range_table(n: int, measures: dict[str, Callable[..., float]]) -> str:
    """Share within 4 % by tempo, over all drummed patterns."""
    made = list(clips(n, drums=True))
    bounds = [60, 75, 90, 110, 130, 160]
    truth = np.array([recipe.bpm for recipe, _ in made])
    within = [(truth >= low) & (truth < high) for low, high in pairwise(bounds)]
    rows = []
    for name, measure in measures.items():
        right = judged(np.array([measure(w, SAMPLE_RATE) for _, w in made]), truth)["right"]
        rows.append([f"`{name}`", *(share(right[inside]) for inside in within), share(right)])
    spans = [f"{low}-{high} BPM" for low, high in pairwise(bounds)]
    return table(["measure", *spans, f"all {n}"], rows)


def alarm_table(n: int, measures: dict[str, Callable[..., float]]) -> str:
    """How often something without a beat is given a tempo."""
    sounds = {f"{name} noise": [noise(c, s) for s in range(n)] for name, c in NOISES.items()}
    time = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    pitches = np.geomspace(50, 4000, n // 4)
    sounds["held tones"] = [0.1 * np.sin(2 * np.pi * hertz * time) for hertz in pitches]
    sounds["music without drums"] = [wave for _, wave in clips(n // 2, drums=False)]
    sounds["silence"] = [np.zeros(len(time))]
    rows = []
    for sound, waves in sounds.items():
        alarms = [
            share([not np.isnan(m(wave, SAMPLE_RATE)) for wave in waves]) for m in measures.values()
        ]
        rows.append([sound, str(len(waves)), *alarms])
    return table(["sound", "clips", *(f"`{name}`" for name in measures)], rows)


def timbre_table(n: int) -> str:
    """Rank correlation with the labelled tilt, and how often the brighter of two twins is heard."""
    made = list(clips(n))
    truth = [recipe.brightness for recipe, _ in made]
    measures = {**TIMBRES, "high_band_ratio": high_band_ratio}
    rows = []
    for name, measure in measures.items():
        heard = [measure(wave, SAMPLE_RATE) for _, wave in made]
        rho = spearmanr(truth, heard).statistic
        cells = [f"{rho:.2f}"]
        for step in (0.05, 0.2):
            right = []
            for recipe, _ in made[: n // 2]:
                lower = min(recipe.brightness, 1 - step)
                pair = [with_labels(recipe, brightness=b) for b in (lower, lower + step)]
                dark, bright = (measure(render(r, SECONDS), SAMPLE_RATE) for r in pair)
                right.append(bright > dark)
            cells.append(share(right))
        rows.append([f"`{name}`", *cells])
    head = ["measure", "rank correlation with the label", "twins 0.05 apart", "twins 0.2 apart"]
    return table(head, rows)


def semitone_table(n: int) -> str:
    """Semitones that each nuisance moves each measure by: median and 95th percentile of sizes."""
    made = list(clips(n, drums=True, hats=1, snare=False))
    rng = np.random.default_rng(0)

    def with_noise(decibels: float) -> Callable[[Recipe, np.ndarray], np.ndarray]:
        def add(recipe: Recipe, wave: np.ndarray) -> np.ndarray:
            return wave + rng.standard_normal(len(wave)) * wave.std() * 10 ** (decibels / 20)

        return add

    def with_label(**labels: object) -> Callable[[Recipe, np.ndarray], np.ndarray]:
        return lambda recipe, wave: render(with_labels(recipe, **labels), SECONDS).astype(float)

    nuisances = {
        "brightness 0.2 to 0.8 (wanted)": with_label(brightness=0.8),
        "level, by 12 dB": lambda recipe, wave: wave / 4,
        "noise at -60 dB": with_noise(-60),
        "noise at -40 dB": with_noise(-40),
        "noise at -30 dB": with_noise(-30),
        "eighth-note hats and snare": with_label(hats=2, snare=True),
        "tempo, 80 to 120 BPM": with_label(bpm=120.0),
        "register, up an octave": with_label(register=1),
    }
    base = [with_labels(r, brightness=0.2, bpm=80.0, register=0) for r, _ in made]
    waves = [render(recipe, SECONDS).astype(float) for recipe in base]
    rows = []
    for nuisance, change in nuisances.items():
        moved = [change(recipe, wave) for recipe, wave in zip(base, waves, strict=True)]
        cells = []
        for measure in TIMBRES.values():
            shifts = [
                abs(semitones(measure(new, SAMPLE_RATE), measure(old, SAMPLE_RATE)))
                for new, old in zip(moved, waves, strict=True)
            ]
            cells.append(f"{np.median(shifts):.1f} ({np.percentile(shifts, 95):.1f})")
        rows.append([nuisance, *cells])
    return table(["what changes", *(f"`{name}`" for name in TIMBRES)], rows)


def broken(wave: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """What a clip becomes when steering goes too far."""
    frame = wave[4 * SAMPLE_RATE :][: SAMPLE_RATE // 50]
    half = wave.copy()
    half[len(half) // 2 :] = 0
    return {
        "silence": 0 * wave,
        "silent from half-way": half,
        "one frame of 20 ms repeated": np.tile(frame, len(wave) * 50 // SAMPLE_RATE),
        "one second repeated": np.tile(wave[:SAMPLE_RATE], int(SECONDS)),
        "white noise": noise(0.0, seed) * wave.std() / 0.1,
        "clipped": np.clip(30 * wave, -1, 1),
        "13 dB louder": wave * 10 ** (13 / 20),
    }


def guard_rows(
    pool: list[Vitals], held_out: list[Vitals], sick: dict[str, list[tuple[Vitals, Vitals]]]
) -> list[list[str]]:
    limits = Limits.from_pool(pool)
    rows = []
    for said, tempo in (("", None), (", where a tempo is to be read", "pulse")):
        passed = [quality_guard(clip, clip, limits, tempo=tempo).passed for clip in held_out]
        name = f"unsteered, outside the pool{said}"
        rows.append([name, str(len(passed)), share(passed), "-"])
    for kind, pairs in sick.items():
        verdicts = [quality_guard(clip, twin, limits) for clip, twin in pairs]
        rules = sorted({rule for verdict in verdicts for rule in verdict.failures})
        passes = share([verdict.passed for verdict in verdicts])
        rows.append([kind, str(len(verdicts)), passes, ", ".join(f"`{rule}`" for rule in rules)])
    return rows


GUARD_HEAD = ["clips", "n", "pass", "rules that failed them"]


def guard_table(n: int) -> str:
    made = list(clips(3 * n))
    measured = [vitals(wave, SAMPLE_RATE) for _, wave in made]
    sick: dict[str, list[tuple[Vitals, Vitals]]] = {}
    for seed, ((_, wave), twin) in enumerate(zip(made[: n // 4], measured, strict=False)):
        for kind, changed in broken(wave, seed).items():
            sick.setdefault(kind, []).append((vitals(changed, SAMPLE_RATE), twin))
    return table(GUARD_HEAD, guard_rows(measured[:n], measured[n:], sick))


def register_table(n: int) -> str:
    """How well `register` follows a melody, and what else moves it."""
    columns = [
        _register_cells(n, labels) for labels in ({}, {"instrument": "organ", "density": 2.0})
    ]
    rows = [[said, one, columns[1][said]] for said, one in columns[0].items()]
    return table(["", "random clips", "organ, two notes a beat"], rows)


def _register_cells(n: int, labels: dict[str, object]) -> dict[str, str]:
    recipes = [
        with_labels(draw(FIRST_SEED + index), template=5, register=0, **labels)
        for index in range(n)
    ]

    def heard(change: Callable[[np.ndarray], np.ndarray] = np.asarray, **new: object) -> np.ndarray:
        changed = [with_labels(recipe, **new) for recipe in recipes]
        return np.array([register(change(render(r, SECONDS)), SAMPLE_RATE) for r in changed])

    def moved(one: np.ndarray, other: np.ndarray) -> str:
        sizes = np.abs(other - one)
        return f"{np.nanmedian(sizes):.1f} ({np.nanpercentile(sizes, 95):.1f})"

    def noisy(wave: np.ndarray) -> np.ndarray:
        return wave + noise(0.0, 0)[: len(wave)] * wave.std() * 10 ** (-10 / 20) / 0.1

    low, high = heard(), heard(register=1)
    up = high - low
    middle, *quartiles = np.nanpercentile(up, [50, 25, 75])
    truth = [median_pitch(recipe) for recipe in recipes]
    off = np.abs(low - truth)
    return {
        "melody up an octave: median change (quartiles), semitones": (
            f"{middle:.1f} ({quartiles[0]:.1f} to {quartiles[1]:.1f})"
        ),
        "is heard as higher, by more than a semitone": share(list(up > 1)),
        "is heard within 3 semitones of the octave": share(list(np.abs(up - 12) < 3)),
        "is heard as lower, by more than a semitone": share(list(up < -1)),
        "rank correlation with the melody's median pitch": (
            f"{spearmanr([*truth, *(t + 12 for t in truth)], [*low, *high]).statistic:.2f}"
        ),
        "within 1 semitone of the melody's median pitch": share(list(off < 1)),
        "brightness 0.2 to 0.8 moves it by (95th percentile)": moved(
            heard(brightness=0.2), heard(brightness=0.8)
        ),
        "tempo 80 to 120 BPM": moved(heard(bpm=80.0), heard(bpm=120.0)),
        "eighth-note hats and snare": moved(
            heard(hats=0, snare=False, drums=True), heard(hats=2, snare=True, drums=True)
        ),
        "white noise at -10 dB": moved(low, heard(noisy)),
    }


def median_pitch(recipe: Recipe) -> float:
    """Of a recipe's melody, in semitones above 440 Hz."""
    notes = [a for a in score(recipe, SECONDS) if a.voice == recipe.instrument]
    return semitones(float(np.median([a.hertz for a in notes if 0 <= a.time < SECONDS])), 440.0)


FACTORS = ("bpm", "brightness", "register", "density", "hats", "snare", "drums", "level", "key")
FACTOR_MEASURES = (
    "pulse_bpm", "beat_bpm", "onset_rate", "spectral_centroid", "harmonic_centroid", "register",
    "loudness", "flatness",
)  # fmt: skip


def factor_table(n: int) -> str:
    """Rank correlation of every factor with every measure; the pulse is heard in drummed clips."""
    recipes = [draw(seed) for seed in range(n)]
    heard = [evaluate(render(recipe, 6.0), SAMPLE_RATE, FACTOR_MEASURES) for recipe in recipes]
    drummed = np.array([recipe.drums for recipe in recipes])
    rows = []
    for factor in FACTORS:
        truth, cells = np.array([float(getattr(recipe, factor)) for recipe in recipes]), []
        for name in FACTOR_MEASURES:
            values = np.array([each[name] for each in heard])
            known = np.isfinite(values) & (drummed if name == "pulse_bpm" else True)
            cells.append(f"{spearmanr(truth[known], values[known]).statistic:.2f}")
        rows.append([factor, *(cell.replace("nan", "-") for cell in cells)])
    return table(["factor", *(f"`{name}`" for name in FACTOR_MEASURES)], rows)


def toy_guard_table(name: str, n: int) -> str:
    """The guard on a toy's own clips, with the probabilities of their codes."""
    import torch

    from audio_lens import AudioLens
    from audio_lens.audio.quality import code_log_probability
    from audio_lens.audio.words import neutral_prompts
    from audio_lens.lens.generation import decode_codes

    toy = AudioLens.from_pretrained(name)
    prompts = neutral_prompts("dev")

    def of(prompt: str, codes: torch.Tensor) -> list[Vitals]:
        with torch.no_grad():
            logs = code_log_probability(toy([prompt] * len(codes), codes), codes)
        waves = decode_codes(toy, codes)
        rate = toy.cfg.sample_rate
        return [vitals(w.numpy(), rate, log.tolist()) for w, log in zip(waves, logs, strict=True)]

    twins, frames = [], 0
    random: list[tuple[Vitals, Vitals]] = []
    stuck: list[tuple[Vitals, Vitals]] = []
    per_prompt = -(-3 * n // len(prompts))
    for index, prompt in enumerate(prompts):
        seeds = [100 * index + s for s in range(per_prompt)]
        made = toy.generate([prompt] * per_prompt, seed=seeds, seconds=6.0, progress=False)
        codes = torch.stack([clip.codes for clip in made])
        frames = codes.shape[-1]
        own = of(prompt, codes)
        twins += own
        noise_codes = toy.random_codes(frames=frames, seed=index)
        random.append((of(prompt, noise_codes)[0], own[0]))
        held = codes[:1, :, frames // 2 : frames // 2 + 1].repeat(1, 1, frames)
        stuck.append((of(prompt, held)[0], own[0]))
    order = np.random.default_rng(0).permutation(len(twins))
    shuffled = [twins[i] for i in order]
    sick = {"uniform random codes": random, "one frame of codes repeated": stuck}
    return table(GUARD_HEAD, guard_rows(shuffled[: 2 * n], shuffled[2 * n :], sick))


def measured(n: int, toy: bool) -> Iterator[tuple[str, str]]:
    """The tables by name."""
    ours = {"pulse_bpm": pulse_bpm, "beat_bpm": beat_bpm}
    with_librosa = {**ours, "librosa": librosa_bpm}
    yield "tempo", tempo_table(n, with_librosa)
    yield "range", range_table(3 * n, ours)
    yield "alarms", alarm_table(2 * n, with_librosa)
    yield "timbre", timbre_table(n)
    yield "nuisances", semitone_table(n // 4)
    yield "guard", guard_table(n)
    yield "factors", factor_table(25 * n)
    yield "register", register_table(n)
    if toy:
        yield "toy", toy_guard_table("toy", n)
        yield "toy-melody", toy_guard_table("toy-melody", n)


def put(page: str, name: str, found: str) -> str:
    """The page with one table renewed."""
    pattern = rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)"
    renewed, count = re.subn(pattern, lambda m: f"{m[1]}\n{found}\n\n{m[2]}", page, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{PAGE.name} has {count} places for the table {name!r}: expected one")
    return renewed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="renew the tables of the page")
    parser.add_argument("--clips", type=int, default=80, help="in each family")
    parser.add_argument("--toy", action="store_true", help="the guard on the toys' clips too")
    options = parser.parse_args()
    for name, found in measured(options.clips, options.toy):
        print(f"{name}\n{found}\n", flush=True)
        if options.write:
            PAGE.write_text(put(PAGE.read_text(), name, found))


if __name__ == "__main__":
    main()
