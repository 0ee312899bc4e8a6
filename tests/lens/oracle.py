"""MusicGen under edits, said a second time: transformers' own model and plain torch hooks.

`Oracle` is the MusicGen that cross-attends to its text, mono or stereo; `oracle_melody.py` has
the one that reads its text as a prefix.

The oracle shares nothing with the lens but the weights. It reaches every site by the most
obvious torch means, often another one than the lens (an MLP's neurons at the activation
function rather than at the next layer's input, a block's middle by spelling the block out), so
that a mistake about what a site *is* cannot hide in both.
"""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    PretrainedConfig,
)
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_outputs import BaseModelOutput

EXPLICIT = "oracle_explicit"
"""Attention spelled out, with scores and pattern in the open."""

AXES: dict[str, str] = {
    "embed.hook_codebook": "codebook pos d_model",
    "hook_embed": "pos d_model",
    "hook_pos_embed": "pos d_model",
    "blocks.{i}.hook_resid_pre": "pos d_model",
    "blocks.{i}.ln1.hook_normalized": "pos d_model",
    "blocks.{i}.attn.hook_q": "pos head d_head",
    "blocks.{i}.attn.hook_k": "pos head d_head",
    "blocks.{i}.attn.hook_v": "pos head d_head",
    "blocks.{i}.attn.hook_attn_scores": "head query key",
    "blocks.{i}.attn.hook_pattern": "head query key",
    "blocks.{i}.attn.hook_z": "pos head d_head",
    "blocks.{i}.attn.hook_result": "pos head d_model",
    "blocks.{i}.hook_attn_out": "pos d_model",
    "blocks.{i}.hook_resid_mid": "pos d_model",
    "blocks.{i}.ln_cross.hook_normalized": "pos d_model",
    "blocks.{i}.cross_attn.hook_q": "pos head d_head",
    "blocks.{i}.cross_attn.hook_k": "token head d_head",
    "blocks.{i}.cross_attn.hook_v": "token head d_head",
    "blocks.{i}.cross_attn.hook_attn_scores": "head query token",
    "blocks.{i}.cross_attn.hook_pattern": "head query token",
    "blocks.{i}.cross_attn.hook_z": "pos head d_head",
    "blocks.{i}.cross_attn.hook_result": "pos head d_model",
    "blocks.{i}.hook_cross_attn_out": "pos d_model",
    "blocks.{i}.hook_resid_mid2": "pos d_model",
    "blocks.{i}.ln2.hook_normalized": "pos d_model",
    "blocks.{i}.mlp.hook_pre": "pos d_mlp",
    "blocks.{i}.mlp.hook_post": "pos d_mlp",
    "blocks.{i}.hook_mlp_out": "pos d_model",
    "blocks.{i}.hook_resid_post": "pos d_model",
    "ln_final.hook_normalized": "pos d_model",
    "hook_logits": "codebook pos vocab",
    "text.hook_out": "token d_text",
    "text.hook_proj": "token d_model",
}
"""The writable families and their axes behind the batch, written down from the plan."""

SCALES = ("ln1", "ln_cross", "ln2", "ln_final")
"""The LayerNorms, whose `hook_scale` is read-only."""


def family(name: str) -> str:
    """A site's name with its layer left open."""
    return re.sub(r"^blocks\.\d+\.", "blocks.{i}.", name)


def sees_text_only(name: str) -> bool:
    """Whether nothing written here reaches the unconditional half's logits.

    That half attends to no text, so its cross-attention adds zero whatever asks or answers.
    """
    inside = re.search(
        r"(cross_attn\.hook_(q|k|v|attn_scores|pattern)|ln_cross.*normalized)$", name
    )
    return bool(inside) or name.startswith("text.")


@dataclass(frozen=True)
class Edit:
    """`tensor * gain + shift`, both given for absolute positions, keys and text tokens.

    Their first values along positions and keys stand for the position `origin`.
    """

    axes: str
    gain: Tensor
    shift: Tensor
    origin: int = 0

    def __call__(self, tensor: Tensor, positions: range, index: int | None = None) -> Tensor:
        """The edited tensor `[batch, *axes]`; `index` picks one codebook, its axis kept at 1."""
        gain, shift = (
            self._cut(values, tensor, positions, index) for values in (self.gain, self.shift)
        )
        return tensor * gain + shift

    def _cut(self, values: Tensor, tensor: Tensor, positions: range, index: int | None) -> Tensor:
        for axis, name in enumerate(self.axes.split()):
            if name in ("pos", "query"):
                values = values.narrow(axis, positions.start - self.origin, len(positions))
            elif name == "audio_pos":
                start = max(0, positions.start)
                values = values.narrow(axis, start - self.origin, positions.stop - start)
            elif name == "key":
                keys = tensor.shape[axis + 1]
                values = values.narrow(axis, positions.stop - keys - self.origin, keys)
            elif name in ("token", "chroma"):
                values = values.narrow(axis, 0, tensor.shape[axis + 1])
            elif name == "codebook" and index is not None:
                values = values.narrow(axis, index, 1)
        return values


