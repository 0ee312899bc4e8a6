"""The felt beat of the full band, in BPM: a dynamic-programming tracker, as trackers go.

It hears music without kick and bass, where `tempo.pulse_bpm` is silent, and it makes the mistakes
all trackers of its kind make: eighth-note hats read as double tempo. The method is that of Ellis
(2007), "Beat tracking by dynamic programming": one period from the autocorrelation of the onset
envelope under a log-normal prior around 120 BPM, then the chain of beats that meets most onset
strength while it keeps that period.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage, stats

from audio_lens.audio.onsets import autocorrelation, onset_envelope
from audio_lens.audio.waveform import as_mono, is_silent

BPM_LIMITS = (40.0, 240.0)
#: Centre in BPM and width in octaves of the prior: the usual ones. They are never set from a tempo
#: that is expected, which would be circular.
_PRIOR = (120.0, 1.0)
#: How much a beat off its period costs, against onset strength in standard deviations.
_TIGHTNESS = 100.0
_FEWEST_BEATS = 5
_SHORTEST_SECONDS = 2.0
#: Onset envelopes are known no finer than this, so they are compared no finer.
_SMOOTH_SECONDS = 0.02
#: Below this clarity there is no beat. How often noise passes is in docs/measuring.md.
CLEAR_BEAT = 0.25


@dataclass(frozen=True)
class _Beats:
    """Beat times in seconds, and how strongly the envelope repeats at their period (to 1)."""

    seconds: Float[np.ndarray, " beat"]
    clarity: float


def _period(correlation: Float[np.ndarray, " lag"], hop: float) -> int:
    """The likeliest beat period in hops under the prior; 0 where no period fits."""
    shortest, longest = (round(60 / bpm / hop) for bpm in BPM_LIMITS[::-1])
    lags = np.arange(shortest, min(longest + 1, len(correlation)))
    if not len(lags):
        return 0
    centre, width = _PRIOR
    octaves = np.log2(60 / (lags * hop) / centre)
    prior = np.exp(-0.5 * (octaves / width) ** 2)
    return int(lags[np.argmax(np.maximum(correlation[lags], 0) * prior)])


def _chain(strength: Float[np.ndarray, " frame"], period: int) -> np.ndarray:
    """Frames of the beats: the best-scoring chain whose steps stay near the period."""
    steps = np.arange(max(1, period // 2), 2 * period + 1)
    cost = -_TIGHTNESS * np.log(steps / period) ** 2
    score = strength.copy()
    before = np.full(len(score), -1)
    for frame in range(steps[0], len(score)):
        reachable = steps[: np.searchsorted(steps, frame, side="right")]
        totals = score[frame - reachable] + cost[: len(reachable)]
        best = int(np.argmax(totals))
        if totals[best] > 0:
            score[frame] += totals[best]
            before[frame] = frame - reachable[best]
    last = len(score) - period
    frame = last + int(np.argmax(score[last:]))
    beats = []
    while frame >= 0:
        beats.append(frame)
        frame = int(before[frame])
    return np.array(beats[::-1])


def _beats(audio: Any, sample_rate: int) -> _Beats | None:
    """The beats of a clip, or None where there is nothing to follow."""
    wave = as_mono(audio, sample_rate)
    if is_silent(wave) or len(wave) < _SHORTEST_SECONDS * sample_rate:
        return None
    envelope, hop = onset_envelope(wave, sample_rate)
    smooth = ndimage.gaussian_filter1d(envelope, _SMOOTH_SECONDS / hop)
    if smooth.std() < 1e-3:  # dB: nothing ever attacks
        return None
    correlation = autocorrelation(smooth)
    period = _period(correlation, hop)
    if not period:
        return None
    local = ndimage.gaussian_filter1d(smooth / smooth.std(), max(period / 32, 1))
    beats = _chain(local, period)
    # Beats before the first attack and after the last one are extrapolated: trimmed.
    loud = np.flatnonzero(local[beats] > 0.5 * np.sqrt(np.mean(local[beats] ** 2)))
    beats = beats[loud[0] : loud[-1] + 1]
    return _Beats(beats * hop, float(correlation[max(period - 1, 0) : period + 2].max()))


def beat_bpm(audio: Any, sample_rate: int) -> float:
    """Tempo of the felt beat over the full band, in BPM between 40 and 240.

    audio: float [sample] or [channel sample]; sample_rate: Hz. Theil-Sen slope of beat times, so
    that one misplaced beat does not matter. NaN for silence, for sound without a beat (noise, held
    tones) and for clips of too few beats: give it 6 s or more. It is often an octave off, and
    nothing is folded: read it beside `onset_rate`. Raises InputError for a malformed array.

    >>> t = np.arange(8 * 16000) / 16000
    >>> plucks = 0.3 * np.sin(2 * np.pi * 440 * t) * np.exp(-(t % 0.5) / 0.08)
    >>> round(beat_bpm(plucks, 16000))
    120
    """
    return bpm_of_beats(beat_times(audio, sample_rate))


def bpm_of_beats(seconds: Float[np.ndarray, " beat"]) -> float:
    """Tempo by the Theil-Sen slope of beat times, in BPM; NaN for fewer than five beats.

    >>> round(bpm_of_beats(np.array([0.0, 0.5, 1.0, 1.6, 2.0, 2.5])))
    120
    """
    if len(seconds) < _FEWEST_BEATS:
        return float("nan")
    return 60 / float(stats.theilslopes(seconds, np.arange(len(seconds)))[0])


def beat_times(audio: Any, sample_rate: int) -> Float[np.ndarray, " beat"]:
    """When the felt beats fall, in seconds; none where `beat_bpm` would be NaN.

    audio: float [sample] or [channel sample]; sample_rate: Hz. Raises InputError for a malformed
    array.

    >>> t = np.arange(8 * 16000) / 16000
    >>> plucks = 0.3 * np.sin(2 * np.pi * 440 * t) * np.exp(-(t % 0.5) / 0.08)
    >>> np.diff(beat_times(plucks, 16000)).round(1)[:3]
    array([0.5, 0.5, 0.5])
    """
    beats = _beats(audio, sample_rate)
    if beats is None or beats.clarity < CLEAR_BEAT or len(beats.seconds) < _FEWEST_BEATS:
        return np.zeros(0)
    return beats.seconds


def beat_clarity(audio: Any, sample_rate: int) -> float:
    """How strongly the onset envelope repeats at the beat's period: a correlation, at most 1.

    `beat_bpm` answers from `CLEAR_BEAT` up. Silence is NaN; sound without attacks is 0. Raises
    InputError for a malformed array.

    >>> t = np.arange(8 * 16000) / 16000
    >>> beat_clarity(0.3 * np.sin(2 * np.pi * 440 * t) * np.exp(-(t % 0.5) / 0.08), 16000) > 0.9
    True
    """
    beats = _beats(audio, sample_rate)
    if beats is not None:
        return beats.clarity
    return float("nan") if is_silent(as_mono(audio, sample_rate)) else 0.0
