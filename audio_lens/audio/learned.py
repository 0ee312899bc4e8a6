"""Ears with trained weights, made elsewhere: the beat tracker Beat This!, the rater Audiobox.

Extras, since they bring packages and fetch weights when they are first used; nothing here needs
them. Each takes any object that does the same in its place.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from audio_lens.audio.beat import bpm_of_beats
from audio_lens.audio.clip import Clip
from audio_lens.audio.waveform import as_mono, is_silent
from audio_lens.errors import InputError

AXES = ("CE", "CU", "PC", "PQ")
"""Content enjoyment, content usefulness, production complexity, production quality."""

Tracker = Callable[[Float[np.ndarray, " sample"], int], tuple[Any, Any]]
"""Beats and downbeats in seconds of a mono wave and its rate."""


class BeatThis:
    """Beats by Beat This! (Foscarin, Schlueter and Widmer, 2024, arXiv 2407.21658).

    Called like a measure, it answers with the tempo in BPM, and so may be what a concept is heard
    by. Like every tracker it takes half or double tempo at times; nothing is folded.

    Example:
        >>> ear = BeatThis.from_pretrained()  # doctest: +SKIP
        >>> ear(clip.samples, clip.sample_rate)  # doctest: +SKIP
    """

    def __init__(self, tracker: Tracker) -> None:
        """From a tracker that is there: `beat_this.inference.Audio2Beats`, or another."""
        self._tracker = tracker

    @classmethod
    def from_pretrained(cls, name: str = "final0", device: str = "cpu") -> "BeatThis":
        """Load a checkpoint: `final0`, `final1`, `final2`, a file or an address.

        Raises InputError where the package is missing, or the checkpoint cannot be fetched.
        """
        try:
            from beat_this.inference import Audio2Beats
        except (ImportError, OSError) as error:
            raise InputError(_missing("beat_this", "beats", error)) from error
        try:
            return cls(Audio2Beats(checkpoint_path=name, device=device))
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"cannot load {name!r} of beat_this: its weights are fetched on first use. Where "
                f"there is no network, give the path of a checkpoint."
            ) from error

    def __call__(self, audio: Any, sample_rate: int) -> float:
        """Tempo in BPM by the slope of the beats; NaN for silence and for fewer than five beats."""
        return bpm_of_beats(self.beat_times(audio, sample_rate))

    def beat_times(self, audio: Any, sample_rate: int) -> Float[np.ndarray, " beat"]:
        """When the beats fall, in seconds; none in silence.

        audio: float [sample] or [channel sample]; sample_rate: Hz. Raises InputError for a
        malformed array.
        """
        wave = as_mono(audio, sample_rate)
        if is_silent(wave):
            return np.zeros(0)
        beats, _ = self._tracker(wave, sample_rate)
        return np.asarray(beats, dtype=float)


class Audiobox:
    """How good clips sound by Meta Audiobox Aesthetics (2025, arXiv 2502.05139), on four axes.

    Report the drop from the unsteered twin rather than the score.

    Example:
        >>> rater = Audiobox.from_pretrained()  # doctest: +SKIP
        >>> rater.rate(clips)  # doctest: +SKIP
    """

    def __init__(self, predictor: Any) -> None:
        """From a predictor that is there: `audiobox_aesthetics.infer.AesPredictor`, or another."""
        self._predictor = predictor

    @classmethod
    def from_pretrained(cls, checkpoint: str | None = None) -> "Audiobox":
        """Load the published weights, or a checkpoint's file.

        Raises InputError where the package is missing, or the weights cannot be fetched.
        """
        try:
            from audiobox_aesthetics.infer import initialize_predictor
        except (ImportError, OSError) as error:
            raise InputError(_missing("audiobox_aesthetics", "aesthetics", error)) from error
        try:
            return cls(initialize_predictor(checkpoint))
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                "cannot load the weights of audiobox_aesthetics, which are fetched on first use. "
                "Where there is no network, give checkpoint= the path of its file."
            ) from error

    def rate(self, clips: Sequence[Clip]) -> pd.DataFrame:
        """One row per clip, one column per axis of `AXES`, about 1 to 10.

        Raises InputError for no clips, or a predictor that rates others.
        """
        if not len(clips):
            raise InputError("no clips to rate: give one at least.")
        asked = [{"path": clip.waveform, "sample_rate": clip.sample_rate} for clip in clips]
        found = list(self._predictor.forward(asked))
        if len(found) != len(clips) or any(set(AXES) - set(row) for row in found):
            raise InputError(
                f"the predictor gave {len(found)} rows for {len(clips)} clips: expected one for "
                f"each, with {', '.join(AXES)}."
            )
        return pd.DataFrame(found, columns=list(AXES))


def _missing(package: str, extra: str, error: Exception) -> str:
    return (
        f"{package} is not here or cannot be loaded ({error}): pip install 'audio-lens[{extra}]'. "
        f"It needs a torchaudio that was built for this torch ({torch.__version__})."
    )
