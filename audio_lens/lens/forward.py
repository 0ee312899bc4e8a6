"""A teacher-forced forward: codes in, aligned logits out, and what was seen on the way."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from audio_lens.errors import InputError
from audio_lens.lens.decode import guide
from audio_lens.lens.engine import Registration, StopRun
from audio_lens.lens.musicgen_sites import STREAM
from audio_lens.lens.recording import Recording, along_rows
from audio_lens.lens.rows import Prompts, as_prompts, group_rows, run_of
from audio_lens.lens.run import Run, ordinary_tensors
from audio_lens.lens.sites import SiteTable, Spec

if TYPE_CHECKING:
    from audio_lens.lens.cache import ActivationCache
    from audio_lens.lens.lens import AudioLens

Metric = bool | Callable[[Tensor], Tensor]


def as_tokens(
    lens: "AudioLens", codes: Any, tokens: Any = None
) -> Int[Tensor, "batch codebook pos"]:
    """Codes, checked, with the delay pattern applied; or delayed tokens, checked."""
    if tokens is not None:
        lens.delay.check_tokens(tokens)
        return tokens.to(lens.cfg.device)
    lens.delay.check_codes(codes)
    return lens.delay.apply(codes.to(lens.cfg.device))


def forward(
    lens: "AudioLens",
    prompts: Prompts,
    tokens: Int[Tensor, "rows codebook pos"],
    guidance_scale: float,
) -> Tensor:
    """Logits aligned to codes; a single row of tokens serves every prompt.

    A hook that raises `StopRun` ends it early, with what that carries in place of logits.
    """
    prompts = as_prompts(prompts, len(tokens) if len(tokens) > 1 else None)
    tokens = tokens.expand(len(prompts), -1, -1)
    made: dict[tuple[int, ...], Tensor] = {}
    for group in group_rows(prompts, None, lens._conditioner):
        run = run_of(
            group,
            prompts,
            guidance_scale,
            pattern=lens.delay,
            n_positions=tokens.shape[-1],
        )
        asked = group.pad(prompts)
        try:
            logits = _decoder_call(lens, asked, tokens[list(group.rows)], run, group.text_length)
            made[group.rows] = lens.delay.align(guide(logits, run, guidance_scale))
        except StopRun as stopped:
            made[group.rows] = stopped.value
    return along_rows(made, STREAM)


def _decoder_call(
    lens: "AudioLens",
    prompts: Sequence[str | None],
    tokens: Int[Tensor, "rows codebook pos"],
    run: Run,
    text_length: int | None,
) -> Float[Tensor, "branch_rows codebook pos vocab"]:
    """Logits of the music's positions, for all branches."""
    with ordinary_tensors(), lens._engine.running(run):
        conditions = lens._conditioner.encode(prompts, run, length=text_length)
        run.advance(start=0, stop=tokens.shape[-1], step=0)
        if run.length > lens.cfg.n_ctx:
            raise InputError(
                f"{run.length} positions exceed the model's {lens.cfg.n_ctx} "
                f"({lens.cfg.max_seconds:.1f} s of audio)."
            )
        logits = lens._module.decoder(
            input_ids=tokens.repeat(len(run.branches), 1, 1).flatten(0, 1),
            **conditions.arguments(0),
            use_cache=False,
        ).logits
    return logits.unflatten(0, (-1, lens.cfg.n_codebooks))[:, :, run.layout.audio]


def forward_with_cache(
    lens: "AudioLens",
    prompts: Prompts,
    codes: Any,
    *,
    names_filter: Spec | None,
    stop_at_layer: int | None,
    metric: Metric,
    device: str | torch.device | None,
    remove_batch_dim: bool,
    guidance_scale: float,
    tokens: Tensor | None,
) -> "tuple[Tensor, ActivationCache]":
    """See `AudioLens.run_with_cache`."""
    chosen = lens.sites if names_filter is None else lens.sites.resolve(names_filter)
    recording = Recording(tuple(chosen), device)
    registrations = recording.registrations(gradients=bool(metric))
    if stop_at_layer is not None:
        registrations.append(_stop_before(lens.sites, stop_at_layer))
    with ExitStack() as stack:
        stack.enter_context(lens._engine.registered(registrations))
        if metric:
            stack.enter_context(torch.enable_grad())
        result = forward(lens, prompts, as_tokens(lens, codes, tokens), guidance_scale)
        if metric:
            _backward(result, codes, metric)
    cache = recording.cache(lens)
    return result, cache.remove_batch_dim() if remove_batch_dim else cache


def _backward(logits: Tensor, codes: Tensor | None, metric: Metric) -> None:
    if callable(metric):
        loss = metric(logits).sum()
    elif codes is None or logits.ndim != 4:
        raise InputError("incl_bwd=True needs codes and logits: give a function of them.")
    else:
        codes = codes.to(logits.device).expand(len(logits), -1, -1)
        loss = nn.functional.cross_entropy(logits.flatten(0, 2), codes.flatten())
    loss.backward()


def _stop_before(sites: SiteTable, layer: int) -> Registration:
    site = sites[f"blocks.{sites.layer(layer)}.hook_resid_pre"]

    def stop(tensor: Tensor, *, hook: Any) -> None:
        raise StopRun(tensor)

    return Registration(stop, (site,), "cond", "read")
