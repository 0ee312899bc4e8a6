"""`python -m benchmarks analysis`: what gathering and probing cost."""

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from audio_lens import AudioLens, Probe
from audio_lens.analysis.collect import collect
from audio_lens.testing import random_musicgen

CLIPS, ROWS = 256, 64


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


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
    print(
        f"{'toy shape: mean residuals of 256 clips, over forwards':<58}{np.median(ratios):>7.3f}  "
        f"target 1.15  ({min(ratios):.3f} to {max(ratios):.3f})",
        flush=True,
    )


_GATHER = """
from audio_lens.analysis.collect import collect
from benchmarks.analysis import ROWS, toy_shape
from benchmarks.memory import peak_above

lens = toy_shape()
codes = lens.random_codes(frames=100, batch={n_clips})
print(peak_above(lambda: collect(lens, None, codes=codes, rows_at_once=ROWS, progress=False)))
"""


def flat_memory() -> None:
    """Eight times the clips, one batch at a time; each in a process of its own."""
    peaks = []
    for n_clips in (CLIPS, 8 * CLIPS):
        command = [sys.executable, "-c", _GATHER.format(n_clips=n_clips)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if said == "None":
            print(f"{'toy shape: memory of gathering':<58}not measured on this system", flush=True)
            return
        peaks.append(float(said))
    print(
        f"{'toy shape: memory of 2,048 clips over that of 256':<58}{peaks[1] / peaks[0]:>7.2f}  "
        f"target 1.1   ({peaks[1]:.2f} GiB against {peaks[0]:.2f})",
        flush=True,
    )


def heads() -> None:
    """A logistic probe for each of 24 x 16 heads of 64, on 2,000 examples, controls included."""
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(2000) % 2
    layers = [torch.randn(2000, 16, 64, generator=generator) for _ in range(24)]
    took = seconds(lambda: [Probe.fit_heads(x, labels, shuffles=5) for x in layers])
    print(
        f"{'24 x 16 heads probed, 2,000 examples, seconds':<58}{took:>7.1f}  target 60", flush=True
    )


def toy_shape() -> AudioLens:
    return random_musicgen(n_layers=5, d_model=160, n_heads=5)


def run() -> None:
    gathering(toy_shape())
    flat_memory()
    heads()
