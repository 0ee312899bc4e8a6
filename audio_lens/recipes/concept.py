"""A concept: two poles with matched prompts, neutral prompts, and what hears the difference."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from audio_lens.audio.measures import MEASURES
from audio_lens.audio.words import (
    CORE_PAIR,
    TEMPLATES,
    neutral_prompts,
    neutral_records,
    pairs,
    pole_prompts,
    sentence,
)
from audio_lens.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens
    from audio_lens.recipes.study.study import Study

_COMPANIONS: Mapping[str, tuple[str, ...]] = {
    "pulse_bpm": ("beat_bpm", "density"),
    "beat_bpm": ("pulse_bpm", "density"),
    "spectral_centroid": ("harmonic_centroid",),
    "harmonic_centroid": ("spectral_centroid",),
    "rolloff": ("spectral_centroid", "harmonic_centroid"),
    "high_band_ratio": ("spectral_centroid", "harmonic_centroid"),
}

_TEMPI = ("pulse_bpm", "beat_bpm")

_SPLIT = 0.4
"""Share of neutral prompts that choices are made on, where a concept does not say."""


@dataclass(frozen=True)
class Concept:
    """What is steered, and how it is heard.

    Example:
        >>> from audio_lens.audio.level import loudness
        >>> loud = Concept(
        ...     name="loudness", positive=("a loud organ", "a loud song"),
        ...     negative=("a quiet organ", "a quiet song"), heard="loudness", unit="LUFS",
        ...     poles=("quieter", "louder"), neutral=("an organ", "drums", "a song", "a band"))
        >>> loud.contexts, loud.change_unit, loud.change(-20.0, -23.0)
        (('a organ', 'a song'), 'LUFS', 3.0)
    """

    name: str
    positive: tuple[str, ...]
    """Prompts of the pole that directions point to."""
    negative: tuple[str, ...]
    """The same prompts with the other pole's word."""
    heard: str
    """The measure, by its name in `audio_lens.audio.measures.MEASURES`; or of your own."""
    unit: str
    poles: tuple[str, str]
    """What a listener would call the two ends, negative first."""
    neutral: tuple[str, ...] = ()
    """Prompts that name neither pole, which are steered."""
    dev: tuple[str, ...] = ()
    """The neutral ones that choices are made on; drawn if none is named. The rest are reported."""
    contexts: tuple[str, ...] = ()
    """The matched prompts without the pole's word; the words that both have if not given."""
    selections: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Of the pairs, by name: their directions should agree with the whole one."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of the neutral prompts, by what they do: shown apart, since effects may differ."""
    heard_on_checkpoints: str | None = None
    """The measure on models other than the shipped toys, if it is another one."""
    per_doubling: float | None = None
    """How many of `change_unit` a doubling of the value is; None where changes are differences."""
    change_unit: str = ""
    needs_pulse: bool = False
    """Whether a clip without a pulse says nothing."""
    own_measure: Callable[[Any, int], float] | None = field(default=None, repr=False)
    """`(audio, sample_rate) -> value`, NaN where there is nothing to hear."""

    def __post_init__(self) -> None:
        for pole, prompts in (("positive", self.positive), ("negative", self.negative)):
            if isinstance(prompts, str) or not prompts:
                raise InputError(f"{self.name}: {pole} must be a tuple of at least one prompt.")
        if len(self.positive) != len(self.negative):
            raise InputError(
                f"{self.name}: {len(self.positive)} positive and {len(self.negative)} negative "
                f"prompts: give matched ones, that differ in the pole's word only."
            )
        if self.own_measure is None and self.heard not in MEASURES:
            raise InputError(
                f"{self.name}: no measure {self.heard!r}, and own_measure= is not given: "
                f"{did_you_mean(self.heard, MEASURES)}"
            )
        if blank := [prompt for prompt in (*self.positive, *self.negative) if not prompt.strip()]:
            raise InputError(f"{self.name}: {len(blank)} prompts at the poles are empty.")
        if same := [
            one for one, other in zip(self.positive, self.negative, strict=True) if one == other
        ]:
            raise InputError(f"{self.name}: {same[0]!r} is at both poles, so they do not differ.")
        if self.needs_pulse and self.heard not in _TEMPI:
            raise InputError(
                f"{self.name}: needs_pulse= goes with heard= {' or '.join(_TEMPI)}, whose jumps "
                f"between levels of the beat are watched for; got {self.heard!r}."
            )
        if unknown := set(self.dev) - set(self.neutral):
            raise InputError(f"{self.name}: {unknown.pop()!r} is in dev, but not in neutral.")
        if not self.contexts:
            object.__setattr__(self, "contexts", tuple(map(_shared, self.positive, self.negative)))
        if len(self.contexts) != len(self.positive):
            raise InputError(
                f"{self.name}: {len(self.contexts)} contexts for {len(self.positive)} pairs."
            )
        if not self.change_unit:
            object.__setattr__(self, "change_unit", self.unit)
        if self.neutral and not self.dev:
            drawn = np.random.default_rng(0).permutation(len(self.neutral))
            kept = sorted(drawn[: max(1, round(_SPLIT * len(self.neutral)))].tolist())
            object.__setattr__(self, "dev", tuple(self.neutral[n] for n in kept))

    @property
    def test(self) -> tuple[str, ...]:
        """The neutral prompts that are reported."""
        return tuple(prompt for prompt in self.neutral if prompt not in self.dev)

    @property
    def guard(self) -> Literal["pulse", "beat"] | None:
        """Which tempo a clip must have to count as music."""
        if not self.needs_pulse:
            return None
        return "beat" if self.heard == "beat_bpm" else "pulse"

    @property
    def companions(self) -> tuple[str, ...]:
        """Measures that hear the same thing in another way, so that their changes are no side
        effects."""
        return _COMPANIONS.get(self.heard, ())

    def on(self, lens: "AudioLens") -> "Concept":
        """The concept as it is heard on a model: by `heard_on_checkpoints` where that is given.

        The toys, whose configuration lists their vocabulary, play a kick on the beat; real music
        has its beat anywhere in the band.
        """
        if self.heard_on_checkpoints is None or lens.cfg.vocabulary:
            return self
        return replace(self, heard=self.heard_on_checkpoints)

    def measure(self, audio: Any, sample_rate: int) -> float:
        """What is heard in a clip; NaN where there is nothing to hear."""
        return (self.own_measure or MEASURES[self.heard])(audio, sample_rate)

    def change(self, value: float, twin: float) -> float:
        """How far a steered clip moved from its unsteered twin, never folded."""
        if not (np.isfinite(value) and np.isfinite(twin)):  # silence is at -inf LUFS
            return float("nan")
        if self.per_doubling is None:
            return value - twin
        if not (value > 0 and twin > 0):
            return float("nan")
        return float(self.per_doubling * np.log2(value / twin))

    def study(self, lens: "AudioLens", out: str | Path, **options: Any) -> "Study":
        """The whole study of this concept on a model, in a folder; each stage when it is asked for.

        options: `settings`, `others`, `progress`, as for `audio_lens.recipes.study.study.Study`.

        Example:
            >>> from tempfile import TemporaryDirectory
            >>> from audio_lens.testing import random_musicgen
            >>> with TemporaryDirectory() as out:
            ...     study = tempo.study(random_musicgen(n_layers=2), out)
            >>> [cost.clips for cost in study.costs(study.settings) if cost.stage == "dose"]
            [768]
        """
        from audio_lens.recipes.study.study import Study

        return Study(lens, self.on(lens), out, **options)


