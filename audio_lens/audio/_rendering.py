"""From a row of factors to samples, one clip at a time or on several processes.

Nothing here knows torch, so that a worker starts quickly.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
from jaxtyping import Float

from . import _pieces, _timing, _tonal
from ._questions import QUESTIONS
from ._track import at_level

_ROOMS = {"tonal": _tonal.render, "timing": _timing.render, "pieces": _pieces.render}


@dataclass(frozen=True)
class Job:
    """Everything that one clip is made of; `row` holds its label and factors as plain values."""

    task: str
    row: Mapping[str, Any]
    seconds: float
    sample_rate: int
    grid: bool


def render(job: Job) -> Float[np.ndarray, " sample"]:
    """The clip as float32, at the level that its row says: the same for the same job, anywhere."""
    play = _ROOMS[QUESTIONS[job.task].room]
    mix = play(job.task, job.row, job.seconds, job.sample_rate, job.grid)
    level = job.row["label"] if job.task == "level" else job.row["level"]
    # Brought close first: loudness leaves out what lies below an absolute threshold.
    mix = mix * (10 ** (level / 20) / np.sqrt(np.mean(mix**2)))
    return at_level(mix, level, job.sample_rate)


def render_all(jobs: Sequence[Job], workers: int) -> Iterator[Float[np.ndarray, " sample"]]:
    """The clips of all jobs in order, as they become ready."""
    if workers == 1:
        yield from map(render, jobs)
        return
    # Started fresh: a forked process may hang on locks that threads of its parent held.
    pool = ProcessPoolExecutor(min(workers, max(len(jobs), 1)), mp_context=get_context("spawn"))
    with pool if jobs else nullcontext():
        yield from pool.map(render, jobs, chunksize=4)
