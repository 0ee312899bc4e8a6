"""What heads look at: how far back in the music, and which words of the prompt.

Patterns are averaged while they pass, layer by layer, so that memory does not grow with the number
of layers or rows.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.errors import InputError
from audio_lens.lens.rows import as_prompts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from audio_lens.lens.layout import Layout
    from audio_lens.lens.lens import AudioLens

PerHead = Float[Tensor, "layer head"]
_SHARE = "share of attention"


@dataclass(frozen=True, eq=False)
class AttentionByLag:
    """Self-attention by how far back it looks, averaged over rows and positions."""

    layers: tuple[int, ...]
    weights: Float[Tensor, "layer head lag"]
    """Share of attention on the position `lag` back, BOS left out; lag 0 is the position itself.
    Averaged over the positions from which every lag can be seen."""
    bos: PerHead
    """Share on position 0, which holds BOS."""
    prefix: PerHead
    """Share on a melody model's prefix: chroma and text."""
    frame_rate: int

    @property
    def seconds(self) -> Float[Tensor, " lag"]:
        """The lags as times."""
        return torch.arange(self.weights.shape[-1]) / self.frame_rate

    def at(self, seconds: float, *, width: int = 1) -> PerHead:
        """Share of attention at a lag and `width` positions to either side.

        Raises:
            InputError: further back than was measured.
        """
        lag = round(seconds * self.frame_rate)
        if not 0 <= lag - width <= lag + width < self.weights.shape[-1]:
            last = (self.weights.shape[-1] - 1 - width) / self.frame_rate
            first = width / self.frame_rate
            raise InputError(
                f"a lag of {seconds} s was not measured with {width} to either side: give "
                f"{first:g} to {last:g} s."
            )
        return self.weights[..., lag - width : lag + width + 1].sum(-1)

    @property
    def over_heads(self) -> Float[Tensor, "layer lag"]:
        """Averaged over the heads of each layer."""
        return self.weights.mean(1)

    def to_dataframe(self) -> "DataFrame":
        """One row per layer, head and lag."""
        import pandas

        _, n_heads, n_lags = self.weights.shape
        names = [self.layers, range(n_heads), [lag / self.frame_rate for lag in range(n_lags)]]
        index = pandas.MultiIndex.from_product(names, names=["layer", "head", "seconds"])
        return pandas.DataFrame({"share": self.weights.flatten().tolist()}, index).reset_index()

    def plot(self, *, averaged: bool = False) -> "Figure":
        """Heads over lags, one panel for each layer; or layers over lags, heads averaged."""
        from audio_lens.plots.panels import Axis, heads

        lags = Axis("seconds back", [f"{lag:g}" for lag in self.seconds.tolist()])
        return heads(self.layers, self.weights, lags, _SHARE, averaged=averaged)


@dataclass(frozen=True, eq=False)
class AttentionToWords:
    """Attention to the words of one prompt, over the music's positions."""

    layers: tuple[int, ...]
    words: tuple[str, ...]
    """Of the prompt, and `</s>` for the end of the text."""
    weights: Float[Tensor, "layer head word pos"]
    """Share on each word, its tokens summed; averaged over rows."""
    frame_rate: int

    @property
    def mean(self) -> Float[Tensor, "layer head word"]:
        """Averaged over positions."""
        return self.weights.mean(-1)

    @property
    def over_heads(self) -> Float[Tensor, "layer word"]:
        """Averaged over positions and the heads of each layer."""
        return self.mean.mean(1)

    def to_dataframe(self) -> "DataFrame":
        """One row per layer, head and word."""
        import pandas

        heads = range(self.weights.shape[1])
        # A word that occurs twice keeps its place, else its rows would be taken for one.
        named = [(n, word) for n, word in enumerate(self.words)]
        index = [(layer, head, n, w) for layer in self.layers for head in heads for n, w in named]
        table = pandas.DataFrame(index, columns=["layer", "head", "place", "word"])
        return table.assign(share=self.mean.flatten().tolist())

    def plot(self, *, averaged: bool = False) -> "Figure":
        """Heads by words, one panel for each layer; or layers by words, heads averaged."""
        from audio_lens.plots.panels import Axis, heads

        return heads(self.layers, self.mean, Axis("word", self.words), _SHARE, averaged=averaged)


