"""The decoder's blocks one at a time, from some position on, over what a run has left behind.

A change at layer l and position p reaches nothing below l and nothing before p. So what a run
computed there is kept, once, and only the rest is run again: rows enter at the layer where they
first differ, and positions before theirs are there as keys and values.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from audio_lens.errors import InputError
from audio_lens.lens.delay import DelayPattern
from audio_lens.lens.layout import Layout
from audio_lens.lens.recording import Recording
from audio_lens.lens.rows import as_prompts, group_rows, run_of
from audio_lens.lens.run import Run, ordinary_tensors

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

Stream = Float[Tensor, "branch row pos d_model"]


@dataclass(frozen=True, eq=False)
class Kept:
    """What a run leaves behind: enough to run any part of it again."""

    branches: tuple[str, ...]
    layout: Layout
    with_text: tuple[bool, ...]
    stream: tuple[Stream, ...]
    """Entering each block, and leaving the last."""
    keys: tuple[Float[Tensor, "branch row head pos d_head"], ...]
    values: tuple[Float[Tensor, "branch row head pos d_head"], ...]
    cross: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values of cross-attention, [branch row head token d_head]; empty for a prefix."""
    cross_mask: Int[Tensor, "branch row token"] | None
    logits: Float[Tensor, "branch row codebook audio_pos vocab"]
    """Of every position of the music."""

    pattern: DelayPattern

    def run(self, rows: Sequence[int]) -> Run:
        """A run of copies of kept rows."""
        run = Run(
            rows=tuple(range(len(rows))),
            padded=len(rows),
            branches=self.branches,
            frame_rate=self.pattern.frame_rate,
            with_text=tuple(self.with_text[row] for row in rows),
            n_positions=self.logits.shape[-2],
            first_full=self.pattern.first_full,
        )
        run.layout = self.layout
        return run


@torch.no_grad()
def keep(
    lens: "AudioLens",
    prompts: Any,
    tokens: Int[Tensor, "row codebook pos"],
    guidance_scale: float = 1.0,
) -> Kept:
    """Run prompts and delayed tokens, and keep what it takes to run parts of it again.

    Raises:
        InputError: a melody model's prompts of different length, which cannot run together.
    """
    texts = as_prompts(prompts, len(tokens))
    groups = group_rows(texts, None, lens._conditioner)
    if len(groups) > 1:
        raise InputError("prompts of different length run apart in a melody model.")
    last = f"blocks.{lens.cfg.n_layers - 1}.hook_resid_post"
    sites = lens.sites.resolve(["resid_pre", "attn.k", "attn.v", last, "hook_logits"])
    recording = Recording(sites, None)
    with lens._engine.registered(recording.registrations()):
        lens(list(texts), tokens=tokens, guidance_scale=guidance_scale)
    cache = recording.cache(lens)
    run = run_of(
        groups[0],
        texts,
        guidance_scale,
        pattern=lens.delay,
        n_positions=tokens.shape[-1],
    )

    def of(name: str) -> Tensor:
        return torch.stack([cache.branch(branch)[name] for branch in run.branches])

    blocks = [f"blocks.{layer}" for layer in range(lens.cfg.n_layers)]
    cross, mask = _cross(lens, texts, run)
    return Kept(
        branches=run.branches,
        layout=cache.layout,
        with_text=run.with_text,
        stream=(*(of(f"{block}.hook_resid_pre") for block in blocks), of(last)),
        keys=tuple(of(f"{block}.attn.hook_k").transpose(2, 3) for block in blocks),
        values=tuple(of(f"{block}.attn.hook_v").transpose(2, 3) for block in blocks),
        cross=cross,
        cross_mask=mask,
        logits=of("hook_logits")[..., cache.layout.audio, :],
        pattern=lens.delay,
    )


def _cross(
    lens: "AudioLens", texts: Sequence[str | None], run: Run
) -> tuple[tuple[tuple[Tensor, Tensor], ...], Tensor | None]:
    """Keys and values that cross-attention sees, and which of them it may see."""
    with ordinary_tensors(), lens._engine.running(run):
        conditions = lens._conditioner.encode(texts, run)
    if conditions.mask is None:
        return (), None

    def split(states: Tensor) -> Tensor:
        halves = states.unflatten(0, (len(run.branches), -1))
        return halves.unflatten(-1, (lens.cfg.n_heads, -1)).transpose(2, 3)

    attentions = [block.encoder_attn for block in lens._module.decoder.model.decoder.layers]
    pairs = [(split(a.k_proj(conditions.states)), split(a.v_proj(conditions.states)))
             for a in attentions]  # fmt: skip
    return tuple(pairs), conditions.mask.unflatten(0, (len(run.branches), -1))


