"""What a probe is asked, how its regularisation is chosen, and what its score stands beside."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from audio_lens.analysis._fitting import Fit, Weights, accuracy, r_squared
from audio_lens.analysis.statistics import Estimate
from audio_lens.audio.splits import SPLITS, check_split, split_by
from audio_lens.errors import InputError

_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Task:
    """Labels as numbers, and which clips are learned from, chosen on and reported."""

    y: np.ndarray
    """[clip]: numbers of classes, or graded values."""
    classes: tuple[str, ...] | None
    parts: Mapping[str, np.ndarray]
    """Places of the clips of each split."""
    groups: np.ndarray
    names: np.ndarray | None = None
    """The labels that the numbers of classes stand for, as they were given."""

    @classmethod
    def of(cls, labels: Any, *, split: Any, groups: Any, seed: int) -> "Task":
        """Labels, split and groups as users give them, checked."""
        labels = np.asarray(labels)
        if labels.ndim != 1:
            raise InputError(
                f"labels must be one per clip, got {labels.shape or repr(labels[()])}."
            )
        groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
        if len(groups) != len(labels):
            raise InputError(f"{len(labels)} labels and {len(groups)} groups: give one per clip.")
        graded = labels.dtype.kind == "f"
        if graded and not np.isfinite(labels).all():
            place = int(np.flatnonzero(~np.isfinite(labels))[0])
            raise InputError(f"label {place} is {labels[place]}: leave such clips out.")
        split = split_by(groups, seed=seed) if split is None else np.asarray(split)
        check_split(split, groups)
        parts = {name: np.flatnonzero(split == name) for name in SPLITS}
        if graded:
            task = cls(labels.astype(float), None, parts, groups)
        else:
            names, y = np.unique(labels, return_inverse=True)
            if "nan" in map(str, names):
                raise InputError("some labels are missing (nan): leave such clips out.")
            task = cls(y, tuple(map(str, names)), parts, groups, names)
        task._check()
        return task

    def _check(self) -> None:
        if self.classes is None:
            for name, part in self.parts.items():
                if np.ptp(self.y[part]) == 0:
                    raise InputError(
                        f"all {name} labels are the same number: there is nothing to learn or tell."
                    )
            return
        if len(self.classes) < 2:
            raise InputError(
                f"all labels are {self.classes[0]!r}: a probe needs at least two classes."
            )
        for name, part in self.parts.items():
            missing = [c for n, c in enumerate(self.classes) if n not in self.y[part]]
            if missing:
                raise InputError(
                    f"the {name} split has no clip of {missing[0]!r}: give more clips, or a split "
                    f"in which every class occurs; if the label is a quantity, give it as floats."
                )

    @property
    def n_classes(self) -> int:
        """0 for graded labels."""
        return 0 if self.classes is None else len(self.classes)

    @property
    def usual_kind(self) -> str:
        """The linear probe for such labels."""
        return "ridge" if self.classes is None else "logistic"

    @property
    def counts(self) -> dict[str, int]:
        """Clips in each split."""
        return {name: len(part) for name, part in self.parts.items()}

    def score(self, part: str, guessed: np.ndarray) -> float:
        """How good guesses about a split are."""
        return float(self._measured(part, guessed, np.ones(len(self.parts[part]))))

    def _measured(self, part: str, guessed: np.ndarray, weights: Weights) -> np.ndarray:
        measure = r_squared if self.classes is None else accuracy
        return measure(self.y[self.parts[part]], guessed, weights)

    @cached_property
    def trivial(self) -> dict[str, Estimate]:
        """Scores for which no activation is needed."""
        train, n_test = self.y[self.parts["train"]], len(self.parts["test"])
        if self.classes is None:
            return {"mean": _exact(self.score("test", np.full(n_test, train.mean())))}
        majority = self.score("test", np.full(n_test, np.bincount(train).argmax()))
        return {"chance": _exact(1 / self.n_classes), "majority": _exact(majority)}

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """Labels whose training part is dealt anew: among groups where each has one label.

        A probe can learn what belongs to a group; so must one that is fitted to chance.
        """
        mixed, train = self.y.copy(), self.parts["train"]
        y = self.y[train]
        _, first, member = np.unique(self.groups[train], return_index=True, return_inverse=True)
        if (y == y[first][member]).all():
            mixed[train] = rng.permutation(y[first])[member]
        else:
            mixed[train] = rng.permutation(y)
        return mixed

    def interval(self, guessed: np.ndarray, *, seed: int) -> Estimate:
        """The score on test clips, with a percentile bootstrap over groups.

        A single group has no interval: its ends are NaN.
        """
        value = self.score("test", guessed)
        names, member = np.unique(self.groups[self.parts["test"]], return_inverse=True)
        if len(names) == 1:
            return Estimate(value, float("nan"), float("nan"))
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_DRAWS)
        scores = self._measured("test", guessed, drawn[:, member].astype(float))
        low, high = np.nanpercentile(scores, [2.5, 97.5])
        return Estimate(value, float(low), float(high))


def choose_and_score(
    task: Task,
    inputs: Sequence[Float[np.ndarray, "clip feature"]],
    fitted: Callable[[np.ndarray, float], list[Fit]],
    strengths: Sequence[float],
    *,
    shuffles: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Fields of a probe for each of several inputs that are fitted together.

    fitted: labels and strength to a fit per input.
    """

    def scores(fits: Sequence[Fit], part: str) -> list[float]:
        rows = task.parts[part]
        return [task.score(part, fit.predict(x[rows])) for fit, x in zip(fits, inputs, strict=True)]

    tried = {strength: fitted(task.y, strength) for strength in strengths}
    on_validation = {strength: scores(fits, "validation") for strength, fits in tried.items()}
    best = [
        max(strengths, key=lambda strength: on_validation[strength][n]) for n in range(len(inputs))
    ]
    rng = np.random.default_rng(seed)
    dealt = [task.shuffled(rng) for _ in range(shuffles)]
    # Every input is compared at its own strength, so each strength that won is fitted to shuffles.
    by_strength = {
        strength: [scores(fitted(y, strength), "test") for y in dealt] for strength in set(best)
    }
    found = []
    for n, strength in enumerate(best):
        fit = tried[strength][n]
        chance = _spread([scored[n] for scored in by_strength[strength]])
        guessed = fit.predict(inputs[n][task.parts["test"]])
        found.append(
            {
                "score": task.interval(guessed, seed=seed),
                "baselines": {**task.trivial, "shuffled": chance},
                "validation": on_validation[strength][n],
                "strength": strength,
                "_fit": fit,
            }
        )
    return found


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def _spread(scores: Sequence[float]) -> Estimate:
    """Mean and range: too few are drawn for percentiles to mean more."""
    return Estimate(float(np.mean(scores)), float(np.min(scores)), float(np.max(scores)))
