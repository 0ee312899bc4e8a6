"""The logit lens: what every layer would predict if it were the last, and how that would sound.

The stream behind a layer is read out by the final LayerNorm and the unembeddings, codebook by
codebook (nostalgebraist 2020, "interpreting GPT: the logit lens"; for music, early exits that are
listened to: Velez Vasquez et al., ISMIR 2024).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.audio.clip import Clip
from audio_lens.errors import InputError
from audio_lens.lens.engine import Registration
from audio_lens.lens.generation import decode_codes
from audio_lens.lens.rows import as_prompts, as_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from audio_lens.lens.cache import ActivationCache
    from audio_lens.lens.lens import AudioLens

What = Literal["log_probability", "rank", "entropy", "kl"]
PerCode = Float[Tensor, "layer batch codebook frame"]
EMBEDDING = "embed"
"""The layer in front of the first block."""


@dataclass(frozen=True, eq=False)
class LogitLens:
    """What every layer predicts of given codes, each code where the model predicts it."""

    layers: tuple[str, ...]
    """`"embed"`, then the numbers of the blocks read."""
    codes: Int[Tensor, "batch codebook frame"]
    """The ones that were read, undelayed."""
    log_probability: PerCode
    """Of the true code, in nats."""
    rank: Int[Tensor, "layer batch codebook frame"]
    """How many other entries are likelier than the true code; 0 is right."""
    entropy: PerCode
    """Of the prediction, in nats."""
    kl: PerCode
    """Of the model's own prediction from this one, in nats."""
    heard: Int[Tensor, "layer batch codebook frame"]
    """Codes as this layer would have it: its likeliest, or drawn from its prediction."""
    prompts: tuple[str | None, ...]
    _lens: "AudioLens"

    def mean(self, what: What = "log_probability") -> Float[Tensor, "layer codebook"]:
        """A quantity averaged over examples and frames."""
        return self._quantity(what).float().mean((1, 3))

    def to_dataframe(self) -> "DataFrame":
        """One row per layer and codebook, every quantity averaged."""
        import pandas

        names = [(layer, book) for layer in self.layers for book in range(self.codes.shape[1])]
        table = {what: self.mean(what).flatten().tolist() for what in _WHAT}
        index = pandas.MultiIndex.from_tuples(names, names=["layer", "codebook"])
        return pandas.DataFrame(table, index=index).reset_index()

    def hear(self, layer: int | str) -> list[Clip]:
        """One clip per example: the codes that a layer would put, each after the true past."""
        place = self._place(layer)
        waves = decode_codes(self._lens, self.heard[place].to(self._lens.cfg.device))
        return [
            Clip(
                wave, self._lens.cfg.sample_rate, codes=codes.cpu(), prompt=prompt,
                interventions=(f"as predicted behind layer {self.layers[place]}",),
            )
            for wave, codes, prompt in zip(waves, self.heard[place], self.prompts, strict=True)
        ]  # fmt: skip

    def plot(self, what: What = "log_probability", *, example: int | None = None) -> "Figure":
        """Layers over time, one panel per codebook; averaged over examples if none is named."""
        from audio_lens.plots.panels import Axis, panels

        values = self._quantity(what).float()
        if example is not None and not 0 <= example < values.shape[1]:
            raise InputError(f"example={example}: there are {values.shape[1]}, from 0.")
        chosen = values.mean(1) if example is None else values[:, example]
        times = [f"{frame / self._lens.cfg.frame_rate:g}" for frame in range(values.shape[-1])]
        return panels(
            {f"codebook {n}": part.numpy() for n, part in enumerate(chosen.unbind(1))},
            rows=Axis("layer", self.layers),
            columns=Axis("seconds", times),
            scale=_WHAT[what],
        )

    def _quantity(self, what: str) -> Tensor:
        if what not in _WHAT:
            raise InputError(f"what must be one of {', '.join(_WHAT)}, got {what!r}.")
        return getattr(self, what)

    def _place(self, layer: int | str) -> int:
        if str(layer) not in self.layers:
            raise InputError(f"no layer {layer!r}: there are {', '.join(self.layers)}.")
        return self.layers.index(str(layer))


_WHAT: dict[What, str] = {
    "log_probability": "log-probability of the true code (nats)",
    "rank": "rank of the true code",
    "entropy": "entropy (nats)",
    "kl": "KL of the model's prediction from the layer's (nats)",
}


