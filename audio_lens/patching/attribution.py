"""Attribution patching: the whole grid at once, by gradients instead of runs.

To first order, putting a donor's activation in changes the metric by the gradient there times the
difference (Nanda 2023, "Attribution Patching"; Syed et al. 2023, arXiv 2310.10348). Averaged over
gradients on the way from one run to the other it is integrated (Hanna et al. 2024, arXiv
2403.17806), which holds further from the base run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.errors import InputError
from audio_lens.lens.engine import Registration
from audio_lens.lens.recording import Recording
from audio_lens.lens.run import Hook, ordinary_tensors
from audio_lens.patching.donors import Values, recorded
from audio_lens.patching.experiment import Asked, Experiment, check_names, check_score, lay_out
from audio_lens.patching.grid import Cell
from audio_lens.patching.result import PatchingResult

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


def attribution_patch(
    lens: "AudioLens", *, steps: int = 1, **asked: Unpack[Asked]
) -> PatchingResult:
    """Estimate every cell of a grid from gradients: two forwards and a backward for all of them.

    Args:
        lens: The model.
        steps: Points between the base run (0) and the donor's (1) at which gradients are taken;
            one is the base run itself, more are integrated.
        asked: `clean`, `corrupted`, `metric`, `site`, `axes`, `into`, `donor`, `layers`,
            `positions`, `branch`, `guidance_scale`, as for `activation_patch`.

    Returns:
        The estimated metric in every cell; `agreement` says how far to believe it.

    Raises:
        InputError: as for `activation_patch`; a metric that reads sites or does not
            differentiate.

    Example:
        >>> from audio_lens import metrics
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> codes = lens.random_codes(frames=6)
        >>> result = attribution_patch(
        ...     lens, clean=("a fast song", codes), corrupted=("a slow song", codes),
        ...     metric=metrics.logprob(codes))
        >>> result.values.shape
        torch.Size([2, 9])
    """
    check_names(asked, attribution_patch)
    if steps < 1:
        raise InputError(f"steps={steps}: expected at least 1.")
    if steps > 1 and asked.get("donor") is not None:
        raise InputError(
            "steps lie between the two runs, so they have no meaning with a donor of its own: "
            "take steps=1, or leave donor out."
        )
    experiment = lay_out(lens, score_base=steps > 1, **asked)
    if experiment.metric.reads_sites:
        raise InputError(
            f"metric {experiment.metric.name!r} reads sites, whose gradients are not followed: "
            f"take one of the logits, or activation_patch."
        )
    if steps == 1:
        known, gradients, score = _gradients(experiment, 0.0)
        baselines = {**experiment.baselines, experiment.into: score}
        experiment = replace(experiment, baselines=baselines)
    else:
        base = experiment.base
        known, _ = recorded(lens, list(base.prompts), base.tokens, experiment.grid.sites,
                            experiment.guidance_scale)  # fmt: skip
        gradients = _mean_gradients(experiment, [(n + 0.5) / steps for n in range(steps)])
    effects = torch.stack([_effect(experiment, cell, known, gradients)
                           for cell in experiment.grid.cells])  # fmt: skip
    values = experiment.baselines[experiment.into] + effects
    method = "attribution" if steps == 1 else f"attribution, integrated over {steps} steps"
    return experiment.result(values.view(*experiment.grid.shape, -1), method=method)


def _effect(
    experiment: Experiment, cell: Cell, known: Values, gradients: Values
) -> Float[Tensor, "example"]:
    """What a cell is estimated to change."""
    effect = torch.zeros(experiment.n_examples)
    for branch, by_site in gradients.items():
        if cell.branch not in ("both", branch):
            continue
        for site in cell.sites:
            if site.name not in by_site:  # it carries nothing in this branch
                continue
            index = cell.index(site, experiment.n_prefix)
            for example in range(experiment.n_examples):
                where = (example, *index)
                put_in = experiment.donor.row(site, branch, example)[index]
                moved = (put_in - known[branch][site.name][where]) * by_site[site.name][where]
                effect[example] += moved.nan_to_num().sum().cpu()  # masked scores are -inf
    return effect


def _mean_gradients(experiment: Experiment, points: list[float]) -> Values:
    """The metric's gradients, averaged over points on the way to the donor's run.

    The way is between what enters: the codes' embeddings and the text.
    """
    total: dict[str, dict[str, Any]] = {}
    for point in points:
        for branch, tensors in _gradients(experiment, point)[1].items():
            sums = total.setdefault(branch, {})
            for name, tensor in tensors.items():
                sums[name] = sums.get(name, 0) + tensor / len(points)
    return total


def _gradients(
    experiment: Experiment, point: float
) -> tuple[Values, Values, Float[Tensor, "example"]]:
    """Activations at the sites, the metric's gradients there, and the metric."""
    lens, base, metric = experiment.lens, experiment.base, experiment.metric
    recording = Recording(experiment.grid.sites, None)
    registrations = [*_on_the_way(experiment, point), *recording.registrations(gradients=True)]
    with (
        lens._engine.registered(registrations),
        ordinary_tensors(),
        torch.enable_grad(),
        _without_weights(lens),
    ):
        logits = lens(list(base.prompts), tokens=base.tokens,
                      guidance_scale=experiment.guidance_scale)  # fmt: skip
        score = metric(logits)
        check_score(score, metric, experiment.n_examples, f"on the {experiment.into} run")
        if not score.requires_grad:
            raise InputError(
                f"metric {metric.name!r} does not differentiate: write it with torch operations "
                f"on the logits."
            )
        score.sum().backward()
    known: dict[str, dict[str, Tensor]] = {}
    gradients: dict[str, dict[str, Tensor]] = {}
    for branch, tensors in recording.cache(lens)._branches.items():
        known[branch], gradients[branch] = {}, {}
        for name, tensor in tensors.items():
            site = name.removesuffix("_grad")
            (known if site == name else gradients)[branch][site] = tensor
    return known, gradients, score.detach().float().cpu()


