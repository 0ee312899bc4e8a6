"""Probes across layers, sites, heads and codebooks: where in the model can a label be read off?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from audio_lens.analysis._pooling import Key, Pool
from audio_lens.analysis.collect import Activations, collect
from audio_lens.analysis.probes import Probe
from audio_lens.errors import InputError, SiteError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from audio_lens.lens.lens import AudioLens

Place = tuple[str, int, int | None]
"""A site's shorthand, a layer, and a head or codebook where these are probed apart."""
Part = Literal["head", "codebook"]


@dataclass(frozen=True, eq=False)
class ProbeSweep:
    """A probe for every place that was asked."""

    label: str
    probes: Mapping[Place, Probe]
    made: Mapping[str, Any] = field(default_factory=dict)
    """Model, clips, pool and versions."""
    by: Part | None = None
    """What is probed apart."""

    def best(self) -> Place:
        """Where the label is read best, on validation clips; its own score is of test clips."""
        return max(self.probes, key=lambda place: self.probes[place].validation)

    def to_dataframe(self) -> "DataFrame":
        """One row per place: score with interval, baselines, selectivity."""
        import pandas

        rows = []
        for (site, layer, part), probe in self.probes.items():
            where = {"site": site, "layer": layer} | ({self.by: part} if self.by else {})
            score = {"score": probe.score.value, "low": probe.score.low, "high": probe.score.high}
            beside = {name: found.value for name, found in probe.baselines.items()}
            also = {"selectivity": probe.selectivity, "validation": probe.validation}
            rows.append({**where, **score, **beside, **also})
        return pandas.DataFrame(rows)

    def plot(self, beside: "Mapping[str, ProbeSweep] | None" = None) -> "Figure":
        """Curves over layers, or a map of heads or codebooks.

        beside: other sweeps by name, such as that of a model with random weights.
        """
        from audio_lens.plots.probes import layer_curves, part_map

        if self.by is not None:
            return part_map(self)
        return layer_curves(self, beside or {})

    def by_layer(self, site: str) -> "dict[int, float | list[float]]":
        """A site's scores by layer, one for each head or codebook where these are probed apart."""
        found: dict[int, float | list[float]] = {}
        for (name, layer, part), probe in self.probes.items():
            if name != site:
                continue
            if part is None:
                found[layer] = probe.score.value
            else:
                parts = found.setdefault(layer, [])
                assert isinstance(parts, list)
                parts.append(probe.score.value)
        return found

    def sites(self) -> list[str]:
        """Shorthands of the sites that were probed."""
        return list(dict.fromkeys(site for site, _, _ in self.probes))

    def curve(self, site: str) -> dict[int, Probe]:
        """The probes of a site by layer."""
        return {layer: probe for (name, layer, _), probe in self.probes.items() if name == site}

    def parts(self, site: str) -> Float[np.ndarray, "layer part"]:
        """Scores of a site's heads or codebooks."""
        found = self.by_layer(site)
        return np.array([found[layer] for layer in sorted(found)])

    def __repr__(self) -> str:
        site, layer, part = self.best()
        where = f"{site} {layer}" + (f", {self.by} {part}" if self.by else "")
        return (
            f"ProbeSweep({self.label}: {len(self.probes)} probes at {', '.join(self.sites())}; "
            f"best at {where}, {self.probes[self.best()].score:.2f})"
        )


def probe_sweep(
    lens: "AudioLens",
    data: Any,
    *,
    label: str | None = None,
    site: str | Sequence[str] | None = None,
    layers: int | Sequence[int] | None = None,
    pool: Pool = "mean_steps",
    by: Part | None = None,
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
        site: A shorthand, or several; `resid_post` if None, or all that was gathered before.
        layers: Only these.
        pool: As for `collect`: one vector per clip.
        by: A probe for each `"head"` (of attn.z) or `"codebook"` (of embed.codebook), all of a
            layer fitted at once.
        prompts: What the model is told while it hears; nothing if None.
        activations: Gathered before, of these clips, in place of hearing them again; what `site`
            and `layers` name of them.
        progress: Show progress bars.
        fitting: `kind`, `strengths`, `shuffles`, `seed`, as for `Probe.fit`.

    Raises:
        InputError: an unknown label, a pool that gives more than one vector per clip, or clips
            that cannot be split.
        SiteError: heads or codebooks where there are none.

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
    names: Any = site or "resid_post"
    if site is None and activations is not None:
        names = list(dict.fromkeys(name for name, _ in activations.values))
    wanted = [found.key for found in lens.sites.resolve(names, layers=layers)]
    if by is not None:
        _check_parts(lens, by, names, layers)
    if activations is None:
        activations = collect(
            lens, prompts, site=names, layers=layers, pool=pool, audio=data, progress=progress
        )
    if activations.made.get("pool") == "every_step":
        raise InputError("these activations are of every step: pool them over time.")
    groups = getattr(data, "groups", None)
    fitting = {"groups": groups, **fitting}
    probes: dict[Place, Probe] = {}
    chosen = _chosen(activations, wanted)
    bar = tqdm(chosen.items(), desc="probes", disable=not progress)
    for (name, layer), x in bar:
        asked = {"split": data.split, "site": name, "layer": layer, "made": activations.made}
        for part, probe in _fitted(x, labels, by, {**asked, **fitting}):
            typical = activations.typical_norms.get((name, layer))
            probes[name, layer, part] = replace(probe, typical_norm=typical)
    made = {**activations.made, "clips": repr(data)}
    return ProbeSweep(label or data.label, probes, made, by)


def _chosen(activations: Activations, keys: Sequence[Key]) -> dict[Key, Any]:
    gathered = [key for key in keys if key in activations.values]
    if not gathered or {name for name, _ in gathered} != {name for name, _ in keys}:
        raise InputError(
            f"the activations are of {', '.join(f'{n} {i}' for n, i in activations.values)}; asked "
            f"for are {', '.join(f'{n} {i}' for n, i in keys)}."
        )
    return {key: activations.values[key] for key in gathered}


_WITH_PARTS = {"head": "attn.z or cross_attn.z", "codebook": "embed.codebook"}


def _check_parts(lens: "AudioLens", by: str, site: Any, layers: Any) -> None:
    if by not in _WITH_PARTS:
        raise InputError(f"by must be {' or '.join(map(repr, _WITH_PARTS))}, got {by!r}.")
    for found in lens.sites.resolve(site, layers=layers):
        if by not in found.axes:
            raise SiteError(f"{found.shorthand} has no {by}s: take {_WITH_PARTS[by]}.")


def _fitted(
    x: Any, labels: Any, by: Part | None, options: dict[str, Any]
) -> Iterator[tuple[int | None, Probe]]:
    if by is None:
        yield None, Probe.fit(x, labels, **options)
    else:
        yield from enumerate(Probe.fit_parts(x, labels, part=by, **options))
