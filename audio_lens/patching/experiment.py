"""A patching experiment laid out and checked, before any patch is run."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.errors import InputError, did_you_mean
from audio_lens.lens.engine import Registration
from audio_lens.lens.forward import as_tokens
from audio_lens.lens.recording import Recording
from audio_lens.lens.rows import as_prompts, branches_for
from audio_lens.lens.run import Hook
from audio_lens.lens.sites import Site
from audio_lens.patching.donors import Donor, donor_values, recorded
from audio_lens.patching.grid import Cell, Grid, Positions, build_grid
from audio_lens.patching.metrics import Metric, as_metric
from audio_lens.patching.result import PatchingResult
from audio_lens.provenance import tensors_sha256, versions

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

Side = tuple[Any, Any]
"""`(prompts, codes)`."""


class Asked(TypedDict, total=False):
    """What every kind of patching is told; `activation_patch` says what each means."""

    clean: Required[Side]
    corrupted: Required[Side]
    metric: Required[Any]
    site: str | Sequence[str]
    axes: Sequence[str]
    into: Literal["corrupted", "clean"]
    donor: Any
    layers: int | Iterable[int] | None
    positions: Positions
    branch: Literal["cond", "uncond", "both"]
    guidance_scale: float


@dataclass(frozen=True, eq=False)
class Rows:
    """The examples of one run: prompts and delayed tokens, one row each."""

    prompts: tuple[str | None, ...]
    tokens: Int[Tensor, "example codebook pos"]


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is run, what is put in where, and how it is scored."""

    lens: "AudioLens"
    runs: Mapping[str, Rows]
    """`clean` and `corrupted`."""
    into: str
    """The one that is patched."""
    grid: Grid
    donor: Donor
    metric: Metric
    baselines: Mapping[str, Float[Tensor, "example"]]
    guidance_scale: float
    n_prefix: int
    """Positions in front of the music."""
    asked: Mapping[str, Any]
    """For the provenance."""
    forward_seconds: float
    """What a forward of one run took."""

    @property
    def base(self) -> Rows:
        """The run that is patched."""
        return self.runs[self.into]

    @property
    def n_examples(self) -> int:
        """Rows of the run that is patched."""
        return len(self.base.tokens)

    def write(
        self,
        cell: Cell,
        site: Site,
        branch: str,
        rows: Float[Tensor, "example *site"],
        first: int = 0,
    ) -> None:
        """Patch the examples of a cell in place, in one half.

        first: where on the decoder's axis the rows begin.
        """
        if cell.branch not in ("both", branch):
            return
        here, there = cell.index(site, self.n_prefix, first), cell.index(site, self.n_prefix)
        for example, row in enumerate(rows):
            row[here] = self.donor.row(site, branch, example)[there].to(row)

    def patches(self, cells: Mapping[int, Cell], first: int = 0) -> list[Registration]:
        """Registrations that patch cells, each in its own block of rows.

        cells: by the number of their block. first: where on the decoder's axis rows begin.
        """
        n = self.n_examples
        blocks: dict[Site, list[int]] = {}
        for block, cell in cells.items():
            for site in cell.sites:
                blocks.setdefault(site, []).append(block)

        def write(tensor: Tensor, *, hook: Hook) -> Tensor:
            for block in blocks[hook.site]:
                rows = tensor[block * n : (block + 1) * n]
                self.write(cells[block], hook.site, hook.branch, rows, first)
            return tensor

        return [Registration(write, (site,), "both") for site in blocks]

    def result(
        self, per_example: Float[Tensor, "*cell example"], **provenance: Any
    ) -> PatchingResult:
        """The values of the grid's cells as a result."""
        cfg = self.lens.cfg
        prompts = {f"{n}_prompts": list(map(str, run.prompts)) for n, run in self.runs.items()}
        return PatchingResult(
            per_example=per_example,
            axes=self.grid.axes,
            clean=self.baselines["clean"],
            corrupted=self.baselines["corrupted"],
            provenance={
                "model": cfg.model_name,
                **self.asked,
                "into": self.into,
                "donor": self.donor.name,
                "guidance_scale": self.guidance_scale,
                "metric": self.metric.name,
                "unit": self.metric.unit,
                "frame_rate": cfg.frame_rate,
                **prompts,
                "versions": versions(),
                **provenance,
            },
        )


