"""The toys' minds: decoder and text encoder, trained together on codes and captions."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from audio_lens.audio import words
from audio_lens.audio.synthesis import Recipe

from ._models import BOS, CHROMA_LENGTH, ToyModel, hidden_states, null_chroma
from ._muon import Muon
from ._unfinished import Unfinished

#: The first codebook holds the kick, so the tempo: it weighs most.
_CODEBOOK_WEIGHTS = (2.5, 1.2, 0.6, 0.4)
#: Windows of the melody family start where a chroma frame does: every 0.64 s.
_CHROMA_STRIDE = (32, 5)


@dataclass(frozen=True)
class Phase:
    """A stretch of training: windows of `frames` codes, `batch` of them in a step."""

    steps: int
    frames: int
    batch: int

    @property
    def attention(self) -> str:
        """The kernel that is faster on a CPU: fused attention is slow backwards on short rows."""
        return "eager" if self.frames < 200 else "sdpa"


@dataclass(frozen=True)
class LanguageModelSettings:
    """How long and how hard decoder and text encoder are trained.

    Short windows first: they show more captions and more openings for the same work, and text
    matters most before the music has told the same. Whole clips last, so that ten seconds are
    familiar. bfloat16 is for matrix products while training only; None: where the processor has
    it, others take six times as long with it. Weights stay float32.
    """

    phases: tuple[Phase, ...] = (Phase(3000, 120, 32), Phase(4000, 250, 16), Phase(2000, 500, 8))
    learning_rate: float = 3e-3
    warmup: int = 100
    decay: float = 0.4
    unconditional: float = 0.12
    no_melody: float = 0.5
    opening_weight: float = 6.0
    opening_frames: float = 25.0
    bfloat16: bool | None = None
    report_every: int = 200
    seed: int = 0


@dataclass(frozen=True)
class Material:
    """What is learned from: codes, what the clips are, and their melodies where they are used."""

    codes: Int[Tensor, "clip codebook frame"]
    recipes: Sequence[Recipe]
    chroma: Float[Tensor, "clip chroma_frame 12"] | None = None


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
class _Batch:
    codes: Int[Tensor, "batch codebook frame"]
    text: tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"]]
    chroma: Float[Tensor, "batch chroma_frame 12"] | None


class _Batches:
    """Windows of codes with their captions.

    Starts are even frames, as sounds repeat every two. Rows of a melody batch have captions of
    the same length, since transformers does not mask padding in a prefix.
    """

    def __init__(
        self, material: Material, tokenizer: PreTrainedTokenizerFast, generator: torch.Generator
    ) -> None:
        captions = [recipe.caption for recipe in material.recipes]
        text = tokenizer(captions, padding=True, return_tensors="pt")
        self._ids, self._mask = text.input_ids, text.attention_mask
        self._material = material
        self._generator = generator

    def draw(self, phase: Phase, no_melody: float) -> _Batch:
        """The next batch of a phase; a melody is left out with probability `no_melody`."""
        codes, chroma = self._material.codes, self._material.chroma
        step = 2 if chroma is None else _CHROMA_STRIDE[0]
        rows = self._rows(phase.batch)
        last = (codes.shape[2] - phase.frames) // step + 1
        turns = torch.randint(last, (phase.batch,), generator=self._generator).tolist()
        pairs = list(zip(rows.tolist(), turns, strict=True))
        windows = [codes[r, :, step * n : step * n + phase.frames] for r, n in pairs]
        longest = int(self._mask[rows].sum(1).max())
        text = (self._ids[rows, :longest], self._mask[rows, :longest])
        if chroma is None:
            return _Batch(torch.stack(windows), text, None)
        melodies = torch.stack([_melody(chroma[r], n * _CHROMA_STRIDE[1]) for r, n in pairs])
        without = torch.rand(phase.batch, generator=self._generator) < no_melody
        melodies[without] = null_chroma(int(without.sum()))
        return _Batch(torch.stack(windows), text, melodies)

    def _rows(self, batch: int) -> Int[Tensor, " batch"]:
        n_clips = len(self._ids)
        if self._material.chroma is None:
            return torch.randint(n_clips, (batch,), generator=self._generator)
        lengths = self._mask.sum(1)
        like = lengths[torch.randint(n_clips, (1,), generator=self._generator)]
        pool = torch.nonzero(lengths == like).flatten()
        return pool[torch.randint(len(pool), (batch,), generator=self._generator)]


def _melody(chroma: Float[Tensor, "frame 12"], first: int) -> Float[Tensor, "n_frames 12"]:
    """Chroma from one frame on, repeated to the model's length as transformers does."""
    left = chroma[first:]
    return left.repeat(-(-CHROMA_LENGTH // len(left)), 1)[:CHROMA_LENGTH]


def _losses(
    model: ToyModel,
    batch: _Batch,
    unconditional: Bool[Tensor, " batch"],
    settings: LanguageModelSettings,
) -> Float[Tensor, " codebook"]:
    """Nats per codebook, openings weighted."""
    hidden = hidden_states(model, delayed(batch.codes), batch.text, unconditional, batch.chroma)
    logits = torch.stack([head(hidden) for head in model.decoder.lm_heads], dim=1).flatten(0, 1)
    return code_loss(logits, batch.codes, opening_weights(batch.codes.shape[2], settings))


def _rate(step: int, total: int, settings: LanguageModelSettings) -> float:
    """Share of the full rate: warm-up, level, then a straight line down to almost nothing."""
    left = (total - step) / max(1.0, settings.decay * total)
    return min(1.0, (step + 1) / settings.warmup, left)


def _optimizers(
    model: ToyModel, settings: LanguageModelSettings
) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the decoder's matrices, AdamW for everything else that is learned.

    Muon halves the steps that the decoder needs; its updates are scaled to the size of AdamW's.
    """
    rate = settings.learning_rate
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name.startswith("audio_encoder."):
            continue
        is_matrix = parameter.ndim == 2 and name.startswith("decoder.model.decoder.layers.")
        (matrices if is_matrix else others).append(parameter)
    muon = Muon(matrices, rate, dtype=torch.bfloat16 if settings.bfloat16 else torch.float32)
    return muon, torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)


def train_language_model(
    model: ToyModel,
    tokenizer: PreTrainedTokenizerFast,
    material: Material,
    held_out: Material,
    settings: LanguageModelSettings,
    unfinished: Path | None = None,
) -> dict:
    """Train decoder and text encoder in place on codes and captions; the codec stays as it is.

    unfinished: a file that keeps, at every report, what it takes to go on; a run that finds one of
    the same settings goes on from it, to the same weights as if it had never stopped.

    Returns a log: losses every hundred steps and, on held-out clips, what the words are worth.
    """
    if settings.bfloat16 is None:
        settings = replace(settings, bfloat16=_has_bfloat16())
    generator = torch.Generator().manual_seed(settings.seed)
    batches = _Batches(material, tokenizer, generator)
    plan = [phase for phase in settings.phases for _ in range(phase.steps)]
    optimizers = _optimizers(model, settings)
    weights = torch.tensor(_CODEBOOK_WEIGHTS)
    log: dict[str, Any] = {"settings": asdict(settings), "losses": [], "worth_of_words": []}
    run = Unfinished(unfinished, model, optimizers, generator)
    log = run.read(log)
    losses, known_seconds = log["losses"], log.get("seconds", 0)
    began, first = time.time(), len(losses)
    model.train()
    bar = tqdm(range(first, len(plan)), desc="language model", mininterval=10)
    for step in bar:
        phase = plan[step]
        if step == first or phase != plan[step - 1]:
            model.decoder.set_attn_implementation(phase.attention)
        batch = batches.draw(phase, settings.no_melody)
        dropped = torch.rand(phase.batch, generator=generator) < settings.unconditional
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(settings.bfloat16)):
            nats = _losses(model, batch, dropped, settings)
        _set_rate(optimizers, settings.learning_rate * _rate(step, len(plan), settings))
        _step(model, (nats * weights).sum() / weights.sum(), optimizers)
        losses.append(float(nats.detach().mean()))
        if (step + 1) % settings.report_every == 0 or step + 1 == len(plan):
            worth = worth_of_words(model, tokenizer, held_out)
            log["worth_of_words"].append({"step": step + 1, **worth})
            log["seconds"] = known_seconds + round(time.time() - began)
            tqdm.write(f"{log['worth_of_words'][-1]}, nats {np.mean(losses[-100:]):.3f}")
            run.write(log)
        bar.set_postfix(nats=f"{np.mean(losses[-100:]):.3f}", refresh=False)
    model.eval()
    run.remove()
    means = [float(np.mean(losses[i : i + 100])) for i in range(0, len(losses), 100)]
    del log["losses"]
    return {**log, "loss": [round(mean, 4) for mean in means]}


def _has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    can = torch.cpu.get_capabilities()
    return any(can.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _set_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def _step(
    model: ToyModel, loss: Float[Tensor, ""], optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


# -- what the words are worth -----------------------------------------------------------------


def _contradicted(recipe: Recipe, concept: str) -> Recipe:
    """The same clip under a caption that says the opposite."""
    name = f"{concept}_word"
    word = getattr(recipe, name)
    other = next(pair[1 - pair.index(word)] for pair in words.pairs(concept) if word in pair)
    changed: dict[str, Any] = {name: other}
    return replace(recipe, **changed)


@torch.no_grad()
def worth_of_words(
    model: ToyModel, tokenizer: PreTrainedTokenizerFast, held_out: Material, frames: int = 100
) -> dict[str, float]:
    """Nats that a code of the first two seconds costs more when a word says the opposite.

    Averaged over codebooks and over the clips whose captions hold the word; 0 means that the
    model does not listen to it.
    """
    costs = {}
    for concept in ("tempo", "timbre"):
        named = [n for n, r in enumerate(held_out.recipes) if getattr(r, f"{concept}_word")]
        true = [held_out.recipes[n] for n in named]
        false = [_contradicted(recipe, concept) for recipe in true]
        codes = held_out.codes[named, :, :frames]
        nats = [_nats(model, tokenizer, codes, recipes) for recipes in (true, false)]
        costs[concept] = round(nats[1] - nats[0], 4)
    return costs


def _nats(
    model: ToyModel,
    tokenizer: PreTrainedTokenizerFast,
    codes: Int[Tensor, "clip codebook frame"],
    recipes: Sequence[Recipe],
) -> float:
    """Mean nats of codes under captions, one length of caption at a time."""
    total = 0.0
    tokens = [tokenizer(recipe.caption).input_ids for recipe in recipes]
    for places in _by_length(tokens):
        ids = torch.tensor([tokens[place] for place in places])
        melody = hasattr(model, "audio_enc_to_dec_proj")
        chroma = null_chroma(len(places)) if melody else None
        given = torch.zeros(len(places), dtype=torch.bool)
        rows = codes[places]
        hidden = hidden_states(model, delayed(rows), (ids, torch.ones_like(ids)), given, chroma)
        logits = torch.stack([head(hidden) for head in model.decoder.lm_heads], dim=1)
        total += float(code_loss(logits.flatten(0, 1), rows).mean()) * len(places)
    return total / len(recipes)


def _by_length(tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    for length in sorted(set(map(len, tokens))):
        yield [place for place, row in enumerate(tokens) if len(row) == length]
