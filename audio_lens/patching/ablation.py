"""Ablation: knock parts out and see what is missing, in the logits or in the sound."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from audio_lens.errors import InputError
from audio_lens.lens.forward import as_tokens
from audio_lens.lens.rows import as_prompts
from audio_lens.lens.sites import TIMES, Site
from audio_lens.patching.activation import activation_patch
from audio_lens.patching.donors import recorded
from audio_lens.patching.grid import BLOCK
from audio_lens.patching.result import PatchingResult

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


def ablate(
    lens: "AudioLens",
    prompts: Any,
    codes: Tensor,
    *,
    metric: Any,
    site: str | Sequence[str] = "attn.z",
    axes: Sequence[str] = ("layer", "head"),
    donor: Any = None,
    **options: Any,
) -> PatchingResult:
    """Knock out each cell of a grid and score what is left; read the result's `effect`.

    Args:
        lens: The model.
        prompts: One or one per row.
        codes: Undelayed, [batch codebook frame].
        metric: As for `activation_patch`.
        site: What is knocked out; `"block"` skips whole blocks, so that the stream leaving them
            is the one that entered.
        axes: As for `activation_patch`.
        donor: What takes its place: `"mean"` (the default) over the batch and all positions of
            the music, as it keeps what is always there; `"zero"`; `"resample"` (another
            example's); or a tensor. A prefix is written too. Skipped blocks take none.
        options: `layers`, `positions`, `branch`, `guidance_scale`, `method`, `max_rows`,
            `progress`, ... of `activation_patch`.

    Example:
        >>> from audio_lens import metrics
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> codes = lens.random_codes(frames=6)
        >>> result = ablate(lens, "a song", codes, metric=metrics.logprob(codes), progress=False)
        >>> result.effect.shape
        torch.Size([2, 4, 1])
    """
    for name in ("clean", "corrupted", "into"):
        if name in options:
            raise InputError(f"ablate has one run, so it takes no {name!r}: see activation_patch.")
    guidance_scale = options.get("guidance_scale", 1.0)
    names = (site,) if isinstance(site, str) else tuple(site)
    unfit = [name for name in names if name.endswith(("scores", "pattern"))]
    if unfit and (donor is None or (isinstance(donor, str) and donor != "resample")):
        raise InputError(
            f"{unfit[0]} has no mean or zero that a query may attend by: knock out attn.z, or give "
            f"donor='resample' or a tensor."
        )
    if names == (BLOCK,):
        if donor is not None:
            raise InputError("a skipped block takes no donor: leave donor out.")
        site, donor = "resid_post", _entering(lens, prompts, codes, axes, guidance_scale)
    elif donor is None or (isinstance(donor, str) and donor == "mean"):
        donor = _means(lens, prompts, codes, site, guidance_scale)
    side = (prompts, codes)
    return activation_patch(
        lens, clean=side, corrupted=side, into="clean", site=site, axes=axes, donor=donor,
        metric=metric, **options,
    )  # fmt: skip


def _entering(
    lens: "AudioLens", prompts: Any, codes: Tensor, axes: Sequence[str], guidance_scale: float
) -> dict[str, Any]:
    """The stream entering each block, to stand for the one that leaves it."""
    if "layer" not in axes:
        raise InputError('skipping blocks needs the axis "layer": one block at a time.')
    sites = lens.sites.resolve("resid_pre")
    values, _ = recorded(lens, prompts, as_tokens(lens, codes), sites, guidance_scale)
    return {
        f"blocks.{site.layer}.hook_resid_post": {
            branch: tensors[site.name] for branch, tensors in values.items()
        }
        for site in sites
    }


def _means(
    lens: "AudioLens", prompts: Any, codes: Tensor, site: str | Sequence[str], guidance_scale: float
) -> dict[str, Any]:
    """Each site's mean over examples and positions."""
    sites = lens.sites.resolve(site)
    values, _ = recorded(lens, prompts, as_tokens(lens, codes), sites, guidance_scale)
    n_prefix = max(lens._conditioner.n_prefix(prompt) for prompt in as_prompts(prompts))
    means: dict[str, Any] = {}
    for each in sites:
        times = [n for n, axis in enumerate(each.axes) if axis in ("batch", *_TIMES)]
        means[each.name] = {
            branch: _music(each, tensors[each.name], n_prefix).mean(times, keepdim=True)
            for branch, tensors in values.items()
            if each.name in tensors
        }
    return means


def _music(site: Site, tensor: Tensor, n_prefix: int) -> Tensor:
    """A site's tensor at the positions of the music."""
    if "pos" not in site.axes:
        return tensor
    dim = site.axes.index("pos")
    return tensor.narrow(dim, n_prefix, tensor.shape[dim] - n_prefix)


_TIMES = (*TIMES, "query", "token")
