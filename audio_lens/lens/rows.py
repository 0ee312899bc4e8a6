"""Rows: prompts and seeds made equally long, grouped, and turned into text states."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.errors import InputError
from audio_lens.lens.config import HFModule
from audio_lens.lens.engine import Engine
from audio_lens.lens.musicgen_sites import TEXT_PROJECTION
from audio_lens.lens.run import Run

Prompts = str | None | Sequence[str | None]
TEXT_BUCKET = 64
"""Text tokens to which `row_group` pads, so that a row's arithmetic never depends on others."""


@dataclass(frozen=True)
class Conditioning:
    """The text side of a run, for all branches."""

    states: Float[Tensor, "rows token d_model"]
    mask: Int[Tensor, "rows token"]


def as_prompts(prompts: Prompts, n_rows: int | None = None) -> tuple[str | None, ...]:
    """Prompts as a tuple; a single one, or None, is repeated to `n_rows`.

    Raises:
        InputError: no prompts, an empty one, something that is no text, or another number.
    """
    listed: tuple[str | None, ...] = (
        (prompts,) if prompts is None or isinstance(prompts, str) else tuple(prompts)
    )
    if not listed:
        raise InputError("prompts are empty: give at least one, or None for unconditional music.")
    for place, prompt in enumerate(listed):
        if prompt is not None and not isinstance(prompt, str):
            raise InputError(f"prompt {place} must be text or None, got {type(prompt).__name__}.")
        if prompt is not None and not prompt.strip():
            raise InputError(f"prompt {place} is empty: use None for unconditional music.")
    if n_rows is None or len(listed) == n_rows:
        return listed
    if len(listed) == 1:
        return listed * n_rows
    raise InputError(f"got {len(listed)} prompts for {n_rows} rows: give one, or one per row.")


def as_seeds(seed: Any, n_rows: int) -> tuple[int, ...]:
    """One seed per row; a single number serves every row.

    Raises:
        InputError: another number of seeds than rows, or seeds that are no integers.
    """
    try:
        seeds = tuple(map(index, seed)) if isinstance(seed, Sequence) else (index(seed),) * n_rows
    except TypeError:
        raise InputError(f"seeds must be whole numbers, got {seed!r}.") from None
    if len(seeds) != n_rows:
        raise InputError(
            f"got {len(seeds)} seeds for {n_rows} rows: give one number for all, or one per row."
        )
    if any(s < 0 for s in seeds):
        raise InputError(f"seeds must be integers of at least 0, got {list(seeds)}.")
    return seeds


def branches_for(prompts: Sequence[str | None], guidance_scale: float) -> tuple[str, ...]:
    """The halves of a run: guidance needs a prompt to guide towards.

    Raises:
        InputError: a guidance scale below 1.
    """
    if not guidance_scale >= 1:
        raise InputError(f"guidance_scale must be at least 1 (1 is off), got {guidance_scale}.")
    guided = guidance_scale > 1 and any(prompt is not None for prompt in prompts)
    return ("cond", "uncond") if guided else ("cond",)


class TextEncoder:
    """Prompts to text states, by the model's own tokenizer and text encoder."""

    def __init__(self, model: HFModule, tokenizer: Any, engine: Engine) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._engine = engine

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
        """The text tokens of a prompt: the `token` axis of cross-attention."""
        if as_prompts(prompt) == (None,):
            raise InputError("None has no text tokens: give a prompt.")
        return self.tokenizer.convert_ids_to_tokens(self.tokenizer(prompt).input_ids)

    def bucket(self, prompt: str | None) -> int:
        """The padded length of a prompt under `row_group`."""
        length = 1 if prompt is None else len(self.tokenizer(prompt).input_ids)
        return -(-length // TEXT_BUCKET) * TEXT_BUCKET

    def encode(
        self, prompts: Sequence[str | None], run: Run, *, length: int | None = None
    ) -> Conditioning:
        """Text states of all branches; the unconditional half is zero and masked.

        Args:
            prompts: One per padded row.
            run: The run under way, for hooks at `text.*`.
            length: Pad to so many tokens, rather than to the longest prompt.
        """
        model = self._model
        device = next(model.decoder.parameters()).device
        hidden, mask = self._hidden(prompts, length, device)
        n_branches = len(run.branches)
        hidden = torch.cat([hidden, *[torch.zeros_like(hidden)] * (n_branches - 1)])
        mask = torch.cat([mask, *[torch.zeros_like(mask)] * (n_branches - 1)])
        if hasattr(model, "enc_to_dec_proj"):
            hidden = model.enc_to_dec_proj(hidden)
        states = hidden * mask[..., None]
        if self._engine.wants(TEXT_PROJECTION):
            states, _ = self._engine.offer(TEXT_PROJECTION, states)
        return Conditioning(states, mask)

    def _hidden(
        self, prompts: Sequence[str | None], length: int | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """The text encoder's output for the conditional half, zero where there is no prompt."""
        d_text, dtype = self._model.config.text_encoder.hidden_size, self._model.dtype
        if all(prompt is None for prompt in prompts):
            shape = (len(prompts), length or 1)
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


@dataclass(frozen=True)
class Group:
    """Rows that run together, and how they are padded."""

    rows: tuple[int, ...]
    padded: int
    text_length: int | None

    def pad(self, values: Any) -> list[Any]:
        """The group's values out of a per-row sequence, its last row copied behind."""
        chosen = [values[row] for row in self.rows]
        return chosen + [chosen[-1]] * (self.padded - len(chosen))


def group_rows(
    prompts: Sequence[str | None], row_group: int | None, text: TextEncoder
) -> list[Group]:
    """All rows as one group, or as groups of exactly `row_group` with copies behind.

    With `row_group` every group has the same shape whatever else is asked for, which makes a
    row's result bit-equal however rows are grouped.
    """
    if row_group is None:
        return [Group(tuple(range(len(prompts))), len(prompts), None)]
    if row_group < 1:
        raise InputError(f"row_group must be at least 1, got {row_group}.")
    by_length: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        by_length.setdefault(text.bucket(prompt), []).append(row)
    return [
        Group(tuple(rows[start : start + row_group]), row_group, length)
        for length, rows in by_length.items()
        for start in range(0, len(rows), row_group)
    ]
