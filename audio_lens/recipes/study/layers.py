"""Where the concept is: what steering does, what can be read, what patching restores, by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from audio_lens.analysis.poles import Poles
from audio_lens.analysis.probes import Probe
from audio_lens.errors import InputError
from audio_lens.patching import metrics
from audio_lens.patching.activation import activation_patch
from audio_lens.recipes.study.hearing import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from audio_lens.lens.lens import AudioLens
    from audio_lens.recipes.study.choosing import Choice
    from audio_lens.recipes.study.hearing import Hearing
    from audio_lens.recipes.study.ledger import Row


@dataclass(frozen=True)
class LayerInfluence:
    """Three answers to "which layer?", which need not agree.

    That a concept can be read off a layer does not say that the model uses it there, and that a
    layer can be steered does not say that the model puts the concept there.
    """

    reached: Mapping[int, float]
    """Share of the prompted shift when the layer alone is steered, on dev prompts."""
    readable: Mapping[int, float]
    """Score of a probe for the pole, on matched prompts that it was not fitted to; chance is 0.5.
    Empty where there are too few prompts for three splits."""
    recovery: Mapping[int, float]
    """How much of what the pole's word is worth comes back when the layer is patched."""

    def to_dataframe(self) -> "DataFrame":
        """One row per layer."""
        import pandas

        return pandas.DataFrame(
            {"steered": self.reached, "probe": self.readable, "patched": self.recovery}
        ).rename_axis("layer")

    def plot(self) -> "Figure":
        """All three over layers."""
        from audio_lens.plots.study import layers_figure

        return layers_figure(self)


def layer_influence(
    hearing: "Hearing",
    choice: "Choice",
    poles: Poles,
    prompted: Sequence["Row"],
    *,
    site: str = "resid_post",
    clips: int = 8,
    frames: int = 100,
) -> LayerInfluence:
    """The three answers, of what was gathered already and a patching grid over layers.

    Args:
        hearing: Of the study.
        choice: Where steering single layers was tried.
        poles: Activations of matched prompts.
        prompted: Clips that were prompted at the positive pole.
        site: Where the direction belongs.
        clips: How many of them are patched.
        frames: How much of each.
    """
    reached = {
        way["source_layer"]: way["reached"]
        for way in choice.scan
        if (way["site"], way["strategy"], way["branch"]) == (site, "one_to_one", "both")
    }
    return LayerInfluence(
        reached=dict(sorted(reached.items())),
        readable=_readable(poles, site),
        recovery=_recovery(hearing, spread(prompted, clips), site, frames),
    )


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

    In a melody model the text is positions: pairs of prompts with other lengths cannot be patched
    and are left out, and those of one length run together.
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
            axes=("layer",),
            metric=metrics.logprob(codes),
            progress=False,
        )
        for layer, value in zip(grid.axes["layer"], grid.recovery.flatten(), strict=True):
            found.setdefault(int(layer), []).extend([float(value)] * len(some))
    return {layer: float(np.mean(values)) for layer, values in found.items()}
