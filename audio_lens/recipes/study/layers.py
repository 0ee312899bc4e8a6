"""Where the concept is: what steering does, what can be read, what patching restores, by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from audio_lens.analysis.directions import Direction
from audio_lens.analysis.poles import Poles
from audio_lens.analysis.probes import Probe
from audio_lens.analysis.significance import max_statistic
from audio_lens.errors import InputError
from audio_lens.patching import metrics
from audio_lens.patching.activation import activation_patch
from audio_lens.recipes.study.choosing import (
    best_strengths,
    single_layers,
    within_chance,
    worse,
)
from audio_lens.recipes.study.doses import by_dose
from audio_lens.recipes.study.hearing import spread
from audio_lens.recipes.study.settings import StudySettings
from audio_lens.recipes.study.strengths import strengths_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from audio_lens.lens.lens import AudioLens
    from audio_lens.recipes.study.hearing import Hearing
    from audio_lens.recipes.study.ledger import Row


@dataclass(frozen=True)
class LayerInfluence:
    """Three answers to "which layer?", which need not agree.

    That a concept can be read off a layer does not say that the model uses it there, and that a
    layer can be steered does not say that the model puts the concept there.
    """

    reached: Mapping[int, float]
    """Share of the prompted shift when the layer alone is steered, in both halves, on dev prompts:
    of the worse sign, at the best of the same distortions; -inf where clips are no longer music."""
    p: Mapping[int, float]
    """That steering up and down differ there by chance, corrected for the number of layers by the
    maximum statistic."""
    readable: Mapping[int, float]
    """Score of a probe for the pole, on matched prompts that it was not fitted to; chance is 0.5.
    Empty where there are too few prompts for three splits."""
    recovery: Mapping[int, float]
    """How much of what the pole's word is worth comes back when the layer is patched, at the
    positions of the music."""

    def to_dataframe(self) -> "DataFrame":
        """One row per layer."""
        import pandas

        return pandas.DataFrame(
            {
                "steered": self.reached,
                "p": self.p,
                "probe": self.readable,
                "patched": self.recovery,
            }
        ).rename_axis("layer")

    def plot(self) -> "Figure":
        """All three over layers."""
        from audio_lens.plots.study import layers_figure

        return layers_figure(self)


def layer_influence(
    hearing: "Hearing",
    direction: Direction,
    prompted_shifts: Mapping[str, float],
    poles: Poles,
    prompted: Sequence["Row"],
    settings: StudySettings,
) -> LayerInfluence:
    """The three answers, at the first of the study's sites.

    Args:
        hearing: Of the study.
        direction: What single layers are steered by.
        prompted_shifts: From neutral dev clips to clips prompted at each pole.
        poles: Activations of matched prompts.
        prompted: Clips that were prompted at the positive pole.
        settings: How much is heard and patched.
    """
    site = settings.sites_of(hearing.lens)[0]
    frames = round(settings.patched_seconds * hearing.lens.cfg.frame_rate)
    few = spread(hearing.concept.dev, settings.scan_prompts)
    ways = single_layers(hearing.lens, settings)
    tried = {
        layer: strengths_at(hearing, direction, way, settings.scan_nats)
        for layer, way in ways.items()
    }
    heard = {
        layer: hearing.steered(
            "real", "real", direction, ways[layer], prompts=few, seeds=(0,),
            coefficients=[dose for doses in strengths.values() for dose in doses],
        )
        for layer, strengths in tried.items()
    }  # fmt: skip
    least = within_chance(len(few))
    reached = {
        layer: worse(best_strengths(rows, tried[layer], prompted_shifts, least))
        for layer, rows in heard.items()
    }
    p = max_statistic(np.stack([_up_against_down(rows) for rows in heard.values()]))
    return LayerInfluence(
        reached=reached,
        p=dict(zip(heard, p.tolist(), strict=True)),
        readable=_readable(poles, site),
        recovery=_recovery(hearing, spread(prompted, settings.patched_clips), site, frames),
    )


def _up_against_down(rows: Sequence["Row"]) -> Float[np.ndarray, "prompt seed"]:
    """Half the difference of steering up and down, over strengths; broken clips did not move.

    One number per prompt, of all strengths: choosing the best would flatter.
    """
    doses, changes = by_dose(rows, "change")
    changes = np.where(by_dose(rows, "passed")[1] == 1, np.nan_to_num(changes), 0.0)
    return (np.sign(doses)[:, None, None] * changes).mean(0)


def _readable(poles: Poles, site: str) -> dict[int, float]:
    """Probe scores by layer; a pair of prompts is never torn between the splits."""
    found = {}
    for (name, layer), positive in poles.at(site).positive.values.items():
        negative = poles.negative.values[name, layer]
        pairs = list(range(len(positive)))
        try:
            probe = Probe.fit(
                torch.cat([positive, negative]), ["+"] * len(positive) + ["-"] * len(negative),
                groups=pairs * 2, site=site, layer=layer,
            )  # fmt: skip
        except InputError:  # too few pairs for three splits
            continue
        found[layer] = probe.score.value
    return found


def _recovery(
    hearing: "Hearing", rows: Sequence["Row"], site: str, frames: int
) -> dict[int, float]:
    """Recovery of the log-probability of clips at a pole, under the other pole's prompt.

    In a melody model the text is positions in front of the music. Those are not patched, since with
    them every layer of the stream would carry the whole prompt over; pairs of prompts with other
    lengths cannot be patched and are left out, and those of one length run together.
    """
    lens: AudioLens = hearing.lens
    concept = hearing.concept
    other = dict(zip(concept.positive, concept.negative, strict=True))
    by_length: dict[int, list[Row]] = {}
    for row in rows:
        lengths = {lens._conditioner.n_prefix(p) for p in (row["prompt"], other[row["prompt"]])}
        if len(lengths) == 1:
            by_length.setdefault(lengths.pop(), []).append(row)
    found: dict[int, list[float]] = {}
    for some in by_length.values():
        codes = hearing.ledger.codes(some)[..., :frames].to(lens.cfg.device)
        grid = activation_patch(
            lens,
            clean=([row["prompt"] for row in some], codes),
            corrupted=([other[row["prompt"]] for row in some], codes),
            site=site,
            axes=("layer", "pos"),
            positions=lambda _, n: {"music": range(n)},
            metric=metrics.logprob(codes),
            progress=False,
        )
        for layer, value in zip(grid.axes["layer"], grid.recovery.flatten(), strict=True):
            found.setdefault(int(layer), []).extend([float(value)] * len(some))
    return {layer: float(np.mean(values)) for layer, values in found.items()}
