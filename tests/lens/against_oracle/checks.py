"""What the tests against plain torch hooks share: models, edits, runs, and when two agree.

Logits and codes are compared, never sound. Where the lens and the oracle do the same arithmetic
they must agree to the bit; where they add in another order, to `TOLERANCE`, and every edit must
move the logits at least a thousand times further than that.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from oracle import AXES, SCALES, Edit, Oracle, family, sees_text_only
from torch import Tensor, nn
from truth import loud

from audio_lens import AudioLens
from audio_lens.testing import random_musicgen

PROMPTS = ["a slow organ", "fast bright bells", "drums"]
FRAMES, POSITIONS, TOKENS, LAYER = 6, 9, 18, 1
SIZES = {
    "codebook": 4,
    "pos": POSITIONS,
    "query": POSITIONS,
    "key": POSITIONS,
    "token": TOKENS,
    "head": 4,
    "d_head": 16,
    "d_model": 64,
    "d_mlp": 256,
    "d_text": 32,
    "vocab": 256,
}
TOLERANCE = 1e-5
CLEAR = 1000 * TOLERANCE
SITES = [name.replace("{i}", str(LAYER)) for name in AXES]
EVERYWHERE = list(
    dict.fromkeys(name.replace("{i}", str(layer)) for layer in range(3) for name in AXES)
)
"""The same families in all layers."""
READABLE = [
    *SITES,
    *(f"blocks.{LAYER}.{norm}.hook_scale" for norm in SCALES[:3]),
    "ln_final.hook_scale",
]
ROUNDED = ("hook_result", "attn_scores", "pattern")
"""Written by a difference, or on another kernel than sdpa: equal but for the order of adding."""
FAINT = ("hook_q", "hook_k", "attn_scores", "pattern", "ln_cross.hook_normalized")
"""Felt through attention's softmax alone: edited harder, so that codes change."""
SETTINGS = [("plain", 1.0, "both"), *((b, 3.0, b) for b in ("cond", "uncond", "both"))]
CASES = [
    pytest.param(site, scale, branch, id=f"{site}-{word}")
    for site in SITES
    for word, scale, branch in SETTINGS
    if not (branch == "uncond" and sees_text_only(site))
]
GENERATIONS = [
    pytest.param(*case.values, seed, id=f"{case.id}-{word}")
    for case in CASES
    for word, seed in (("greedy", None), ("sampled", 11))
    if seed is None or case.values[1:] == (3.0, "both")
]
"""Sampled where both branches are edited; the rest is left to greedy decoding."""
ONE_BRANCH = [case for case in CASES if case.values[2] != "both"]
HookFunction = Callable[..., Tensor | None]
Untouched = dict[tuple[float, bool], tuple[Tensor, Tensor]]


def loud_lens() -> AudioLens:
    """Cross-attention has something to choose from."""
    return loud(random_musicgen(n_layers=3, d_model=64, n_heads=4, seed=0))


def noise(
    site: str,
    *,
    strength: float | None = None,
    axes: str | None = None,
    sizes: dict[str, int] = SIZES,
    origin: int = 0,
) -> Edit:
    """A fixed edit that differs at every position, head, key, token and feature."""
    if strength is None:
        strength = 8.0 if site.endswith(FAINT) else 1.0
    axes = axes or AXES[family(site)]
    shape = [sizes[axis] for axis in axes.split()]
    generator = torch.Generator().manual_seed(len(site))
    gain = torch.randn(shape, generator=generator).mul(0.3 * min(strength, 2.0)).exp()
    shift = torch.randn(shape, generator=generator) * strength
    # A pattern keeps its zeros: otherwise a forward would look at keys generation has not made.
    return Edit(axes, gain, shift * (not site.endswith("pattern")), origin)


def silence(site: str, axis: str, index: int) -> Edit:
    """One head, neuron or codebook set to zero."""
    axes = AXES[family(site)]
    shape = [SIZES[axis] for axis in axes.split()]
    gain = torch.ones(shape)
    gain.select(axes.split().index(axis), index).zero_()
    return Edit(axes, gain, torch.zeros(shape))


