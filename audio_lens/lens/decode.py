"""The decoding loop: prefill once, then one decoder call per position.

It takes the same arithmetic path as transformers' `generate`, so greedy codes and the sampled
codes of one row are bit-equal to it; unlike `generate`, every row draws from its own generator,
so a row's random numbers do not depend on its batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    EncoderDecoderCache,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

from audio_lens.errors import InputError
from audio_lens.lens.conditioning import Conditioning
from audio_lens.lens.config import HFModule
from audio_lens.lens.delay import DelayPattern
from audio_lens.lens.kv_cache import generation_cache
from audio_lens.lens.run import Run


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn from logits."""

    guidance_scale: float = 3.0
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 250

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(
                f"temperature must be above 0, got {self.temperature}; for greedy decoding use "
                f"do_sample=False."
            )
        if self.top_k < 1:
            raise InputError(f"top_k must be at least 1, got {self.top_k}.")

    def warpers(self) -> LogitsProcessorList:
        """Transformers' own processors for these settings, in its own order."""
        warpers = LogitsProcessorList()
        if self.do_sample and self.temperature != 1.0:
            warpers.append(TemperatureLogitsWarper(self.temperature))
        if self.do_sample:
            warpers.append(TopKLogitsWarper(self.top_k))
        return warpers


def guide(
    logits: Float[Tensor, "branch_rows *rest"], run: Run, scale: float
) -> Float[Tensor, "rows *rest"]:
    """Classifier-free guidance: the conditional half pushed away from the unconditional one.

    A row without a prompt has nothing to be guided to: it stays what it is alone.
    """
    if len(run.branches) == 1:
        return logits
    cond, uncond = logits.chunk(2)
    guided = uncond + (cond - uncond) * scale
    with_text = [run.with_text[row] for row in run.rows]
    if all(with_text):
        return guided
    with_text += with_text[-1:] * (run.padded - len(with_text))
    chosen = torch.tensor(with_text, device=logits.device)
    return torch.where(chosen.view(-1, *[1] * (logits.ndim - 1)), guided, cond)


@torch.no_grad()
def decode(
    decoder: HFModule,
    conditions: Conditioning,
    grid: Int[Tensor, "rows codebook column"],
    *,
    run: Run,
    seeds: Sequence[int],
    sampling: Sampling,
    pattern: DelayPattern,
    tick: Callable[[], None],
) -> Int[Tensor, "rows codebook frame"]:
    """Fill a delayed grid (-1 where a code is due) and return its codes.

    Args:
        decoder: A `MusicgenForCausalLM`.
        conditions: Of all branches.
        grid: From `DelayPattern.grid`; known codes are kept.
        run: Advanced at every decoder call, for hooks.
        seeds: One per row of the grid.
        sampling: Guidance and sampling settings.
        pattern: The model's delay pattern.
        tick: Called after every decoder call.
    """
    generators = [torch.Generator(grid.device).manual_seed(seed) for seed in seeds]
    warpers = sampling.warpers()
    cache = generation_cache(decoder.config, positions=run.layout.n_prefix + grid.shape[-1] - 1)
    due = grid == -1
    first = int(due[:, 0].any(0).nonzero()[0]) if due.any() else grid.shape[-1] - 1
    start = 0
    for step, column in enumerate(range(first, grid.shape[-1])):
        run.advance(start=start, stop=column, step=step)
        told = conditions.arguments(step)
        logits = _last_logits(decoder, grid[..., start:column], told, cache, run)
        logits = guide(logits, run, sampling.guidance_scale)
        drawn = _draw(logits, warpers, generators, sampling.do_sample)
        grid[..., column] = torch.where(due[..., column], drawn, grid[..., column])
        start = column
        tick()
    return pattern.undo(grid)


def _last_logits(
    decoder: HFModule,
    tokens: Tensor,
    conditions: dict[str, Tensor],
    cache: EncoderDecoderCache,
    run: Run,
) -> Tensor:
    """Float32 logits `[branch_rows codebook vocab]` of the last position."""
    tokens = tokens.repeat(len(run.branches), 1, 1)
    logits = decoder(
        input_ids=tokens.flatten(0, 1),
        **conditions,
        past_key_values=cache,
        use_cache=True,
    ).logits
    return logits[:, -1].float().unflatten(0, (len(tokens), -1))


def _draw(logits: Tensor, warpers: Any, generators: list[torch.Generator], sample: bool) -> Tensor:
    """One code per row and codebook, `[rows codebook]`."""
    if logits.isnan().any():
        raise InputError(
            "the model's logits are NaN: what is added is too large for its numbers (try a smaller "
            "coefficient or dtype='float32'), or -inf stands in both halves of guidance (write "
            "torch.finfo(dtype).min to rule a code out)."
        )
    if not sample:
        return logits.argmax(-1)
    probabilities = warpers(None, logits.flatten(0, 1)).softmax(-1).unflatten(0, logits.shape[:2])
    # What `torch.multinomial` does with one sample, to the bit, in one go for all rows but for the
    # numbers, which each row draws for itself.
    noise = torch.empty_like(probabilities)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    return (probabilities / noise).argmax(-1)
