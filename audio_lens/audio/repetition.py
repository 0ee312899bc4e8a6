"""Whether a clip is stuck: how much of it repeats, frame for frame, what it played one lag before.

Music repeats too, but never exactly: a second bar has other notes, or other timing and strength.
A model that is stuck plays the same codes again, and the same sound within a decibel.
"""

from typing import Any

import numpy as np

from audio_lens.audio.features import MEL_HOP_SECONDS, log_mel
from audio_lens.audio.waveform import as_mono, is_silent

#: A loop shorter than this repeats at every multiple of its length too, so nothing is missed.
_SHORTEST_LAG_SECONDS = 0.5
#: Frames this close (RMS over mel bands, dB) are the same sound.
SAME_DB = 1.5


def loop_score(audio: Any, sample_rate: int) -> float:
    """Largest share of frames that repeat the frame one lag before within 1.5 dB, 0 to 1.

    audio: float [sample] or [channel sample]; 20 ms frames of 40 mel bands, lags from 0.5 s to half
    of the clip. A held chord repeats itself and scores high: read it against the scores of
    unsteered clips. Silence and clips under 2 s are NaN. Raises InputError for a malformed array.

    >>> t = np.arange(4 * 16000) / 16000
    >>> loop_score(0.1 * np.sin(2 * np.pi * 440 * t), 16000)
    1.0
    """
    wave = as_mono(audio, sample_rate)
    if is_silent(wave) or len(wave) < 4 * _SHORTEST_LAG_SECONDS * sample_rate:
        return float("nan")
    bands = log_mel(wave, sample_rate)
    best = 0.0
    for lag in range(round(_SHORTEST_LAG_SECONDS / MEL_HOP_SECONDS), len(bands) // 2 + 1):
        apart = np.sqrt(np.mean((bands[lag:] - bands[:-lag]) ** 2, axis=1))
        best = max(best, float(np.mean(apart <= SAME_DB)))
    return best
