"""`python -m benchmarks analysis`: what gathering and probing cost."""

import os
import subprocess
import sys

import numpy as np
import torch

from audio_lens import AudioLens, Probe
from audio_lens.analysis.collect import collect
from audio_lens.testing import random_musicgen
from benchmarks.timing import say, seconds

CLIPS, ROWS = 256, 64


def gathering(lens: AudioLens) -> None:
    """Mean residuals of all layers over clips, against the same forwards alone."""
    codes = lens.random_codes(frames=100, batch=CLIPS)

    def alone() -> None:
        with torch.no_grad():
            for part in codes.split(ROWS):
                lens([None] * len(part), part)

    def gathered() -> None:
        collect(lens, None, codes=codes, rows_at_once=ROWS, progress=False)

    alone(), gathered()
    ratios = [seconds(gathered) / seconds(alone) for _ in range(5)]
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    name = "toy shape: mean residuals of 256 clips, over forwards"
    say(name, f"{np.median(ratios):.3f}", "1.15", spread)


_GATHER = """
from audio_lens.analysis.moments import moments
from benchmarks.analysis import ROWS, toy_shape
from benchmarks.memory import peak_above

lens = toy_shape()
codes = lens.random_codes(frames=100, batch={n_clips})
print(peak_above(lambda: moments(lens, None, codes=codes, rows_at_once=ROWS, progress=False)))
"""


_RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""glibc gives back what is freed, so that what is in use is measured and not what it hoards."""


def flat_memory() -> None:
    """Eight times the clips, one batch at a time; each in a process of its own."""
    peaks = []
    for n_clips in (CLIPS, 8 * CLIPS):
        command = [sys.executable, "-c", _GATHER.format(n_clips=n_clips)]
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | _RETURNING
        ).stdout.strip()
        if said == "None":
            say("toy shape: memory of gathering", "unknown", beside="this system does not tell")
            return
        peaks.append(float(said))
    both = f"{peaks[1]:.2f} GiB against {peaks[0]:.2f}"
    name = "toy shape: memory of 2,048 clips over that of 256"
    say(name, f"{peaks[1] / peaks[0]:.2f}", "1.1", both)


def heads() -> None:
    """A logistic probe for each of 24 x 16 heads of 64, on 2,000 examples, controls included."""
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(2000) % 2
    layers = [torch.randn(2000, 16, 64, generator=generator) for _ in range(24)]
    took = seconds(lambda: [Probe.fit_parts(x, labels, shuffles=5) for x in layers])
    say("24 x 16 heads probed, 2,000 examples, seconds", f"{took:.1f}", "60")


def toy_shape() -> AudioLens:
    return random_musicgen(n_layers=5, d_model=160, n_heads=5)


def run() -> None:
    gathering(toy_shape())
    flat_memory()
    heads()
