"""What clips are compared by: log-mel bands in dB, and chroma (pitch classes)."""

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from audio_lens.audio.waveform import as_mono, framed, magnitudes

N_MELS = 40
MEL_HOP_SECONDS = 0.02
_MEL_WINDOW_SECONDS = 0.064
_TOP_HZ = 8000.0
#: Bands this far below the clip's loudest one are its floor.
_RANGE_DB = 60.0

CHROMA_HOP_SECONDS = 0.1
_CHROMA_WINDOW_SECONDS = 0.256
#: Where pitch is heard and bins are narrower than a semitone or so.
_CHROMA_HZ = (100.0, 2000.0)
_CHROMA_WIDTH = 0.5


def _hz_to_mel(hertz: Any) -> Any:
    """Slaney's scale, which librosa uses: linear up to 1 kHz, logarithmic above."""
    linear = np.asarray(hertz) * 3 / 200
    logarithmic = 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4)
    return np.where(np.asarray(hertz) < 1000, linear, logarithmic)


def _mel_to_hz(mel: Any) -> Any:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


@lru_cache(maxsize=8)
def mel_filters(
    sample_rate: int, n_fft: int, n_mels: int = N_MELS, top: float = _TOP_HZ
) -> Float[np.ndarray, "mel bin"]:
    """Triangular mel filters of equal area (Slaney's, as librosa's default), up to `top` Hz.

    >>> mel_filters(16000, 1024).shape
    (40, 513)
    """
    hertz = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    edges = _mel_to_hz(np.linspace(0, _hz_to_mel(min(top, sample_rate / 2)), n_mels + 2))
    widths = np.diff(edges)[:, None]
    rising = (hertz - edges[:-2, None]) / widths[:-1]
    falling = (edges[2:, None] - hertz) / widths[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * 2 / (edges[2:] - edges[:-2])[:, None])


def log_mel(audio: Any, sample_rate: int) -> Float[np.ndarray, "frame mel"]:
    """Power in 40 mel bands in dB, every 20 ms; at most 60 dB below the clip's loudest band.

    audio: float [sample] or [channel sample]; 64 ms Hann frames; 0 dB is the loudest band, so gain
    changes nothing. Silence is 0 throughout. Raises InputError for a malformed array.

    >>> log_mel(0.1 * np.sin(np.arange(16000.0)), 16000).shape
    (47, 40)
    """
    wave = as_mono(audio, sample_rate)
    length = round(_MEL_WINDOW_SECONDS * sample_rate)
    frames = framed(wave, length, round(MEL_HOP_SECONDS * sample_rate))
    spectra, _ = magnitudes(frames, sample_rate)
    power = spectra**2 @ mel_filters(sample_rate, length).T
    loudest = power.max()
    if loudest == 0:
        return np.zeros_like(power)
    return np.asarray(10 * np.log10(np.maximum(power / loudest, 10 ** (-_RANGE_DB / 10))))


@lru_cache(maxsize=8)
def _chroma_filters(sample_rate: int, n_fft: int) -> Float[np.ndarray, "class bin"]:
    """Weight of each bin for each pitch class, counted from C at A = 440 Hz."""
    hertz = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    low, high = _CHROMA_HZ
    used = (hertz >= low) & (hertz <= high)
    pitch = 12 * np.log2(np.where(used, hertz, 440) / 440) + 9
    away = (pitch - np.arange(12)[:, None] + 6) % 12 - 6
    return np.asarray(np.exp(-0.5 * (away / _CHROMA_WIDTH) ** 2) * used)


def chroma(audio: Any, sample_rate: int) -> Float[np.ndarray, "frame 12"]:
    """How much of each pitch class sounds, C first, every 0.1 s: each frame has length 1.

    audio: float [sample] or [channel sample]; 256 ms Hann frames; power from 100 to 2000 Hz, equal
    temperament at A = 440 Hz. Frames without sound are 0. Raises InputError for a malformed array.

    >>> tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    >>> chroma(tone, 16000).argmax(axis=1)  # A is class 9
    array([9, 9, 9, 9, 9, 9, 9, 9])
    """
    wave = as_mono(audio, sample_rate)
    length = round(_CHROMA_WINDOW_SECONDS * sample_rate)
    frames = framed(wave, length, round(CHROMA_HOP_SECONDS * sample_rate))
    spectra, _ = magnitudes(frames, sample_rate)
    classes = spectra**2 @ _chroma_filters(sample_rate, length).T
    norm = np.linalg.norm(classes, axis=1, keepdims=True)
    return np.asarray(classes / np.where(norm > 0, norm, 1))
