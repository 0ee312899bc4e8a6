"""The toy's clips: rendered by a few processes, which import no more than synthesis needs."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from jaxtyping import Float

from audio_lens.audio.synthesis import draw, render


def _render(seconds: float, seed: int) -> Float[np.ndarray, " sample"]:
    return render(draw(seed), seconds)


def synthesise(n_clips: int, seconds: float, workers: int) -> Float[np.ndarray, "clip sample"]:
    """Clips of seeds 0 to n - 1; the number of worker processes changes nothing but the time."""
    job = partial(_render, seconds)
    if workers == 1:
        return np.stack([job(seed) for seed in range(n_clips)])
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return np.stack(list(pool.map(job, range(n_clips), chunksize=16)))