def _on_the_way(experiment: Experiment, point: float) -> list[Registration]:
    """Registrations that move what enters the decoder towards the other run's."""
    if point == 0:
        return []
    lens = experiment.lens
    other = experiment.runs["clean" if experiment.into == "corrupted" else "corrupted"]
    # A prefix enters with the embeddings; cross-attended text on a way of its own.
    names = ["hook_embed"] if experiment.n_prefix else ["hook_embed", "text.hook_proj"]
    entrances = lens.sites.resolve(names)
    theirs, _ = recorded(
        lens, list(other.prompts), other.tokens, entrances, experiment.guidance_scale
    )

    def move(tensor: Tensor, *, hook: Hook) -> Tensor:
        target = theirs[hook.branch][hook.name][list(hook.rows)]
        if target.shape != tensor.shape:
            raise InputError(
                f"the prompts differ in text tokens ({tensor.shape[1]} and {target.shape[1]}), so "
                f"there is no way between them: take prompts of one length, or steps=1."
            )
        return torch.lerp(tensor, target.to(tensor), point)

    return [Registration(move, (site,), "both") for site in entrances]


@contextmanager
def _without_weights(lens: "AudioLens") -> Iterator[None]:
    """No gradients for weights: they cost as much again, and would be left behind."""
    weights = [weight for weight in lens._module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


@dataclass(frozen=True)
class Agreement:
    """How well estimates agree with exact patches, over the cells that both have."""

    n_cells: int
    correlation: float
    """Pearson's, of mean effects."""
    rank_correlation: float
    """Spearman's."""
    same_sign: float
    """Share of cells whose effects have one sign."""
    slope: float
    """Of exact effects on estimated ones: 1 if the size is right."""

    def __str__(self) -> str:
        return (
            f"{self.n_cells} cells: correlation {self.correlation:.2f}, rank correlation "
            f"{self.rank_correlation:.2f}, same sign {self.same_sign:.0%}, slope {self.slope:.2f}"
        )


def agreement(estimated: PatchingResult, exact: PatchingResult) -> Agreement:
    """How far to believe an attribution: against the exact grid, or a sample of its cells.

    Args:
        estimated: Of `attribution_patch`.
        exact: Of `activation_patch` with the same arguments, perhaps with `sample=32`.

    Raises:
        InputError: the grids differ, or share fewer than three cells.
    """
    from scipy import stats

    if dict(estimated.axes) != dict(exact.axes):
        raise InputError("the two results have different axes: make both with the same arguments.")
    pair = [result.effect.mean(-1).flatten() for result in (estimated, exact)]
    both = ~(pair[0].isnan() | pair[1].isnan())
    x, y = (effects[both].double().numpy() for effects in pair)
    if len(x) < 3:
        raise InputError(f"the results share {len(x)} cells: at least three are needed.")
    fit = stats.linregress(x, y)
    return Agreement(
        n_cells=len(x),
        correlation=float(fit.rvalue),
        rank_correlation=float(stats.spearmanr(x, y).statistic),
        same_sign=float(((x > 0) == (y > 0)).mean()),
        slope=float(fit.slope),
    )
