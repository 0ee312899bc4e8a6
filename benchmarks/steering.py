"""`python -m benchmarks steering`: a dose-response as rows of a batch, and what a monitor costs."""

import statistics

import torch

from audio_lens import AudioLens, Direction
from audio_lens.steering import interventions, monitor, until
from audio_lens.testing import random_musicgen
from benchmarks.timing import say, seconds

COEFFICIENTS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
PROMPTS = ("Jazz with piano", "Rock with organ", "Folk with flute", "Soul with cello")
SEEDS = (0, 1)
SAMPLE = 4
"""Cells of one `generate` each that are run; the other side runs all 72."""


def direction_of(lens: AudioLens) -> Direction:
    vector = torch.randn(lens.cfg.d_model, generator=torch.Generator().manual_seed(0))
    return Direction({("resid_post", lens.cfg.n_layers // 2): vector})


def dose_response(lens: AudioLens) -> None:
    up, length = direction_of(lens), {"seconds": 2.0, "progress": False}

    def one(n: int) -> None:
        with lens.steer(up, coefficient=COEFFICIENTS[n * 2]):
            lens.generate(PROMPTS[n % len(PROMPTS)], seed=0, **length)

    def together() -> None:
        lens.sweep(PROMPTS, direction=up, coefficients=COEFFICIENTS, seeds=SEEDS, **length)

    one(0)
    each = statistics.median(seconds(lambda n=n: one(n)) for n in range(SAMPLE))
    apart, batched = each * len(COEFFICIENTS) * len(PROMPTS) * len(SEEDS), seconds(together)
    took = f"{apart:.0f} s from {SAMPLE} cells against {batched:.0f} s"
    name = "small: dose-response of 72 clips, one by one over batched"
    say(name, f"{apart / batched:.2f}", "2.5", took)


def monitored(name: str, lens: AudioLens, *, clip_seconds: float, rounds: int) -> None:
    up = direction_of(lens)
    made = {"seconds": clip_seconds, "progress": False}
    gate = monitor(up, until(1e9))

    def run(**options: object) -> float:
        def work() -> None:
            with lens.intervene(*interventions(lens, up, coefficient=0.1, **options)):
                lens.generate([PROMPTS[0]] * 4, **made)

        return seconds(work)

    run(), run(schedule=gate)
    ratios = [run(schedule=gate) / run() for _ in range(rounds)]
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    say(
        f"{name}: monitored over plain steering", f"{statistics.median(ratios):.3f}", "1.05", spread
    )


def run() -> None:
    toy = random_musicgen(n_layers=5, d_model=160, n_heads=5)
    monitored("toy shape", toy, clip_seconds=4.0, rounds=7)
    small = random_musicgen("small")
    monitored("small", small, clip_seconds=0.5, rounds=5)
    dose_response(small)