def _shared(positive: str, negative: str) -> str:
    """The words that both prompts of a pair have, in order."""
    one, other = positive.split(), negative.split()
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    return " ".join(word for block in blocks for word in one[block.a : block.a + block.size])


def _by_word(name: str, used: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The plainest pair of words alone, and all without each one."""
    core = tuple(n for n, pair in enumerate(used) if pair == CORE_PAIR)
    without = {
        f"without {'/'.join(words)}": tuple(n for n, pair in enumerate(used) if pair != left_out)
        for left_out, words in enumerate(pairs(name))
    }
    return {"core": core, **without}


def _shipped(name: str, **said: Any) -> Concept:
    prompts = pole_prompts(name)
    return Concept(
        name=name,
        positive=prompts.positive,
        negative=prompts.negative,
        contexts=tuple(
            sentence(TEMPLATES[c.template], c.instrument, c.genre) for c in prompts.contexts
        ),
        selections=_by_word(name, [context.pair for context in prompts.contexts]),
        groups={
            "name drums": tuple(each.text for each in neutral_records() if each.drums),
            "name none": tuple(each.text for each in neutral_records() if not each.drums),
        },
        neutral=neutral_prompts(),
        dev=neutral_prompts("dev"),
        **said,
    )


tempo = _shipped(
    "tempo", heard="pulse_bpm", unit="BPM", per_doubling=1.0, change_unit="octaves",
    poles=("slower", "faster"), needs_pulse=True, heard_on_checkpoints="beat_bpm",
)  # fmt: skip

timbre = _shipped(
    "timbre", heard="spectral_centroid", unit="Hz", per_doubling=12.0, change_unit="semitones",
    poles=("darker", "brighter"),
)  # fmt: skip

CONCEPTS: Mapping[str, Concept] = {each.name: each for each in (tempo, timbre)}
"""The concepts that ship."""


def shipped_beside(concept: Concept) -> list[Concept]:
    """The shipped concepts beside a shipped one; none beside one's own.

    Example:
        >>> [other.name for other in shipped_beside(tempo)]
        ['timbre']
    """
    if concept.name not in CONCEPTS:
        return []
    return [each for name, each in CONCEPTS.items() if name != concept.name]


def concept(name: str) -> Concept:
    """The concept of that name: `"tempo"` or `"timbre"`.

    Example:
        >>> concept("tempo").unit
        'BPM'
    """
    if name not in CONCEPTS:
        raise InputError(f"no concept {name!r}: {did_you_mean(name, CONCEPTS)}")
    return CONCEPTS[name]
