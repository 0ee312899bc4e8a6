"""The demo: a concept steered on the toy in minutes, measured, and said no more than shown.

Five coefficients, eight neutral prompts with two seeds each, and four random directions of the same
length at the outermost coefficients: two that point anywhere, and two drawn where activations vary.
A study, with enough clips to claim effects, is another matter; where this one cannot tell, it says
so.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from audio_lens.analysis.controls import Kind, controls
from audio_lens.analysis.directions import Direction
from audio_lens.analysis.poles import gather_poles
from audio_lens.analysis.statistics import Estimate, bootstrap, mean_over_prompts, slopes
from audio_lens.audio.clip import Clip
from audio_lens.audio.quality import Vitals, quality_guard, vitals
from audio_lens.audio.timbre import spectral_centroid
from audio_lens.audio.words import FEW_CONTEXTS, neutral_prompts
from audio_lens.lens.loading import CHECKPOINTS
from audio_lens.recipes.concept import CONCEPTS, Concept, concept
from audio_lens.recipes.study.choosing import Choice
from audio_lens.recipes.study.hearing import Cell, Put, Way, in_batches, steering_of
from audio_lens.recipes.study.strengths import SIGNS

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


def choices_of(lens: "AudioLens") -> dict[str, Choice]:
    """What was chosen for a model: `choice.json` in its folder, or the middle layer at 1."""
    name = lens.cfg.model_name
    file = CHECKPOINTS.get(name, Path(name)) / "choice.json"
    if not file.is_file():
        middle = Way("one_to_one", lens.cfg.n_layers // 2)
        return dict.fromkeys(CONCEPTS, Choice(middle, SIGNS))
    found = json.loads(file.read_text())
    return {concept: Choice.of_json(chosen) for concept, chosen in found.items()}


def strengths(choice: Choice) -> tuple[float, ...]:
    """Five coefficients from end to end, zero in the middle."""
    low, high = choice.coefficients["-"], choice.coefficients["+"]
    return (low, low / 2, 0.0, high / 2, high)


@dataclass(frozen=True)
class DemoSettings:
    """What the demo runs."""

    seconds: float = 6.0
    n_prompts: int = 8
    seeds: tuple[int, ...] = (1000, 1001)
    n_random: int = 2
    """Of each kind."""
    random_kinds: tuple[Kind, ...] = ("isotropic", "matched")
    pairs: tuple[int, ...] = FEW_CONTEXTS
    direction_seconds: float = 6.0
    direction_seed: int = 2000
    guidance_scale: float = 3.0
    rows_at_once: int = 80


#: A rehearsal of the whole demo; its numbers mean nothing.
QUICK = DemoSettings(
    seconds=2.0, n_prompts=2, seeds=(1000,), n_random=1, pairs=(0, 11), direction_seconds=0.2
)


@dataclass(frozen=True)
class Row:
    """One clip of the demo and what was heard in it."""

    direction: str
    """`real`, or a random one: `isotropic 1` and so on."""
    coefficient: float
    prompt: str
    seed: int
    bpm: float
    """By the pulse below 160 Hz."""
    beat: float
    """BPM by the felt beat of the full band, often an octave off."""
    centroid: float
    change: float
    """From its twin, in the concept's unit; NaN where either has no value."""
    failed: str
    """Rules of the quality guard that it fails, against its twin; empty where it passes."""
    clip: Clip


