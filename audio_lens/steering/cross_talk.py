"""Cross-talk: what steering by each of several directions does to each of several measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from audio_lens.analysis.directions import Direction
from audio_lens.analysis.statistics import bootstrap, median_over_prompts
from audio_lens.audio.measures import MEASURES, change_unit, evaluate, in_change_units
from audio_lens.errors import InputError, did_you_mean
from audio_lens.lens.operations import add
from audio_lens.lens.rows import Prompts
from audio_lens.provenance import versions
from audio_lens.steering.sweep import SweepRow, sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from audio_lens.lens.lens import AudioLens


@dataclass(frozen=True, eq=False)
class CrossTalk:
    """How far each direction moves each measure, up against down."""

    directions: tuple[str, ...]
    measures: tuple[str, ...]
    effects: Float[np.ndarray, "direction measure prompt seed"]
    """Half the difference of steering up and down, in the unit of the measure's change; NaN where
    one of the two clips has no value."""
    spreads: Float[np.ndarray, " measure"]
    """Standard deviation of each measure over the unsteered clips, in the same unit."""
    made: Mapping[str, Any] = field(default_factory=dict)

    def to_dataframe(self) -> "DataFrame":
        """One row per direction and measure: median over prompts, its interval, and its size in
        spreads of the unsteered clips, in which measures can be compared."""
        import pandas

        lines = []
        for name, of_direction in zip(self.directions, self.effects, strict=True):
            for measure, values, spread in zip(
                self.measures, of_direction, self.spreads, strict=True
            ):
                found = bootstrap(values, draws=1000)
                lines.append(
                    {
                        "direction": name,
                        "measure": measure,
                        "unit": change_unit(measure),
                        "change": found.value,
                        "low": found.low,
                        "high": found.high,
                        "in spreads": found.value / spread,
                        "missing": float(np.isnan(values).mean()),
                    }
                )
        return pandas.DataFrame(lines)

    def plot(self) -> "Figure":
        """Measures by directions, in spreads of the unsteered clips."""
        from audio_lens.plots.panels import Axis, panels

        sizes = median_over_prompts(self.effects) / self.spreads[:, None].T
        return panels(
            {"cross-talk": sizes.T},
            rows=Axis("heard", self.measures),
            columns=Axis("steered by", self.directions),
            scale="up against down, in spreads",
            signed=True,
        )


def cross_talk(
    lens: "AudioLens",
    directions: Mapping[str, Direction],
    prompts: Prompts,
    *,
    coefficient: float | Mapping[str, float] = 1.0,
    measures: Sequence[str] = ("pulse_bpm", "spectral_centroid", "register", "loudness"),
    seeds: Sequence[int] = (0, 1),
    seconds: float = 8.0,
    guidance_scale: float = 3.0,
    rows_at_once: int = 128,
    progress: bool = True,
    **options: Any,
) -> CrossTalk:
    """Steer by each direction up and down, and hear every measure.

    A direction that is clean moves its own measure and no other. Directions that share a part move
    each other's: compare with those of `gram_schmidt`, or with `project_off`. Every prompt and seed
    is one clip up, one down and one unsteered.

    Args:
        lens: The model.
        directions: By name.
        prompts: Neutral ones, several: the unit of the interval.
        coefficient: How strongly, of all or by name; above 0.
        measures: Names of `audio_lens.audio.measures.MEASURES`.
        seeds: Each prompt runs with each.
        seconds: Of each clip; a tempo needs 6.
        guidance_scale: Of generation.
        rows_at_once: Rows per batch.
        progress: Show progress bars.
        options: Of `steer` (strategy, source_layer, branch, scale, ...), the same for all.

    Raises:
        InputError: no directions, an unknown measure or name, a coefficient that is not above 0.

    Example:
        >>> import torch
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=1)
        >>> ways = {name: Direction({("resid_post", 0): torch.randn(64)}) for name in "ab"}
        >>> found = cross_talk(
        ...     lens, ways, ["an organ", "drums"], seconds=0.5, measures=["loudness"],
        ...     seeds=[0], progress=False,
        ... )
        >>> found.effects.shape
        (2, 1, 2, 1)
    """
    doses = _doses(directions, coefficient)
    for name in measures:
        if name not in MEASURES:
            raise InputError(f"no measure {name!r}: {did_you_mean(name, MEASURES)}")
    run: dict[str, Any] = {
        "seeds": seeds, "seconds": seconds, "guidance_scale": guidance_scale,
        "rows_at_once": rows_at_once, "progress": progress,
    }  # fmt: skip

    def heard(coefficients: Sequence[float], name: str, **how: Any) -> np.ndarray:
        rows = sweep(
            lens, prompts, direction=directions[name], coefficients=coefficients, **run, **how
        )
        return _values(rows, measures, (len(coefficients), -1, len(seeds)))

    # Added with nothing, whatever the operation: one that acts at 0 would leave no unsteered clips.
    (twins,) = heard([0.0], next(iter(directions)), **{**options, "op": add})
    effects = []
    for name, dose in doses.items():
        down, up = heard([-dose, dose], name, **options)
        effects.append((up - down) / 2)
    flat = twins.reshape(len(measures), -1)
    spreads = [np.nanstd(v, ddof=1) if np.isfinite(v).sum() > 1 else np.nan for v in flat]
    made = {
        "model": lens.cfg.model_name,
        "coefficients": doses,
        **{name: value for name, value in run.items() if name != "progress"},
        "options": {name: str(value) for name, value in options.items()},
        "versions": versions(),
    }
    return CrossTalk(tuple(directions), tuple(measures), np.stack(effects), np.array(spreads), made)


def _doses(
    directions: Mapping[str, Direction], coefficient: float | Mapping[str, float]
) -> dict[str, float]:
    if not isinstance(directions, Mapping) or not directions:
        raise InputError('directions: give some by name, such as {"tempo": faster}.')
    if not isinstance(coefficient, Mapping):
        coefficient = dict.fromkeys(directions, coefficient)
    if set(coefficient) != set(directions):
        raise InputError(
            f"coefficient has {', '.join(coefficient)}; the directions are {', '.join(directions)}."
        )
    for name, dose in coefficient.items():
        if not (np.isfinite(dose) and dose > 0):
            raise InputError(f"coefficient of {name}: {dose}; give a number above 0 for both ways.")
    return {name: float(coefficient[name]) for name in directions}


def _values(
    rows: Sequence[SweepRow], measures: Sequence[str], shape: tuple[int, int, int]
) -> Float[np.ndarray, "coefficient measure prompt seed"]:
    """What is heard in rows, which come by coefficient, prompt and seed."""
    found = []
    for row in rows:
        values = evaluate(row.clip.samples, row.clip.sample_rate, tuple(measures))
        found.append([in_change_units(name, value) for name, value in values.items()])
    return np.moveaxis(np.array(found).reshape(*shape, len(measures)), -1, 1)
