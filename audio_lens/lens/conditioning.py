"""Prompts to what the decoder is told besides codes: cross-attended text, or a prefix."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.audio.melody import N_CHROMA
from audio_lens.errors import InputError
from audio_lens.lens.config import HFModule, vocabulary_of
from audio_lens.lens.engine import Engine
from audio_lens.lens.layout import Layout
from audio_lens.lens.musicgen_sites import MELODY_PROJECTION, TEXT_PROJECTION, has_prefix
from audio_lens.lens.rows import as_prompts
from audio_lens.lens.run import Run
from audio_lens.lens.vocabulary import Vocabulary

TEXT_BUCKET = 64
"""Text tokens to which `row_group` pads, so that a row's arithmetic never depends on others."""


@dataclass(frozen=True)
class Conditioning:
    """The conditions of a run, for all branches."""

    states: Float[Tensor, "rows token d_model"]
    mask: Int[Tensor, "rows token"] | None
    """Which states cross-attention may see; None where the states are a prefix."""

    def arguments(self, step: int) -> dict[str, Tensor]:
        """What the decoder is given at a step: a prefix is read once and then cached."""
        if self.mask is None:
            return {} if step else {"encoder_hidden_states": self.states}
        return {"encoder_hidden_states": self.states, "encoder_attention_mask": self.mask}


def conditioner(model: HFModule, tokenizer: Any, engine: Engine) -> "Conditioner":
    """The way in which a model takes its prompts."""
    return (Prefix if has_prefix(model) else CrossAttended)(model, tokenizer, engine)


class Conditioner:
    """Prompts to conditions, by the model's own tokenizer and text encoder."""

    def __init__(self, model: HFModule, tokenizer: Any, engine: Engine) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._engine = engine
        self._vocabulary = Vocabulary(vocabulary_of(model))

    @property
    def has_tokenizer(self) -> bool:
        """Whether prompts can be read."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; raises where the lens was built without a processor."""
        if self._tokenizer is None:
            raise InputError(
                "this lens has no tokenizer, so it can only run unconditionally (prompts=None). "
                "Give `AudioLens.from_model(model, processor)` the checkpoint's processor."
            )
        return self._tokenizer

    def tokens(self, prompt: str) -> list[str]:
        """The text tokens of a prompt."""
        if as_prompts(prompt) == (None,):
            raise InputError("None has no text tokens: give a prompt.")
        return self.tokenizer.convert_ids_to_tokens(self.tokenizer(prompt).input_ids)

    def heed(self, prompts: Sequence[str | None]) -> None:
        """Say which words of a call's prompts the checkpoint never learned; each is said once."""
        self._vocabulary.heed(prompts)

    def lengths(self, prompts: Sequence[str | None], *, fixed: bool) -> list[int | None]:
        """The text tokens each row is padded to; rows of different lengths run apart.

        None pads to the longest of the batch. `fixed` asks for lengths that depend on the row
        alone.
        """
        raise NotImplementedError

    def n_prefix(self, prompt: str | None) -> int:
        """Positions in front of the music."""
        return 0

    def encode(
        self, prompts: Sequence[str | None], run: Run, *, length: int | None = None
    ) -> Conditioning:
        """Conditions of all branches.

        Args:
            prompts: One per padded row.
            run: The run under way, for hooks; it is told its layout.
            length: Pad to so many text tokens, rather than to the longest prompt.
        """
        raise NotImplementedError

    def _length(self, prompt: str | None) -> int:
        return 1 if prompt is None else len(self.tokenizer(prompt).input_ids)

    def _hidden(
        self, prompts: Sequence[str | None], run: Run, length: int | None
    ) -> tuple[Tensor, Tensor]:
        """The text encoder's output for the conditional half, zero where there is no prompt."""
        device = next(self._model.decoder.parameters()).device
        if not run.has_text:  # of no group: else each is encoded, so that hooks see every row
            shape = (len(prompts), length or 1)
            d_text, dtype = self._model.config.text_encoder.hidden_size, self._model.dtype
            return (
                torch.zeros(*shape, d_text, device=device, dtype=dtype),
                torch.zeros(shape, device=device, dtype=torch.long),
            )
        inputs = self.tokenizer(
            [prompt or "" for prompt in prompts],
            return_tensors="pt",
            padding=True if length is None else "max_length",
            max_length=length,
        )
        ids, mask = inputs.input_ids.to(device), inputs.attention_mask.to(device)
        hidden = self._model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        given = torch.tensor([prompt is not None for prompt in prompts], device=device)
        if not given.all():
            hidden, mask = hidden * given[:, None, None], mask * given[:, None]
        return hidden, mask

    def _projected(self, hidden: Tensor) -> Tensor:
        has_projection = hasattr(self._model, "enc_to_dec_proj")
        return self._model.enc_to_dec_proj(hidden) if has_projection else hidden

    def _offered(self, location: str, states: Tensor) -> Tensor:
        return self._engine.offer(location, states)[0] if self._engine.wants(location) else states


