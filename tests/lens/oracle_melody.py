"""The oracle for MusicGen melody, which reads its conditions as a prefix of the sequence.

A sequence is `[chroma; text; audio]`. Positions count from the first of the audio, so those of the
prefix are negative and -1 is the end of the text. Melody has no cross-attention, transformers
masks none of the prefix, and a block hands on a tuple.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest import mock

import torch
from oracle import AXES, Edit, Oracle
from torch import Tensor, nn
from transformers import (
    MusicgenMelodyConfig,
    MusicgenMelodyForConditionalGeneration,
    PretrainedConfig,
)

MELODY_AXES: dict[str, str] = {
    "text.hook_out": "token d_text",
    "text.hook_proj": "token d_model",
    "melody.hook_proj": "chroma d_model",
    "embed.hook_codebook": "codebook audio_pos d_model",
    **{
        name: axes
        for name, axes in AXES.items()
        if not name.startswith(("text.", "embed.")) and "cross" not in name and "mid2" not in name
    },
}
"""The writable families and their axes behind the batch: no cross-attention, one middle."""

MELODY_SCALES = ("ln1", "ln2", "ln_final")


@dataclass
class MelodyOracle(Oracle):
    """Prompts of a batch must have equally many tokens: transformers does not mask padding here."""

    config_class: ClassVar[type[PretrainedConfig]] = MusicgenMelodyConfig
    model_class: ClassVar[type[nn.Module]] = MusicgenMelodyForConditionalGeneration

    prefix: int = 0
    """Positions before the audio in the latest run."""

    @property
    def chroma_length(self) -> int:
        """Positions at the start of the prefix that hold the melody."""
        return self.model.config.chroma_length

    # -- running ------------------------------------------------------------------------------

    def inputs(
        self, prompts: Sequence[str | None], melody: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What transformers' processor makes of prompts and of chroma `[batch frame 12]`.

        Without a prompt it gives the tokens of no text, masked (`get_unconditional_inputs`).
        """
        text = self.tokenizer([prompt or "" for prompt in prompts]).input_ids
        ids = torch.tensor(text)  # raises unless all are equally long
        given = torch.tensor([prompt is not None for prompt in prompts])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids) * given[:, None]}
        return inputs if melody is None else inputs | {"input_features": melody}

    def positional(
        self,
        prompts: Sequence[str | None],
        codes: Tensor,
        *,
        guidance_scale: float = 1.0,
        melody: Tensor | None = None,
    ) -> Tensor:
        """Teacher-forced logits `[branch*batch codebook position vocab]`, prefix included."""
        inputs = self.inputs(prompts, melody)
        ids = self.delayed(codes.expand(len(prompts), -1, -1))
        self.prefix = self.chroma_length + inputs["input_ids"].shape[1]
        self.guided = guidance_scale > 1
        if self.guided:
            states = self._states(inputs, guidance_scale)
            inputs, ids = {"encoder_hidden_states": states}, ids.repeat(2, 1)
        logits = self.model(**inputs, decoder_input_ids=ids).logits
        return logits.view(-1, self.n_codebooks, *logits.shape[1:])

    def _states(self, inputs: dict[str, Tensor], guidance_scale: float) -> Tensor:
        """The prefix of both halves, by the method that `generate` has for it."""
        inputs = dict(inputs)
        config = copy.deepcopy(self.model.generation_config)
        config.guidance_scale = guidance_scale
        given = self.model._prepare_encoder_hidden_states_kwargs_for_generation(
            inputs.pop("input_ids"), inputs, "input_ids", config
        )
        return given["encoder_hidden_states"]

    def aligned(self, logits: Tensor, *, guidance_scale: float = 1.0) -> Tensor:
        """Logits by position made `[batch codebook frame vocab]`, guided: those of the audio."""
        return super().aligned(logits[:, :, self.prefix :], guidance_scale=guidance_scale)

    def generate(
        self,
        prompts: Sequence[str | None],
        *,
        frames: int,
        guidance_scale: float,
        seed: int | list[int] | None = None,
        known: Tensor | None = None,
        melody: Tensor | None = None,
    ) -> Tensor:
        """The codes `generate` hands to its codec, `known` ones first; greedy unless seeded."""
        inputs = self.inputs(prompts, melody)
        return self.generate_from(inputs, frames, guidance_scale, seed, known)

    # -- editing and reading ------------------------------------------------------------------

    def _track_positions(self) -> Any:
        def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            prefix, past = kwargs["encoder_hidden_states"], kwargs["past_key_values"]
            rows, length = kwargs["input_ids"].shape
            if prefix is not None:
                self.prefix = prefix.shape[1]
                self.positions = range(-self.prefix, length)
            else:
                start = past.get_seq_length() - self.prefix
                self.positions = range(start, start + length)
            self.decoder_rows = rows // self.n_codebooks

        return self.decoder.register_forward_pre_hook(note, with_kwargs=True)

    def _text_hooks(self) -> Iterator[Any]:
        def text_out(module: nn.Module, args: Any, out: Any) -> Any:
            out.last_hidden_state = self.visit("text.hook_out", out.last_hidden_state)
            return out

        def prefix(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            states = kwargs["encoder_hidden_states"]
            if states is None:  # after the first call of a generation
                return None
            melody, text = states[:, : self.chroma_length], states[:, self.chroma_length :]
            states = [self.visit("melody.hook_proj", melody), self.visit("text.hook_proj", text)]
            return args, kwargs | {"encoder_hidden_states": torch.cat(states, 1)}

        yield self.model.text_encoder.register_forward_hook(text_out)
        yield self.model.decoder.register_forward_pre_hook(prefix, with_kwargs=True)

    def _embedding_hooks(self) -> Iterator[Any]:
        """What is summed for the audio, and before it the prefix, which enters as it is."""

        def prefix(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            states = kwargs["encoder_hidden_states"]
            if states is None:
                return None
            states = self.visit("hook_embed", states, positions=range(-self.prefix, 0))
            return args, kwargs | {"encoder_hidden_states": states}

        if "hook_embed" in self.visits:
            yield self.decoder.register_forward_pre_hook(prefix, with_kwargs=True)
        yield from super()._embedding_hooks()

    def _attentions(self, block: nn.Module) -> dict[str, nn.Module]:
        return {"attn": block.self_attn}

    @contextmanager
    def _spelled_out(self, layer: int) -> Iterator[None]:
        block = self.decoder.layers[layer]

        def forward(x: Tensor, **more: Any) -> tuple[Tensor, Tensor | None]:
            attended, pattern = block.self_attn(block.self_attn_layer_norm(x), **more)
            x = self.visit(f"blocks.{layer}.hook_resid_mid", x + attended)
            neurons = block.activation_fn(block.fc1(block.final_layer_norm(x)))
            return x + block.fc2(neurons), pattern

        with mock.patch.object(block, "forward", forward):
            yield


def at_positions(edit: Edit, positions: range) -> Edit:
    """The edit at these positions alone."""
    gain, shift = torch.ones_like(edit.gain), torch.zeros_like(edit.shift)
    for axis, name in enumerate(edit.axes.split()):
        if name in ("pos", "query", "audio_pos"):
            here = (axis, positions.start - edit.origin, len(positions))
            gain.narrow(*here).copy_(edit.gain.narrow(*here))
            shift.narrow(*here).copy_(edit.shift.narrow(*here))
    return Edit(edit.axes, gain, shift, edit.origin)