def lay_out(
    lens: "AudioLens",
    *,
    clean: Any = None,
    corrupted: Any = None,
    metric: Any = None,
    site: str | Sequence[str] = "resid_post",
    axes: Sequence[str] = ("layer", "pos"),
    into: Literal["corrupted", "clean"] = "corrupted",
    donor: Any = None,
    layers: int | Iterable[int] | None = None,
    positions: Positions = None,
    branch: Literal["cond", "uncond", "both"] = "both",
    guidance_scale: float = 1.0,
    score_base: bool = True,
) -> Experiment:
    """The experiment that is meant; see `activation_patch`, which has the arguments.

    score_base: whether the baseline of the run that is patched is wanted already.
    """
    metric, guidance_scale = as_metric(metric), float(guidance_scale)  # NumPy's would not be saved
    _check_shorthands(site)
    if into not in ("clean", "corrupted"):
        raise InputError(f'into must be "corrupted" or "clean", got {into!r}.')
    runs = _aligned(lens, {"clean": clean, "corrupted": corrupted})
    n_prefix = common_prefix(lens, [prompt for run in runs.values() for prompt in run.prompts])
    base, other = runs[into], runs["clean" if into == "corrupted" else "corrupted"]
    grid = build_grid(
        lens,
        site,
        axes,
        layers=layers,
        positions=positions,
        n_positions=base.tokens.shape[-1],
        n_tokens=_n_tokens(lens, (*base.prompts, *other.prompts), axes),
        branch=branch,
    )
    halved = "uncond" in branches_for(base.prompts, guidance_scale)
    if not halved and (branch == "uncond" or "branch" in axes):
        raise InputError(
            "there is no unconditional half to patch: give a guidance_scale above 1 and a prompt."
        )
    sites = grid.sites
    _check_tokens(lens, sites, (*base.prompts, *other.prompts))
    _check_reach(lens, sites, metric)
    check_halves(base.prompts, other.prompts, guidance_scale)
    began = time.perf_counter()
    theirs, logits = recorded(lens, list(other.prompts), other.tokens, sites, guidance_scale)
    took = time.perf_counter() - began
    put_in = donor_values(lens, donor, theirs, other.tokens, sites, guidance_scale)
    baselines = {}
    for name, run in runs.items():
        if run is other or score_base:
            known = logits if run is other and not metric.reads_sites else None
            baselines[name] = _baseline(lens, run, metric, guidance_scale, name, known)
    names = [site] if isinstance(site, str) else list(site)
    asked = {"site": names, "branch": branch, **_fingerprint(runs, grid, donor, put_in)}
    return Experiment(
        lens, runs, into, grid, put_in, metric, baselines, guidance_scale, n_prefix, asked, took
    )


def _check_shorthands(site: Any) -> None:
    for each in (site,) if isinstance(site, str | Site) else site:
        if isinstance(each, Site):
            where = "" if each.layer is None else f" with layers={each.layer}"
            raise InputError(f"site= takes shorthands: give {each.shorthand!r}{where}.")


def _fingerprint(runs: Mapping[str, Rows], grid: Grid, donor: Any, put_in: Donor) -> dict[str, Any]:
    """What two experiments of the same words may still differ in, short enough to keep."""
    spans = [cell.where["pos"] for cell in grid.cells if "pos" in cell.where]
    found: dict[str, Any] = {
        "written": [site.name for site in grid.sites],
        "positions": sorted({(min(span), max(span) + 1) for span in spans}),
        "codes_sha256": tensors_sha256([run.tokens for run in runs.values()]),
    }
    found["positions"] = [list(span) for span in found["positions"]]
    if donor is not None and not isinstance(donor, str):
        halves = put_in.values.values()
        found["donor_sha256"] = tensors_sha256([t for half in halves for t in half.values()])
    return found


