"""A study of one concept on one model: stage by stage, each resumable and usable alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from audio_lens.analysis.controls import Kind, controls
from audio_lens.analysis.directions import Direction
from audio_lens.analysis.poles import Poles, gather_poles
from audio_lens.analysis.stability import Stability, stability
from audio_lens.audio.clip import Clip
from audio_lens.errors import InputError
from audio_lens.files import whole
from audio_lens.lens.generation import decode_codes
from audio_lens.provenance import prompts_sha256
from audio_lens.recipes.concept import Concept, shipped_beside
from audio_lens.recipes.study.asked import check, configuration
from audio_lens.recipes.study.baselines import baselines, text_between_poles
from audio_lens.recipes.study.beside import Beside, control_rows, side_effects, stand_beside
from audio_lens.recipes.study.choosing import Choice, choose, single_layers, ways
from audio_lens.recipes.study.closeness import closeness
from audio_lens.recipes.study.comparing import Comparison, compare
from audio_lens.recipes.study.doses import DoseResponse, by_group, dose_response
from audio_lens.recipes.study.findings import findings
from audio_lens.recipes.study.hearing import Hearing
from audio_lens.recipes.study.layers import LayerInfluence, layer_influence
from audio_lens.recipes.study.ledger import Ledger, Row, write_whole
from audio_lens.recipes.study.listening import read_votes, write_listening_test
from audio_lens.recipes.study.planning import Plan, plan
from audio_lens.recipes.study.poles import PromptedPoles, prompted_poles
from audio_lens.recipes.study.report import write_report
from audio_lens.recipes.study.settings import Cost, StudySettings, costs
from audio_lens.recipes.study.strengths import SIGNS
from audio_lens.recipes.study.taking import from_fewer_words, other_ways, ways_beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from audio_lens.lens.lens import AudioLens


@dataclass(eq=False)
class Study:
    """One concept, one model, one folder. What was heard is kept there and never heard again.

    Args:
        lens: The model.
        concept: What is steered.
        out: A new folder, or that of the same study, to go on.
        settings: How much is heard.
        others: Other concepts, whose directions are controls; if None, the shipped concepts beside
            a shipped one, and none beside one's own.
        progress: Show progress bars.

    Raises:
        InputError: a concept without neutral prompts, or a folder that holds another study.
    """

    lens: "AudioLens"
    concept: Concept
    out: str | Path
    settings: StudySettings = field(default_factory=StudySettings)
    others: Sequence[Concept] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        others = shipped_beside(self.concept) if self.others is None else self.others
        if not all(isinstance(each, Concept) for each in others):
            raise InputError(
                "others: give concepts, whose directions are taken as the study's own."
            )
        self.other_concepts: Mapping[str, Concept] = {each.name: each for each in others}
        if len(self.other_concepts) < len(others):
            raise InputError("others: two concepts of one name; give each a name of its own.")
        check(self)
        self.ledger = Ledger(self.out, configuration(self))
        self.hearing = Hearing(
            self.lens,
            self.concept,
            self.ledger,
            seconds=self.settings.seconds,
            guidance_scale=self.settings.guidance_scale,
            rows_at_once=self.settings.rows_at_once,
            progress=self.progress,
        )

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
                n_ways=len(
                    {*ways(self.lens, settings), *single_layers(self.lens, settings).values()}
                ),
                n_compared=len(settings.sites_of(self.lens))
                * len(settings.strategies)
                * len(settings.branches),
                n_others=len(self.other_concepts),
            )
        )

    # -- the stages -------------------------------------------------------------------------------

    @cached_property
    def poles(self) -> PromptedPoles:
        """Stage 1: clips prompted at the poles, beside neutral ones."""
        rows = {sign: self.prompted(sign) for sign in SIGNS}
        rows["neutral"] = list(
            self.hearing.twins(self.concept.test, self._seeds(self.settings.test_seeds)).values()
        )
        dev = self.hearing.twins(self.concept.dev, range(self.settings.dev_seeds)).values()
        return prompted_poles(rows, list(dev), self.concept)

    def prompted(self, sign: str) -> list[Row]:
        """Clips prompted at a pole."""
        said = self._some({"+": self.concept.positive, "-": self.concept.negative}[sign])
        seeds = self._seeds(self.settings.pole_seeds)
        return self.hearing.prompted(f"poles {sign}", said, seeds)

    @cached_property
    def activations(self) -> Poles:
        """Stage 2: activations at the poles, kept in the folder."""
        file = self.ledger.file("poles.safetensors")
        if file.is_file():
            return Poles.load(file)
        self.ledger.hold()
        found = self._gather(self.concept)
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
            self.activations.at(self._first_site),
            self.concept.selections,
            self.settings.drawn(len(self.concept.positive)),
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
        self._learn_limits()
        return layer_influence(
            self.hearing, self.direction, self.poles.dev_shifts, self.activations,
            self.prompted("+"), self.settings,
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
            seeds=self._seeds(self.settings.test_seeds), coefficients=sorted({0.0, *doses}),
        )  # fmt: skip

    @cached_property
    def dose_response(self) -> DoseResponse:
        """Stage 5: what turning the knob does on test prompts."""
        poles = self.poles
        return dose_response(self.rows, self.choice, poles.shifts, drawn_shifts=poles.drawn_shifts)

    @cached_property
    def groups(self) -> "DataFrame":
        """Stage 5: the effect for each group of test prompts apart."""
        return by_group(self.rows, self.choice, self.concept.groups)

    def controls(self, kind: str) -> list[Direction]:
        """Directions of the real one's length.

        kind: `"isotropic"`, `"matched"`, `"flipped"`, or the name of another concept.
        """
        if kind in self.other_concepts:
            return [self._other(kind).scaled_to(self.direction)]
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
        return [
            stood
            for kind in (*self.settings.control_kinds, *self.other_concepts)
            for stood in self.stand_beside(kind)
        ]

    @cached_property
    def side_effects(self) -> "DataFrame":
        """Stage 6: what else was moved."""
        asked = {sign: self.prompted(sign) for sign in SIGNS}
        return side_effects(self.rows, self.choice, self.concept, asked)

    @cached_property
    def closeness(self) -> "DataFrame":
        """Stage 6: how much of the unsteered clip is left."""
        return closeness(self.rows, self.choice, self.clip)

    @cached_property
    def baselines(self) -> "DataFrame":
        """Stage 6: other ways to the same end."""
        self._learn_limits()
        shifts = self.poles.shift_estimates
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

    def _seeds(self, n: int) -> Sequence[int]:
        first = self.settings.test_first_seed
        return range(first, first + n)

    def _some(self, prompts: Sequence[str]) -> tuple[str, ...]:
        return tuple(prompts[pair] for pair in self.settings.drawn(len(prompts)))

    def _gather(self, concept: Concept) -> Poles:
        """Activations at a concept's poles."""
        settings = self.settings
        return gather_poles(
            self.lens,
            positive=self._some(concept.positive),
            negative=self._some(concept.negative),
            site=settings.sites_of(self.lens),
            pool=settings.pool,
            seconds=settings.direction_seconds,
            seed=settings.direction_seed,
            guidance_scale=settings.guidance_scale,
            rows_at_once=settings.rows_at_once,
            progress=self.progress,
        )

    def _other(self, name: str) -> Direction:
        """Another concept's direction, taken as the study's own; kept in the folder."""
        file = self.ledger.file("others") / f"{name}.safetensors"
        if not file.is_file():
            self.ledger.hold()
            with whole(file) as partial:
                self._gather(self.other_concepts[name]).difference_in_means().save(partial)
        return Direction.load(file)

    def _learn_limits(self) -> None:
        self.hearing.limits(self.concept.dev, self.settings.normal_clips, self.settings.normal_seed)
