"""Activation patching: put activations of one run into another, cell by cell of a grid."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from audio_lens.errors import InputError
from audio_lens.lens.run import ordinary_tensors
from audio_lens.patching.budget import Budget, duration
from audio_lens.patching.experiment import (
    Asked,
    Experiment,
    Rows,
    check_names,
    check_shape,
    lay_out,
    scores,
)
from audio_lens.patching.result import PatchingResult
from audio_lens.patching.resuming import taken_over, warn_interrupted
from audio_lens.patching.reuse import reusable, run_reusing, share_run

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

#: A grid that will take longer says so before it starts.
_LONG_SECONDS = 60


def activation_patch(
    lens: "AudioLens",
    *,
    method: Literal["auto", "reuse", "full"] = "auto",
    max_rows: int = 64,
    max_gib: float | None = None,
    sample: int | None = None,
    seed: int = 0,
    resume: PatchingResult | None = None,
    progress: bool = True,
    **asked: Unpack[Asked],
) -> PatchingResult:
    """Patch every cell of a grid and score what comes out.

    Args:
        lens: The model.
        clean: `(prompts, codes)` of the run whose behaviour is to be explained; codes undelayed.
        corrupted: The run it is compared with: other prompts, other codes, or both, as long.
        site: A shorthand such as `"resid_post"`, or several, one panel each.
        axes: What the grid runs along: some of `layer`, `pos`, `head`, `codebook`, `text_token`,
            `branch`. Along an axis that is left out, a patch writes everything.
        metric: From `audio_lens.metrics`, or your own `fn(logits) -> [batch]`.
        into: Denoising puts clean activations into the corrupted run, noising the other way.
        donor: What is put in, if not the other run's activations: `"zero"`, `"mean"` (of the
            other run's batch), `"resample"` (another example's), `mean_of(prompts, codes)`, or
            a tensor or a dict of them by site name.
        layers: Only these.
        positions: How positions are grouped: so many at a time, `every_seconds(0.5)`,
            `beats_of(clip)`, or ranges by label. A position is 1 / frame_rate seconds.
        branch: Which halves are patched, with a guidance scale above 1.
        guidance_scale: Of both runs.
        method: `"reuse"` runs only what a patch can change, `"full"` whole forwards; `"auto"`
            takes the first wherever it is exact.
        max_rows: Rows in flight at once, both halves of a guided run counted. A cell's examples
            always run together.
        max_gib: Memory beside the model, in GiB, that the grid may take; fewer rows run at once
            where it is tight.
        sample: Run only so many cells, drawn with `seed`; the others stay NaN.
        seed: See `sample`.
        resume: A result that an interrupt left unfinished; its cells are not run again.
        progress: Show a progress bar, and before a long grid how long it will take.

    Returns:
        The metric in every cell. An interrupt returns what was done so far; where the metric is
        NaN under a patch, the cell stays NaN and a warning names it.

    Raises:
        InputError: runs of different length, a metric of the wrong shape or NaN, a grid or
            `max_gib` that does not fit; before anything is patched.
        SiteError: sites that cannot be patched or lack an axis.

    Example:
        >>> from audio_lens import metrics
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> codes = lens.random_codes(frames=6)
        >>> result = activation_patch(
        ...     lens, clean=("a fast song", codes), corrupted=("a slow song", codes),
        ...     metric=metrics.logprob(codes), progress=False)
        >>> result.values.shape, float(result.recovery[-1].sum().round(decimals=3))
        (torch.Size([2, 9]), 1.0)
    """
    check_names(asked, activation_patch)
    budget = Budget(max_rows, max_gib)
    with ordinary_tensors():
        experiment = lay_out(lens, **asked)
        values, todo = _begin(experiment, resume, sample, seed)
    chosen = _method(method, experiment)
    budget.cells(experiment)
    if progress:
        _announce(experiment, todo, chosen)
    run = run_reusing if chosen == "reuse" else run_full
    bar = tqdm(total=len(todo), desc=f"patching ({chosen})", disable=not progress)
    try:
        with ordinary_tensors(), torch.no_grad():
            for place, score in run(experiment, todo, budget):
                check_shape(score, experiment.metric, experiment.n_examples)
                values[place] = score
                bar.update()
    except KeyboardInterrupt:
        warn_interrupted(values)
    else:
        _warn_of_nan(experiment, values, todo)
    finally:
        bar.close()
    return experiment.result(values.view(*experiment.grid.shape, -1), method=chosen)


def _method(method: str, experiment: Experiment) -> str:
    if method not in ("auto", "reuse", "full"):
        raise InputError(f'method must be "auto", "reuse" or "full", got {method!r}.')
    why_not = reusable(experiment)
    if method == "reuse" and why_not:
        raise InputError(f'method="reuse" is not exact here: {why_not} Use "auto" or "full".')
    return "full" if why_not or method == "full" else "reuse"


def _announce(experiment: Experiment, todo: Sequence[int], method: str) -> None:
    """Say roughly how long a long grid will take; many rows at once make it rather less."""
    reusing = method == "reuse"
    shares = sum(share_run(experiment, place) if reusing else 1.0 for place in todo)
    seconds = experiment.forward_seconds * shares
    if seconds > _LONG_SECONDS:
        size = " x ".join(f"{len(along)} {name}" for name, along in experiment.grid.axes.items())
        tqdm.write(
            f"{len(todo)} cells to patch ({size}): roughly {duration(seconds)}.",
            file=sys.stderr,
        )


def _warn_of_nan(
    experiment: Experiment, values: Float[Tensor, "cell example"], todo: Sequence[int]
) -> None:
    nan = [place for place in todo if values[place].isnan().any()]
    if nan:
        warnings.warn(
            f"metric {experiment.metric.name!r} is NaN in {len(nan)} of {len(todo)} cells, first "
            f"in {experiment.grid.labels(nan[0])}: they stay NaN.",
            stacklevel=3,
        )


def _begin(
    experiment: Experiment, resume: PatchingResult | None, sample: int | None, seed: int
) -> tuple[Float[Tensor, "cell example"], list[int]]:
    """The values to fill in, NaN where nothing is known yet, and the cells to run."""
    grid, n = experiment.grid, experiment.n_examples
    if resume is not None and resume.provenance.get("method") not in ("full", "reuse"):
        raise InputError("resume= is no result of activation_patch.")
    values = taken_over(experiment.result(torch.full((*grid.shape, n), 0.0)), resume)
    wanted = list(range(len(values)))
    if sample is not None:
        if not (isinstance(sample, Integral) and sample >= 1):
            raise InputError(f"sample={sample}: expected a number of cells, at least one.")
        order = torch.randperm(len(wanted), generator=torch.Generator().manual_seed(seed))
        wanted = sorted(order[:sample].tolist())
    return values, [place for place in wanted if values[place].isnan().any()]


def run_full(
    experiment: Experiment, todo: Sequence[int], budget: Budget
) -> Iterator[tuple[int, Tensor]]:
    """Each cell as a block of rows of whole forwards; yields its number and score."""
    base, lens = experiment.base, experiment.lens
    at_once = budget.cells(experiment)
    if lens._engine.active:  # what others do to row 0 means the first example, not the first cell
        at_once = 1
    for start in range(0, len(todo), at_once):
        places = todo[start : start + at_once]
        cells = [experiment.grid.cells[place] for place in places]
        rows = Rows(base.prompts * len(cells), base.tokens.repeat(len(cells), 1, 1))
        with lens._engine.registered(experiment.patches(dict(enumerate(cells)))):
            found = list(
                scores(
                    lens, rows, experiment.metric, experiment.guidance_scale,
                    n_cells=len(cells),
                )
            )  # fmt: skip
        yield from zip(places, (score.float().cpu() for score in found), strict=True)
