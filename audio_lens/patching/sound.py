"""Patching while generating: what is heard when one run's activations play in another.

A prompt generates under a donor's activations at one site and layer, seed by seed beside its
unpatched twin, and the clips are measured: the map of where tempo lives, in octaves, or timbre, in
semitones.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from audio_lens.audio.level import loudness
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import spectral_centroid
from audio_lens.errors import InputError, SiteError
from audio_lens.lens.intervention import Intervention
from audio_lens.lens.intervention import window as window_of
from audio_lens.lens.layout import Layout
from audio_lens.lens.rows import as_prompts
from audio_lens.lens.run import Hook
from audio_lens.lens.sites import Site
from audio_lens.patching.experiment import check_halves, common_prefix
from audio_lens.patching.grid import common_layers, writable
from audio_lens.patching.result import PatchingResult, versions

if TYPE_CHECKING:
    from audio_lens.audio.clip import Clip
    from audio_lens.lens.cache import ActivationCache
    from audio_lens.lens.lens import AudioLens


@dataclass(frozen=True)
class Ear:
    """A measure of a clip, in units whose differences mean something."""

    name: str
    hear: Callable[["Clip"], float]
    unit: str = ""

    def __call__(self, clip: "Clip") -> float:
        """What is heard; NaN where there is nothing to hear, such as the level of silence."""
        value = self.hear(clip)
        return float(value) if np.isfinite(value) else float("nan")


def _logarithm(
    measure: Callable[[Any, int], float], per_doubling: float
) -> Callable[["Clip"], float]:
    return lambda clip: per_doubling * np.log2(measure(clip.samples, clip.sample_rate))


EARS: Mapping[str, Ear] = {
    "tempo": Ear("tempo", _logarithm(pulse_bpm, 1.0), "octaves"),
    "timbre": Ear("timbre", _logarithm(spectral_centroid, 12.0), "semitones"),
    "level": Ear("level", lambda clip: loudness(clip.samples, clip.sample_rate), "LU"),
}
"""Tempo as log2 of BPM, timbre as 12 log2 of the centroid in Hz, level in LUFS."""


def sound_patch(
    lens: "AudioLens",
    *,
    clean: Any,
    corrupted: Any,
    ear: str | Ear | Callable[["Clip"], float],
    site: str | Sequence[str] = "resid_post",
    layers: int | Iterable[int] | None = None,
    donor: Literal["mean", "steps", "zero"] = "mean",
    branch: Literal["cond", "uncond", "both"] = "cond",
    window: tuple[float, float | None] | None = None,
    seconds: float = 8.0,
    seeds: Sequence[int] = (0,),
    guidance_scale: float = 3.0,
    rows_at_once: int = 128,
    progress: bool = True,
) -> PatchingResult:
    """Generate the corrupted prompts under the clean prompts' activations, layer by layer.

    Args:
        lens: The model.
        clean: Prompts whose activations are put in, one per corrupted prompt or one for all.
        corrupted: Prompts that generate.
        ear: `"tempo"`, `"timbre"`, `"level"`, or your own `fn(clip) -> float`.
        site: A shorthand with a `pos` axis and layers, or several.
        layers: Only these.
        donor: What is put in: the clean clip's `"mean"` over its positions, its activations step
            by step (`"steps"`), or `"zero"`: a knock-out.
        branch: Which halves are patched.
        window: From and to which second; the whole clip if None. A prefix is never patched.
        seconds: Length of the clips.
        seeds: Each prompt runs with each; an example is a prompt with a seed.
        guidance_scale: Of all runs.
        rows_at_once: Rows per batch.
        progress: Show progress bars.

    Returns:
        What is heard in each cell, in the ear's unit; `effect` is the change from the unpatched
        twin, `recovery` the share of the way to the clean prompts' own clips. Examples in which
        nothing is heard are NaN.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> result = sound_patch(
        ...     lens, clean="a fast song", corrupted="a slow song", ear="level", seconds=0.6,
        ...     progress=False)
        >>> dict(result.axes)
        {'layer': ('0', '1')}
    """
    texts = as_prompts(corrupted)
    theirs = as_prompts(clean, len(texts))
    listener = _as_ear(ear)
    names = (site,) if isinstance(site, str) else tuple(site)
    layers = layers if layers is None or isinstance(layers, int) else tuple(layers)
    families = {name: _patchable(lens, name, layers, branch) for name in names}
    in_layers = common_layers(families)
    common_prefix(lens, [*texts, *theirs])
    check_halves(texts, theirs, guidance_scale)
    _check_asked(donor, window, seconds)
    seeds = [int(seed) for seed in seeds]
    rows = [(n, seed) for n in range(len(texts)) for seed in seeds]
    if not rows:
        raise InputError("seeds are empty: give at least one.")
    making: dict[str, Any] = {
        "seconds": seconds, "guidance_scale": guidance_scale, "progress": False,
        "seed": [seed for _, seed in rows],
    }  # fmt: skip
    sites = [s for family in families.values() for s in family]
    twins = lens.generate([texts[n] for n, _ in rows], **making)
    source, cache = lens.generate([theirs[n] for n, _ in rows], names_filter=sites, **making)
    heard = torch.full((len(sites), len(rows)), float("nan"))
    at_once = max(1, rows_at_once // len(rows))
    for start in tqdm(range(0, len(sites), at_once), desc="hearing patches", disable=not progress):
        part = sites[start : start + at_once]
        making["seed"] = [seed for _, seed in rows] * len(part)
        with ExitStack() as stack:
            for block, each in enumerate(part):
                first = block * len(rows)
                put_in = _put(each, cache, donor, range(first, first + len(rows)), branch, window)
                stack.enter_context(lens.intervene(put_in))
            clips = lens.generate([texts[n] for n, _ in rows] * len(part), **making)
        for place, clip in enumerate(clips):
            heard[start + place // len(rows), place % len(rows)] = listener(clip)
    axes = {"layer": tuple(map(str, in_layers))}
    if len(names) > 1:
        axes = {"site": names, **axes}
    return PatchingResult(
        per_example=heard.view(*map(len, axes.values()), len(rows)),
        axes=axes,
        clean=torch.tensor([listener(clip) for clip in source]),
        corrupted=torch.tensor([listener(clip) for clip in twins]),
        provenance={
            "model": lens.cfg.model_name,
            "site": list(names),
            "into": "corrupted",
            "donor": donor,
            "branch": branch,
            "window": window,
            "guidance_scale": guidance_scale,
            "seconds": seconds,
            "seeds": list(seeds),
            "metric": listener.name,
            "unit": listener.unit,
            "method": "generated",
            "clean_prompts": list(map(str, theirs)),
            "corrupted_prompts": list(map(str, texts)),
            "versions": versions(),
        },
    )


def _as_ear(ear: Any) -> Ear:
    if isinstance(ear, Ear):
        return ear
    if isinstance(ear, str):
        if ear not in EARS:
            raise InputError(f"no ear {ear!r}: there are {', '.join(EARS)}, or your own fn(clip).")
        return EARS[ear]
    if not callable(ear):
        raise InputError(f"ear must be a name or fn(clip) -> float, got {type(ear).__name__}.")
    return Ear(getattr(ear, "__name__", "own measure"), ear)


def _patchable(
    lens: "AudioLens", name: str, layers: int | Iterable[int] | None, branch: str
) -> tuple[Site, ...]:
    sites = writable(lens, name, layers, branch)
    for site in sites:
        if site.layer is None or "pos" not in site.axes:
            raise SiteError(
                f"{site.name} cannot be patched while generating: take a writable site with layers "
                f"and a 'pos' axis, such as 'resid_post' or 'attn.z'."
            )
    return sites


def _check_asked(donor: Any, window: tuple[float, float | None] | None, seconds: float) -> None:
    """Refuse what would do nothing, while nothing has been generated yet."""
    if donor not in _DONORS:
        raise InputError(f"no donor {donor!r}: there are {', '.join(_DONORS)}.")
    if window is not None and not window[0] < seconds:
        raise InputError(f"window={window} begins after the clip's {seconds:g} s.")


def _mean(tensor: Tensor, layout: Layout) -> Tensor:
    """The mean over positions of the music, everywhere."""
    return tensor[:, layout.audio].mean(1, keepdim=True).expand_as(tensor)


def _steps(tensor: Tensor, layout: Layout) -> Tensor:
    return tensor


def _zero(tensor: Tensor, layout: Layout) -> Tensor:
    return torch.zeros_like(tensor)


_DONORS = {"mean": _mean, "steps": _steps, "zero": _zero}


def _put(
    site: Site,
    cache: "ActivationCache",
    donor: str,
    rows: range,
    branch: Any,
    window: tuple[float, float | None] | None,
) -> Intervention:
    """The intervention that puts the donor's activations into a block of rows."""
    halves = [half for half in cache.branches if site.name in cache.branch(half).cache_dict]
    known = {half: _DONORS[donor](cache.branch(half)[site.name], cache.layout) for half in halves}

    def put(tensor: Tensor, coefficient: Any, hook: Hook) -> Tensor:
        theirs, shift = known[hook.branch], cache.layout.n_prefix
        start, stop = max(hook.positions.start, 0), hook.positions.stop
        here = slice(start - hook.positions.start, None)
        for place, row in enumerate(hook.rows):
            if row in rows:
                put_in = theirs[row - rows.start, start + shift : stop + shift]
                tensor[place, here] = put_in.to(tensor)
        return tensor

    return Intervention(
        site,
        put,
        branch=branch,
        when=None if window is None else window_of(*window),
        rows=rows,
        label=f"patched at {site.name}",
    )
