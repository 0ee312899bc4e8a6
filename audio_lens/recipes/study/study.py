"""A study of one concept on one model: stage by stage, each resumable and usable alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from audio_lens.analysis.collect import Gathering
from audio_lens.analysis.controls import KINDS, Kind, controls
from audio_lens.analysis.directions import Direction
from audio_lens.analysis.poles import Poles, gather_poles
from audio_lens.analysis.stability import Stability, stability
from audio_lens.analysis.statistics import Estimate, bootstrap
from audio_lens.audio.clip import Clip
from audio_lens.errors import InputError
from audio_lens.files import whole
from audio_lens.lens.generation import decode_codes
from audio_lens.provenance import (
    function_sha256,
    prompts_sha256,
    tensors_sha256,
    versions,
    weights_sha256,
)
from audio_lens.recipes.concept import Concept
from audio_lens.recipes.study.baselines import baselines, text_between_poles
from audio_lens.recipes.study.beside import Beside, control_rows, side_effects, stand_beside
from audio_lens.recipes.study.choosing import SIGNS, Choice, choose, ways
from audio_lens.recipes.study.comparing import Comparison, compare
from audio_lens.recipes.study.doses import DoseResponse, by_group, dose_response
from audio_lens.recipes.study.findings import findings
from audio_lens.recipes.study.hearing import Hearing
from audio_lens.recipes.study.layers import LayerInfluence, layer_influence
from audio_lens.recipes.study.ledger import Ledger, Row, write_whole
from audio_lens.recipes.study.listening import read_votes, write_listening_test
from audio_lens.recipes.study.planning import Plan, plan
from audio_lens.recipes.study.report import write_report
from audio_lens.recipes.study.settings import Cost, StudySettings, costs
from audio_lens.recipes.study.taking import from_fewer_words, other_ways, ways_beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from audio_lens.lens.lens import AudioLens


_LEAST_FOR_TEMPO = 6.0


@dataclass(frozen=True)
class PromptedPoles:
    """Whether the poles are audible at all: what the model does when it is simply asked."""

    values: Mapping[str, Estimate]
    """Median by pole, `"+"`, `"-"` and `"neutral"`."""
    shifts: Mapping[str, float]
    """Change from neutral test clips, by sign."""
    dev_shifts: Mapping[str, float]
    """The same from neutral dev clips, by which choices are made."""
    missing: Mapping[str, float]
    """Share of clips without a value."""

    @property
    def audible(self) -> bool:
        """Whether each pole lies on its own side of neutral clips."""
        return self.shifts["+"] > 0 > self.shifts["-"]


@dataclass(eq=False)
class Study:
    """One concept, one model, one folder. What was heard is kept there and never heard again.

    Args:
        lens: The model.
        concept: What is steered.
        out: A new folder, or that of the same study, to go on.
        settings: How much is heard.
        others: Directions of other concepts, as controls, by name.
        progress: Show progress bars.

    Raises:
        InputError: a concept without neutral prompts, or a folder that holds another study.
    """

    lens: "AudioLens"
    concept: Concept
    out: str | Path
    settings: StudySettings = field(default_factory=StudySettings)
    others: Mapping[str, Direction] = field(default_factory=dict)
    progress: bool = True

    def __post_init__(self) -> None:
        self._check()
        self.ledger = Ledger(self.out, self._configuration())
        self.hearing = Hearing(
            self.lens,
            self.concept,
            self.ledger,
            seconds=self.settings.seconds,
            guidance_scale=self.settings.guidance_scale,
            rows_at_once=self.settings.rows_at_once,
            progress=self.progress,
        )

    def _check(self) -> None:
        """Refuse what a later stage could not use, while nothing is lost."""
        concept, settings = self.concept, self.settings
        for what, prompts, least in (
            ("dev", concept.dev, 2), ("test", concept.test, 3), ("positive", concept.positive, 6),
        ):  # fmt: skip
            if len(set(prompts)) < len(prompts) or len(prompts) < least:
                raise InputError(
                    f"{concept.name}: {len(set(prompts))} different {what} prompts of "
                    f"{len(prompts)}: a study needs {least} at least, each once. Choices are made "
                    f"on neutral= prompts named in dev=, and reported on the others."
                )
        if concept.needs_pulse and settings.seconds < _LEAST_FOR_TEMPO:
            raise InputError(
                f"seconds={settings.seconds:g}: a tempo is not heard in less than "
                f"{_LEAST_FOR_TEMPO:g} s."
            )
        Gathering(  # checks sites and pool
            self.lens, list(concept.positive[:1]), site=settings.sites_of(self.lens),
            pool=settings.pool, seconds=settings.direction_seconds,
        )  # fmt: skip
        wanted = {
            (site, layer)
            for site in settings.sites_of(self.lens)
            for layer in range(self.lens.cfg.n_layers)
        }
        for name, other in self.others.items():
            if name in KINDS:
                raise InputError(f"others: {name!r} is a kind of controls; give another name.")
            if set(other.vectors) != wanted:
                raise InputError(
                    f"others: {name!r} has vectors at {', '.join(other.sites)}: take it at every "
                    f"layer of {', '.join(settings.sites_of(self.lens))}, as the study does."
                )

    def _configuration(self) -> dict[str, Any]:
        concept = self.concept
        return {
            "model": self.lens.cfg.model_name,
            "weights": weights_sha256(self.lens.hf_model),
            "concept": concept.name,
            "heard": concept.heard,
            "own_measure": concept.own_measure and function_sha256(concept.own_measure),
            "prompts_sha256": self.prompts_sha256,
            "others": {n: tensors_sha256(d.vectors.values()) for n, d in self.others.items()},
            "settings": asdict(self.settings),
            "versions": versions(),
        }

    @property
    def prompts_sha256(self) -> str:
        """A fingerprint of all its prompts."""
        concept = self.concept
        return prompts_sha256(
            [concept.positive, concept.negative, concept.contexts, concept.dev, concept.test]
        )

    # -- before anything is heard -----------------------------------------------------------------

    def plan(self, budget: float | None = None) -> Plan:
        """Clips, hours and disk of every stage; within a budget of hours, what it leaves out."""
        return plan(self, budget)

    def costs(self, settings: StudySettings) -> list[Cost]:
        """Clips of every stage, under settings that need not be this study's."""
        return list(
            costs(
                settings,
                n_dev=len(self.concept.dev),
                n_test=len(self.concept.test),
                n_pairs=len(self.concept.positive),
                n_ways=len(ways(self.lens, settings)),
                n_compared=len(settings.sites_of(self.lens))
                * len(settings.strategies)
                * len(settings.branches),
                n_others=len(self.others),
            )
        )

    # -- the stages -------------------------------------------------------------------------------

    @cached_property
    def poles(self) -> PromptedPoles:
        """Stage 1: clips prompted at the poles, beside neutral ones."""
        rows = {sign: self.prompted(sign) for sign in SIGNS}
        rows["neutral"] = list(self.hearing.twins(self.concept.test, self._test_seeds).values())
        values = {name: bootstrap(self._grid(found)) for name, found in rows.items()}
        dev = self.hearing.twins(self.concept.dev, range(self.settings.dev_seeds)).values()
        among_dev = bootstrap(self._grid(list(dev)), draws=1000).value

        def shifts(neutral: float) -> dict[str, float]:
            return {s: self.concept.change(values[s].value, neutral) for s in SIGNS}

        return PromptedPoles(
            values=values,
            shifts=shifts(values["neutral"].value),
            dev_shifts=shifts(among_dev),
            missing={
                name: float(np.isnan(self._grid(found)).mean()) for name, found in rows.items()
            },
        )

    def prompted(self, sign: str) -> list[Row]:
        """Clips prompted at a pole."""
        said = self._some({"+": self.concept.positive, "-": self.concept.negative}[sign])
        seeds = range(self._first_seed, self._first_seed + self.settings.pole_seeds)
        return self.hearing.prompted(f"poles {sign}", said, seeds)

    @cached_property
    def activations(self) -> Poles:
        """Stage 2: activations at the poles, kept in the folder."""
        file = self.ledger.file("poles.safetensors")
        if file.is_file():
            return Poles.load(file)
        settings = self.settings
        found = gather_poles(
            self.lens,
            positive=self._some(self.concept.positive),
            negative=self._some(self.concept.negative),
            site=settings.sites_of(self.lens),
            pool=settings.pool,
            seconds=settings.direction_seconds,
            seed=settings.direction_seed,
            guidance_scale=settings.guidance_scale,
            rows_at_once=settings.rows_at_once,
            progress=self.progress,
        )
        found.difference_in_means().save(self.ledger.file("direction.safetensors"))
        with whole(file) as partial:  # last, since what lies there is not made again
            found.save(partial)
        return found

    @cached_property
    def direction(self) -> Direction:
        """The difference in means at every layer."""
        return self.activations.difference_in_means()

    @cached_property
    def stability(self) -> Stability:
        """How many prompts are enough."""
        n_pairs = len(next(iter(self.activations.pairs.values())))
        sizes = [size for size in (5, 10, 25, 50) if size <= n_pairs // 2]
        return stability(self.activations.at(self._first_site), sizes=sizes or [1])

    @cached_property
    def robustness(self) -> "DataFrame":
        """Stage 2: does the direction hang on single words? Cosines of selections of the pairs."""
        return from_fewer_words(
            self.activations.at(self._first_site), self.concept.selections, self._pairs
        )

    @cached_property
    def choice(self) -> Choice:
        """Chosen on dev prompts, and frozen in `choice.json`."""
        file = self.ledger.file("choice.json")
        if file.is_file():
            return Choice.of_json(json.loads(file.read_text()))
        self._learn_limits()
        chosen = choose(self.hearing, self.direction, self.poles.dev_shifts, self.settings)
        write_whole(file, json.dumps(chosen.as_json(), indent=1) + "\n")
        return chosen

    @cached_property
    def layers(self) -> LayerInfluence:
        """Stage 3: what steering does, what can be read and what patching restores, by layer."""
        return layer_influence(
            self.hearing, self.choice, self.activations, self.prompted("+"),
            site=self._first_site, clips=self.settings.patched_clips,
            frames=round(self.settings.patched_seconds * self.lens.cfg.frame_rate),
        )  # fmt: skip

    @cached_property
    def comparison(self) -> Comparison:
        """Stage 4: strategies and branches at equal distortion."""
        self._learn_limits()
        return compare(self.hearing, self.direction, self.choice, self.settings)

    @cached_property
    def taken(self) -> "DataFrame":
        """Stage 4: the direction taken in other ways; cosine, effect and distortion of each."""
        self._learn_limits()
        others = other_ways(
            self.lens, self.ledger, self._some(self.concept.positive),
            self._some(self.concept.negative), self.settings, progress=self.progress,
        )  # fmt: skip
        return ways_beside(self.hearing, self.direction, others, self.choice, self.settings)

    @cached_property
    def rows(self) -> list[Row]:
        """Test clips at every dose, each beside its twin."""
        self._learn_limits()
        doses = [c * m for c in self.choice.coefficients.values() for m in self.settings.doses]
        return self.hearing.steered(
            "real", "real", self.direction, self.choice.way, prompts=self.concept.test,
            seeds=self._test_seeds, coefficients=sorted({0.0, *doses}),
        )  # fmt: skip

    @cached_property
    def dose_response(self) -> DoseResponse:
        """Stage 5: what turning the knob does on test prompts."""
        return dose_response(self.rows, self.choice, self.poles.shifts)

    @cached_property
    def groups(self) -> "DataFrame":
        """Stage 5: the effect for each group of test prompts apart."""
        return by_group(self.rows, self.choice, self.concept.groups)

    def controls(self, kind: str) -> list[Direction]:
        """Directions of the real one's length.

        kind: `"isotropic"`, `"matched"`, `"flipped"`, or the name of another concept's direction.
        """
        if kind in self.others:
            return [self.others[kind].scaled_to(self.direction)]
        return controls(
            self.direction,
            n=self.settings.random_draws,
            kinds=[cast(Kind, kind)],
            poles=self.activations,
        )[kind]

    def control_clips(self, kind: str, made: Sequence[Direction]) -> list[list[Row]]:
        """Stage 6: test clips under controls of a kind, draw by draw."""
        self._learn_limits()
        return control_rows(self.hearing, made, kind, self.choice, self.settings)

    def stand_beside(self, kind: str) -> list[Beside]:
        """The direction's rank among the controls of a kind, by sign."""
        doses = list(self.choice.coefficients.values())
        made = self.controls(kind)
        bent = [
            self.hearing.nats(control, self.choice.way, doses, self.settings.distortion_clips)
            for control in made
        ]
        nats = {dose: float(np.median([each[dose] for each in bent])) for dose in doses}
        return stand_beside(self.rows, self.control_clips(kind, made), kind, self.choice, nats)

    @cached_property
    def beside(self) -> list[Beside]:
        """Stage 6: its rank among every kind of control."""
        return [stood for kind in (*KINDS, *self.others) for stood in self.stand_beside(kind)]

    @cached_property
    def side_effects(self) -> "DataFrame":
        """Stage 6: what else was moved."""
        return side_effects(self.rows, self.choice, self.concept)

    @cached_property
    def baselines(self) -> "DataFrame":
        """Stage 6: other ways to the same end."""
        self._learn_limits()
        shifts = dict(self.poles.shifts)
        return baselines(self.hearing, self.direction, self.choice, shifts, self.settings)

    @cached_property
    def text(self) -> "DataFrame":
        """Stage 6: text states mixed between the poles' prompts."""
        return text_between_poles(self.hearing, self.settings)

    # -- what comes of it -------------------------------------------------------------------------

    def findings(self) -> list[str]:
        """What the numbers allow one to say, one sentence each."""
        return list(findings(self))

    def plot(self) -> "Figure":
        """The dose-response with its controls."""
        from audio_lens.plots.study import dose_figure

        return dose_figure(self.dose_response, self.beside, self.concept)

    def clip(self, row: Row) -> Clip:
        """The clip of a row, from the codes that were kept."""
        codes = self.ledger.codes([row])
        (wave,) = decode_codes(self.lens, codes.to(self.lens.cfg.device))
        rate, done = self.lens.cfg.sample_rate, f"{row['direction']} x {row['coefficient']:g}"
        return Clip(wave.cpu(), rate, codes[0], row["prompt"], row["seed"], (done,))

    def report(self) -> Path:
        """Write `report.html`, the methods, rows and tables; returns the page's path."""
        return write_report(self)

    def listening_test(self, *, trials: int = 8, seed: int | None = None) -> Path:
        """Write a blind listening test as a page that needs no network; returns its path."""
        return write_listening_test(self, trials=trials, seed=seed)

    def votes(self, *files: str | Path) -> "DataFrame":
        """Read the votes of a listening test."""
        return read_votes(self, *files)

    # -- parts ------------------------------------------------------------------------------------

    @property
    def _first_site(self) -> str:
        return self.settings.sites_of(self.lens)[0]

    @property
    def _first_seed(self) -> int:
        return self.settings.test_first_seed

    @property
    def _test_seeds(self) -> Sequence[int]:
        return range(self._first_seed, self._first_seed + self.settings.test_seeds)

    @property
    def _pairs(self) -> tuple[int, ...]:
        """Which pairs of prompts are used: all, or as many as asked for, drawn once and for all.

        Drawn, since every so-many-th would leave whole genres out.
        """
        n = len(self.concept.positive)
        drawn = np.random.default_rng(0).permutation(n)[: min(self.settings.pairs, n)]
        return tuple(sorted(drawn.tolist()))

    def _some(self, prompts: Sequence[str]) -> tuple[str, ...]:
        return tuple(prompts[pair] for pair in self._pairs)

    def _learn_limits(self) -> None:
        self.hearing.limits(self.concept.dev, self.settings.normal_clips, self.settings.normal_seed)

    def _grid(self, rows: Sequence[Row]) -> np.ndarray:
        """Heard values by prompt and seed."""
        by_prompt: dict[str, list[float]] = {}
        for row in rows:
            by_prompt.setdefault(row["prompt"], []).append(row["value"])
        return np.array(list(by_prompt.values()))
