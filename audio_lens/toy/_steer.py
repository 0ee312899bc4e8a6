"""How far steering moves a toy: chosen on dev prompts, reported on test prompts.

Layer, strategy, branch and strength are picked where only dev prompts and dev seeds are heard.
Test prompts are heard once, with what was picked, beside random directions of the same length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from audio_lens.analysis.directions import Direction
from audio_lens.analysis.poles import difference_in_means
from audio_lens.analysis.statistics import Estimate, bootstrap
from audio_lens.audio import words
from audio_lens.audio.clip import Clip
from audio_lens.audio.quality import (
    Limits,
    Vitals,
    code_log_probability,
    quality_guard,
    vitals,
)
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import spectral_centroid
from audio_lens.steering.sweep import SweepRow, sweep

from ._listen import TEST_SEEDS, generate, middle

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

_MEASURES = {"tempo": pulse_bpm, "timbre": spectral_centroid}
_DEV_SEEDS = range(100)
_DIRECTION_SEED = 2000


@dataclass(frozen=True)
class SteeringSettings:
    """How much is heard. The first strengths rank candidates; the rest are tried on the best."""

    seconds: float = 8.0
    pairs: int = 100
    pool: int = 100
    scan_prompts: int = 8
    scan_strengths: tuple[float, ...] = (0.5, 1.0)
    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    finalists: int = 2
    dev_seeds: int = 2
    test_seeds: int = 4
    n_random: int = 20
    random_seeds: int = 1


@dataclass(frozen=True)
class Way:
    """A way of steering: what is added where."""

    strategy: str
    source_layer: int | None
    branch: str

    def options(self) -> dict[str, Any]:
        """As `sweep` takes it."""
        return asdict(self)


@dataclass(frozen=True)
class Cell:
    """All clips of one way at one coefficient, against their twins."""

    change: Float[np.ndarray, "prompt seed"]
    """Octaves, NaN where clip or twin has no value."""
    passed: Float[np.ndarray, "prompt seed"]

    @property
    def usable(self) -> bool:
        """Whether nine clips in ten are still music."""
        return bool(self.passed.mean() >= 0.9)


class Bench:
    """One lens, one concept: hears clips, keeps twins and the limits of what is normal."""

    def __init__(self, lens: "AudioLens", concept: str, settings: SteeringSettings) -> None:
        self._lens, self._concept, self._settings = lens, concept, settings
        self._twins: dict[tuple[str, int], tuple[float, Vitals]] = {}
        self._limits: Limits | None = None

    def direction(self) -> Direction:
        """Difference in means over the matched prompts, at every layer."""
        prompts = words.pole_prompts(self._concept)
        stride = -(-len(prompts.positive) // self._settings.pairs)
        return difference_in_means(
            self._lens,
            positive=prompts.positive[::stride],
            negative=prompts.negative[::stride],
            site="resid_post",
            seconds=6,
            seed=_DIRECTION_SEED,
        )

    def learn_limits(self) -> None:
        """What is normal: unsteered neutral clips, and clips prompted at either pole.

        A pole's clip is scored under its prompt without the pole's word, as a steered clip is.
        """
        n = self._settings.pool
        poles = words.pole_prompts(self._concept)
        plain = [_without_pole(context) for context in poles.contexts]
        neutral = list(words.neutral_prompts())
        pool: list[Vitals] = []
        for said, scored in ((neutral, neutral), (poles.positive, plain), (poles.negative, plain)):
            rows = [(said[i % len(said)], scored[i % len(said)], 500 + i) for i in range(n)]
            prompts, under, seeds = zip(*rows, strict=True)
            clips = generate(self._lens, prompts, seeds, self._settings.seconds)
            pool += self._vitals(under, clips)
        self._limits = Limits.from_pool(pool)

    def _vitals(self, prompts: Sequence[str], clips: Sequence[Clip]) -> Iterator[Vitals]:
        for first in range(0, len(clips), 32):
            part = slice(first, first + 32)
            codes = self._lens.encode(list(clips[part]))
            scores = code_log_probability(self._lens(list(prompts[part]), codes), codes)
            for clip, score in zip(clips[part], scores.tolist(), strict=True):
                yield vitals(clip.samples, clip.sample_rate, score)

    def hear(
        self,
        direction: Direction,
        way: Way,
        prompts: Sequence[str],
        coefficients: Sequence[float],
        seeds: Sequence[int],
    ) -> dict[float, Cell]:
        """Clips at each coefficient, as changes from their twins and verdicts of the guard."""
        self._add_twins(prompts, seeds)
        rows = sweep(
            self._lens,
            list(prompts),
            direction=direction,
            coefficients=coefficients,
            seeds=seeds,
            seconds=self._settings.seconds,
            guidance_scale=3.0,
            progress=False,
            **way.options(),
        )
        shape = (len(prompts), len(seeds))
        cells = {}
        for place, coefficient in enumerate(coefficients):
            n = shape[0] * shape[1]
            judged = list(self._judged(rows[place * n : (place + 1) * n]))
            change, passed = (np.array(side, dtype=float) for side in zip(*judged, strict=True))
            cells[coefficient] = Cell(change.reshape(shape), passed.reshape(shape))
        return cells

    def _add_twins(self, prompts: Sequence[str], seeds: Sequence[int]) -> None:
        missing = [(p, s) for p in prompts for s in seeds if (p, s) not in self._twins]
        if not missing:
            return
        texts, their_seeds = zip(*missing, strict=True)
        clips = generate(self._lens, texts, their_seeds, self._settings.seconds)
        for key, clip, life in zip(missing, clips, self._vitals(texts, clips), strict=True):
            self._twins[key] = (self._value(clip), life)

    def twins_value(self, prompts: Sequence[str], seeds: Sequence[int]) -> float:
        """Median of what is heard in unsteered clips."""
        self._add_twins(prompts, seeds)
        return middle([self._twins[p, s][0] for p in prompts for s in seeds])

    def _value(self, clip: Clip) -> float:
        return _MEASURES[self._concept](clip.samples, clip.sample_rate)

    def _judged(self, rows: Sequence[SweepRow]) -> Iterator[tuple[float, bool]]:
        prompts, clips = [row.prompt or "" for row in rows], [row.clip for row in rows]
        for row, life in zip(rows, self._vitals(prompts, clips), strict=True):
            value, twin = self._twins[row.prompt or "", row.seed]
            verdict = quality_guard(life, twin, self._limits)
            yield float(np.log2(self._value(row.clip) / value)), verdict.passed


def _without_pole(context: words.Context) -> str:
    return words.sentence(words.TEMPLATES[context.template], context.instrument, context.genre)


def ways(n_layers: int) -> list[Way]:
    """Every candidate: one layer, one layer's vector everywhere, each its own; both branches."""
    places = [
        *(("one_to_one", layer) for layer in range(n_layers)),
        *(("one_to_all", layer) for layer in range(n_layers)),
        ("all_to_all", None),
    ]
    return [Way(*place, branch) for place in places for branch in ("both", "cond")]


