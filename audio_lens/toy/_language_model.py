"""The toy's mind: a five-layer MusicGen decoder and its text encoder, trained together."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    EncodecModel,
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
)

from audio_lens.audio.synthesis import Recipe

from ._codec import CODEBOOK_SIZE, N_CODEBOOKS
from ._listening import N_TARGETS, facts, listening_loss

BOS = CODEBOOK_SIZE
#: The first codebook holds the kick, so the tempo: it weighs most.
_CODEBOOK_WEIGHTS = (2.5, 1.2, 0.6, 0.4)


@dataclass(frozen=True)
class Phase:
    """A stretch of training: windows of `frames` codes, `batch` of them in a step."""

    steps: int
    frames: int
    batch: int


@dataclass(frozen=True)
class LanguageModelSettings:
    """How long and how hard the decoder and the text encoder are trained.

    Short windows first: they show more captions and more openings for the same work, and text
    matters most before the music has told the same. Long windows last, so that eight seconds and
    more are familiar. bfloat16 is for matrix
    products while training only; weights stay float32.
    """

    phases: tuple[Phase, ...] = (Phase(600, 100, 32), Phase(2400, 200, 16), Phase(600, 420, 8))
    learning_rate: float = 3e-3
    warmup: int = 60
    decay: float = 0.35
    text_rate: float = 0.1
    unconditional: float = 0.15
    opening_weight: float = 8.0
    opening_frames: float = 8.0
    listening: float = 1.0
    bfloat16: bool = True
    seed: int = 0


def _ids(**tokens: int) -> dict[str, Any]:
    """Token ids as a config takes them; which ones it knows, its base class decides."""
    return {f"{name}_token_id": token for name, token in tokens.items()}


def build_model(codec: EncodecModel, vocabulary: int) -> MusicgenForConditionalGeneration:
    """A MusicGen around a trained codec: decoder 5 x 128, text encoder 2 x 64, both untrained."""
    text = T5Config(
        vocab_size=vocabulary,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        is_encoder_decoder=False,
        **_ids(pad=0, eos=1, decoder_start=0),
    )
    decoder = MusicgenDecoderConfig(
        vocab_size=CODEBOOK_SIZE,
        max_position_embeddings=2048,
        num_hidden_layers=5,
        hidden_size=128,
        ffn_dim=512,
        num_attention_heads=4,
        num_codebooks=N_CODEBOOKS,
        audio_channels=1,
        dropout=0.0,
        **_ids(pad=BOS, bos=BOS, decoder_start=BOS),
    )
    config = MusicgenConfig(text_encoder=text, audio_encoder=codec.config, decoder=decoder)
    model = MusicgenForConditionalGeneration(config)
    model.audio_encoder.load_state_dict(codec.state_dict())
    open_text_path(model)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS,
        pad_token_id=BOS,
        decoder_start_token_id=BOS,
        do_sample=True,
        guidance_scale=3.0,
        top_k=250,
        max_length=504,
    )
    return model


@torch.no_grad()
def open_text_path(model: MusicgenForConditionalGeneration) -> None:
    """Initialise the way from text to residual stream at full strength.

    With the usual small numbers (0.02 three times in a row) the words arrive a thousandfold
    weaker than the music so far, and training goes on for thousands of steps without them.
    """
    matrices = [model.enc_to_dec_proj]
    for layer in model.decoder.model.decoder.layers:
        matrices += [layer.encoder_attn.v_proj, layer.encoder_attn.out_proj]
    for matrix in matrices:
        nn.init.normal_(matrix.weight, std=matrix.in_features**-0.5)
    nn.init.zeros_(model.enc_to_dec_proj.bias)


def delayed(codes: Int[Tensor, "batch codebook frame"]) -> Int[Tensor, "row position"]:
    """Decoder input as generation builds it: a BOS column, then codebook k shifted by k.

    Row `batch * codebook`; frames + codebooks - 1 positions, since the last column is only
    predicted.
    """
    batch, books, frames = codes.shape
    out = codes.new_full((batch, books, frames + books), BOS)
    for book in range(books):
        out[:, book, 1 + book : 1 + book + frames] = codes[:, book]
    return out[..., :-1].reshape(batch * books, -1)


def code_loss(
    logits: Float[Tensor, "row position entry"],
    codes: Int[Tensor, "batch codebook frame"],
    weights: Float[Tensor, " frame"] | None = None,
) -> Float[Tensor, " codebook"]:
    """Cross-entropy in nats per codebook; code (k, frame) is predicted at position frame + k.

    weights: how much each frame counts; all the same without them.
    """
    batch, books, frames = codes.shape
    grid = logits.view(batch, books, *logits.shape[1:])
    weights = torch.ones(frames) if weights is None else weights
    losses = []
    for book in range(books):
        predicted = grid[:, book, book : book + frames].transpose(1, 2)
        nats = nn.functional.cross_entropy(predicted, codes[:, book], reduction="none")
        losses.append((nats * weights).sum() / (batch * weights.sum()))
    return torch.stack(losses)


def opening_weights(frames: int, settings: "LanguageModelSettings") -> Float[Tensor, " frame"]:
    """Weights of frames: the first count most, for there only the text can tell what comes."""
    decay = torch.exp(-torch.arange(frames) / settings.opening_frames)
    return 1 + settings.opening_weight * decay


@dataclass(frozen=True)
class _Data:
    codes: Int[Tensor, "clip codebook frame"]
    ids: Int[Tensor, "clip token"]
    mask: Int[Tensor, "clip token"]
    facts: Float[Tensor, "clip fact"]


@dataclass(frozen=True)
class _Batch:
    codes: Int[Tensor, "batch codebook frame"]
    ids: Int[Tensor, "batch token"]
    mask: Int[Tensor, "batch token"]
    facts: Float[Tensor, "batch fact"]
    starts: Int[Tensor, " batch"]


def _batch(data: _Data, phase: Phase, generator: torch.Generator) -> _Batch:
    """Windows of codes with their captions; starts are even frames, as sounds repeat every two."""
    rows = torch.randint(len(data.codes), (phase.batch,), generator=generator)
    last = (data.codes.shape[2] - phase.frames) // 2 + 1
    starts = 2 * torch.randint(last, (phase.batch,), generator=generator)
    windows = [data.codes[r, :, s : s + phase.frames] for r, s in zip(rows, starts, strict=True)]
    return _Batch(torch.stack(windows), data.ids[rows], data.mask[rows], data.facts[rows], starts)


def _hidden(
    model: MusicgenForConditionalGeneration, batch: _Batch, unconditional: Tensor
) -> Float[Tensor, "batch position d_model"]:
    """Last hidden states; unconditional rows get zeroed states and a zeroed mask."""
    states = model.text_encoder(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
    mask = batch.mask * (~unconditional)[:, None]
    return model.decoder.model(
        input_ids=delayed(batch.codes),
        encoder_hidden_states=model.enc_to_dec_proj(states) * mask[..., None],
        encoder_attention_mask=mask,
        use_cache=False,
    ).last_hidden_state


def _losses(
    model: MusicgenForConditionalGeneration,
    heads: nn.Linear,
    batch: _Batch,
    unconditional: Tensor,
    settings: LanguageModelSettings,
) -> tuple[Float[Tensor, " codebook"], Float[Tensor, ""]]:
    """Nats per codebook, openings weighted, and the error of the listening lessons."""
    hidden = _hidden(model, batch, unconditional)
    logits = torch.stack([head(hidden) for head in model.decoder.lm_heads], dim=1).flatten(0, 1)
    frames = batch.codes.shape[2]
    nats = code_loss(logits, batch.codes, opening_weights(frames, settings))
    return nats, listening_loss(heads, hidden, batch.facts, batch.starts, frames)


def _rate(step: int, total: int, settings: LanguageModelSettings) -> float:
    """Share of the full rate: warm-up, level, then a straight line down to almost nothing."""
    left = (total - step) / max(1.0, settings.decay * total)
    return min(1.0, (step + 1) / settings.warmup, left)


def _optimizers(
    model: MusicgenForConditionalGeneration, heads: nn.Linear, settings: LanguageModelSettings
) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the decoder's matrices, AdamW for everything else that is learned.

    Muon halves the steps that the decoder needs; its updates are scaled to the size of AdamW's.
    The text encoder can read already and moves slowly.
    """
    rate = settings.learning_rate
    groups: dict[str, list[nn.Parameter]] = {
        "matrix": [],
        "text": [],
        "other": list(heads.parameters()),
    }
    for name, parameter in model.named_parameters():
        if name.startswith("audio_encoder."):
            continue
        is_matrix = parameter.ndim == 2 and name.startswith("decoder.model.decoder.layers.")
        other = "text" if name.startswith("text_encoder.") else "other"
        groups["matrix" if is_matrix else other].append(parameter)
    rates: list[dict[str, Any]] = [
        {"params": groups["other"]},
        {"params": groups["text"], "lr": rate * settings.text_rate},
    ]
    muon = torch.optim.Muon(
        groups["matrix"], lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    return muon, torch.optim.AdamW(rates, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)


def train_language_model(
    model: MusicgenForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    codes: Int[Tensor, "clip codebook frame"],
    recipes: Sequence[Recipe],
    settings: LanguageModelSettings,
) -> dict:
    """Train decoder and text encoder in place on codes and captions; the codec stays as it is."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    text = tokenizer([recipe.caption for recipe in recipes], padding=True, return_tensors="pt")
    data = _Data(codes, text.input_ids, text.attention_mask, facts(recipes))
    heads = nn.Linear(model.decoder.config.hidden_size, N_TARGETS)
    plan = [phase for phase in settings.phases for _ in range(phase.steps)]
    optimizers = _optimizers(model, heads, settings)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: _rate(step, len(plan), settings))
        for o in optimizers
    ]
    weights = torch.tensor(_CODEBOOK_WEIGHTS)
    losses: list[tuple[float, float]] = []
    began = time.time()
    model.train()
    bar = tqdm(plan, desc="language model", mininterval=10)
    for phase in bar:
        batch = _batch(data, phase, generator)
        dropped = torch.rand(phase.batch, generator=generator) < settings.unconditional
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            nats, lesson = _losses(model, heads, batch, dropped, settings)
        loss = (nats * weights).sum() / weights.sum() + settings.listening * lesson
        _step(model, loss, optimizers)
        for schedule in schedules:
            schedule.step()
        losses.append((float(nats.detach().mean()), float(lesson.detach())))
        recent = np.mean(losses[-100:], axis=0)
        bar.set_postfix(nats=f"{recent[0]:.3f}", listening=f"{recent[1]:.3f}")
    model.eval()
    means = [np.mean(losses[i : i + 100], axis=0) for i in range(0, len(losses), 100)]
    return {
        "settings": asdict(settings),
        "loss": [round(float(mean[0]), 4) for mean in means],
        "listening_loss": [round(float(mean[1]), 4) for mean in means],
        "seconds": round(time.time() - began),
    }


def _step(
    model: MusicgenForConditionalGeneration,
    loss: Float[Tensor, ""],
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