@torch.no_grad()
def attention_by_lag(
    lens: "AudioLens",
    prompts: Any,
    codes: Int[Tensor, "batch codebook frame"],
    *,
    seconds: float = 2.0,
    layers: int | Sequence[int] | None = None,
    branch: Literal["cond", "uncond"] = "cond",
    guidance_scale: float = 1.0,
) -> AttentionByLag:
    """How far back every head of self-attention looks.

    Args:
        lens: The model.
        prompts: One, or one per row of codes.
        codes: Undelayed, longer than `seconds`.
        seconds: The longest lag.
        layers: Only these.
        branch: Which half of a guided run.
        guidance_scale: Above 1 where the unconditional half is meant.

    Raises:
        InputError: codes that are not longer than the longest lag.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> found = attention_by_lag(lens, "a song", lens.random_codes(frames=20), seconds=0.2)
        >>> found.weights.shape, found.at(0.1, width=0).shape
        (torch.Size([2, 4, 11]), torch.Size([2, 4]))
    """
    n_lags = round(seconds * lens.cfg.frame_rate) + 1
    n_positions = codes.shape[-1] + max(lens.cfg.delays)
    if not 2 <= n_lags < n_positions:
        raise InputError(
            f"seconds={seconds} with codes of {codes.shape[-1] / lens.cfg.frame_rate:g} s: lags "
            f"must be at least a frame, and shorter than the codes."
        )

    def by_lag(pattern: Tensor, layout: "Layout") -> Tensor:
        music = pattern[:, :, layout.audio]
        prefix = music[..., : layout.audio.start].sum(-1)
        music = music[..., layout.audio.start :]
        bos = music[..., 0]
        seen = music.clone()
        seen[..., 0] = 0
        # Only from here on lies every lag within the music, behind BOS.
        lags = [seen.diagonal(-lag, -2, -1)[..., n_lags - lag :].mean(-1) for lag in range(n_lags)]
        rest = [part[..., n_lags:].mean(-1) for part in (bos, prefix)]
        return torch.stack([*lags, *rest], dim=-1)

    found = _averaged(lens, prompts, codes, "attn.pattern", by_lag, layers, branch, guidance_scale)
    weights = torch.stack(list(found.values()))
    return AttentionByLag(
        tuple(found), weights[..., :n_lags], weights[..., -2], weights[..., -1],
        lens.cfg.frame_rate,
    )  # fmt: skip


@torch.no_grad()
def attention_to_words(
    lens: "AudioLens",
    prompt: str,
    codes: Int[Tensor, "batch codebook frame"],
    *,
    layers: int | Sequence[int] | None = None,
) -> AttentionToWords:
    """How much every head attends to each word of a prompt: cross-attention, or the prefix.

    Args:
        lens: The model.
        prompt: One, read by every row.
        codes: Undelayed.
        layers: Only these.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> found = attention_to_words(lens, "a slow song", lens.random_codes(frames=20))
        >>> found.words, found.mean.shape
        (('a', 'slow', 'song', '</s>'), torch.Size([2, 4, 4]))
    """
    if not isinstance(prompt, str):
        raise InputError(f"words are those of one prompt, got {type(prompt).__name__}.")
    words = words_of_tokens(lens, prompt)
    names = tuple(dict.fromkeys(words.values()))
    member = torch.tensor([[float(words[token] == name) for token in words] for name in names])
    crossing = "cross_attn.pattern" in lens.sites.shorthands

    def by_word(pattern: Tensor, layout: "Layout") -> Tensor:
        tokens = pattern if crossing else pattern[:, :, layout.audio, layout.text]
        return torch.einsum("bhqt,wt->bhwq", tokens, member.to(tokens))

    site = "cross_attn.pattern" if crossing else "attn.pattern"
    found = _averaged(lens, prompt, codes, site, by_word, layers, "cond", 1.0)
    return AttentionToWords(
        tuple(found), tuple(word for _, word in names), torch.stack(list(found.values())),
        lens.cfg.frame_rate,
    )  # fmt: skip