class _Behind(DynamicLayer):
    """Keys and values of the positions that are not run again, in front of those that are."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._before = keys, values
        self.keys, self.values = keys, values  # cross-attention reads them as they are

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        keys, values = self._before
        return torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)


class Tail:
    """Rows on their way through the blocks, from position `start` of the decoder's axis on.

    Rows join in front of any block, each as a copy of a row of the kept run.
    """

    def __init__(self, lens: "AudioLens", kept: Kept, start: int) -> None:
        self._lens, self._kept, self._start = lens, kept, start
        self._decoder = lens._module.decoder
        self._rows: list[int] = []
        self._stream = kept.stream[0][:, :0, start:]

    @property
    def n_rows(self) -> int:
        """Rows that have joined."""
        return len(self._rows)

    def join(self, layer: int, rows: Sequence[int]) -> Stream:
        """Have copies of kept rows join in front of a block; returns their stream, to be edited."""
        self._rows += rows
        joining = self._kept.stream[layer][:, list(rows), self._start :]
        self._stream = torch.cat([self._stream, joining], dim=1)
        return self._stream[:, len(self._rows) - len(rows) :]

    def through(self, layer: int) -> None:
        """Take all rows through a block, hooks included."""
        stream = self._stream.flatten(0, 1)
        block = self._decoder.model.decoder.layers[layer]
        cache = self._cache(layer)
        arguments: dict[str, Any] = {}
        if self._kept.cross_mask is not None:
            # The states themselves are not read again: their keys and values are in the cache.
            mask = self._cross_mask(stream, self._kept.cross_mask)
            arguments = {"encoder_hidden_states": stream, "encoder_attention_mask": mask}
        with self._running():
            out = block(
                stream, self._mask(stream, cache), past_key_values=cache, use_cache=True,
                **arguments,
            )  # fmt: skip
        out = out[0] if isinstance(out, tuple) else out
        self._stream = out.unflatten(0, (len(self._kept.branches), -1))

    def logits(self) -> Float[Tensor, "branch row codebook audio_pos vocab"]:
        """Logits of the music's positions from `start` on."""
        skip = max(self._kept.layout.n_prefix - self._start, 0)
        return self._lens.unembed(self._stream[:, :, skip:])

    @contextmanager
    def _running(self) -> Iterator[None]:
        run = self._kept.run(self._rows)
        run.start = self._start - self._kept.layout.n_prefix
        run.length, run.step = self._stream.shape[2], 0
        with ordinary_tensors(), self._lens._engine.running(run):
            yield

    def _cache(self, layer: int) -> EncoderDecoderCache:
        kept, rows = self._kept, self._rows
        before = [
            part[layer][:, rows, :, : self._start].flatten(0, 1)
            for part in (kept.keys, kept.values)
        ]
        # Masks are sized by the first layer, whichever block runs: so every layer is this one.
        itself = Cache(layers=[_Behind(*before)] * (layer + 1))
        if not kept.cross:
            return EncoderDecoderCache(itself, DynamicCache())
        crossed = _Behind(*(part[:, rows].flatten(0, 1) for part in kept.cross[layer]))
        cache = EncoderDecoderCache(itself, Cache(layers=[crossed] * (layer + 1)))
        cache.is_updated[layer] = True
        return cache

    def _mask(self, stream: Tensor, cache: EncoderDecoderCache) -> Any:
        return create_causal_mask(
            config=self._decoder.config,
            inputs_embeds=stream,
            attention_mask=None,
            past_key_values=cache,
        )

    def _cross_mask(self, stream: Tensor, kept: Int[Tensor, "branch row token"]) -> Any:
        mask = kept[:, self._rows].flatten(0, 1)
        states = stream.new_zeros(len(mask), mask.shape[1], 1)
        return create_bidirectional_mask(
            config=self._decoder.config,
            inputs_embeds=stream,
            attention_mask=mask,
            encoder_hidden_states=states,
        )
