"""Clips made, measured and judged: into the ledger, each beside its unsteered twin."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from audio_lens.analysis.directions import Direction
from audio_lens.audio.clip import Clip
from audio_lens.audio.measures import evaluate, in_change_units
from audio_lens.audio.quality import Limits, Vitals, code_log_probability, quality_guard, vitals
from audio_lens.audio.tempo import is_suspect
from audio_lens.lens.intervention import Intervention
from audio_lens.lens.rows import group_rows
from audio_lens.provenance import tensors_sha256
from audio_lens.recipes.concept import Concept
from audio_lens.recipes.study.ledger import Ledger, Row
from audio_lens.steering.distortion import distortion_of_codes
from audio_lens.steering.steer import interventions_by_row

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

T = TypeVar("T")

HEARD = (
    "pulse_bpm", "beat_bpm", "onset_rate", "density", "spectral_centroid", "harmonic_centroid",
    "register", "loudness", "flatness",
)  # fmt: skip
"""What is measured in every clip, so that side effects are seen."""


@dataclass(frozen=True)
class Way:
    """A way of steering: what is added where, in which half."""

    strategy: str = "one_to_one"
    source_layer: int | None = None
    branch: str = "both"
    scale: str = "raw"
    site: str = "resid_post"

    def options(self) -> dict[str, Any]:
        """As `steer` takes them, of a direction at the site."""
        return {name: value for name, value in asdict(self).items() if name != "site"}

    def __str__(self) -> str:
        layer = "" if self.source_layer is None else f" of layer {self.source_layer}"
        return f"{self.strategy}{layer} at {self.site}, {self.branch}"


UNSTEERED = Way("none", None, "none", "none", "none")

Put = Callable[[Sequence["Cell"]], list[Intervention]]
"""What is put into the model for a batch of clips."""


@dataclass(frozen=True)
class Cell:
    """One clip to be made."""

    prompt: str
    seed: int
    coefficient: float = 0.0
    direction: str = "none"
    """The name of what it is steered by."""

    @property
    def key(self) -> "_Key":
        """What it is told apart by, within a stage and a way."""
        return self.direction, self.prompt, self.seed, self.coefficient


_Key = tuple[str, str, int, float]


def steering_of(lens: "AudioLens", directions: Mapping[str, Direction], way: Way) -> Put:
    """What steers every cell of a batch by the direction that it names."""
    at_site = {name: direction.at(way.site) for name, direction in directions.items()}

    def put(batch: Sequence[Cell]) -> list[Intervention]:
        own = [(at_site[cell.direction], cell.coefficient) for cell in batch]
        return interventions_by_row(lens, own, **way.options())

    return put


def in_batches(lens: "AudioLens", cells: Sequence[Cell], rows_at_once: int) -> list[list[Cell]]:
    """Cells that run together.

    Cut by the lens's own groups: a melody model runs rows of other text lengths apart, so that a
    batch of mixed prompts would be filled up with copies once for every length.
    """
    if not cells:
        return []
    groups = group_rows([cell.prompt for cell in cells], rows_at_once, lens._conditioner)
    return [[cells[row] for row in group.rows] for group in groups]


class Hearing:
    """Makes clips of one model, hears them, and keeps what was heard."""

    def __init__(
        self,
        lens: "AudioLens",
        concept: Concept,
        ledger: Ledger,
        *,
        seconds: float,
        guidance_scale: float = 3.0,
        rows_at_once: int = 32,
        progress: bool = True,
    ) -> None:
        self.lens, self.concept, self.ledger = lens, concept, ledger
        self._seconds, self._guidance_scale = seconds, guidance_scale
        self._rows_at_once = rows_at_once
        self._progress = progress
        self._limits: Limits | None = None

    # -- what is normal ---------------------------------------------------------------------------

    def limits(self, neutral: Sequence[str], n: int, first_seed: int) -> Limits:
        """What is normal for this model: unsteered clips, pooled with clips prompted at the poles.

        A clip prompted at a pole is scored under its prompt without the pole's word, as a steered
        clip is: it is as unlikely there as a steered one may be.
        """
        if self._limits is None:
            concept = self.concept
            pools = {
                "pool": (neutral, neutral),
                "pool +": (concept.positive, concept.contexts),
                "pool -": (concept.negative, concept.contexts),
            }
            pool = []
            for stage, (said, scored) in pools.items():
                cells = [Cell(said[i % len(said)], first_seed + i) for i in range(n)]
                under = {cell.prompt: scored[i % len(said)] for i, cell in enumerate(cells)}
                rows = self._complete(stage, UNSTEERED, cells, scored_under=under)
                pool += [_vitals_of(row) for row in rows]
            self._limits = Limits.from_pool(pool)
        return self._limits

    def rehearse(self, prompts: Sequence[str], seconds: float) -> None:
        """Make a batch of short clips and hear them, keeping nothing: to time it."""
        clips = self.lens.generate(
            list(prompts), seconds=seconds, guidance_scale=self._guidance_scale, progress=False
        )
        cells = [Cell(prompt, 0) for prompt in prompts]
        list(self._heard(cells, clips, {}))

    # -- clips ------------------------------------------------------------------------------------

    def prompted(
        self,
        stage: str,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        name: str = "none",
        guidance_scale: float | None = None,
    ) -> list[Row]:
        """Unsteered clips of prompts, every one with every seed."""
        cells = [Cell(prompt, seed, 0.0, name) for prompt, seed in product(prompts, seeds)]
        return self._complete(stage, UNSTEERED, cells, guidance_scale=guidance_scale)

    def guided(
        self, stage: str, prompts: Sequence[str], seeds: Sequence[int], guidance_scale: float
    ) -> list[Row]:
        """Unsteered clips under another guidance scale, each with its change from its twin."""
        twins = self.twins(prompts, seeds)
        name = f"guidance {guidance_scale:g}"
        rows = self.prompted(stage, prompts, seeds, name=name, guidance_scale=guidance_scale)
        return [self._beside(row, twins[row["prompt"], row["seed"]]) for row in rows]

    def put(self, stage: str, cells: Sequence[Cell], put: Put) -> list[Row]:
        """Clips under interventions of your own, one batch of cells at a time."""
        return self._complete(stage, UNSTEERED, cells, put)

    def twins(self, prompts: Sequence[str], seeds: Sequence[int]) -> dict[tuple[str, int], Row]:
        """Unsteered clips, heard once whatever asks for them."""
        rows = self.prompted("twins", prompts, seeds)
        return {(row["prompt"], row["seed"]): row for row in rows}

    def steered(
        self,
        stage: str,
        name: str,
        direction: Direction,
        way: Way,
        *,
        prompts: Sequence[str],
        seeds: Sequence[int],
        coefficients: Sequence[float],
    ) -> list[Row]:
        """Steered clips, each with its change from its twin and the guard's verdict.

        The twins stand for coefficient 0, which is not made again.
        """
        return self.each_steered(
            stage, {name: direction}, way, prompts=prompts, seeds=seeds, coefficients=coefficients
        )[name]

    def each_steered(
        self,
        stage: str,
        directions: Mapping[str, Direction],
        way: Way,
        *,
        prompts: Sequence[str],
        seeds: Sequence[int],
        coefficients: Sequence[float],
    ) -> dict[str, list[Row]]:
        """As `steered` by each of several directions, whose clips share batches."""
        twins = self.twins(prompts, seeds)
        unsteered = [{**row, "coefficient": 0.0} for row in twins.values()]
        doses = [float(coefficient) for coefficient in coefficients if coefficient != 0]
        cells = [
            Cell(prompt, seed, dose, name)
            for name, dose, prompt, seed in product(directions, doses, prompts, seeds)
        ]
        rows = {name: unsteered[:] if 0 in coefficients else [] for name in directions}
        for row in self._complete(stage, way, cells, steering_of(self.lens, directions, way)):
            rows[row["direction"]].append(row)
        return {
            name: [self._beside(row, twins[row["prompt"], row["seed"]]) for row in found]
            for name, found in rows.items()
        }

    def nats(
        self, direction: Direction, way: Way, coefficients: Sequence[float], n_clips: int
    ) -> dict[float, float]:
        """Distortion at each coefficient, in nats per code, on unsteered clips of dev prompts."""
        vectors = direction.at(way.site)
        said = {
            "vectors": tensors_sha256(vectors.vectors.values()),
            **asdict(way),
            "clips": n_clips,
            "guidance_scale": self._guidance_scale,
        }
        known = {
            row["coefficient"]: row["nats"]
            for row in self.ledger.rows("distortion")
            if all(row[name] == value for name, value in said.items())
        }
        missing = [dose for dose in coefficients if dose not in known]
        if missing:
            twins = spread(list(self.twins(self.concept.dev, (0,)).values()), n_clips)
            found = distortion_of_codes(
                self.lens, [row["prompt"] for row in twins], self.ledger.codes(twins),
                direction=vectors, coefficients=missing, guidance_scale=self._guidance_scale,
                rows_at_once=self._rows_at_once, **way.options(),
            ).mean(1)  # fmt: skip
            known |= dict(zip(missing, found.tolist(), strict=True))
            self.ledger.note(
                "distortion", [{**said, "coefficient": d, "nats": known[d]} for d in missing]
            )
        return {dose: known[dose] for dose in coefficients}

    def _complete(
        self,
        stage: str,
        way: Way,
        cells: Sequence[Cell],
        put: Put | None = None,
        *,
        scored_under: Mapping[str, str] | None = None,
        guidance_scale: float | None = None,
    ) -> list[Row]:
        """The rows of cells, those that are missing made first; in the order of the cells."""
        guidance = self._guidance_scale if guidance_scale is None else guidance_scale
        said = {"stage": stage, **asdict(way), "guidance_scale": guidance}
        known = self._known(said)
        missing = [cell for cell in cells if cell.key not in known]
        if missing:
            self.ledger.hold()  # nobody else makes them meanwhile
            known = self._known(said)
            missing = [cell for cell in cells if cell.key not in known]
        batches = in_batches(self.lens, missing, self._rows_at_once)
        names = dict.fromkeys(cell.direction for cell in missing)
        desc = f"{stage}: {next(iter(names)) if len(names) == 1 else f'{len(names)} directions'}"
        for batch in tqdm(batches, desc=desc, disable=not self._progress or not missing):
            clips = self._play(batch, put(batch) if put else [], guidance)
            heard = list(self._heard(batch, clips, scored_under or {}))
            rows = [{**said, **row} for row in heard]
            codes = torch.stack([clip.codes for clip in clips if clip.codes is not None])
            self.ledger.append(stage, rows, codes)
        known = self._known(said) if missing else known
        return [known[cell.key] for cell in cells]

    def _known(self, said: Mapping[str, Any]) -> dict[_Key, Row]:
        return {
            (row["direction"], row["prompt"], row["seed"], row["coefficient"]): row
            for row in self.ledger.rows(said["stage"])
            if all(row[name] == value for name, value in said.items())
        }

    def _play(
        self,
        cells: Sequence[Cell],
        steering: Sequence[Intervention],
        guidance_scale: float,
    ) -> list[Clip]:
        """Clips of cells, run in groups of one size, so that nothing depends on what is beside."""
        with self.lens.intervene(*steering):
            return self.lens.generate(
                [cell.prompt for cell in cells],
                seed=[cell.seed for cell in cells],
                seconds=self._seconds,
                guidance_scale=guidance_scale,
                row_group=self._rows_at_once,
                progress=False,
            )

    def _heard(
        self, cells: Sequence[Cell], clips: Sequence[Clip], scored_under: Mapping[str, str]
    ) -> Iterator[Row]:
        wanted = "" if self.concept.own_measure else self.concept.heard
        under = [scored_under.get(cell.prompt, cell.prompt) for cell in cells]
        codes = torch.stack([clip.codes for clip in clips if clip.codes is not None])
        codes = codes.to(self.lens.cfg.device)
        with torch.no_grad():
            scores = code_log_probability(self.lens(under, codes), codes)
        for cell, clip, score in zip(cells, clips, scores.tolist(), strict=True):
            sound = clip.samples, clip.sample_rate
            life, heard = vitals(*sound, score), evaluate(*sound, HEARD)
            yield {
                **asdict(cell),
                **heard,
                "value": heard[wanted] if wanted in heard else self.concept.measure(*sound),
                **{f"vital {name}": value for name, value in asdict(life).items()},
            }

    def _beside(self, row: Row, twin: Row) -> Row:
        """A row with its change and what the guard says of it."""
        verdict = quality_guard(
            _vitals_of(row), _vitals_of(twin), self._limits, tempo=self.concept.guard
        )
        changes = {f"change {name}": _change(name, row[name], twin[name]) for name in HEARD}
        return {
            **row,
            **changes,
            "change": self.concept.change(row["value"], twin["value"]),
            "suspect": self.concept.needs_pulse
            and is_suspect(changes[f"change {self.concept.heard}"], changes["change onset_rate"]),
            "failed": ", ".join(verdict.failures),
        }


def _vitals_of(row: Row) -> Vitals:
    kept = {name.removeprefix("vital "): row[name] for name in row if name.startswith("vital ")}
    return Vitals(**{**kept, "log_probability": tuple(kept["log_probability"])})


def _change(name: str, value: float, twin: float) -> float:
    return in_change_units(name, value) - in_change_units(name, twin)


def spread(all_of_them: Sequence[T], n: int) -> tuple[T, ...]:
    """So many of some things, evenly over them."""
    n = min(n, len(all_of_them))
    places = np.linspace(0, len(all_of_them) - 1, n).round().astype(int)
    return tuple(all_of_them[place] for place in places)
