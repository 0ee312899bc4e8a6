"""Whether clips sound like their prompts: cosine between embeddings of audio and of text.

An embedder is anything with `audio` and `text`; `Clap` is one, over transformers' `ClapModel`. Its
weights are fetched when it is first used, never at import. Report the drop from the unsteered twin
rather than the number, and the embedder's name beside it.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from audio_lens.audio.clip import Clip
from audio_lens.audio.sound import samples_of
from audio_lens.errors import InputError

CLAP_RATE = 48_000
#: CLAP hears this much at once; of more it would take a part at random.
_PIECE_SECONDS = 10


@runtime_checkable
class Embedder(Protocol):
    """Puts clips and texts into one space."""

    def audio(self, clips: Sequence[Clip]) -> Float[np.ndarray, "clip feature"]:
        """One row per clip."""
        ...

    def text(self, texts: Sequence[str]) -> Float[np.ndarray, "text feature"]:
        """One row per text."""
        ...


class Clap:
    """CLAP (Wu et al., 2023) through transformers; checkpoints without fusion hear alike each time.

    Example:
        >>> clap = Clap.from_pretrained()  # doctest: +SKIP
        >>> adherence(clips, prompts, clap)  # doctest: +SKIP
    """

    def __init__(self, model: Any, extractor: Any, tokenizer: Any) -> None:
        """From parts that are there: a `ClapModel`, its feature extractor and its tokenizer."""
        self.model = model.eval()
        self.extractor = extractor
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name: str = "laion/larger_clap_music") -> "Clap":
        """Load a checkpoint: a name on the Hugging Face Hub, or a folder.

        Raises InputError where it is not here and cannot be fetched.
        """
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        try:
            return cls(
                ClapModel.from_pretrained(name),
                ClapFeatureExtractor.from_pretrained(name),
                AutoTokenizer.from_pretrained(name),
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot load {name!r}: expected a CLAP checkpoint on the Hub or in a folder. "
                f"Fetch it once with `hf download {name}`, or give adherence() another embedder."
            ) from error

    @torch.no_grad()
    def audio(self, clips: Sequence[Clip]) -> Float[np.ndarray, "clip feature"]:
        """Unit embeddings; longer clips are cut into pieces of 10 s, and these averaged."""
        return np.stack([self._clip(clip) for clip in clips])

    def _clip(self, clip: Clip) -> Float[np.ndarray, " feature"]:
        wave = samples_of(clip, None, wanted=CLAP_RATE).mean(0).numpy()
        pieces = np.array_split(wave, -(-len(wave) // (_PIECE_SECONDS * CLAP_RATE)))
        inputs = self.extractor(pieces, sampling_rate=CLAP_RATE, return_tensors="pt")
        found = self.model.get_audio_features(**inputs.to(self.model.device))
        return _unit(_rows(found)).mean(axis=0)

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Float[np.ndarray, "text feature"]:
        """Unit embeddings."""
        inputs = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        return _unit(_rows(self.model.get_text_features(**inputs.to(self.model.device))))


def _rows(features: Any) -> Float[np.ndarray, "row feature"]:
    """transformers 5 wraps what earlier versions return as it is."""
    return np.asarray(getattr(features, "pooler_output", features).cpu().float().numpy())


def _unit(rows: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row feature"]:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norm > 0, norm, 1))


def adherence(
    clips: Sequence[Clip], prompts: Sequence[str], embedder: Embedder | None = None
) -> Float[np.ndarray, " clip"]:
    """Cosine between each clip and its prompt, -1 to 1; `Clap` unless another embedder is given.

    Raises InputError where clips and prompts differ in number, or the embedder returns other rows.
    """
    if len(clips) != len(prompts) or not len(clips):
        raise InputError(f"{len(clips)} clips with {len(prompts)} prompts: give one prompt a clip")
    embedder = embedder if embedder is not None else Clap.from_pretrained()
    heard, meant = np.asarray(embedder.audio(clips)), np.asarray(embedder.text(prompts))
    if heard.shape != meant.shape or heard.ndim != 2 or len(heard) != len(clips):
        raise InputError(
            f"the embedder returned {heard.shape} for {len(clips)} clips and {meant.shape} for "
            "their prompts: expected [clip feature] of both, in one space"
        )
    return np.asarray((_unit(heard) * _unit(meant)).sum(axis=1))