class CrossAttended(Conditioner):
    """Text that every block cross-attends to; padding is masked."""

    def lengths(self, prompts: Sequence[str | None], *, fixed: bool) -> list[int | None]:
        if not fixed:
            return [None] * len(prompts)
        return [-(-self._length(prompt) // TEXT_BUCKET) * TEXT_BUCKET for prompt in prompts]

    def encode(
        self, prompts: Sequence[str | None], run: Run, *, length: int | None = None
    ) -> Conditioning:
        for place, prompt in enumerate(prompts):
            if getattr(prompt, "chroma", None) is not None:
                raise InputError(
                    f"prompt {place} carries a melody, which this checkpoint does not take. Use a "
                    f"melody checkpoint such as 'facebook/musicgen-melody', or text alone."
                )
        hidden, mask = (_halves(part, run) for part in self._hidden(prompts, run, length))
        states = self._offered(TEXT_PROJECTION, self._projected(hidden) * mask[..., None])
        return Conditioning(states, mask)


class Prefix(Conditioner):
    """Chroma of a melody, then text tokens, in front of the music.

    Transformers does not mask padding here, so padded rows would depend on their batch: rows of
    different token counts are run apart.
    """

    def lengths(self, prompts: Sequence[str | None], *, fixed: bool) -> list[int | None]:
        return list(map(self._length, prompts))

    def n_prefix(self, prompt: str | None) -> int:
        return self._model.config.chroma_length + self._length(prompt)

    def encode(
        self, prompts: Sequence[str | None], run: Run, *, length: int | None = None
    ) -> Conditioning:
        hidden, mask = self._hidden(prompts, run, length)
        # Projected before the halves are joined, unlike cross-attended text: transformers' order,
        # which shows in the last bits where there are few tokens.
        states = _halves(self._projected(hidden), run) * _halves(mask, run)[..., None]
        text = self._offered(TEXT_PROJECTION, states)
        melody = self._melody(prompts, run)
        run.layout = Layout(n_chroma=melody.shape[1], n_text=text.shape[1])
        return Conditioning(torch.cat([melody, text], dim=1), None)

    def _melody(self, prompts: Sequence[str | None], run: Run) -> Tensor:
        """Projected chroma of all branches, repeated or cut to the model's length."""
        model = self._model
        device, n_frames = next(model.decoder.parameters()).device, model.config.chroma_length
        chroma = self._chroma(prompts, n_frames).to(device, model.dtype)
        null = torch.zeros_like(chroma)
        null[..., 0] = 1
        chroma = torch.cat([chroma, *[null] * (len(run.branches) - 1)])
        if hasattr(model, "audio_enc_to_dec_proj"):
            chroma = model.audio_enc_to_dec_proj(chroma)
        return self._offered(MELODY_PROJECTION, _repeated(chroma, n_frames))

    def _chroma(self, prompts: Sequence[str | None], n_frames: int) -> Tensor:
        """Chroma of the conditional half; a row without a melody says C throughout."""
        null = torch.zeros(1, N_CHROMA)
        null[:, 0] = 1
        given = [getattr(prompt, "chroma", None) for prompt in prompts]
        chroma = [null if melody is None else melody for melody in given]
        longest = max(map(len, chroma))
        if longest > n_frames:
            warnings.warn(
                f"a melody has {longest} chroma frames and the model takes {n_frames}: what comes "
                f"after them is left out.",
                stacklevel=2,
            )
        if len({len(melody) for melody in chroma}) > 1:
            chroma = [_repeated(melody[None], n_frames)[0] for melody in chroma]
        return torch.stack(chroma)


def _halves(cond: Tensor, run: Run) -> Tensor:
    """The conditional half, and zeros for the unconditional one where the run has it."""
    return torch.cat([cond, *[torch.zeros_like(cond)] * (len(run.branches) - 1)])


def _repeated(
    frames: Float[Tensor, "rows frame d"], n_frames: int
) -> Float[Tensor, "rows n_frames d"]:
    return frames.repeat(1, -(-n_frames // frames.shape[1]), 1)[:, :n_frames]
