"""How close a steered clip stays to its unsteered twin: pitch classes and log-mel bands.

Frame-wise likeness alone would punish success: a clip that was made faster no longer plays the same
thing at the same second. So both can be read after time alignment, which forgives tempo, and both
are for reading beside an effect, not for passing or failing a clip.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from audio_lens.audio.features import chroma, log_mel
from audio_lens.audio.waveform import as_mono, is_silent

#: Log-mel frames averaged before alignment: 0.1 s.
_POOLED = 5


def align(cost: Float[np.ndarray, "frame other"]) -> list[tuple[int, int]]:
    """The cheapest path through a matrix of costs, from its first corner to its last.

    Dynamic time warping (Sakoe and Chiba, 1978): each step moves on in one clip or in both.

    >>> align(np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    [(0, 0), (1, 1), (1, 2)]
    """
    total = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    total[0, 0] = 0
    for i, row in enumerate(cost):
        for j, here in enumerate(row):
            total[i + 1, j + 1] = here + min(total[i, j], total[i, j + 1], total[i + 1, j])
    i, j = cost.shape
    path = [(i - 1, j - 1)]
    while (i, j) != (1, 1):
        steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = min(steps, key=lambda step: total[step])
        path.append((i - 1, j - 1))
    return path[::-1]


def chroma_closeness(audio: Any, twin: Any, sample_rate: int, *, aligned: bool = True) -> float:
    """Mean cosine between the pitch classes of two clips, 0 to 1, along their time alignment.

    audio, twin: float [sample] or [channel sample]; sample_rate: Hz, of both. `aligned=False`
    compares frame by frame over the shorter length. NaN where either is silent. Raises InputError
    for a malformed array.

    >>> t = np.arange(16000) / 16000
    >>> a, b = (np.sin(2 * np.pi * hertz * t) for hertz in (440, 880))
    >>> round(chroma_closeness(a, b, 16000), 2)  # an octave keeps the pitch class
    1.0
    """
    if _either_silent(audio, twin, sample_rate):
        return float("nan")
    a, b = chroma(audio, sample_rate), chroma(twin, sample_rate)
    cosine = a @ b.T
    return float(np.mean(_along(cosine, 1 - cosine, aligned)))


def log_mel_distance(audio: Any, twin: Any, sample_rate: int, *, aligned: bool = False) -> float:
    """Mean distance in dB between the log-mel bands of two clips, matched in level.

    RMS over 40 bands, mean over frames of 0.1 s; the mean level of each clip is taken out first.
    `aligned=True` compares along the time alignment. NaN where either is silent. Raises InputError
    for a malformed array.

    >>> a = np.random.default_rng(0).normal(size=16000)
    >>> round(log_mel_distance(a, 0.1 * a, 16000), 6)
    0.0
    """
    if _either_silent(audio, twin, sample_rate):
        return float("nan")
    a, b = (_pooled(log_mel(clip, sample_rate)) for clip in (audio, twin))
    if not aligned:
        n = min(len(a), len(b))
        a, b = a[:n], b[:n]
    a, b = a - a.mean(), b - b.mean()
    apart = np.sqrt(np.mean((a[:, None] - b[None]) ** 2, axis=2))
    return float(np.mean(_along(apart, apart, aligned)))


def _either_silent(audio: Any, twin: Any, sample_rate: int) -> bool:
    return any(is_silent(as_mono(clip, sample_rate)) for clip in (audio, twin))


def _pooled(bands: Float[np.ndarray, "frame mel"]) -> Float[np.ndarray, "pooled mel"]:
    """Means of five frames; what remains at the end is one more."""
    starts = np.arange(0, len(bands), _POOLED)
    return np.add.reduceat(bands, starts) / np.diff([*starts, len(bands)])[:, None]


def _along(
    values: Float[np.ndarray, "frame other"], cost: Float[np.ndarray, "frame other"], aligned: bool
) -> Float[np.ndarray, " step"]:
    """Values along the cheapest path, or along the diagonal."""
    if not aligned:
        return np.diagonal(values)
    rows, columns = np.array(align(cost)).T
    return np.asarray(values[rows, columns])