@dataclass(frozen=True)
class Outcome:
    """What the demo found for one concept."""

    concept: Concept
    direction: Direction
    rows: tuple[Row, ...]
    choice: Choice

    def grid(
        self, what: str, direction: str, coefficient: float
    ) -> Float[np.ndarray, "prompt seed"]:
        """A measured quantity of a cell, by prompt and seed."""
        cells: dict[str, list[float]] = {}
        for row in self.rows:
            if row.direction == direction and row.coefficient == coefficient:
                cells.setdefault(row.prompt, []).append(getattr(row, what))
        return np.array(list(cells.values()))

    def n_passed(self, coefficient: float) -> int:
        """Clips of a cell of the real direction that pass the quality guard."""
        cell = [r for r in self.rows if r.direction == "real" and r.coefficient == coefficient]
        return sum(not row.failed for row in cell)

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The coefficients of the real direction, in order."""
        return tuple(sorted({row.coefficient for row in self.rows if row.direction == "real"}))

    @property
    def slope(self) -> Estimate:
        """Change per unit of coefficient; where nothing was heard, no change is counted."""
        effects = np.stack([self.grid("change", "real", c) for c in self.coefficients])
        per_clip = slopes(np.nan_to_num(effects), np.array(self.coefficients))
        return bootstrap(per_clip, mean_over_prompts)

    def largest_change(self, direction: str) -> float:
        """Larger of the absolute median changes at the two outermost coefficients."""
        outer = (self.coefficients[0], self.coefficients[-1])
        return max(abs(bootstrap(self.grid("change", direction, c), draws=1).value) for c in outer)

    def random_changes(self) -> dict[str, float]:
        """`largest_change` of each random direction, by its name."""
        names = sorted({row.direction for row in self.rows if row.direction != "real"})
        return {name: self.largest_change(name) for name in names}

    @property
    def n_random_as_large(self) -> int:
        """How many random directions change it as much as the real one."""
        real = self.largest_change("real")
        return sum(not change < real for change in self.random_changes().values())


_COLUMNS = {"pulse_bpm": "bpm", "beat_bpm": "beat", "spectral_centroid": "centroid"}
"""Where a row keeps what each measure heard."""


def run_demo(
    lens: "AudioLens",
    name: str,
    *,
    settings: DemoSettings | None = None,
    progress: bool = True,
) -> Outcome:
    """Make a concept's direction, steer by it and by random ones, and measure every clip."""
    settings = settings or DemoSettings()
    asked, choice = concept(name).on(lens), choices_of(lens)[name]
    poles = gather_poles(
        lens,
        positive=[asked.positive[place] for place in settings.pairs],
        negative=[asked.negative[place] for place in settings.pairs],
        site=choice.way.site,
        pool=choice.pool,
        seconds=settings.direction_seconds,
        seed=settings.direction_seed,
        guidance_scale=settings.guidance_scale,
        progress=progress,
    )
    direction = poles.difference_in_means()
    drawn = controls(direction, n=settings.n_random, kinds=settings.random_kinds, poles=poles)
    random = {f"{kind} {n}": one for kind, of in drawn.items() for n, one in enumerate(of, 1)}
    put = steering_of(lens, {"real": direction} | random, choice.way)
    cells = list(_cells(choice, list(random), settings))
    made = _made(lens, cells, put, settings, progress)
    heard = [_heard(cell, clip) for cell, clip in made]
    return Outcome(asked, direction, tuple(_beside_twins(asked, heard)), choice)


def _cells(choice: Choice, random: Sequence[str], settings: DemoSettings) -> Iterator[Cell]:
    """The real direction at every coefficient, random ones at the outermost."""
    doses = strengths(choice)
    runs = [*product(doses, ["real"]), *product((doses[0], doses[-1]), random)]
    for prompt, seed in product(_prompts(settings.n_prompts), settings.seeds):
        yield from (Cell(prompt, seed, *run) for run in runs)


def _made(
    lens: "AudioLens",
    cells: Sequence[Cell],
    put: Put,
    settings: DemoSettings,
    progress: bool,
) -> Iterator[tuple[Cell, Clip]]:
    """The clips of cells, made in batches of mixed directions."""
    batches = in_batches(lens, cells, settings.rows_at_once)
    for batch in tqdm(batches, desc="clips", disable=not progress):
        with lens.intervene(*put(batch)):
            clips = lens.generate(
                [cell.prompt for cell in batch],
                seed=[cell.seed for cell in batch],
                seconds=settings.seconds,
                guidance_scale=settings.guidance_scale,
                progress=progress,
            )
        yield from zip(batch, clips, strict=True)


def _heard(cell: Cell, clip: Clip) -> tuple[Row, Vitals]:
    """What is heard in a clip, and what the guard looks at; the rest follows beside the twin."""
    life = vitals(clip.samples, clip.sample_rate)
    row = Row(
        direction=cell.direction,
        coefficient=cell.coefficient,
        prompt=cell.prompt,
        seed=cell.seed,
        bpm=life.pulse,
        beat=life.beat,
        centroid=spectral_centroid(clip.samples, clip.sample_rate),
        change=float("nan"),
        failed="",
        clip=clip,
    )
    return row, life


