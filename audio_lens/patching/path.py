"""Path patching: what one part tells another directly, everything between them held still.

The sender gets the donor's activation while every other writer to the stream behind it (attention,
cross-attention and MLP of each block) keeps what it wrote in the base run. What then arrives at a
receiver differs from the base run by the direct path alone; put into an otherwise untouched base
run, it shows what that path is worth (Wang et al. 2022, arXiv 2211.00593; Goldowsky-Dill et al.
2023, arXiv 2304.05969).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from audio_lens.errors import InputError, SiteError
from audio_lens.lens.engine import Registration
from audio_lens.lens.recording import Recording
from audio_lens.lens.run import Hook
from audio_lens.lens.sites import Site
from audio_lens.patching.donors import Values, recorded
from audio_lens.patching.experiment import Experiment, check_names, check_score, lay_out, scores
from audio_lens.patching.grid import Cell, writers
from audio_lens.patching.result import PatchingResult
from audio_lens.patching.resuming import missing, taken_over, warn_interrupted

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

_BY_HEAD = ("attn.z", "attn.result", "cross_attn.z", "cross_attn.result")


@dataclass(frozen=True)
class PathResult:
    """What senders tell receivers directly, beside all that they do.

    direct: by the path to the receivers alone. total: the senders patched, everything behind them
    free to follow.
    """

    direct: PatchingResult
    total: PatchingResult


def path_patch(
    lens: "AudioLens",
    *,
    receivers: str | Site | Sequence[Any] = "hook_logits",
    receiver_head: int | None = None,
    sender: str | Sequence[str] = "attn.z",
    axes: Sequence[str] = ("layer", "head"),
    resume: PathResult | None = None,
    progress: bool = True,
    **asked: Any,
) -> PathResult:
    """Direct effect of every sender in a grid on some receivers.

    Args:
        lens: The model.
        receivers: What the path ends at: `"hook_logits"` (the direct path to the output), or full
            names such as `"blocks.3.attn.hook_q"` or `"blocks.2.mlp.hook_pre"`. Each hears the
            sender alone, not what other receivers make of it. A receiver in front of a sender,
            or beside it, hears nothing of it.
        receiver_head: The one head of attention receivers that hears it; all of them if None.
        sender: A site that writes to the stream: `attn.z`, `cross_attn.z` (by head), `attn_out`,
            `cross_attn_out`, `mlp_out`.
        axes: Of the senders' grid.
        resume: A result that an interrupt left unfinished; its cells are not run again.
        progress: Show a progress bar.
        asked: `clean`, `corrupted`, `metric` and the rest, as for `activation_patch`.

    Raises:
        InputError: as for `activation_patch`.
        SiteError: a sender that does not write to the stream, or a receiver that cannot be patched.

    Example:
        >>> from audio_lens import metrics
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> codes = lens.random_codes(frames=6)
        >>> result = path_patch(
        ...     lens, clean=("a fast song", codes), corrupted=("a slow song", codes),
        ...     sender="cross_attn.z", metric=metrics.logprob(codes), progress=False)
        >>> result.direct.values.shape == result.total.values.shape
        True
    """
    if "site" in asked:
        raise InputError("path_patch patches senders: give sender= in place of site=.")
    check_names(asked, path_patch)
    for name in (sender,) if isinstance(sender, str) else sender:
        if name not in (senders := (*_BY_HEAD, *writers(lens))):
            raise SiteError(f"{name!r} does not write to the stream: take one of {senders}.")
    experiment = lay_out(lens, site=sender, axes=axes, **asked)
    if any(len({site.layer for site in cell.sites}) > 1 for cell in experiment.grid.cells):
        raise InputError(
            'a path has its sender in one layer: put "layer" into axes, or say layers= one layer.'
        )
    ends = _receivers(lens, receivers, receiver_head)
    added = lens.sites.resolve(writers(lens))
    base = experiment.base
    watched = tuple(dict.fromkeys([*added, *ends]))
    frozen, _ = recorded(lens, list(base.prompts), base.tokens, watched, experiment.guidance_scale)
    shape = (*experiment.grid.shape, experiment.n_examples)

    def result(kind: str, values: Tensor) -> PatchingResult:
        told = {"receivers": [site.name for site in ends], "receiver_head": receiver_head}
        return experiment.result(values.view(shape), method=f"path patching, {kind}", **told)

    blank = torch.full(shape, float("nan"))
    found = {
        kind: taken_over(result(kind, blank), getattr(resume, kind) if resume else None)
        for kind in ("direct", "total")
    }
    try:
        with torch.no_grad():
            for place in tqdm(missing(found["total"]), desc="paths", disable=not progress):
                cell = experiment.grid.cells[place]
                direct = _direct(experiment, cell, ends, receiver_head, added, frozen)
                total = _scored(experiment, experiment.patches({0: cell}))
                found["direct"][place], found["total"][place] = direct, total
    except KeyboardInterrupt:
        warn_interrupted(found["total"])
    return PathResult(**{kind: result(kind, values) for kind, values in found.items()})


def _receivers(lens: "AudioLens", receivers: Any, head: int | None) -> tuple[Site, ...]:
    sites = lens.sites.resolve(receivers)
    for site in sites:
        if site.write == "no":
            raise SiteError(f"{site.name} is read-only, so it cannot receive a patch.")
        if head is not None and "head" not in site.axes:
            raise SiteError(f"{site.name} has no heads: leave receiver_head out.")
    if head is not None and not 0 <= head < lens.cfg.n_heads:
        raise SiteError(f"receiver_head={head}: there are heads 0 to {lens.cfg.n_heads - 1}.")
    return sites


def _scored(experiment: Experiment, registrations: Sequence[Registration]) -> Tensor:
    with experiment.lens._engine.registered(list(registrations)):
        (score,) = scores(
            experiment.lens, experiment.base, experiment.metric, experiment.guidance_scale,
            n_cells=1,
        )  # fmt: skip
    check_score(score, experiment.metric, experiment.n_examples, "on a patched path")
    return score.float().cpu()


def _direct(
    experiment: Experiment,
    cell: Cell,
    ends: Sequence[Site],
    head: int | None,
    added: Sequence[Site],
    frozen: Values,
) -> Tensor:
    """The score with the receivers as they are when only the sender changes.

    They are read before anything is written: a receiver that writes to the stream is then held
    still for those behind it, as every other writer is, and a sender that is its own receiver hears
    nothing of the patch.
    """
    lens, base = experiment.lens, experiment.base
    first = min(site.rank for site in cell.sites)
    still = [site for site in added if site.rank > first and not _carries(site, cell)]
    recording = Recording(tuple(ends), None)
    writes = [*experiment.patches({0: cell}), *_put(still, frozen)]
    with lens._engine.registered([*recording.registrations(), *writes]):
        lens(list(base.prompts), tokens=base.tokens, guidance_scale=experiment.guidance_scale)
    heard = recording.cache(lens)._branches
    return _scored(experiment, _put(ends, heard, head))


def _carries(writer: Site, cell: Cell) -> bool:
    """Whether a writer is a sender, or takes a sender's own change to the stream."""
    behind = {"attn.z": "attn_out", "attn.result": "attn_out",
              "cross_attn.z": "cross_attn_out", "cross_attn.result": "cross_attn_out"}  # fmt: skip
    return any(
        writer is sender
        or (writer.layer == sender.layer and behind.get(sender.shorthand) == writer.shorthand)
        for sender in cell.sites
    )


def _put(sites: Sequence[Site], values: Values, head: int | None = None) -> list[Registration]:
    """Registrations that put known activations in, of one head only where one is meant."""

    def write(tensor: Tensor, *, hook: Hook) -> Tensor:
        new = values[hook.branch][hook.name][list(hook.rows)].to(tensor)
        if head is None or "head" not in hook.site.axes:
            return new
        dim = hook.site.axes.index("head")
        index: tuple[Any, ...] = (*[slice(None)] * dim, head)
        tensor[index] = new[index]
        return tensor

    return [Registration(write, (site,), "both") for site in sites]