def check_names(asked: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Raise for an argument that neither a function nor patching in general takes."""
    own = [p.name for p in signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    known = [*Asked.__annotations__, *own]
    for name in asked:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(f"{function.__name__} takes no argument {name!r}: {hint}")


def _aligned(lens: "AudioLens", sides: Mapping[str, Any]) -> dict[str, Rows]:
    """Both runs with as many rows and positions."""
    given = {}
    for name, side in sides.items():
        if not isinstance(side, tuple | list) or len(side) != 2:
            raise InputError(f"{name} must be (prompts, codes), got {type(side).__name__}.")
        given[name] = (as_prompts(side[0]), as_tokens(lens, side[1]))
    counts = {len(part) for side in given.values() for part in side}
    n = max(counts)
    if counts - {1, n}:
        raise InputError(
            f"clean and corrupted have {sorted(counts)} prompts and codes: give as many of each, "
            f"or one for all."
        )
    frames = {name: side[1].shape[-1] - max(lens.cfg.delays) for name, side in given.items()}
    if len(set(frames.values())) > 1:
        raise InputError(
            f"clean has {frames['clean']} frames and corrupted {frames['corrupted']}, so positions "
            f"do not align: cut both to the shorter, codes[..., :n]."
        )
    return {
        name: Rows(
            as_prompts(prompts[0] if len(prompts) == 1 else prompts, n),
            tokens.expand(n, -1, -1),
        )
        for name, (prompts, tokens) in given.items()
    }


def check_halves(
    prompts: Sequence[str | None], others: Sequence[str | None], guidance_scale: float
) -> None:
    """Refuse two runs of which only one has an unconditional half."""
    if branches_for(prompts, guidance_scale) != branches_for(others, guidance_scale):
        raise InputError(
            "one run has an unconditional half and the other has not, since it has no prompt: give "
            "both a prompt, or guidance_scale=1."
        )


def common_prefix(lens: "AudioLens", prompts: Sequence[str | None]) -> int:
    """Positions in front of the music, the same for every prompt."""
    prefixes = {lens._conditioner.n_prefix(prompt) for prompt in prompts}
    if len(prefixes) > 1:
        raise InputError(
            f"the prompts' prefixes have {sorted(prefixes)} positions, so positions do not align: "
            f"take prompts with the same number of text tokens (lens.text_tokens shows them)."
        )
    return prefixes.pop()


def _n_tokens(lens: "AudioLens", prompts: Sequence[str | None], axes: Sequence[str]) -> int:
    """Text tokens, where the grid runs along them."""
    if "text_token" not in axes:
        return 0
    lengths = _lengths(lens, prompts)
    if not lengths:
        raise InputError('the axis "text_token" needs prompts.')
    return max(lengths)


def _lengths(lens: "AudioLens", prompts: Sequence[str | None]) -> set[int]:
    return {len(lens.text_tokens(prompt)) for prompt in prompts if prompt is not None}


def _check_tokens(lens: "AudioLens", sites: Sequence[Site], prompts: Sequence[str | None]) -> None:
    """Refuse prompts whose text tokens do not align at sites that have them."""
    along = [site.shorthand for site in sites if "token" in site.axes]
    if along and len(lengths := _lengths(lens, prompts)) > 1:
        raise InputError(
            f"the prompts have {sorted(lengths)} text tokens, so they do not align at {along[0]}: "
            f"take prompts of the same number (lens.text_tokens shows them)."
        )


def _check_reach(lens: "AudioLens", sites: Sequence[Site], metric: Metric) -> None:
    """Refuse a grid in which no patch can change what is scored."""
    if not metric.reads_sites or metric.reads_logits:
        return
    last = max(site.rank for site in lens.sites.resolve(metric.sites))
    if all(site.rank > last for site in sites):
        raise InputError(
            f"every patch acts after what the metric reads ({metric.name}), so none can change "
            f"it: patch an earlier site, or read a later one."
        )


def _baseline(
    lens: "AudioLens",
    run: Rows,
    metric: Metric,
    guidance_scale: float,
    name: str,
    logits: Tensor | None,
) -> Float[Tensor, "example"]:
    """The metric of an unpatched run, of its logits where they are known already."""
    with torch.no_grad():
        if logits is not None:
            score = metric(logits)
        else:
            (score,) = scores(lens, run, metric, guidance_scale, n_cells=1)
    check_score(score, metric, len(run.tokens), f"on the {name} run")
    return score.detach().float().cpu()


def check_score(score: Any, metric: Metric, n_rows: int, where: str) -> None:
    """Raise unless a metric gave one number per row, none of them NaN."""
    check_shape(score, metric, n_rows)
    if score.isnan().any():
        raise InputError(f"metric {metric.name!r} is NaN {where}.")


def check_shape(score: Any, metric: Metric, n_rows: int) -> None:
    """Raise unless a metric gave one number per row."""
    if not isinstance(score, Tensor) or score.shape != (n_rows,):
        shape = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise InputError(
            f"metric {metric.name!r} must give one number per row, [{n_rows}], got {shape}."
        )


def scores(
    lens: "AudioLens", run: Rows, metric: Metric, guidance_scale: float, *, n_cells: int
) -> Iterator[Float[Tensor, "example"]]:
    """Scores of cells that run as blocks of rows of one forward, under the hooks in place."""
    if not metric.reads_sites:
        logits = lens(list(run.prompts), tokens=run.tokens, guidance_scale=guidance_scale)
        for part in logits.chunk(n_cells):
            yield metric(part)
        return
    recording = Recording(lens.sites.resolve(metric.sites), None)
    with lens._engine.registered(recording.registrations()):
        logits = lens(list(run.prompts), tokens=run.tokens, guidance_scale=guidance_scale)
    cache = recording.cache(lens)
    for start in range(0, len(logits), len(logits) // n_cells):
        block = slice(start, start + len(logits) // n_cells)
        yield metric(logits[block], cache.rows(block))
