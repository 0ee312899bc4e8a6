"""What a study costs before anything is made, and what a budget would leave out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from audio_lens.analysis.controls import Kind
from audio_lens.errors import InputError
from audio_lens.recipes.study.ledger import kept_settings
from audio_lens.recipes.study.settings import Cost, StudySettings

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens
    from audio_lens.recipes.concept import Concept
    from audio_lens.recipes.study.study import Study

_ROW_BYTES = 1600
"""Of a row's numbers, about."""
_TRIED_SECONDS = 2.0

_CUTS: Sequence[tuple[str, dict[str, Any]]] = (
    ("isotropic controls alone", {"control_kinds": ("isotropic",)}),
    ("10 draws of each control: p cannot fall below 0.09", {"random_draws": 10}),
    ("6 layers in the scan", {"scan_layers": 6}),
    ("one finalist", {"finalists": 1}),
    ("50 pairs of prompts", {"pairs": 50}),
    ("2 seeds of each test prompt", {"test_seeds": 2, "control_seeds": 2}),
    ("4 dev prompts in the scan", {"scan_prompts": 4}),
    ("4 draws of each control: no more than a look", {"random_draws": 4}),
    ("50 clips in each of the guard's pools", {"normal_clips": 50}),
    ("one seed of each dev prompt", {"dev_seeds": 1, "compare_seeds": 1}),
    ("1 seed of each test prompt", {"test_seeds": 1, "control_seeds": 1}),
)
"""What is given up first stands first."""


@dataclass(frozen=True)
class Plan:
    """Every stage with its clips, and what they take on this machine."""

    settings: StudySettings
    costs: tuple[Cost, ...]
    rate: float
    """Seconds that a second of a clip takes to make, hear and keep."""
    frame_bytes: int
    """Of a second of codes."""

    @property
    def clips(self) -> int:
        """In all."""
        return sum(cost.clips for cost in self.costs)

    @property
    def hours(self) -> float:
        """In all, if the machine stays as fast as it was when the plan was made."""
        return _hours(self.costs, self.rate)

    @property
    def megabytes(self) -> float:
        """On disk: codes and rows; clips can be heard again from their codes."""
        kept = sum(c.clips * (c.seconds * self.frame_bytes + _ROW_BYTES) for c in self.costs)
        return kept / 1e6

    def __str__(self) -> str:
        lines = [f"{'stage':<12}{'clips':>7}{'seconds':>9}{'minutes':>9}"]
        for cost in self.costs:
            minutes = 60 * _hours([cost], self.rate)
            lines.append(f"{cost.stage:<12}{cost.clips:>7}{cost.seconds:>9g}{minutes:>9.1f}")
        lines.append(
            f"{'in all':<12}{self.clips:>7}{'':>9}{60 * self.hours:>9.1f}   about "
            f"{self.megabytes:.0f} MB"
        )
        lines += [f"within the budget: {cut}" for cut in self.settings.dropped]
        return "\n".join(lines)


def _hours(costs: Iterable[Cost], rate: float) -> float:
    return sum(cost.clips * cost.seconds for cost in costs) * rate / 3600


def plan(study: "Study", budget: float | None = None) -> Plan:
    """The plan of a study; with a budget in hours, that of one which keeps to it.

    A short batch is made to see how fast the machine is.

    Raises:
        InputError: not even what is left after every cut fits.
    """
    rate, frame_bytes = _rate(study), 2 * study.lens.cfg.n_codebooks * study.lens.cfg.frame_rate
    whole = Plan(study.settings, tuple(study.costs(study.settings)), rate, frame_bytes)
    if budget is None:
        return whole
    for smaller in _cuts(study, whole):
        if smaller.hours <= budget:
            return smaller
    raise InputError(
        f"a budget of {budget:g} hours: the smallest study of {study.concept.name} takes about "
        f"{smaller.hours:.1f} here. Give more, or settings of your own with shorter clips."
    )


def plan_for(
    concept: "Concept",
    lens: "AudioLens",
    out: str | Path,
    *,
    budget: float | None = None,
    quick: bool = False,
    control_kinds: Sequence[Kind] | None = None,
    control_seeds: int | None = None,
) -> Plan:
    """The plan of a new study, within a budget; of the one in `out`, if that was begun already.

    control_kinds, control_seeds: kinds of controls, and seeds of each test prompt under them; a
    begun study may be given more.
    """
    kept = kept_settings(out)
    settings = StudySettings.quick() if quick else StudySettings()
    if kept is not None:
        settings = StudySettings.of_json(kept)
        if settings.rehearsal != quick:
            raise InputError(
                f"{out} holds {'a rehearsal' if settings.rehearsal else 'a study'}: give another "
                f"folder{', or --quick to go on with it' if settings.rehearsal else ''}."
            )
    if control_kinds is not None:
        settings = replace(settings, control_kinds=tuple(control_kinds))
    if control_seeds is not None:
        settings = replace(settings, control_seeds=control_seeds)
    study = concept.study(lens, out, settings=settings)
    return study.plan(None if kept is not None else budget)


def _cuts(study: "Study", found: Plan) -> Iterator[Plan]:
    yield found
    for said, numbers in _CUTS:
        # Fewer of something: a smaller number, or the first of its kinds.
        smaller = {n: v for n, v in numbers.items() if v < getattr(found.settings, n)}
        if not smaller:
            continue
        settings = replace(found.settings, **smaller, dropped=(*found.settings.dropped, said))
        found = replace(found, settings=settings, costs=tuple(study.costs(settings)))
        yield found


def _rate(study: "Study") -> float:
    """Seconds of work per second of clip, with its hearing."""
    n, settings = study.settings.rows_at_once, study.settings
    prompts = [study.concept.neutral[i % len(study.concept.neutral)] for i in range(n)]
    started = perf_counter()
    study.hearing.rehearse(prompts, min(_TRIED_SECONDS, settings.seconds))
    return (perf_counter() - started) / (n * min(_TRIED_SECONDS, settings.seconds))
