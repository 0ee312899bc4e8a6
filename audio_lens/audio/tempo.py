"""How fast a clip is: its pulse in BPM, how clear that pulse is, and changes of tempo in octaves.

The pulse is read below 160 Hz only, where kick and bass mark beats and where hats, snares and
melodies have nothing: eighth-note hats make full-band trackers read 72 BPM as 144. A candidate
period is judged twice, by how much of the attack strength falls on its beats and by how many of
its beats carry an attack; half and double tempo each fail one of the two, so the octave needs no
prior and nothing is ever folded. `beat.beat_bpm` hears the full band, with the errors that come
with it; docs/measuring.md has the error rates of both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import fft, ndimage, signal, stats

from audio_lens.audio.onsets import HOP, autocorrelation, onset_rate
from audio_lens.audio.timbre import flatness
from audio_lens.audio.waveform import as_mono, is_silent
from audio_lens.errors import InputError

_TOP_HZ = 160.0
_EDGE_HZ = 30.0
_SMOOTH_SECONDS = 0.04
#: Low band quieter than this against the whole clip is leakage, not a pulse.
_FLOOR_DB = -26.0
#: A rise smaller than this share of a typical one (both in dB) is no beat.
_SMALLEST_RISE = 0.5
_SMALLEST_DB = 2.0
_SPACING_SECONDS = 0.12
BPM_LIMITS = (40.0, 240.0)
#: How far from its expected time a beat may come, in periods.
_TOLERANCE = 0.15
_FEWEST_BEATS = 5
#: Below this clarity there is no beat.
CLEAR_PULSE = 0.65
#: Noise draws a chain of beats out of chance more easily than music does: from this flatness on a
#: pulse must be clearer. Steady music stays below it, strokes of noise on every beat are clearer.
NOISY = 0.05
CLEAR_PULSE_IN_NOISE = 0.8
#: How far a tempo change may be from an octave (or from 3:2) to be looked at, in octaves, and how
#: far the onset rate must disagree for the row to be flagged.
_NEAR_OCTAVES = 0.1
_DISAGREE_OCTAVES = 0.4


@dataclass(frozen=True)
class _Pulse:
    """Beats found: their index and time in seconds, and how clear they are (0 to 1)."""

    index: Float[np.ndarray, " beat"]
    seconds: Float[np.ndarray, " beat"]
    clarity: float


def _low_envelope(
    wave: Float[np.ndarray, " sample"], sample_rate: int
) -> tuple[Float[np.ndarray, " frame"], float]:
    """RMS below 160 Hz per hop of 256 samples, lightly smoothed, and the hop in seconds.

    The analytic signal of the low band comes straight out of one inverse transform, sampled
    just densely enough for that band.
    """
    n_frames = -(-len(wave) // HOP)
    padded = np.zeros(n_frames * HOP)
    padded[: len(wave)] = wave
    spectrum = fft.rfft(padded)
    hertz = fft.rfftfreq(len(padded), 1 / sample_rate)
    fold = int(np.ceil(1.25 * _TOP_HZ * HOP / sample_rate))
    kept = spectrum[: min(len(spectrum), n_frames * fold)].copy()
    hertz = hertz[: len(kept)]
    edge = np.clip((_TOP_HZ - hertz) / _EDGE_HZ, 0, 1)
    kept *= 0.5 - 0.5 * np.cos(np.pi * edge)
    kept[0] = 0
    analytic = fft.ifft(kept, n_frames * fold) * 2 * fold / HOP
    power = np.mean(np.abs(analytic.reshape(n_frames, fold)) ** 2, axis=1) / 2
    hop = HOP / sample_rate
    return np.sqrt(np.maximum(ndimage.gaussian_filter1d(power, _SMOOTH_SECONDS / 2 / hop), 0)), hop


def _rises(
    wave: Float[np.ndarray, " sample"], sample_rate: int
) -> tuple[Float[np.ndarray, " frame"], float]:
    """Rise of the low envelope in dB over two hops, never below zero, and the hop in seconds."""
    envelope, hop = _low_envelope(wave, sample_rate)
    floor = np.sqrt(np.mean(wave**2)) * 10 ** (_FLOOR_DB / 20)
    decibels = 20 * np.log10(np.maximum(envelope, floor))
    reach = max(1, round(0.032 / hop))
    rise = np.zeros_like(decibels)
    rise[reach:] = np.maximum(decibels[reach:] - decibels[:-reach], 0)
    return rise, hop


def _attacks(
    rise: Float[np.ndarray, " frame"], hop: float
) -> tuple[Float[np.ndarray, " attack"], Float[np.ndarray, " attack"]]:
    """Times in seconds (between frames by a parabola) and strengths of the attacks."""
    spacing = max(1, round(_SPACING_SECONDS / hop))
    peaks, _ = signal.find_peaks(rise, height=_SMALLEST_DB, distance=spacing)
    if not len(peaks):
        return np.empty(0), np.empty(0)
    typical = np.percentile(rise[peaks], 80)
    peaks = peaks[rise[peaks] >= _SMALLEST_RISE * typical]
    inner = np.clip(peaks, 1, len(rise) - 2)
    left, here, right = rise[inner - 1], rise[inner], rise[inner + 1]
    bend = np.minimum(left - 2 * here + right, -1e-9)
    shift = np.clip(0.5 * (left - right) / bend, -0.5, 0.5)
    # Strength saturates: a quiet beat is still a beat.
    return (inner + shift) * hop, np.minimum(rise[peaks], typical)


def _candidate_periods(
    rise: Float[np.ndarray, " frame"], hop: float
) -> Float[np.ndarray, " candidate"]:
    """Periods in seconds at the peaks of the autocorrelation, strongest first."""
    width = 0.03 / hop
    smooth = ndimage.gaussian_filter1d(np.minimum(rise, np.percentile(rise, 98)), width)
    correlation = autocorrelation(smooth)
    shortest, longest = (int(60 / bpm / hop) for bpm in BPM_LIMITS[::-1])
    peaks, _ = signal.find_peaks(correlation[: longest + 2])
    peaks = peaks[peaks >= shortest]
    peaks = peaks[np.argsort(correlation[peaks])[::-1]][:8]
    return peaks * hop


def _follow(
    times: Float[np.ndarray, " attack"], start: int, period: float, step: int
) -> dict[int, int]:
    """From one attack onward (step 1) or backward (-1): {beat index: attack}, gaps allowed.

    Each beat is expected one period from the last; a hit pulls the expectation half-way, so a
    drifting pulse is followed and a stray attack does little harm.
    """
    found, expected, beat = {0: start}, times[start], 0
    while 0 <= (expected := expected + step * period) <= times[-1] + 0.5 * period:
        beat += step
        nearest = int(np.argmin(np.abs(times - expected)))
        if abs(times[nearest] - expected) <= _TOLERANCE * period:
            found[beat] = nearest
            expected += 0.7 * (times[nearest] - expected)
    return found


def _track(
    times: Float[np.ndarray, " attack"], strength: Float[np.ndarray, " attack"], period: float
) -> _Pulse | None:
    """Best chain of attacks one period apart, from each of the strongest few as a start.

    Attacks off the chain or outside its span lower `explained`, beats without one `carried`.
    """
    best: _Pulse | None = None
    for start in np.argsort(strength)[::-1][:4]:
        found = _follow(times, int(start), period, -1) | _follow(times, int(start), period, 1)
        if len(found) < _FEWEST_BEATS:
            continue
        index = np.array(sorted(found))
        attacks = np.array([found[i] for i in index])
        expected = index[-1] - index[0] + 1
        explained = strength[np.unique(attacks)].sum() / strength.sum()
        carried = len(np.unique(attacks)) / expected
        clarity = 2 * explained * carried / (explained + carried)
        if best is None or clarity > best.clarity:
            best = _Pulse(index.astype(float), times[attacks], float(clarity))
    return best


def _pulse(audio: Any, sample_rate: int) -> _Pulse | None:
    """The clearest pulse of a clip, or None where there is nothing to follow."""
    wave = as_mono(audio, sample_rate)
    if is_silent(wave) or len(wave) < sample_rate:
        return None
    rise, hop = _rises(wave, sample_rate)
    times, strength = _attacks(rise, hop)
    if len(times) < _FEWEST_BEATS:
        return None
    tracked = [_track(times, strength, period) for period in _candidate_periods(rise, hop)]
    return max((t for t in tracked if t), key=lambda pulse: pulse.clarity, default=None)


def pulse_bpm(audio: Any, sample_rate: int) -> float:
    """Tempo of the pulse below 160 Hz, in BPM between 40 and 240.

    audio: float [sample] or [channel sample]; sample_rate: Hz. Theil-Sen slope of beat times, so
    that one misplaced beat does not matter. NaN for silence, for sound without a clear beat
    (noise, held tones, music without drums) and for clips of too few beats: give it 6 s or more.
    Raises InputError for a malformed array.

    >>> t = np.arange(8 * 16000) / 16000
    >>> kicks = np.sin(2 * np.pi * 60 * t) * np.exp(-(t % 0.5) / 0.08)
    >>> round(pulse_bpm(kicks, 16000))
    120
    """
    pulse = _pulse(audio, sample_rate)
    if pulse is None or pulse.clarity < CLEAR_PULSE:
        return float("nan")
    if pulse.clarity < CLEAR_PULSE_IN_NOISE and flatness(audio, sample_rate) >= NOISY:
        return float("nan")
    return 60 / float(stats.theilslopes(pulse.seconds, pulse.index)[0])


def pulse_clarity(audio: Any, sample_rate: int) -> float:
    """How clear the pulse is, 0 to 1: harmonic mean of attacks explained and beats carried.

    `pulse_bpm` answers from `CLEAR_PULSE` up, in noise from `CLEAR_PULSE_IN_NOISE` up. Silence is
    NaN; sound without attacks is 0. Raises InputError for a malformed array.

    >>> t = np.arange(8 * 16000) / 16000
    >>> kicks = np.sin(2 * np.pi * 60 * t) * np.exp(-(t % 0.5) / 0.08)
    >>> pulse_clarity(kicks, 16000) > 0.95
    True
    """
    pulse = _pulse(audio, sample_rate)
    if pulse is not None:
        return pulse.clarity
    return float("nan") if is_silent(as_mono(audio, sample_rate)) else 0.0


def density(audio: Any, sample_rate: int) -> float:
    """Attacks a beat: `onset_rate` over `pulse_bpm`. NaN where there is no pulse.

    Raises InputError for a malformed array.

    >>> t = np.arange(8 * 16000) / 16000
    >>> kicks = np.sin(2 * np.pi * 60 * t) * np.exp(-(t % 0.5) / 0.08)
    >>> round(density(kicks, 16000))
    1
    """
    return 60 * onset_rate(audio, sample_rate) / pulse_bpm(audio, sample_rate)


def octaves(new: float, old: float) -> float:
    """Change from `old` to `new` (both BPM, or both onsets a second) in octaves, never folded.

    1 is a doubling; `100 * (2**change - 1)` is the change in percent. NaN when either is NaN.
    Raises InputError for a rate of zero or below.

    >>> octaves(120.0, 60.0)
    1.0
    """
    if new <= 0 or old <= 0:
        raise InputError(f"cannot compare {new} with {old}: both must be above zero")
    return float(np.log2(new / old))


def is_suspect(tempo_change: float, onset_change: float) -> bool:
    """Whether a tempo change is likely a tracker's jump to another metrical level.

    Both changes are in octaves. True where the tempo moved by about one octave, or by about 3:2,
    and the onset rate disagrees by more than 0.4 octave. Such rows are flagged, not mended: a
    finding is given with and without them. Unknown changes (NaN) are not suspect.

    >>> is_suspect(1.02, 0.1), is_suspect(1.02, 0.9), is_suspect(0.3, 0.0)
    (True, False, False)
    """
    jumps = np.array([1.0, np.log2(1.5)])
    near = bool(np.any(np.abs(abs(tempo_change) - jumps) <= _NEAR_OCTAVES))
    return near and abs(tempo_change - onset_change) > _DISAGREE_OCTAVES
