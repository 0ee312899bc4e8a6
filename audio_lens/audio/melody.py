"""A melody as a condition: its chroma, and the prompt that carries it."""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.audio.sound import is_sound, samples_of
from audio_lens.errors import InputError

SAMPLE_RATE = 32000
"""Of the audio that chroma are taken from, in Hz."""
HOP = 4096
"""Samples from one chroma frame to the next: 7.8 frames a second."""
WINDOW = 16384
N_CHROMA = 12


class Prompt(str):
    """A text prompt that may carry a melody; it goes wherever a prompt goes.

    Text made from it (`prompt + ", fast"`, `prompt.strip()`) is plain: make a new `Prompt`.

    Only melody checkpoints take a melody. It is what transformers' `MusicgenMelodyProcessor`
    makes of audio: for each frame, the pitch class that sounds loudest.

    Example:
        >>> import torch
        >>> tone = torch.sin(2 * torch.pi * 440 * torch.arange(32000) / 32000)
        >>> prompt = Prompt("a slow organ melody", melody=tone, sample_rate=32000)
        >>> prompt, prompt.chroma.argmax(-1).unique()  # A is pitch class 9, counted from C
        ('a slow organ melody' with a melody of 8 frames, tensor([9]))
    """

    chroma: Float[Tensor, "frame 12"] | None
    """The melody, one-hot; None without one."""

    def __new__(
        cls, text: str = "", *, melody: Any = None, sample_rate: float | None = None
    ) -> "Prompt":
        """Make a prompt.

        Args:
            text: May be empty where there is a melody.
            melody: A `Clip`, a path, an array `[sample]` or `[channel sample]`, or chroma made
                by `chroma_of`, `[frame 12]`.
            sample_rate: Of an array, in Hz.
        """
        prompt = super().__new__(cls, text)
        prompt.chroma = None if melody is None else _as_chroma(melody, sample_rate)
        return prompt

    def __eq__(self, other: object) -> bool:
        """Whether text and melody are the same; a plain text has no melody."""
        ours, theirs = self.chroma, getattr(other, "chroma", None)
        if (ours is None) != (theirs is None) or not str.__eq__(self, str(other)):
            return False
        return ours is None or theirs is None or torch.equal(ours, theirs)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __str__(self) -> str:
        return str.__str__(self)

    def __repr__(self) -> str:
        melody = "" if self.chroma is None else f" with a melody of {len(self.chroma)} frames"
        return f"{str.__repr__(self)}{melody}"


def _as_chroma(melody: Any, sample_rate: float | None) -> Float[Tensor, "frame 12"]:
    if sample_rate is None and getattr(melody, "shape", ())[1:] == (N_CHROMA,):
        chroma = torch.as_tensor(melody).float()
        if len(chroma) == 0 or not chroma.isfinite().all():
            raise InputError("a melody's chroma must be at least one frame of finite numbers.")
        return chroma
    if not is_sound(melody):
        raise InputError(
            f"a melody is a clip, a path, an array or chroma [frame, {N_CHROMA}], got "
            f"{type(melody).__name__}."
        )
    return chroma_of(samples_of(melody, sample_rate, wanted=SAMPLE_RATE).mean(0))


@torch.no_grad()
def chroma_of(samples: Float[Tensor, "sample"]) -> Float[Tensor, "frame 12"]:
    """The loudest pitch class of each frame, one-hot, from samples at 32 kHz.

    As transformers' `MusicgenMelodyFeatureExtractor` computes it, which needs torchaudio.
    """
    if (missing := WINDOW - len(samples)) > 0:
        samples = torch.nn.functional.pad(samples, (missing // 2, missing - missing // 2))
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(samples, WINDOW, HOP, window=window, return_complex=True)
    energy = _filters() @ (spectrum / window.norm()).abs().square()
    return torch.nn.functional.one_hot(energy.argmax(0), N_CHROMA).float()


@cache
def _filters() -> Float[Tensor, "chroma frequency"]:
    from transformers.audio_utils import chroma_filter_bank

    filters = chroma_filter_bank(
        sampling_rate=SAMPLE_RATE, num_frequency_bins=WINDOW, tuning=0, num_chroma=N_CHROMA
    )
    return torch.from_numpy(filters).float()