def _reach(cell: Cell, prompted: float) -> float:
    """Share of the prompted shift, towards the same side; nothing where it is no longer music.

    Clips without a value count as no change.
    """
    if not cell.usable:
        return 0.0
    return float(np.median(np.nan_to_num(cell.change).mean(1)) / prompted)


def choose(bench: Bench, direction: Direction, n_layers: int, prompted: dict[str, float],
           settings: SteeringSettings) -> dict:  # fmt: skip
    """Pick way and strengths on dev prompts: the one whose worse sign reaches furthest."""
    dev = words.neutral_prompts("dev")
    stride = -(-len(dev) // settings.scan_prompts)
    signs = {"+": 1.0, "-": -1.0}

    def best(way: Way, prompts: Sequence[str], strengths: Sequence[float], n_seeds: int) -> dict:
        coefficients = [sign * s for sign in signs.values() for s in strengths]
        cells = bench.hear(direction, way, prompts, coefficients, _DEV_SEEDS[:n_seeds])
        found = {}
        for name, sign in signs.items():
            reached = {s: _reach(cells[sign * s], prompted[name]) for s in strengths}
            strength = max(reached, key=lambda s: (min(reached[s], 1.0), -s))
            found[name] = {"coefficient": sign * strength, "reached": reached[strength]}
        return found

    def worse_sign(found: dict) -> float:
        return min(side["reached"] for side in found.values())

    scanned = {
        way: best(way, dev[::stride], settings.scan_strengths, 1)
        for way in tqdm(ways(n_layers), desc="ways of steering")
    }
    order = sorted(scanned, key=lambda way: worse_sign(scanned[way]), reverse=True)
    final = {
        way: best(way, dev, settings.strengths, settings.dev_seeds)
        for way in tqdm(order[: settings.finalists], desc="finalists")
    }
    chosen = max(final, key=lambda way: worse_sign(final[way]))
    return {
        **chosen.options(),
        "dev": final[chosen],
        "scan": [{**way.options(), **scanned[way]} for way in order],
    }


def _share(estimate: Estimate, shift: float) -> dict[str, float]:
    ends = sorted((estimate.low / shift, estimate.high / shift))
    return {"reached": estimate.value / shift, "low": ends[0], "high": ends[1]}


def steering_report(
    lens: "AudioLens", concept: str, poles: dict[str, float], settings: SteeringSettings
) -> dict:
    """What steering by a concept's direction reaches on test prompts, beside random directions.

    poles: median value of clips prompted at each pole, `"+"` and `"-"`.
    """
    bench = Bench(lens, concept, settings)
    direction = bench.direction()
    bench.learn_limits()
    dev, test = words.neutral_prompts("dev"), words.neutral_prompts("test")
    middle = bench.twins_value(dev, _DEV_SEEDS[: settings.dev_seeds])
    prompted = {sign: float(np.log2(value / middle)) for sign, value in poles.items()}
    choice = choose(bench, direction, lens.cfg.n_layers, prompted, settings)
    way = Way(choice["strategy"], choice["source_layer"], choice["branch"])
    coefficients = [choice["dev"][sign]["coefficient"] for sign in "+-"]
    seeds = TEST_SEEDS[: settings.test_seeds]
    real = bench.hear(direction, way, test, coefficients, seeds)
    middle = bench.twins_value(test, seeds)
    report: dict = {"choice": choice, "random": [], "twins_value": middle}
    for sign, coefficient in zip("+-", coefficients, strict=True):
        shift = float(np.log2(poles[sign] / middle))
        cell = real[coefficient]
        report[sign] = {
            "coefficient": coefficient,
            "prompted_octaves": shift,
            "octaves": bootstrap(cell.change).value,
            **_share(bootstrap(np.nan_to_num(cell.change)), shift),
            "passed": float(cell.passed.mean()),
            "no_value": float(np.isnan(cell.change).mean()),
        }
    for draw in tqdm(range(settings.n_random), desc="random directions"):
        cells = bench.hear(
            direction.random_like(seed=draw), way, test, coefficients,
            TEST_SEEDS[: settings.random_seeds],
        )  # fmt: skip
        report["random"].append([bootstrap(cells[c].change, draws=1).value for c in coefficients])
    largest = np.percentile(np.abs(np.nan_to_num(report["random"])), 95, axis=0)
    for place, sign in enumerate("+-"):
        report[sign]["random_95th_percentile_octaves"] = float(largest[place])
        report[sign]["random_share"] = float(largest[place] / abs(report[sign]["octaves"]))
    return report
