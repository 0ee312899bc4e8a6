"""Patching while generating: what is heard when one run's activations play in another.

A prompt generates under a donor's activations at one site and layer, seed by seed beside its
unpatched twin, and the clips are measured: the map of where tempo lives, in octaves, or timbre, in
semitones.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
from audio_lens.lens.rows import as_prompts
from audio_lens.lens.run import Hook
from audio_lens.lens.schedules import window as window_of
from audio_lens.lens.sites import Site
from audio_lens.patching.experiment import check_halves, common_prefix
from audio_lens.patching.grid import BLOCK, as_layers, common_layers, writable, writers
from audio_lens.patching.result import PatchingResult
from audio_lens.patching.resuming import missing, taken_over, warn_interrupted
from audio_lens.provenance import versions

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
    corrupted: Any,
    ear: str | Ear | Callable[["Clip"], float],
    clean: Any = None,
    site: str | Sequence[str] = "resid_post",
    axes: Sequence[str] = ("layer",),
    layers: int | Iterable[int] | None = None,
    donor: Literal["mean", "steps", "zero"] = "mean",
    branch: Literal["cond", "uncond", "both"] = "cond",
    window: tuple[float, float | None] | None = None,
    seconds: float = 8.0,
    seeds: Sequence[int] = (0,),
    guidance_scale: float = 3.0,
    rows_at_once: int = 128,
    resume: PatchingResult | None = None,
    progress: bool = True,
) -> PatchingResult:
    """Generate the corrupted prompts under the clean prompts' activations, layer by layer.

    Args:
        lens: The model.
        corrupted: Prompts that generate.
        ear: `"tempo"`, `"timbre"`, `"level"`, or your own `fn(clip) -> float`.
        clean: Prompts whose activations are put in, one per corrupted prompt or one for all. A
            knock-out needs none.
        site: A shorthand with a `pos` axis and layers, or several; `"block"` with `donor="zero"`
            skips whole blocks: nothing that they add enters the stream.
        axes: `("layer",)`, or `("layer", "head")` at sites that have heads: one head at a time.
        layers: Only these.
        donor: What is put in: the clean clip's `"mean"` over its positions, its activations step
            by step (`"steps"`), or `"zero"`: a knock-out.
        branch: Which halves are patched.
        window: From and to which second; the whole clip if None. A prefix is never patched.
        seconds: Length of the clips.
        seeds: Each prompt runs with each; an example is a prompt with a seed.
        guidance_scale: Of all runs.
        rows_at_once: Rows per batch; those of a cell, each prompt with each seed, run together.
        resume: A result that an interrupt left unfinished; cells in which something was heard are
            not run again.
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
    listener = _as_ear(ear)
    names = (site,) if isinstance(site, str) else tuple(site)
    _check_asked(clean, donor, names)
    _check_window(window, seconds, lens.cfg.frame_rate)
    if rows_at_once < 1:
        raise InputError(f"rows_at_once={rows_at_once}: expected at least 1.")
    if isinstance(seeds, int):
        raise InputError(f"seeds are a list: give seeds=({seeds},).")
    texts = as_prompts(corrupted)
    theirs = texts if clean is None else as_prompts(clean, len(texts))
    layers = as_layers(layers)
    families = {name: _patchable(lens, name, layers, branch) for name in names}
    in_layers = common_layers({name: [each[0] for each in f] for name, f in families.items()})
    common_prefix(lens, [*texts, *theirs])
    check_halves(texts, theirs, guidance_scale)
    seeds = [int(seed) for seed in seeds]
    rows = [(n, seed) for n in range(len(texts)) for seed in seeds]
    if not rows:
        raise InputError("seeds are empty: give at least one.")
    making: dict[str, Any] = {
        "seconds": seconds, "guidance_scale": guidance_scale, "progress": False,
        "seed": [seed for _, seed in rows],
    }  # fmt: skip
    heads = _heads(lens, axes, families)
    cells = [cell for family in families.values() for cell in family]
    twins = lens.generate([texts[n] for n, _ in rows], **making)
    sources, put_in = twins, _DONORS["zero"](None)
    if clean is not None:
        sites = [each for cell in cells for each in cell]
        sources, cache = lens.generate([theirs[n] for n, _ in rows], names_filter=sites, **making)
        put_in = _DONORS[donor](cache)
    labels = {"site": names} if len(names) > 1 else {}
    labels |= {"layer": tuple(map(str, in_layers))}
    labels |= {"head": tuple(map(str, heads))} if "head" in axes else {}
    blank = PatchingResult(
        per_example=torch.full((*map(len, labels.values()), len(rows)), float("nan")),
        axes=labels,
        clean=torch.tensor([listener(clip) for clip in sources]),
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
    heard = taken_over(blank, resume)
    parts = [(cell, head) for cell in cells for head in heads]
    at_once = max(1, rows_at_once // len(rows))
    if lens._engine.active:  # what others do to row 0 means the first example, not the first cell
        at_once = 1
    todo = missing(heard)
    try:
        for start in tqdm(
            range(0, len(todo), at_once), desc="hearing patches", disable=not progress
        ):
            places = todo[start : start + at_once]
            making["seed"] = [seed for _, seed in rows] * len(places)
            with ExitStack() as stack:
                for block, place in enumerate(places):
                    block_rows = range(block * len(rows), (block + 1) * len(rows))
                    cell, head = parts[place]
                    for each in cell:
                        patch = _patch(each, put_in, block_rows, branch, window, head)
                        stack.enter_context(lens.intervene(patch))
                clips = lens.generate([texts[n] for n, _ in rows] * len(places), **making)
            for n, clip in enumerate(clips):
                heard[places[n // len(rows)], n % len(rows)] = listener(clip)
    except KeyboardInterrupt:
        warn_interrupted(heard)
    return replace(blank, per_example=heard.view_as(blank.per_example))


def _heads(
    lens: "AudioLens", axes: Sequence[str], families: Mapping[str, Sequence[tuple[Site, ...]]]
) -> list[int | None]:
    """The heads that are patched one by one; None is all of them together."""
    if tuple(axes) == ("layer",):
        return [None]
    if tuple(axes) != ("layer", "head"):
        raise InputError(f'axes={axes!r}: while generating, ("layer",) or ("layer", "head").')
    for family in families.values():
        for site in family[0]:
            if "head" not in site.axes:
                raise SiteError(f"{site.shorthand} has no heads: take attn.z or cross_attn.z.")
    return list(range(lens.cfg.n_heads))


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
) -> list[tuple[Site, ...]]:
    """What each cell patches: the site in a layer, or all that a block adds to the stream."""
    names = writers(lens) if name == BLOCK else [name]
    families = [writable(lens, each, layers, branch) for each in names]
    for site in families[0]:
        if site.layer is None or "pos" not in site.axes:
            raise SiteError(
                f"{site.name} cannot be patched while generating: take a writable site with layers "
                f"and a 'pos' axis, such as 'resid_post' or 'attn.z'."
            )
    return list(zip(*families, strict=True))


def _check_asked(
    clean: Any,
    donor: Any,
    names: Sequence[str],
) -> None:
    """Refuse what would do nothing, while nothing has been generated yet."""
    if not names or len(set(names)) < len(names):
        raise InputError(f"site={names}: give at least one, each once.")
    if donor not in _DONORS:
        raise InputError(f"no donor {donor!r}: there are {', '.join(_DONORS)}.")
    if clean is None and donor != "zero":
        raise InputError(f"donor={donor!r} is of the clean prompts: give clean=.")
    if BLOCK in names and donor != "zero":
        raise InputError('a whole block can only be skipped: give donor="zero", or a site.')


def _check_window(window: Any, seconds: float, frame_rate: int) -> None:
    if window is None:
        return
    if not isinstance(window, tuple | list) or len(window) != 2:
        raise InputError(f"window must be (start, stop) in seconds, got {window!r}.")
    start, stop = window[0], seconds if window[1] is None else window[1]
    if not start < seconds:
        raise InputError(f"window={window} begins after the clip's {seconds:g} s.")
    if not any(start <= n / frame_rate < stop for n in range(round(seconds * frame_rate))):
        raise InputError(f"window={window} holds no frame: they come every {1 / frame_rate:g} s.")


PutIn = Callable[[Hook, int, slice], Tensor | float]
"""What an example (by its number) gets at a hook, at a span of the music's positions."""


def _zero(cache: "ActivationCache | None") -> PutIn:
    return lambda hook, example, span: 0.0


def _steps(cache: "ActivationCache") -> PutIn:
    def put_in(hook: Hook, example: int, span: slice) -> Tensor:
        tensor = cache.branch(hook.branch)[hook.name]
        return tensor[example, cache.layout.audio][span]

    return put_in


def _mean(cache: "ActivationCache") -> PutIn:
    """The mean over positions of the music, everywhere."""
    means: dict[tuple[str, str], Tensor] = {}

    def put_in(hook: Hook, example: int, span: slice) -> Tensor:
        key = hook.branch, hook.name
        if key not in means:
            means[key] = cache.branch(hook.branch)[hook.name][:, cache.layout.audio].mean(1)
        return means[key][example]

    return put_in


_DONORS: Mapping[str, Callable[[Any], PutIn]] = {"mean": _mean, "steps": _steps, "zero": _zero}


def _patch(
    site: Site,
    put_in: PutIn,
    rows: range,
    branch: Any,
    window: tuple[float, float | None] | None,
    head: int | None = None,
) -> Intervention:
    """The intervention that puts the donor's activations into a block of rows, or one head's."""
    part: tuple[Any, ...] = (slice(None),)
    if head is not None:
        part = (*[slice(None)] * (site.axes.index("head") - 1), head)  # of a row, so batch is off

    def put(tensor: Tensor, coefficient: Any, hook: Hook) -> Tensor:
        start, stop = max(hook.positions.start, 0), hook.positions.stop
        here = slice(start - hook.positions.start, None)
        for place, row in enumerate(hook.rows):
            if row in rows:
                value = put_in(hook, row - rows.start, slice(start, stop))
                old = tensor[place, here]
                new = torch.as_tensor(value).to(tensor).expand_as(old)
                old[part] = new[part]
        return tensor

    return Intervention(
        site,
        put,
        branch=branch,
        when=None if window is None else window_of(*window),
        rows=rows,
        label=f"patched at {site.name}" + ("" if head is None else f" head {head}"),
    )
