"""Probes across layers, sites and heads: where in the model can a label be read off?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from audio_lens.analysis.collect import Activations, Pool, collect
from audio_lens.analysis.probes import Probe
from audio_lens.errors import InputError, SiteError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from audio_lens.lens.lens import AudioLens

Place = tuple[str, int, int | None]
"""A site's shorthand, a layer, and a head where heads are probed apart."""


@dataclass(frozen=True, eq=False)
class ProbeSweep:
    """A probe for every place that was asked."""

    label: str
    probes: Mapping[Place, Probe]
    made: Mapping[str, Any] = field(default_factory=dict)
    """Model, clips, pool and versions."""

    def best(self) -> Place:
        """Where the label is read best, on validation clips; its own score is of test clips."""
        return max(self.probes, key=lambda place: self.probes[place].validation)

    def to_dataframe(self) -> "DataFrame":
        """One row per place: score with interval, baselines, selectivity."""
        import pandas

        rows = []
        for (site, layer, head), probe in self.probes.items():
            where = {"site": site, "layer": layer} | ({} if head is None else {"head": head})
            score = {"score": probe.score.value, "low": probe.score.low, "high": probe.score.high}
            beside = {name: found.value for name, found in probe.baselines.items()}
            also = {"selectivity": probe.selectivity, "validation": probe.validation}
            rows.append({**where, **score, **beside, **also})
        return pandas.DataFrame(rows)

    def plot(self, beside: "Mapping[str, ProbeSweep] | None" = None) -> "Figure":
        """Curves over layers, or a map of heads.

        beside: other sweeps by name, such as that of a model with random weights.
        """
        from audio_lens.plots.probes import head_map, layer_curves

        if any(head is not None for _, _, head in self.probes):
            return head_map(self)
        return layer_curves(self, beside or {})

    def sites(self) -> list[str]:
        """Shorthands of the sites that were probed."""
        return list(dict.fromkeys(site for site, _, _ in self.probes))

    def curve(self, site: str) -> dict[int, Probe]:
        """The probes of a site by layer."""
        return {layer: probe for (name, layer, _), probe in self.probes.items() if name == site}

    def heads(self, site: str) -> Float[np.ndarray, "layer head"]:
        """Scores of a site's heads."""
        places = [place for place in self.probes if place[0] == site and place[2] is not None]
        layers = sorted({layer for _, layer, _ in places})
        n_heads = 1 + max(head for *_, head in places if head is not None)
        return np.array(
            [[self.probes[site, n, h].score.value for h in range(n_heads)] for n in layers]
        )

    def __repr__(self) -> str:
        site, layer, head = self.best()
        where = f"{site} {layer}" + ("" if head is None else f", head {head}")
        return (
            f"ProbeSweep({self.label}: {len(self.probes)} probes at {', '.join(self.sites())}; "
            f"best at {where}, {self.probes[self.best()].score:.2f})"
        )


def probe_sweep(
    lens: "AudioLens",
    data: Any,
    *,
    label: str | None = None,
    site: str | Sequence[str] = "resid_post",
    layers: int | Sequence[int] | None = None,
    pool: Pool = "mean_steps",
    heads: bool = False,
    prompts: Any = None,
    activations: Activations | None = None,
    progress: bool = True,
    **fitting: Any,
) -> ProbeSweep:
    """Probe labelled clips at every layer of some sites.

    The model hears each clip once, teacher-forced; a probe is fitted at each place on the training
    clips, chosen on the validation clips and scored on the test clips.

    Args:
        lens: The model.
        data: Labelled clips: of `audio_lens.audio.clips`, or a folder of your own, read by
            `audio_lens.audio.folder.labelled_folder`.
        label: Another column of `data.table`; the clips' own label if None.
        site: A shorthand, or several.
        layers: Only these.
        pool: As for `collect`: one vector per clip.
        heads: A probe per head, at sites that have heads.
        prompts: What the model is told while it hears; nothing if None.
        activations: Gathered before, of these clips, in place of hearing them again.
        progress: Show progress bars.
        fitting: `kind`, `strengths`, `shuffles`, `seed`, as for `Probe.fit`.

    Raises:
        InputError: an unknown label, a pool that gives more than one vector per clip, or clips
            that cannot be split.
        SiteError: heads where there are none.

    Example:
        >>> from audio_lens.audio import clips
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> data = clips.level(30, seed=0, seconds=1.0, sample_rate=lens.cfg.sample_rate)
        >>> found = probe_sweep(lens, data, shuffles=2, progress=False)
        >>> sorted(found.probes)
        [('resid_post', 0, None), ('resid_post', 1, None)]
    """
    if pool == "every_step":
        raise InputError('pool="every_step" gives many vectors per clip: pool over time.')
    if label is not None and label not in data.table:
        raise InputError(f"the clips have no {label!r}: there are {', '.join(data.table)}.")
    labels = data.labels if label is None else data.table[label]
    if heads:
        for found in lens.sites.resolve(site, layers=layers):
            if "head" not in found.axes:
                raise SiteError(f"{found.shorthand} has no heads: take attn.z or cross_attn.z.")
    if activations is None:
        activations = collect(
            lens, prompts, site=site, layers=layers, pool=pool, audio=data, progress=progress
        )
    if activations.made.get("pool") == "every_step":
        raise InputError("these activations are of every step: pool them over time.")
    groups = getattr(data, "groups", None)
    fitting = {"groups": groups, **fitting}
    probes: dict[Place, Probe] = {}
    bar = tqdm(activations.values.items(), desc="probes", disable=not progress)
    for (name, layer), x in bar:
        asked = {"split": data.split, "site": name, "layer": layer, "made": activations.made}
        for head, probe in _fitted(x, labels, heads, {**asked, **fitting}):
            probes[name, layer, head] = probe
    made = {**activations.made, "clips": repr(data)}
    return ProbeSweep(label or data.label, probes, made)


def _fitted(
    x: Any, labels: Any, heads: bool, options: dict[str, Any]
) -> Iterator[tuple[int | None, Probe]]:
    if heads:
        yield from enumerate(Probe.fit_heads(x, labels, **options))
    else:
        yield None, Probe.fit(x, labels, **options)
