"""How much a study hears, and what that costs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from audio_lens.analysis._pooling import Pool
from audio_lens.analysis.controls import KINDS, Kind
from audio_lens.audio.quality import SHORTEST_SECONDS
from audio_lens.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


_LEAST = dict.fromkeys(
    ("pole_seeds", "scan_layers", "scan_prompts", "finalists", "dev_seeds", "compare_seeds",
     "test_seeds", "control_seeds", "random_draws", "distortion_clips", "patched_clips",
     "rows_at_once"),
    1,
) | {"normal_clips": 7, "pairs": 6}  # fmt: skip
"""Below these a stage could not run: the guard's pool wants 20 clips, flipped controls 6 pairs."""


@dataclass(frozen=True)
class StudySettings:
    """Numbers of clips, seeds and coefficients; the defaults are those of a whole study."""

    seconds: float = 8.0
    """Of every clip; tempo needs 6 at least."""
    guidance_scale: float = 3.0
    rows_at_once: int = 32
    sites: tuple[str, ...] | None = None
    """Where directions are taken and tried; if None, the residual stream, and what the text enters
    it by: `cross_attn_out`, or in a melody model `attn_out`. Layers are mapped at the first."""
    pool: Pool = "mean_steps"
    pairs: int = 100
    """Matched prompts at each pole."""
    direction_seconds: float = 6.0
    direction_seed: int = 2000
    normal_clips: int = 100
    """Of each of the guard's three pools: neutral, and prompted at either pole."""
    normal_seed: int = 500
    pole_seeds: int = 2
    strategies: tuple[str, ...] = ("one_to_one", "one_to_all", "all_to_all")
    branches: tuple[str, ...] = ("both", "cond")
    scan_layers: int = 12
    """At most so many source layers are tried, spread over the model."""
    scan_prompts: int = 8
    scan_nats: tuple[float, ...] = (0.05, 0.2)
    """Distortions, in nats per code, at which every way of steering is tried, on dev prompts."""
    nats: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4)
    """Those at which the best ways are tried."""
    finalists: int = 2
    dev_seeds: int = 2
    doses: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    """Multiples of the chosen coefficient of each sign: with 0, nine for two signs."""
    test_seeds: int = 4
    test_first_seed: int = 1000
    control_kinds: tuple[Kind, ...] = KINDS
    """A study that was begun may be given more of them."""
    random_draws: int = 20
    """Of each kind of control."""
    control_seeds: int = 1
    """The first so many of the test seeds; a study that was begun may be given more."""
    compare_nats: tuple[float, ...] = (0.02, 0.1, 0.4)
    compare_seeds: int = 2
    """Of the strategies compared at equal distortion, on dev prompts."""
    distortion_clips: int = 16
    patched_clips: int = 8
    patched_seconds: float = 2.0
    guidance_tried: tuple[float, ...] = (1.5, 6.0)
    """Other guidance scales, without steering: a baseline."""
    text_pairs: int = 8
    text_steps: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """How far the text states go from one pole's to the other's: a baseline."""

    rehearsal: bool = False
    """Whether its numbers mean nothing."""
    dropped: tuple[str, ...] = ()
    """What a budget left out, in words."""

    def sites_of(self, lens: "AudioLens") -> tuple[str, ...]:
        """The sites on a model."""
        if self.sites is not None:
            return self.sites
        cross = any(site.shorthand == "cross_attn_out" for site in lens.sites)
        return ("resid_post", "cross_attn_out" if cross else "attn_out")

    def drawn(self, n: int) -> tuple[int, ...]:
        """Which of n pairs of prompts are used: all, or `pairs` of them, drawn once and for all.

        Drawn, since every so-many-th would leave whole genres out.
        """
        drawn = np.random.default_rng(0).permutation(n)[: min(self.pairs, n)]
        return tuple(sorted(drawn.tolist()))

    def __post_init__(self) -> None:
        for name in ("seconds", "direction_seconds", "guidance_scale", "patched_seconds"):
            if not isfinite(getattr(self, name)):
                raise InputError(f"{name}={getattr(self, name)}: give a finite number.")
        for name in ("strategies", "branches", "control_kinds", "text_steps"):
            if not getattr(self, name):
                raise InputError(f"{name}=(): give one at least.")
        if self.guidance_scale <= 1 and (halves := {"cond", "uncond"} & set(self.branches)):
            raise InputError(
                f"guidance_scale={self.guidance_scale:g} is off, so there are no halves to tell "
                f"apart: leave {' and '.join(sorted(halves))} out of branches=, or guide."
            )
        if 0 <= self.test_first_seed < self.dev_seeds:
            raise InputError(
                f"test_first_seed={self.test_first_seed}: dev clips have seeds 0 to "
                f"{self.dev_seeds - 1}, and what is chosen on them must be reported on others."
            )
        for what, given, known in (
            ("strategy", self.strategies, ("one_to_one", "one_to_all", "all_to_all")),
            ("branch", self.branches, ("both", "cond", "uncond")),
            ("kind of control", self.control_kinds, KINDS),
        ):
            for name in given:
                if name not in known:
                    raise InputError(f"no {what} {name!r} in a study: {did_you_mean(name, known)}")
        for name in ("scan_nats", "nats", "compare_nats", "doses"):
            numbers = getattr(self, name)
            if not numbers or not all(isfinite(each) and each > 0 for each in numbers):
                raise InputError(f"{name}={numbers}: give numbers above 0; each has both signs.")
        if self.control_seeds > self.test_seeds:
            raise InputError(
                f"control_seeds={self.control_seeds}: controls stand beside test clips of the same "
                f"seeds, of which there are test_seeds={self.test_seeds}."
            )
        if 1.0 not in self.doses:
            raise InputError(f"doses={self.doses}: 1 must be among them, the chosen coefficient.")
        if self.seconds < SHORTEST_SECONDS:
            raise InputError(
                f"seconds={self.seconds:g}: a clip shorter than {SHORTEST_SECONDS:g} s cannot be "
                f"judged; tempo needs 6 s."
            )
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}: give {least} at least.")

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> "StudySettings":
        """As a study's configuration holds them."""
        given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in kept.items()}
        return cls(**given)

    @classmethod
    def quick(cls) -> "StudySettings":
        """A rehearsal of every stage; its numbers mean nothing."""
        return cls(
            seconds=6.0, rows_at_once=8, pairs=8, direction_seconds=2.0, normal_clips=8,
            pole_seeds=1, strategies=("one_to_one",), branches=("both",), scan_layers=2,
            scan_prompts=1, scan_nats=(0.1,), nats=(0.1,), finalists=1, dev_seeds=1,
            compare_nats=(0.1,), compare_seeds=1, doses=(1.0,), test_seeds=1, random_draws=1,
            distortion_clips=2, patched_clips=2, patched_seconds=0.5, guidance_tried=(1.5,),
            text_pairs=1, text_steps=(0.0, 1.0), rehearsal=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What a stage makes."""

    stage: str
    clips: int
    seconds: float
    """Of each clip."""


def costs(
    settings: StudySettings,
    *,
    n_dev: int,
    n_test: int,
    n_pairs: int,
    n_ways: int,
    n_compared: int,
    n_others: int = 0,
) -> Iterator[Cost]:
    """Clips of every stage, before anything is made."""
    pairs = min(settings.pairs, n_pairs)
    scanned = min(settings.scan_prompts, n_dev)
    signs = 2

    def clips(stage: str, n: int) -> Cost:
        return Cost(stage, n, settings.seconds)

    yield clips("normal", 3 * settings.normal_clips)
    yield clips("poles", 2 * pairs * settings.pole_seeds)
    yield Cost("directions", 2 * pairs * (1 + n_others), settings.direction_seconds)
    yield clips("twins", n_dev * settings.dev_seeds + n_test * settings.test_seeds)
    yield clips("scan", n_ways * scanned * signs * len(settings.scan_nats))
    yield clips(
        "finalists",
        settings.finalists * n_dev * settings.dev_seeds * signs * len(settings.nats),
    )
    n_taken = len(("free", "same_codes", "first_step", "eos_text"))
    yield clips("taking", pairs + n_taken * n_dev * settings.compare_seeds * signs)
    yield clips("dose", n_test * settings.test_seeds * signs * len(settings.doses))
    yield clips(
        "compare",
        n_compared * n_dev * settings.compare_seeds * signs * len(settings.compare_nats),
    )
    n_controls = len(settings.control_kinds) * settings.random_draws + n_others
    yield clips("controls", n_controls * n_test * settings.control_seeds * signs)
    yield clips(
        "baselines",
        settings.text_pairs * len(settings.text_steps)
        + n_test * settings.control_seeds * (signs + len(settings.guidance_tried)),
    )