def _prompts(n: int) -> tuple[str, ...]:
    """Neutral test prompts, spread over those with and without drums."""
    prompts = neutral_prompts("test")
    return tuple(prompts[:: max(1, len(prompts) // n)][:n])


def _beside_twins(concept: Concept, heard: Sequence[tuple[Row, Vitals]]) -> Iterator[Row]:
    """Rows beside their twin, the unsteered clip of the same prompt and seed: change and guard."""
    column = _COLUMNS[concept.heard]
    twins = {
        (row.prompt, row.seed): (getattr(row, column), life)
        for row, life in heard
        if row.direction == "real" and row.coefficient == 0
    }
    for row, life in heard:
        value, twin = twins[row.prompt, row.seed]
        failed = ", ".join(quality_guard(life, twin).failures)
        yield replace(row, change=concept.change(getattr(row, column), value), failed=failed)


# -- what is shown and written ----------------------------------------------------------------


def report(outcome: Outcome) -> str:
    """The table of one concept and what it allows one to say."""
    concept = outcome.concept
    n_pairs = outcome.direction.provenance["n_positive"]
    lines = [
        f"{concept.name}: difference in means of {n_pairs} matched prompt pairs, added by "
        f"{outcome.choice.way}",
        f"{'coefficient':>12}  {'BPM [95 %]':<22}{'by beat':<9}{'centroid in Hz [95 %]':<26}"
        f"{f'change in {concept.change_unit} [95 %]':<32}{'no tempo':<10}guard",
    ]
    for coefficient in outcome.coefficients:
        lines.append(_line(outcome, coefficient))
    lines.append(_random_line(outcome))
    lines.append(_claim(outcome))
    return "\n".join(lines)


def _line(outcome: Outcome, coefficient: float) -> str:
    cells = {
        what: outcome.grid(what, "real", coefficient)
        for what in ("bpm", "beat", "centroid", "change")
    }
    found = {what: bootstrap(values) for what, values in cells.items()}
    tempo = "beat" if outcome.concept.guard == "beat" else "bpm"
    missing = int(np.isnan(cells[tempo]).sum())
    return (
        f"{coefficient:>+12.3g}  {found['bpm']:.0f}".ljust(36)
        + f"{found['beat'].value:.0f}".ljust(9)
        + f"{found['centroid']:.0f}".ljust(26)
        + f"{found['change']:+.2f}".ljust(32)
        + f"{missing} of {cells['bpm'].size}".ljust(10)
        + f"{outcome.n_passed(coefficient)} pass"
    )


def _random_line(outcome: Outcome) -> str:
    changes = outcome.random_changes()
    shown = ", ".join(f"{change:.2f} ({name})" for name, change in changes.items())
    low, high = outcome.coefficients[0], outcome.coefficients[-1]
    return (
        f"  at {low:+.3g} and {high:+.3g} it changes by up to "
        f"{outcome.largest_change('real'):.2f} {outcome.concept.change_unit}; under "
        f"{len(changes)} random directions of the same length by up to {shown}"
    )


def _claim(outcome: Outcome) -> str:
    slope, concept = outcome.slope, outcome.concept
    said = f"  slope {slope:+.2f} {concept.change_unit} per unit of coefficient: "
    if not slope.tells:
        return said + "too few clips to tell"
    lower, higher = concept.poles
    said += f"a higher coefficient sounds {higher if slope.value > 0 else lower}"
    if outcome.n_random_as_large:
        said += (
            f";\n  but {outcome.n_random_as_large} of {len(outcome.random_changes())} random "
            f"directions change it as much, so size alone does not tell the direction from chance"
        )
    return said


def write(outcome: Outcome, out: str | Path, settings: DemoSettings, model_name: str) -> Path:
    """Clips with their twins, the curve, the rows, the direction and the configuration."""
    from audio_lens.plots.curves import dose_response

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    outcome.direction.save(out / "direction.safetensors")
    _write_rows(outcome.rows, out)
    dose_response(outcome).savefig(out / "curve.png", dpi=120)
    configuration: dict[str, Any] = {
        "model": model_name,
        "settings": asdict(settings),
        "choice": outcome.choice.as_json(),
        "direction": dict(outcome.direction.provenance),
    }
    (out / "config.json").write_text(json.dumps(configuration, indent=2) + "\n")
    (out / "report.txt").write_text(report(outcome) + "\n")
    return out


def _write_rows(rows: Sequence[Row], out: Path) -> None:
    """The table, and the clips of the real direction beside it."""
    columns = [field.name for field in fields(Row) if field.name != "clip"]
    with (out / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "clip"])
        for row in rows:
            kept = _save_clip(row, out).relative_to(out) if row.direction == "real" else ""
            writer.writerow([*(getattr(row, column) for column in columns), kept])


def _save_clip(row: Row, out: Path) -> Path:
    """One folder per prompt and seed: `+0.flac` is the twin of the others in it."""
    words = "-".join(row.prompt.lower().replace(",", "").split())
    return row.clip.save(out / "clips" / f"{words}-seed{row.seed}" / f"{row.coefficient:+g}.flac")
