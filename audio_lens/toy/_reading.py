"""Reading lessons: the text encoder learns what captions mean before any music is heard.

MusicGen's text encoder comes pretrained; this is the toy's counterpart. Without it the decoder
learns to do without the words, since the music so far tells the same a few frames later.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from audio_lens.audio import words
from audio_lens.audio.synthesis import Recipe
from audio_lens.lens.config import HFModule


@dataclass(frozen=True)
class ReadingSettings:
    """How long the text encoder is taught."""

    steps: int = 400
    batch: int = 128
    learning_rate: float = 3e-3
    seed: int = 0


def _pole(concept: str, word: str | None) -> int:
    """0 positive, 1 negative, 2 not named."""
    for pair in words.pairs(concept):
        if word in pair:
            return pair.index(word)
    return 2


def meanings(recipe: Recipe) -> tuple[int, ...]:
    """What a caption says, as classes: tempo, timbre, instrument, genre, drums."""
    return (
        _pole("tempo", recipe.tempo_word),
        _pole("timbre", recipe.timbre_word),
        (words.INSTRUMENTS + words.EXTRA_INSTRUMENTS).index(recipe.instrument),
        (words.GENRES + words.EXTRA_GENRES).index(recipe.genre),
        int(recipe.drums),
    )


_SIZES = (
    3,
    3,
    len(words.INSTRUMENTS + words.EXTRA_INSTRUMENTS),
    len(words.GENRES + words.EXTRA_GENRES),
    2,
)


def _loss(
    states: Tensor, mask: Tensor, heads: nn.ModuleList, classes: Int[Tensor, "batch factor"]
) -> Tensor:
    pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    losses = [
        nn.functional.cross_entropy(head(pooled), classes[:, n]) for n, head in enumerate(heads)
    ]
    return torch.stack(losses).mean()


def teach_reading(
    encoder: HFModule,
    tokenizer: PreTrainedTokenizerFast,
    recipes: Sequence[Recipe],
    settings: ReadingSettings,
) -> dict:
    """Train the text encoder to tell a caption's meaning from its mean state; returns a log.

    The classifiers are thrown away afterwards.
    """
    torch.manual_seed(settings.seed)
    text = tokenizer([recipe.caption for recipe in recipes], padding=True, return_tensors="pt")
    classes = torch.tensor([meanings(recipe) for recipe in recipes])
    heads = nn.ModuleList([nn.Linear(encoder.config.d_model, size) for size in _SIZES])
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *heads.parameters()], lr=settings.learning_rate
    )
    losses = []
    encoder.train()
    for _ in range(settings.steps):
        rows = torch.randint(len(recipes), (settings.batch,))
        ids, mask = text.input_ids[rows], text.attention_mask[rows]
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        loss = _loss(states, mask, heads, classes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    encoder.eval()
    return {"settings": asdict(settings), "loss": losses[:: max(1, settings.steps // 20)]}