def words_of_tokens(lens: "AudioLens", prompt: str) -> dict[int, tuple[int, str]]:
    """The word that each text token belongs to, with the word's place in the prompt.

    Words are what spaces part; the end of the text is a word of its own.
    """
    tokenizer = getattr(lens.processor, "tokenizer", lens.processor)
    offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    spans = [found.span() for found in re.finditer(r"\S+", prompt)]
    found: dict[int, tuple[int, str]] = {}
    for token, (first, last) in enumerate(offsets):
        if last <= first:  # no letters of the prompt: the end of the text
            found[token] = (len(spans), "</s>")
            continue
        # A token may hold nothing but the space in front of its word.
        place = next((n for n, (_, stop) in enumerate(spans) if stop > first), len(spans) - 1)
        found[token] = (place, prompt[slice(*spans[place])])
    return found


def head_summaries(
    by_lag: AttentionByLag,
    words: AttentionToWords | None = None,
    *,
    beat_seconds: float | None = None,
) -> "DataFrame":
    """One row per head: what it looks at, in numbers that can be sorted.

    Columns: `previous` (one position back), `bos`, `prefix`, `beat` (one beat back, a position to
    either side), `beat_lift` (that, over the mean of all lags as wide: 1 is no preference), `word`
    and `word_share` (the word most attended to).

    Args:
        by_lag: Of `attention_by_lag`.
        words: Of `attention_to_words`, over the same layers.
        beat_seconds: A beat's length, known of synthesised clips: 60 / BPM.

    Raises:
        InputError: the two cover different layers, or the beat is longer than the longest lag.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> lags = attention_by_lag(lens, "a song", lens.random_codes(frames=40), seconds=0.6)
        >>> head_summaries(lags, beat_seconds=0.5).columns.tolist()
        ['layer', 'head', 'previous', 'bos', 'prefix', 'beat', 'beat_lift']
    """
    import pandas

    if words is not None and words.layers != by_lag.layers:
        raise InputError(f"layers differ: {by_lag.layers} and {words.layers}.")
    n_heads = by_lag.bos.shape[1]
    columns: dict[str, Any] = {
        "layer": [layer for layer in by_lag.layers for _ in range(n_heads)],
        "head": list(range(n_heads)) * len(by_lag.layers),
        "previous": by_lag.weights[..., 1],
        "bos": by_lag.bos,
        "prefix": by_lag.prefix,
    }
    if beat_seconds is not None:
        width = 1
        beat = by_lag.at(beat_seconds, width=width)
        usual = by_lag.weights[..., 1:].mean(-1) * (2 * width + 1)
        columns |= {"beat": beat, "beat_lift": beat / usual.clamp_min(1e-12)}
    if words is not None:
        share, place = words.mean.max(-1)
        columns |= {"word": [words.words[n] for n in place.flatten()], "word_share": share}
    return pandas.DataFrame(
        {n: c.flatten().tolist() if isinstance(c, Tensor) else c for n, c in columns.items()}
    )


def _averaged(
    lens: "AudioLens",
    prompts: Any,
    codes: Int[Tensor, "batch codebook frame"],
    site: str,
    reduce: Callable[[Tensor, "Layout"], Tensor],
    layers: int | Sequence[int] | None,
    branch: Literal["cond", "uncond"],
    guidance_scale: float,
) -> Mapping[int, Tensor]:
    """A reduction of every layer's pattern, averaged over rows, by layer."""
    sites = lens.sites.resolve(site, layers=layers)
    if branch not in ("cond", "uncond"):
        raise InputError(f'branch must be "cond" or "uncond", one half, got {branch!r}.')
    sums: dict[int, Tensor] = {}

    def add_up(pattern: Tensor, *, hook: Any) -> None:
        found = reduce(pattern.float(), hook.layout).sum(0).cpu()
        sums[hook.layer()] = sums.get(hook.layer(), 0) + found

    texts = as_prompts(prompts, len(codes)) if len(codes) > 1 else as_prompts(prompts)
    with lens.hooks([(sites, add_up)], branch=branch):
        lens(list(texts), codes, guidance_scale=guidance_scale)
    n_rows = max(len(texts), len(codes))
    return {layer: sums[layer] / n_rows for layer in sorted(sums)}
