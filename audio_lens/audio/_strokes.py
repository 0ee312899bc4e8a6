"""Strokes of kits: short tones and noises at given times over a soft bed, for timing tasks.

The bed fills the gaps between slow strokes. Without it loudness, which leaves quiet stretches out,
and RMS, which does not, would together tell the tempo.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from scipy import signal

from ._notes import GRID_HZ, TOP_SHARE
from ._track import add, envelope
from ._voices import periodic_noise

_RISE_SECONDS = 0.003
#: The bed against the strokes, in dB of RMS.
_BED_DB = -4.0
_BED_BAND = (300.0, 3000.0)
_BED_TONES = (200, 300, 400)


@dataclass(frozen=True)
class Hit:
    """A sound of a kit: tones (multiples of 100 Hz), noise band in Hz, noise gain, decay in s."""

    tones: tuple[int, ...] = ()
    band: tuple[float, float] = (0.0, 0.0)
    noise: float = 0.0
    decay: float = 0.05


@dataclass(frozen=True)
class Stroke:
    """When (seconds), which of the kit's sounds (0 to 2), and how loud (linear)."""

    time: float
    role: int
    gain: float


#: Sounds of the downbeat, of other beats, and of subdivisions.
KITS = {
    "drums": (
        Hit((100,), (1000.0, 3000.0), 0.3, 0.09),
        Hit((200,), (900.0, 5000.0), 1.0, 0.06),
        Hit((), (4000.0, 6500.0), 1.0, 0.04),
    ),
    "toms": (Hit((100, 200), decay=0.1), Hit((200, 300), decay=0.08), Hit((300, 400), decay=0.07)),
    "blocks": (Hit((600,), decay=0.05), Hit((900,), decay=0.045), Hit((1200,), decay=0.04)),
    "bells": (
        Hit((800, 1200, 2000), decay=0.09),
        Hit((1000, 1500, 2500), decay=0.08),
        Hit((1200, 1800, 3000), decay=0.07),
    ),
    "shakers": (
        Hit((), (400.0, 1200.0), 1.0, 0.06),
        Hit((), (900.0, 2400.0), 1.0, 0.05),
        Hit((), (2000.0, 4800.0), 1.0, 0.045),
    ),
    "beeps": (Hit((400,), decay=0.12), Hit((600,), decay=0.1), Hit((800,), decay=0.08)),
}
BEDS = ("tone", "noise")


@dataclass(frozen=True)
class Studio:
    """What strokes are made with: kit, bed, pitch (a factor), rate in Hz, on the grid?, a seed."""

    kit: str
    bed: str
    pitch: float
    sample_rate: int
    grid: bool
    take: int


def _noise(
    studio: Studio, band: tuple[float, float], n: int, rng: np.random.Generator
) -> Float[np.ndarray, " sample"]:
    """`n` samples of noise at unit RMS; on the grid it repeats every 20 ms."""
    top = TOP_SHARE * studio.sample_rate
    low, high = min(band[0] * studio.pitch, top / 2), min(band[1] * studio.pitch, top)
    if studio.grid:
        period = periodic_noise((low, high), studio.sample_rate // GRID_HZ, studio.sample_rate)
        return np.resize(period, n)
    filtered = signal.sosfilt(
        signal.butter(3, (low, high), "bandpass", fs=studio.sample_rate, output="sos"),
        rng.standard_normal(n),
    )
    return filtered / np.sqrt(np.mean(filtered**2))


def _tones(hertz: tuple[int, ...], studio: Studio, n: int) -> Float[np.ndarray, " sample"]:
    """`n` samples of sines at unit RMS together; on the grid they repeat every 40 ms."""
    length = studio.sample_rate // GRID_HZ if studio.grid else n
    angles = 2 * np.pi * studio.pitch * np.arange(length) / studio.sample_rate
    # A phase of its own for each tone keeps the peaks apart.
    waves = [np.sin(one * angles + one) for one in hertz]
    return np.resize(np.sum(waves, axis=0), n) * np.sqrt(2 / len(hertz))


def _source(
    hit: Hit, studio: Studio, n: int, rng: np.random.Generator
) -> Float[np.ndarray, " sample"]:
    """The steady sound that strokes are cut from, at unit RMS."""
    wave = _tones(hit.tones, studio, n) if hit.tones else np.zeros(n)
    if hit.noise:
        wave = wave + hit.noise * _noise(studio, hit.band, n, rng)
    return wave / np.sqrt(np.mean(wave**2))


def _bed(studio: Studio, n: int, rng: np.random.Generator) -> Float[np.ndarray, " sample"]:
    if studio.bed == "noise":
        return _noise(studio, _BED_BAND, n, rng)
    return _tones(_BED_TONES, studio, n)


def _part(source: Float[np.ndarray, " sample"], first: int, n: int) -> Float[np.ndarray, " part"]:
    return source[first : first + n]


def strike(strokes: list[Stroke], studio: Studio, n: int) -> Float[np.ndarray, " sample"]:
    """`n` samples of strokes over their bed; what lies outside the clip is cut.

    >>> studio = Studio("blocks", "tone", 1.0, 16000, grid=True, take=0)
    >>> strike([Stroke(0.1, 0, 1.0), Stroke(0.6, 1, 0.5)], studio, 16000).shape
    (16000,)
    """
    rng = np.random.default_rng([studio.take, 0x5717])
    track = np.zeros(n)
    roles = sorted({stroke.role for stroke in strokes})
    sources = {role: _source(KITS[studio.kit][role], studio, n, rng) for role in roles}
    for stroke in strokes:
        decay = KITS[studio.kit][stroke.role].decay
        curve = stroke.gain * envelope(4 * decay, _RISE_SECONDS, decay, studio.sample_rate)
        add(
            track,
            round(stroke.time * studio.sample_rate),
            curve,
            partial(_part, sources[stroke.role]),
        )
    track /= max(float(np.sqrt(np.mean(track**2))), 1e-9)
    return track + 10 ** (_BED_DB / 20) * _bed(studio, n, rng)
