"""Probes: can a label be read off activations, and better than chance, majority and shuffles can?

A probe is fitted on training clips, its regularisation chosen on validation clips, its score taken
on test clips; the scaler sees training clips only. A score stands beside those of labels shuffled
before fitting (control tasks: Hewitt and Liang 2019, arXiv 1909.03368).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.analysis._fitting import KINDS, Fit, fit_kind
from audio_lens.analysis._scoring import Task, choose_and_score
from audio_lens.analysis.statistics import Estimate
from audio_lens.errors import InputError
from audio_lens.provenance import versions

if TYPE_CHECKING:
    from audio_lens.analysis.directions import Direction

Kind = Literal["logistic", "ridge", "mass_mean", "mlp"]
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Of the weights' freedom, tried on the validation clips: scikit-learn's C, or 1 / alpha."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe with its score on test clips, and what that is to be compared with.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> fast = np.arange(200) % 2 == 1
        >>> x = torch.from_numpy(rng.standard_normal((200, 8))).float()
        >>> x[:, 3] += 3 * torch.from_numpy(fast)
        >>> probe = Probe.fit(x, fast)
        >>> probe.score.value > 0.8, probe.baselines["chance"].value
        (True, 0.5)
        >>> int(probe.direction.layer(0).abs().argmax())
        3
    """

    kind: str
    classes: tuple[str, ...] | None
    """None for graded labels."""
    score: Estimate
    """On test clips: accuracy, or R squared for graded labels, with its interval over groups."""
    baselines: Mapping[str, Estimate]
    """`chance`, `majority` (or `mean`) and `shuffled` (its mean and range), on the same clips."""
    validation: float
    """The score on validation clips, to choose places by: choosing by test scores flatters."""
    strength: float
    """The one chosen on validation clips, of `STRENGTHS`."""
    counts: Mapping[str, int]
    """Clips in each split."""
    site: str = "activations"
    layer: int = 0
    made: Mapping[str, Any] = field(default_factory=dict)
    """How the activations were gathered."""
    seed: int = 0
    """Of split, shuffles and interval."""
    typical_norm: float | None = None
    """Mean length of the activations before pooling, for the direction; None where not known."""
    _fit: Fit | None = None
    _shape: tuple[int, ...] = ()
    _names: np.ndarray | None = None

    @classmethod
    def fit(
        cls,
        x: Float[Tensor, "clip *site"],
        labels: Sequence[Any] | np.ndarray,
        *,
        kind: Kind | None = None,
        split: Sequence[str] | np.ndarray | None = None,
        groups: Sequence[Any] | np.ndarray | None = None,
        strengths: Sequence[float] = STRENGTHS,
        shuffles: int = 10,
        seed: int = 0,
        site: str = "activations",
        layer: int = 0,
        made: Mapping[str, Any] | None = None,
    ) -> "Probe":
        """Fit on the training clips, choose on validation, score on test.

        Args:
            x: Activations, one row per clip.
            labels: Names of classes (booleans and integers too), or floats for graded labels.
            kind: `"logistic"` (the default for classes), `"ridge"` (for graded labels),
                `"mass_mean"` (class means alone), or `"mlp"` (one hidden layer of 64, for
                comparison: what it finds and a linear probe does not is not a direction).
            split: `"train"`, `"validation"` or `"test"` for each clip, as labelled clips have it;
                drawn by groups if None.
            groups: What belongs together (the clip of a frame, the prompt or seed of a clip): no
                group is in two splits, and the interval draws groups.
            strengths: See `STRENGTHS`.
            shuffles: Fits to shuffled labels.
            seed: Of split, shuffles and interval.
            site: Where the activations are from, for `direction`.
            layer: See `site`.
            made: How they were gathered, for the direction's provenance.

        Raises:
            InputError: counts that differ, activations that are not finite, a single class, a
                class that a split lacks, a group in two splits, or a kind that does not fit.
        """
        x = torch.as_tensor(x)
        task = Task.of(labels, split=split, groups=groups, seed=seed)
        chosen = kind or task.usual_kind
        _check(x, task, chosen, shuffles)
        rows = x.detach().cpu().flatten(1).double().numpy()

        def fitted(y: np.ndarray, strength: float) -> list[Fit]:
            train = task.parts["train"]
            return [fit_kind(chosen, rows[train], y[train], strength, task.n_classes, seed)]

        (found,) = choose_and_score(
            task, [rows], fitted, _tried(chosen, strengths), shuffles=shuffles, seed=seed
        )
        return cls._of(task, found, kind=chosen, x=x, site=site, layer=layer, seed=seed, made=made)

    @classmethod
    def fit_parts(
        cls,
        x: Float[Tensor, "clip part feature"],
        labels: Sequence[Any] | np.ndarray,
        *,
        kind: Kind | None = None,
        split: Sequence[str] | np.ndarray | None = None,
        groups: Sequence[Any] | np.ndarray | None = None,
        strengths: Sequence[float] = STRENGTHS,
        shuffles: int = 10,
        seed: int = 0,
        part: Literal["head", "codebook"] = "head",
        site: str = "attn.z",
        layer: int = 0,
        made: Mapping[str, Any] | None = None,
    ) -> "list[Probe]":
        """A linear probe for every head (or codebook) of a layer, all fitted at once.

        Arguments as for `fit`. Of more than two classes each is fitted against the rest. The
        direction of a head is zero at the other heads.
        """
        from audio_lens.analysis._batched import fit_parts

        task = Task.of(labels, split=split, groups=groups, seed=seed)
        usual = task.usual_kind
        if kind not in (None, usual):
            raise InputError(f"kind={kind!r}: parts are fitted all at once, by {usual!r} alone.")
        _check(x, task, usual, shuffles)
        if x.ndim != 3:
            raise InputError(f"activations must be [clip {part} feature], got {tuple(x.shape)}.")
        x = x.detach().cpu().double()
        parts = [each.numpy() for each in x.unbind(1)]

        def fitted(y: np.ndarray, strength: float) -> list[Fit]:
            train = torch.from_numpy(task.parts["train"])
            return fit_parts(x[train], torch.from_numpy(y)[train], strength, task.n_classes)

        scored = choose_and_score(
            task, parts, fitted, _tried(usual, strengths), shuffles=shuffles, seed=seed
        )
        return [
            cls._of(
                task, found, kind=usual, x=x, site=site, layer=layer, seed=seed,
                made={**(made or {}), "part": part, part: n},
            )
            for n, found in enumerate(scored)
        ]  # fmt: skip

    @classmethod
    def _of(
        cls, task: Task, found: Mapping[str, Any], *, x: Tensor, made: Any, **said: Any
    ) -> "Probe":
        """What was fitted and scored, with what was asked."""
        return cls(
            classes=task.classes, counts=task.counts, made=dict(made or {}),
            _shape=tuple(x.shape[1:]), _names=task.names, **said, **found,
        )  # fmt: skip

    @property
    def selectivity(self) -> float:
        """The score above the best of its baselines."""
        return self.score.value - max(found.value for found in self.baselines.values())

    def read(self, x: Float[Tensor, "clip *site"]) -> Float[Tensor, "clip output"]:
        """What the probe gives: one number for two classes and graded labels, else one a class."""
        assert self._fit is not None
        return torch.from_numpy(self._fit.outputs(self._rows(x))).float()

    def predict(self, x: Float[Tensor, "clip *site"]) -> np.ndarray:
        """Labels of activations, as they were given: names of classes, or numbers."""
        assert self._fit is not None
        found = self._fit.predict(self._rows(x))
        return found if self._names is None else self._names[found]

    def _rows(self, x: Tensor) -> np.ndarray:
        """Activations as it was fitted on: of a head's or codebook's probe, its own part."""
        if "part" in self.made and tuple(x.shape[1:]) == self._shape:
            x = x[:, self.made[self.made["part"]]]
        rows, width = x.detach().cpu().flatten(min(x.ndim - 1, 1)), self._width
        if rows.ndim != 2 or rows.shape[1] != width:
            raise InputError(
                f"activations must be [clip ...] with {width} numbers each, as the probe was "
                f"fitted on, got {tuple(x.shape)}."
            )
        return rows.double().numpy()

    @property
    def _width(self) -> int:
        """Numbers that it reads of each clip."""
        return prod(self._shape[1:] if "part" in self.made else self._shape)

    @property
    def direction(self) -> "Direction":
        """Where the label grows, in the space of the activations (the scaler is undone).

        For two classes it points to the second, `classes[1]`. Its length means nothing yet: give
        it that of another with `scaled_to`.

        Raises:
            InputError: an MLP, or more than two classes: `direction_of` one.
        """
        if self.classes is not None and len(self.classes) > 2:
            raise InputError(
                f"{len(self.classes)} classes have a direction each: direction_of(name)."
            )
        return self._direction(self._weights()[0], "+" if self.classes is None else self.classes[1])

    def direction_of(self, name: Any) -> "Direction":
        """Where a class grows against the mean of the others."""
        if self.classes is None or str(name) not in self.classes:
            raise InputError(f"no class {name!r}: there are {self.classes}.")
        place, weights = self.classes.index(str(name)), self._weights()
        if len(self.classes) == 2:
            return self._direction(weights[0] * (1 if place else -1), str(name))
        others = np.delete(weights, place, 0).mean(0)
        return self._direction(weights[place] - others, str(name))

    def _weights(self) -> np.ndarray:
        if self._fit is None or self._fit.weights is None:
            raise InputError(f"a probe of kind {self.kind!r} has no direction: take a linear one.")
        return self._fit.weights

    def _direction(self, weights: np.ndarray, towards: str) -> "Direction":
        from audio_lens.analysis.directions import Direction

        vector = torch.from_numpy(weights).float()
        if "part" in self.made:
            whole = torch.zeros(self._shape)
            whole[self.made[self.made["part"]]] = vector
            vector = whole
        vector = vector.view(self._shape)
        key = (self.site, self.layer)
        how = {
            "method": f"probe ({self.kind})",
            "towards": towards,
            "strength": self.strength,
            "probe_seed": self.seed,
            "split": dict(self.counts),
        }
        typical = {} if self.typical_norm is None else {key: self.typical_norm}
        return Direction(
            {key: vector}, typical_norms=typical, provenance={**versions(), **self.made, **how}
        )

    def __repr__(self) -> str:
        asked = "graded" if self.classes is None else f"{len(self.classes)} classes"
        beside = ", ".join(f"{name} {found.value:.2f}" for name, found in self.baselines.items())
        return (
            f"Probe({self.kind} at {self.site} {self.layer}, {asked}: "
            f"{'R2' if self.classes is None else 'accuracy'} {self.score:.2f}; {beside})"
        )