@torch.no_grad()
def logit_lens(
    lens: "AudioLens",
    prompts: Any,
    codes: Int[Tensor, "batch codebook frame"],
    *,
    layers: Sequence[int] | None = None,
    guidance_scale: float = 1.0,
    seed: int | Sequence[int] | None = None,
) -> LogitLens:
    """Read every layer's stream as if it were the last one's.

    Args:
        lens: The model.
        prompts: One, or one per row of codes.
        codes: Undelayed; the model reads them and each layer is asked for the next.
        layers: Blocks to read behind; all of them if None. What enters the first is always read.
        guidance_scale: Above 1, both halves are read out and guided, as in generation.
        seed: `heard` is drawn from each prediction with it, one for all rows or one a row, whatever
            other rows there are; the likeliest code if None.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> found = logit_lens(lens, "a song", lens.random_codes(frames=6))
        >>> found.layers, found.mean("rank").shape
        (('embed', '0', '1'), torch.Size([3, 4]))
    """
    chosen = range(lens.cfg.n_layers) if layers is None else layers
    sites = {EMBEDDING: "blocks.0.hook_resid_pre"}
    sites |= {
        str(site.layer): site.name for site in lens.sites.resolve("resid_post", layers=chosen)
    }
    logits, cache = lens.run_with_cache(
        prompts, codes, names_filter=list(sites.values()), guidance_scale=guidance_scale
    )
    final = logits.float().log_softmax(-1)
    codes = codes.to(logits.device).expand(len(logits), -1, -1)
    texts = as_prompts(prompts, len(logits))
    scales = torch.tensor([1.0 if text is None else guidance_scale for text in texts])
    seeds = None if seed is None else as_seeds(seed, len(logits))
    read = [_read(lens, cache, name, final, codes, scales, seeds) for name in sites.values()]
    true, rank, entropy, kl, heard = (torch.stack(c).cpu() for c in zip(*read, strict=True))
    return LogitLens(
        layers=tuple(sites),
        codes=codes.cpu(),
        log_probability=true,
        rank=rank,
        entropy=entropy,
        kl=kl,
        heard=heard,
        prompts=texts,
        _lens=lens,
    )


def _read(
    lens: "AudioLens",
    cache: "ActivationCache",
    name: str,
    final: Float[Tensor, "batch codebook frame vocab"],
    codes: Int[Tensor, "batch codebook frame"],
    scales: Float[Tensor, " batch"],
    seeds: tuple[int, ...] | None,
) -> tuple[Tensor, ...]:
    """One layer's quantities, each [batch codebook frame].

    scales: of guidance, row by row.
    """
    halves = [cache.branch(branch)[name] for branch in cache.branches]
    logits = [lens.unembed(half[:, music(cache)]).float() for half in halves]
    guided = logits[0]
    if len(logits) == 2:
        cond, uncond = logits
        guided = uncond + (cond - uncond) * scales.to(cond).view(-1, 1, 1, 1)
    nats = lens.delay.align(guided).log_softmax(-1)
    true = nats.gather(-1, codes[..., None])
    likely = nats.exp()
    heard = nats.argmax(-1) if seeds is None else _drawn(likely, seeds)
    return (
        true[..., 0],
        (nats > true).sum(-1),
        -(likely * nats).sum(-1),
        (final.exp() * (final - nats)).sum(-1),
        heard,
    )


def _drawn(
    likely: Float[Tensor, "batch codebook frame vocab"], seeds: tuple[int, ...]
) -> Int[Tensor, "batch codebook frame"]:
    """Codes drawn row by row; the same random numbers for every layer."""
    rows = [
        torch.multinomial(
            row.flatten(0, 1), 1, generator=torch.Generator(row.device).manual_seed(seed)
        ).view(row.shape[:-1])
        for row, seed in zip(likely, seeds, strict=True)
    ]
    return torch.stack(rows)


def music(cache: "ActivationCache") -> slice:
    """Where the music lies on a cache's `pos` axis: at its end, whatever the prefixes."""
    return cache.layouts[0].audio if cache.layouts else slice(None)


@contextmanager
def early_exit(lens: "AudioLens", layer: int) -> Iterator["AudioLens"]:
    """While it lasts, what leaves `layer` is what leaves the model: later blocks are skipped.

    For generation (the layer plays on its own) and for forwards.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> with early_exit(lens, 0):
        ...     clips = lens.generate("a song", seconds=0.1, progress=False)
    """
    try:
        layer = index(layer)
    except TypeError:
        raise InputError(f"early_exit takes one layer, got {layer!r}.") from None
    last = lens.cfg.n_layers - 1
    layer = lens.sites.resolve("resid_post", layers=layer)[0].layer or 0
    if layer == last:
        yield lens
        return
    # What enters the next block, so that what others write behind this one is left in.
    source = lens.sites.resolve("resid_pre", layers=layer + 1)[0]
    end = lens.sites.resolve("resid_post", layers=last)[0]
    left: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def remember(tensor: Tensor, *, hook: Any) -> None:
        left[hook.branch, hook.rows] = tensor.clone()

    def leave(tensor: Tensor, *, hook: Any) -> Tensor:
        return left.pop((hook.branch, hook.rows))

    label = f"early exit behind layer {layer}"
    passing = [
        Registration(remember, (source,), "both", "read"),
        Registration(leave, (end,), "both", label=lambda row: label),
    ]
    with lens._engine.registered(passing):
        yield lens