def returning(edit: Edit) -> HookFunction:
    def hook(tensor: Tensor, *, hook: object) -> Tensor:
        return edit(tensor, hook.positions)

    return hook


def in_place(edit: Edit) -> HookFunction:
    def hook(tensor: Tensor, *, hook: object) -> None:
        tensor.copy_(edit(tensor, hook.positions))

    return hook


def in_place_and_returned(edit: Edit) -> HookFunction:
    def hook(tensor: Tensor, *, hook: object) -> Tensor:
        tensor[...] = edit(tensor, hook.positions)
        return tensor

    return hook


def on_row(edit: Edit, row: int) -> HookFunction:
    def hook(tensor: Tensor, *, hook: object) -> None:
        tensor[row] = edit(tensor[row : row + 1], hook.positions)[0]

    return hook


def seen(lens: AudioLens, codes: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The lens's logits by frame, and by branch and position before guidance."""
    logits, cache = lens.run_with_cache(
        PROMPTS, codes, names_filter="hook_logits", guidance_scale=scale
    )
    halves = [cache.branch(branch)["hook_logits"] for branch in cache.branches]
    return logits, torch.cat(halves)


def expected(oracle: Oracle, codes: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The same by the oracle."""
    logits = oracle.positional(PROMPTS, codes, guidance_scale=scale)
    return oracle.aligned(logits, guidance_scale=scale), logits


def assert_agree(actual: Tensor, wanted: Tensor, site: str) -> None:
    if site.endswith(ROUNDED):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=TOLERANCE * spread(wanted))
    else:
        assert torch.equal(actual, wanted), f"off by {(actual - wanted).abs().max()}"


def spread(tensor: Tensor) -> float:
    """The size of a tensor's values, to measure rounding by: at least 1."""
    return max(1.0, float(tensor.detach()[tensor.isfinite()].std()))


def furthest(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max())


def generated(lens: AudioLens, scale: float, seed: int | None) -> tuple[Tensor, Tensor]:
    """Codes, and logits by branch and position; greedy with two rows, or sampled with one."""
    clips, cache = lens.generate(
        PROMPTS[:2] if seed is None else PROMPTS[0],
        seconds=FRAMES / 50,
        seed=seed or 0,
        guidance_scale=scale,
        do_sample=seed is not None,
        names_filter="hook_logits",
        progress=False,
    )
    logits = torch.cat([cache.branch(branch)["hook_logits"] for branch in cache.branches])
    return torch.stack([clip.codes for clip in clips]), logits


def assert_moved_at_every_step(
    after: Tensor, before: Tensor, site: str, scale: float, branch: str
) -> None:
    rows = len(after) // (2 if scale > 1 else 1)
    edited = slice(rows, None) if branch == "uncond" else slice(0, rows)
    moved = (after - before)[edited].abs().amax((0, 1, 3))
    # The first query has a single key, whose share is one whatever its score.
    first = 1 if site.endswith((".attn.hook_q", ".attn.hook_k", ".attn.hook_attn_scores")) else 0
    assert (moved[first:] > CLEAR).all(), moved


def masked(scores: Tensor) -> Tensor:
    """Masked scores as the lens shows them, transformers adding a very low number instead."""
    return scores.masked_fill(scores < -1e30, float("-inf"))


def loss(logits: Tensor, codes: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 2), codes.flatten())


def assert_gradients(
    actual: Tensor, wanted: Tensor, name: str, *, relative: float = 5 * TOLERANCE
) -> None:
    assert float(wanted.abs().max()) > 0
    torch.testing.assert_close(
        actual,
        wanted,
        rtol=0,
        atol=relative * float(wanted.abs().max()),
        msg=lambda said: f"{name}: {said}",
    )


def learnable(edit: Edit, learned: str) -> Edit:
    values = {name: getattr(edit, name).clone() for name in ("gain", "shift")}
    values[learned].requires_grad_()
    return replace(edit, **values)
