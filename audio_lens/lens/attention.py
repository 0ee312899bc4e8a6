"""Attention's inside: scores and pattern as sites, without leaving the fast kernel.

One function is registered with transformers beside each of its own. It delegates to that
kernel, so results stay bit-equal; scores and pattern are computed beside it when they are
read, and only rows whose scores or pattern were really changed take the explicit product.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from audio_lens.errors import InputError
from audio_lens.lens.config import HFModule
from audio_lens.lens.engine import ACTIVE, Engine
from audio_lens.lens.musicgen_sites import attention_location

_PREFIX = "audio_lens_"
KERNELS = ("sdpa", "eager", "flex_attention")
"""Those of transformers that pass the self-check. Flash attention was never run here."""


def use_lens_attention(decoder: HFModule) -> None:
    """Route a MusicGen decoder's attention through the lens, on the kernel it already uses."""
    kernel = decoder.config._attn_implementation.removeprefix(_PREFIX)
    if kernel not in KERNELS:
        raise InputError(
            f"attention implementation {kernel!r} is not supported: load the model with "
            f"attn_implementation= one of {', '.join(map(repr, KERNELS))}; sdpa is the default."
        )
    decoder.set_attn_implementation(_PREFIX + kernel)


def _lens_attention(kernel: str) -> Any:
    def attention(
        module: HFModule,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        output, weights = _kernel(kernel)(module, query, key, value, mask, **kwargs)
        engine = ACTIVE.get()
        if engine is None:
            return output, weights
        kind = "self" if module.is_causal else "cross"
        points = [attention_location(kind, module.layer_idx, p) for p in ("attn_scores", "pattern")]
        if not engine.wants(*points):
            return output, weights
        return _observed(engine, points, module, (query, key, value, mask), output), weights

    return attention


def _kernel(name: str) -> Any:
    if name != "eager":
        return ALL_ATTENTION_FUNCTIONS[name]
    from transformers.models.musicgen.modeling_musicgen import eager_attention_forward

    return eager_attention_forward


def _observed(
    engine: Engine,
    points: list[str],
    module: HFModule,
    inputs: tuple[Tensor, Tensor, Tensor, Any],
    output: Tensor,
) -> Tensor:
    """Offer scores and pattern; the output with changed rows recomputed."""
    query, key, value, mask = inputs
    true_scores = attention_scores(
        query, key, mask, scaling=module.scaling, causal=module.is_causal
    )
    true_pattern = attention_pattern(true_scores)
    scores, scores_written = engine.offer(points[0], true_scores.clone())
    pattern = attention_pattern(scores) if scores_written else true_pattern.clone()
    pattern, pattern_written = engine.offer(points[1], pattern)
    if not (scores_written or pattern_written):
        return output
    explicit = (pattern @ value).transpose(1, 2)
    changed = (pattern != true_pattern).flatten(1).any(1)
    if pattern.requires_grad:
        # Every row's gradient flows through the pattern, while unchanged rows keep their bits.
        output = output.detach() + (explicit - explicit.detach())
    return torch.where(changed[:, None, None, None], explicit, output)


def attention_scores(
    query: Tensor, key: Tensor, mask: Any, *, scaling: float, causal: bool
) -> Tensor:
    """Scaled scores `[batch head query key]`, minus infinity where masked."""
    scores = query @ key.transpose(2, 3) * scaling
    if mask is not None and not isinstance(mask, Tensor):  # flex attention's own kind
        from torch.nn.attention.flex_attention import create_mask

        batch, _, queries, keys = scores.shape
        mask = create_mask(mask.mask_mod, batch, 1, queries, keys, device=str(scores.device))
    if mask is None and causal and query.shape[2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril(
            key.shape[2] - query.shape[2]
        )
    if mask is None:
        return scores
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return scores.masked_fill(~allowed, float("-inf"))


def attention_pattern(scores: Tensor) -> Tensor:
    """Softmax of the scores; zero for a query that may attend to nothing.

    The kernels return exactly zero for such null rows (the unconditional half has no text).
    """
    null = (scores == float("-inf")).all(-1, keepdim=True)
    # Filled before the softmax too: its gradient there would be NaN, and spread.
    return scores.masked_fill(null, 0.0).softmax(-1).masked_fill(null, 0.0)


for _kernel_name in KERNELS:
    AttentionInterface.register(_PREFIX + _kernel_name, _lens_attention(_kernel_name))
    AttentionMaskInterface.register(
        _PREFIX + _kernel_name, ALL_MASK_ATTENTION_FUNCTIONS[_kernel_name]
    )