def _tried(kind: str, strengths: Sequence[float]) -> Sequence[float]:
    """Class means alone have nothing to choose."""
    if kind == "mass_mean":
        return (1.0,)
    if not strengths or min(strengths) <= 0:
        raise InputError(f"strengths={strengths}: give at least one, all above 0.")
    return strengths


_KINDS_FOR = {False: ("logistic", "mass_mean", "mlp"), True: ("ridge", "mlp")}
"""For classes, and for graded labels."""


def _check(x: Tensor, task: Task, kind: str, shuffles: int) -> None:
    graded = task.classes is None
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if kind not in _KINDS_FOR[graded]:
        what = "graded labels (floats)" if graded else "classes"
        fitting = " or ".join(_KINDS_FOR[graded])
        raise InputError(f"kind={kind!r} is not for {what}: take {fitting}.")
    if x.ndim < 2:
        raise InputError(f"activations must be [clip ...], one row each, got {tuple(x.shape)}.")
    if len(x) != len(task.y):
        raise InputError(
            f"{len(x)} rows of activations and {len(task.y)} labels: give one of each per clip."
        )
    if shuffles < 1:
        raise InputError(f"shuffles={shuffles}: a score without its control says nothing.")
    bad = (~x.flatten(1).isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        raise InputError(f"activations of {len(bad)} clips are not finite, the first is {bad[0]}.")
