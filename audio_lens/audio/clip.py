"""A clip: sound with its sample rate, codes and how it was made; played, saved, shown."""

import base64
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.errors import InputError

_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}


@dataclass(frozen=True, eq=False)
class Clip:
    """A piece of audio, on the CPU in float32.

    Example:
        >>> import torch
        >>> clip = Clip(torch.zeros(1, 16000), 16000)
        >>> clip.seconds
        1.0
    """

    waveform: Float[Tensor, "channel sample"]
    sample_rate: int
    """Samples per second, in Hz."""
    codes: Int[Tensor, "codebook frame"] | None = None
    prompt: str | None = None
    seed: int | None = None
    interventions: tuple[str, ...] = ()
    """What was done to the model while it was made, in words."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Model, guidance and sampling: enough to make it again."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.waveform.shape[-1] / self.sample_rate

    @property
    def samples(self) -> Float[np.ndarray, "channel sample"]:
        """The waveform as a NumPy array."""
        return self.waveform.numpy()

    @classmethod
    def load(cls, path: str | Path) -> "Clip":
        """Read an audio file (WAV, FLAC, OGG and whatever else libsndfile knows)."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no audio file at {path}.")
        try:
            samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path} is no audio file that can be read: {error}.") from error
        return cls(torch.from_numpy(samples.T.copy()), sample_rate)

    def save(self, path: str | Path) -> Path:
        """Write it as .wav, .flac or .ogg (by the ending); loudness is kept as it is.

        Samples beyond full scale would be clipped by these formats: a warning says so.
        """
        path = check_ending(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            self._write(file, _FORMATS[path.suffix.lower()])
        return path

    def play(self) -> Any:
        """A player for notebooks, at the loudness the clip has."""
        try:
            from IPython.display import HTML
        except ImportError as error:
            raise ImportError(
                "playing needs a notebook: pip install 'audio-lens[notebook]'."
            ) from error
        return HTML(self._repr_html_())

    def _write(self, file: Any, format: str) -> None:
        samples = self.samples.T
        if (peak := float(np.abs(samples).max(initial=0.0))) > 1:
            warnings.warn(
                f"the clip peaks at {peak:.2f} of full scale; samples beyond 1 are clipped in "
                f"the file.",
                stacklevel=3,
            )
            samples = samples.clip(-1, 1)
        soundfile.write(file, samples, self.sample_rate, format=format)

    def _repr_html_(self) -> str:
        # FLAC keeps the sound as it is at a fraction of WAV's size; a plain audio element
        # works in every notebook front end and never normalises.
        buffer = io.BytesIO()
        self._write(buffer, "FLAC")
        data = base64.b64encode(buffer.getvalue()).decode()
        title = self.prompt if self.prompt is not None else "clip"
        made = "; ".join(self.interventions)
        return (
            f"<figure style='margin:0'><figcaption>{_escape(title)}"
            f"{f' · seed {self.seed}' if self.seed is not None else ''}"
            f"{f' · {_escape(made)}' if made else ''}</figcaption>"
            f"<audio controls preload='none' src='data:audio/flac;base64,{data}'></audio></figure>"
        )

    def __repr__(self) -> str:
        parts = [f"{self.seconds:.2f} s at {self.sample_rate} Hz"]
        if self.prompt is not None:
            parts.append(repr(self.prompt))
        if self.seed is not None:
            parts.append(f"seed {self.seed}")
        return f"Clip({', '.join([*parts, *self.interventions])})"


def check_ending(path: str | Path) -> Path:
    """The path, if it ends as a format that clips can be saved in; raises otherwise."""
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise InputError(
            f"cannot save as {path.suffix or 'a file without ending'!r}: use one of "
            f"{', '.join(_FORMATS)}."
        )
    return path


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