@dataclass
class Visit:
    """What happens at a site: edited in some branch, remembered if asked."""

    edit: Edit | None = None
    branch: str = "both"
    rows: list[int] | None = None
    kept: list[Tensor] | None = None


@dataclass
class Oracle:
    """A model made from another's weights, edited and read by plain torch hooks."""

    config_class: ClassVar[type[PretrainedConfig]] = MusicgenConfig
    model_class: ClassVar[type[nn.Module]] = MusicgenForConditionalGeneration

    model: nn.Module
    tokenizer: Callable[..., Any]
    visits: dict[str, Visit] = field(default_factory=dict)
    guided: bool = False
    positions: range = range(0)
    decoder_rows: int = 0
    calls: list[int] = field(default_factory=list)
    """Positions per decoder call of the latest generation."""
    sound: Tensor | None = None
    """What the latest generation gave, `[batch channel sample]`."""

    @classmethod
    def copying(cls, source: nn.Module, tokenizer: Callable[..., Any]) -> "Oracle":
        """A fresh model with the weights of another, on transformers' own sdpa attention."""
        model = cls.model_class(cls.config_class.from_dict(source.config.to_dict())).eval()
        model.load_state_dict(source.state_dict())
        buffers = dict(source.named_buffers())
        for name, buffer in model.named_buffers():  # those outside the state dict too
            buffer.copy_(buffers[name])
        model.generation_config = copy.deepcopy(source.generation_config)
        model.decoder.set_attn_implementation("sdpa")
        return cls(model, tokenizer)

    @property
    def decoder(self) -> nn.Module:
        """The stack of blocks."""
        return self.model.decoder.model.decoder

    @property
    def n_codebooks(self) -> int:
        """Codebooks; of both channels, where there are two."""
        return len(self.decoder.embed_tokens)

    @property
    def delays(self) -> list[int]:
        """Positions by which each codebook lags: one more than the one before, or than the pair."""
        channels = self.model.config.decoder.audio_channels
        return [k // channels for k in range(self.n_codebooks)]

    # -- running ------------------------------------------------------------------------------

    def delayed(self, codes: Tensor) -> Tensor:
        """Decoder ids `[batch*codebook position]`: frame f enters at f + the delay + 1."""
        batch, n_codebooks, frames = codes.shape
        ids = codes.new_full((batch, n_codebooks, frames + self.delays[-1] + 1), self.bos)
        for k, delay in enumerate(self.delays):
            ids[:, k, 1 + delay : 1 + delay + frames] = codes[:, k]
        return ids[..., :-1].reshape(batch * n_codebooks, -1)

    @property
    def bos(self) -> int:
        """The token that stands where there is no code."""
        return self.model.generation_config.decoder_start_token_id

    def positional(
        self, prompts: list[str], codes: Tensor, *, guidance_scale: float = 1.0
    ) -> Tensor:
        """Teacher-forced logits `[branch*batch codebook position vocab]`, before guidance."""
        inputs = self.tokenizer(prompts, padding=True, return_tensors="pt")
        ids = self.delayed(codes.expand(len(prompts), -1, -1))
        self.guided = guidance_scale > 1
        if self.guided:
            hidden = self.model.text_encoder(**inputs).last_hidden_state
            mask = inputs.attention_mask
            text: dict[str, Any] = {
                "encoder_outputs": BaseModelOutput(torch.cat([hidden, torch.zeros_like(hidden)])),
                "attention_mask": torch.cat([mask, torch.zeros_like(mask)]),
            }
            ids = ids.repeat(2, 1)
        else:
            text = dict(inputs)
        logits = self.model(**text, decoder_input_ids=ids).logits
        return logits.view(-1, self.n_codebooks, *logits.shape[1:])

    def aligned(self, logits: Tensor, *, guidance_scale: float = 1.0) -> Tensor:
        """Logits by position made `[batch codebook frame vocab]`, guided."""
        if guidance_scale > 1:
            cond, uncond = logits.chunk(2)
            logits = uncond + (cond - uncond) * guidance_scale
        frames = logits.shape[2] - self.delays[-1]
        return torch.stack([logits[:, k, d : d + frames] for k, d in enumerate(self.delays)], 1)

    def generate(
        self,
        prompts: list[str],
        *,
        frames: int,
        guidance_scale: float,
        seed: int | list[int] | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """The codes `generate` hands to its codec, `known` ones first; greedy unless seeded.

        One number seeds torch, as users of transformers do; a list gives each row its own draws.
        """
        inputs = self.tokenizer(prompts, padding=True, return_tensors="pt")
        return self.generate_from(dict(inputs), frames, guidance_scale, seed, known)

    def generate_from(
        self,
        inputs: dict[str, Tensor],
        frames: int,
        guidance_scale: float,
        seed: int | list[int] | None,
        known: Tensor | None,
    ) -> Tensor:
        """The same of what a processor has made of prompts."""
        self.guided = guidance_scale > 1
        self.calls.clear()
        if known is not None:
            inputs["decoder_input_ids"] = known.flatten(0, 1)
            frames -= known.shape[-1]
        sampling = {"do_sample": False} if seed is None else {"do_sample": True, "top_k": 250}
        with self._spying() as seen, self._counting(), self._drawing(seed):
            self.sound = self.model.generate(
                **inputs,
                **sampling,
                guidance_scale=guidance_scale,
                max_new_tokens=frames + self.delays[-1],
            )
        # Two channels are decoded one after the other, and stand in turns among the codebooks.
        return torch.stack([codes[0] for codes in seen], dim=2).flatten(1, 2)

    @contextmanager
    def _drawing(self, seed: int | list[int] | None) -> Iterator[None]:
        """Draws from torch's own generator, or for each row from one of its own."""
        if not isinstance(seed, list):
            if seed is not None:
                torch.manual_seed(seed)
            yield
            return
        generators = [torch.Generator().manual_seed(s) for s in seed]
        multinomial = torch.multinomial

        def draw(probabilities: Tensor, num_samples: int) -> Tensor:
            rows = probabilities.split(self.n_codebooks)
            each = zip(rows, generators, strict=True)
            return torch.cat([multinomial(row, num_samples, generator=g) for row, g in each])

        with mock.patch.object(torch, "multinomial", draw):
            yield

    @contextmanager
    def _spying(self) -> Iterator[list[Tensor]]:
        """The codes that the codec is given: its sound would not tell codes apart reliably."""
        seen: list[Tensor] = []
        decode = self.model.audio_encoder.decode

        @wraps(decode)  # generate inspects the signature
        def spy(audio_codes: Tensor, *args: Any, **kwargs: Any) -> Any:
            seen.append(audio_codes.clone())
            return decode(audio_codes, *args, **kwargs)

        with mock.patch.object(self.model.audio_encoder, "decode", spy):
            yield seen

    @contextmanager
    def _counting(self) -> Iterator[None]:
        def count(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            self.calls.append(kwargs["input_ids"].shape[-1])

        handle = self.decoder.register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    # -- editing and reading ------------------------------------------------------------------

    @contextmanager
    def visiting(self, visits: dict[str, Visit]) -> Iterator["Oracle"]:
        """Hooks at these sites while the block lasts."""
        self.visits = visits
        with ExitStack() as stack:
            for handle in [self._track_positions(), *self._hooks()]:
                if handle is not None:
                    stack.callback(handle.remove)
            if any(name.endswith(("attn_scores", "pattern")) for name in visits):
                stack.enter_context(self._explicit_attention())
            for layer in range(len(self.decoder.layers)):
                if any(f"blocks.{layer}.hook_resid_{mid}" in visits for mid in ("mid", "mid2")):
                    stack.enter_context(self._spelled_out(layer))
            try:
                yield self
            finally:
                self.visits = {}

    def editing(
        self, name: str, edit: Edit, *, branch: str = "both", rows: list[int] | None = None
    ) -> Any:
        """One edit at one site; `with oracle.editing(...)`."""
        return self.visiting({name: Visit(edit, branch, rows)})

    def visit(
        self,
        name: str,
        tensor: Tensor,
        index: int | None = None,
        positions: range | None = None,
    ) -> Tensor:
        """A site's tensor on its way: the edited one, remembered if asked.

        Where the site is met in parts, `index` says which codebook or `positions` which positions.
        """
        visit = self.visits.get(name)
        if visit is None:
            return tensor
        if visit.edit is not None:
            edited = visit.edit(tensor, positions or self.positions, index)
            chosen = self._chosen(tensor, visit, halves=1 if name == "text.hook_out" else 2)
            tensor = torch.where(chosen.view(-1, *[1] * (tensor.ndim - 1)), edited, tensor)
        if visit.kept is not None:
            visit.kept.append(tensor)
            if torch.is_grad_enabled():
                tensor.retain_grad()
        return tensor

    def _chosen(self, tensor: Tensor, visit: Visit, *, halves: int) -> Tensor:
        """Which rows of a tensor are edited; under guidance the cond half comes first."""
        n_rows = len(tensor) // (halves if self.guided else 1)
        row = torch.zeros(n_rows, dtype=torch.bool)
        row[slice(None) if visit.rows is None else visit.rows] = True
        if not self.guided or halves == 1:
            return row if visit.branch != "uncond" else torch.zeros_like(row)
        nothing = torch.zeros_like(row)
        cond = nothing if visit.branch == "uncond" else row
        return torch.cat([cond, nothing if visit.branch == "cond" else row])

    def _track_positions(self) -> Any:
        def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            past = kwargs.get("past_key_values")
            start = past.get_seq_length() if past is not None else 0
            rows, length = kwargs["input_ids"].shape
            self.positions = range(start, start + length)
            self.decoder_rows = rows // self.n_codebooks

        return self.decoder.register_forward_pre_hook(note, with_kwargs=True)

    def _hooks(self) -> Iterator[Any]:
        yield from self._text_hooks()
        yield from self._embedding_hooks()
        for layer, block in enumerate(self.decoder.layers):
            yield from self._block_hooks(f"blocks.{layer}", block)
        yield from self._norm_hooks("ln_final", self.decoder.layer_norm)
        for k, head in enumerate(self.model.decoder.lm_heads):
            yield self._on_output(head, "hook_logits", codebook=k)

    def _text_hooks(self) -> Iterator[Any]:
        def text_out(module: nn.Module, args: Any, out: Any) -> Any:
            out.last_hidden_state = self.visit("text.hook_out", out.last_hidden_state)
            return out

        def text_proj(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            states = self.visit("text.hook_proj", kwargs["encoder_hidden_states"])
            return args, kwargs | {"encoder_hidden_states": states}

        yield self.model.text_encoder.register_forward_hook(text_out)
        yield self.model.decoder.register_forward_pre_hook(text_proj, with_kwargs=True)

    def _embedding_hooks(self) -> Iterator[Any]:
        """The sum of embeddings is made inside the decoder: the last one is handed all of it."""
        parts: list[Tensor] = []

        def codebook(module: nn.Module, args: Any, out: Tensor, *, k: int) -> Tensor:
            out = self.visit("embed.hook_codebook", out[:, None], index=k)[:, 0]
            if "hook_embed" not in self.visits:
                return out
            parts.append(out)
            if k < self.n_codebooks - 1:
                return torch.zeros_like(out)
            total = sum(parts[1:], parts[0])
            parts.clear()
            return self.visit("hook_embed", total, positions=self._audio_positions())

        def positions(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            rows = out.expand(self.decoder_rows, *out.shape).clone()
            wanted = "hook_pos_embed" in self.visits and torch.is_grad_enabled()
            return self.visit("hook_pos_embed", rows.requires_grad_(wanted))

        if not {"embed.hook_codebook", "hook_embed"}.isdisjoint(self.visits):
            for k, embedding in enumerate(self.decoder.embed_tokens):
                yield embedding.register_forward_hook(partial(codebook, k=k))
        if "hook_pos_embed" in self.visits:
            yield self.decoder.embed_positions.register_forward_hook(positions)

    def _audio_positions(self) -> range:
        """Those of `positions` that hold tokens: all, unless there is a prefix."""
        return range(max(0, self.positions.start), self.positions.stop)

    def _block_hooks(self, name: str, block: nn.Module) -> Iterator[Any]:
        yield self._on_input(block, f"{name}.hook_resid_pre")
        yield from self._norm_hooks(f"{name}.ln1", block.self_attn_layer_norm)
        yield from self._attention_hooks(f"{name}.attn", block.self_attn)
        yield self._on_output(block.self_attn, f"{name}.hook_attn_out")
        if hasattr(block, "encoder_attn"):
            yield from self._norm_hooks(f"{name}.ln_cross", block.encoder_attn_layer_norm)
            yield from self._attention_hooks(f"{name}.cross_attn", block.encoder_attn)
            yield self._on_output(block.encoder_attn, f"{name}.hook_cross_attn_out")
        yield from self._norm_hooks(f"{name}.ln2", block.final_layer_norm)
        yield self._on_output(block.fc1, f"{name}.mlp.hook_pre")
        yield self._on_output(block.activation_fn, f"{name}.mlp.hook_post")
        yield self._on_output(block.fc2, f"{name}.hook_mlp_out")
        yield self._on_output(block, f"{name}.hook_resid_post")

    def _norm_hooks(self, name: str, norm: nn.LayerNorm) -> Iterator[Any]:
        def scale(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            centred = args[0] - args[0].mean(-1, keepdim=True)
            self.visit(
                f"{name}.hook_scale", (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
            )

        if f"{name}.hook_scale" in self.visits:
            yield norm.register_forward_pre_hook(scale)
        yield self._on_output(norm, f"{name}.hook_normalized")

    def _attention_hooks(self, name: str, attention: nn.Module) -> Iterator[Any]:
        heads = attention.num_heads
        for letter in "qkv":
            projection = getattr(attention, f"{letter}_proj")
            yield self._on_output(projection, f"{name}.hook_{letter}", heads=heads)
        yield self._on_input(attention.out_proj, f"{name}.hook_z", heads=heads)

        def result(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            slices = module.weight.unflatten(1, (heads, -1)).unbind(1)
            parts = args[0].unflatten(-1, (heads, -1)).unbind(-2)
            each = torch.stack([z @ w.T for z, w in zip(parts, slices, strict=True)], dim=-2)
            return self.visit(f"{name}.hook_result", each).sum(-2)

        if f"{name}.hook_result" in self.visits:
            yield attention.out_proj.register_forward_hook(result)

    def _on_output(
        self, module: nn.Module, name: str, *, heads: int | None = None, codebook: int | None = None
    ) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            tensor, *rest = out if isinstance(out, tuple) else (out,)
            if heads is not None:
                tensor = self.visit(name, tensor.unflatten(-1, (heads, -1))).flatten(-2)
            elif codebook is not None:
                tensor = self.visit(name, tensor[:, None], index=codebook)[:, 0]
            else:
                tensor = self.visit(name, tensor)
            return (tensor, *rest) if isinstance(out, tuple) else tensor

        return module.register_forward_hook(hook) if name in self.visits else None

    def _on_input(self, module: nn.Module, name: str, *, heads: int | None = None) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            tensor, *rest = args
            if heads is None:
                return (self.visit(name, tensor), *rest)
            return (self.visit(name, tensor.unflatten(-1, (heads, -1))).flatten(-2), *rest)

        return module.register_forward_pre_hook(hook) if name in self.visits else None

    @contextmanager
    def _explicit_attention(self) -> Iterator[None]:
        for layer, block in enumerate(self.decoder.layers):
            for name, module in self._attentions(block).items():
                module.oracle_visit = partial(self._visit_attention, f"blocks.{layer}.{name}")
        self.model.decoder.set_attn_implementation(EXPLICIT)
        try:
            yield
        finally:
            self.model.decoder.set_attn_implementation("sdpa")

    def _attentions(self, block: nn.Module) -> dict[str, nn.Module]:
        return {"attn": block.self_attn, "cross_attn": block.encoder_attn}

    def _visit_attention(self, name: str, point: str, tensor: Tensor) -> Tensor:
        return self.visit(f"{name}.hook_{point}", tensor)

    @contextmanager
    def _spelled_out(self, layer: int) -> Iterator[None]:
        """A block as three sublayers, so that the stream between them has a name."""
        block = self.decoder.layers[layer]
        name = f"blocks.{layer}"

        def forward(
            x: Tensor, mask: Any, text: Tensor, *, encoder_attention_mask: Any, **more: Any
        ) -> Tensor:
            normalized = block.self_attn_layer_norm(x)
            x = x + block.self_attn(normalized, attention_mask=mask, **more)[0]
            x = self.visit(f"{name}.hook_resid_mid", x)
            crossed, _ = block.encoder_attn(
                block.encoder_attn_layer_norm(x),
                key_value_states=text,
                attention_mask=encoder_attention_mask,
                **more,
            )
            x = self.visit(f"{name}.hook_resid_mid2", x + crossed)
            return x + block.fc2(block.activation_fn(block.fc1(block.final_layer_norm(x))))

        with mock.patch.object(block, "forward", forward):
            yield


def _explicit(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    scores = query @ key.transpose(2, 3) * kwargs["scaling"]
    if mask is not None:
        scores = scores + mask
    scores = module.oracle_visit("attn_scores", scores)
    pattern = module.oracle_visit("pattern", scores.softmax(-1))
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


AttentionInterface.register(EXPLICIT, _explicit)
AttentionMaskInterface.register(EXPLICIT, eager_mask)
