"""Directions: a signed vector per site and layer, with what is needed to use and trust it."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from operator import index
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.analysis._keys import key_of, name_of, numbers_as_json, numbers_of
from audio_lens.analysis.collect import Key
from audio_lens.errors import InputError, SiteError, did_you_mean
from audio_lens.lens.sites import TIMES

if TYPE_CHECKING:
    from pandas import DataFrame

    from audio_lens.lens.lens import AudioLens

FORMAT = "audio_lens.direction.1"


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector per (site, layer), in float32 on the CPU; adding it moves towards its + pole.

    Directions add, subtract and scale; what they came from travels with them.

    Example:
        >>> import torch
        >>> faster = Direction({("resid_post", 0): torch.tensor([3.0, 4.0])})
        >>> faster.norms[("resid_post", 0)], (0.5 * faster).layer(0)
        (5.0, tensor([1.5000, 2.0000]))
    """

    vectors: Mapping[Key, Float[Tensor, "*site"]]
    raw_norms: Mapping[Key, float] = field(default_factory=dict)
    """Lengths as they came out of the data, kept when the direction is made unit."""
    typical_norms: Mapping[Key, float] = field(default_factory=dict)
    """Mean length of the activations at the site: the yardstick of `scale="resid_norm"`."""
    spreads: Mapping[Key, float] = field(default_factory=dict)
    """Standard deviation of the activations' projections, each pole about its own mean: the
    yardstick of `scale="proj_std"`."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Model, method, prompts' hash, pool, branch, seeds and versions."""

    def __post_init__(self) -> None:
        if not self.vectors:
            raise InputError("a direction needs at least one vector.")
        for key in self.vectors:
            if not (isinstance(key, tuple) and len(key) == 2):
                raise InputError(
                    f'vectors are given by site and layer, {{("resid_post", 3): vector}}; got '
                    f"{key!r}."
                )
        vectors = {  # copies: what a caller does to its own tensors must not reach in here
            key: torch.as_tensor(self.vectors[key]).detach().float().cpu().clone()
            for key in sorted(self.vectors)
        }
        for (site, layer), vector in vectors.items():
            if not vector.isfinite().all():
                raise InputError(f"the direction's vector at {site}, layer {layer} is not finite.")
        object.__setattr__(self, "vectors", MappingProxyType(vectors))
        raw = dict(self.raw_norms) or {key: float(v.norm()) for key, v in vectors.items()}
        object.__setattr__(self, "raw_norms", MappingProxyType(raw))

    @property
    def sites(self) -> tuple[str, ...]:
        """Shorthands of the sites it has vectors for."""
        return tuple(dict.fromkeys(site for site, _ in self.vectors))

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers it has vectors for."""
        return tuple(sorted({layer for _, layer in self.vectors}))

    @property
    def norms(self) -> dict[Key, float]:
        """Lengths as they are now."""
        return {key: float(vector.norm()) for key, vector in self.vectors.items()}

    def layer(self, layer: int, *, site: str | None = None) -> Float[Tensor, "*site"]:
        """The vector of a layer; `site` where the direction has several."""
        if site is None:
            if len(self.sites) > 1:
                raise SiteError(f"the direction has vectors at {self.sites}: say site=.")
            site = self.sites[0]
        if (site, layer) not in self.vectors:
            raise SiteError(
                f"the direction has no vector at {site}, layer {layer}; layers {self.layers}."
            )
        return self.vectors[site, layer]

    # -- arithmetic -------------------------------------------------------------------------------

    def _map(self, fn: Callable[[Tensor], Tensor]) -> "Direction":
        vectors = {key: fn(vector) for key, vector in self.vectors.items()}
        return replace(self, vectors=vectors, raw_norms={})

    def _combine(self, other: "Direction", sign: float) -> "Direction":
        if not isinstance(other, Direction):
            return NotImplemented
        if set(self.vectors) != set(other.vectors):
            raise InputError(
                "directions combine only over the same sites and layers: "
                f"{sorted(self.vectors)} and {sorted(other.vectors)}."
            )
        self._check_widths(other)
        vectors = {key: v + sign * other.vectors[key] for key, v in self.vectors.items()}
        sources = [dict(self.provenance), dict(other.provenance)]
        made: dict[str, Any] = {"method": "sum" if sign > 0 else "difference", "of": sources}
        if self.provenance.get("model") == other.provenance.get("model"):
            made["model"] = self.provenance.get("model")
        return Direction(vectors, typical_norms=self.typical_norms, provenance=made)

    def _check_widths(self, other: "Direction") -> None:
        for key in set(self.vectors) & set(other.vectors):
            one, two = (tuple(each.vectors[key].shape) for each in (self, other))
            if one != two:
                raise InputError(
                    f"the directions have shapes {one} and {two} at {key[0]}, layer {key[1]}: they "
                    f"are of different models."
                )

    def __add__(self, other: "Direction") -> "Direction":
        return self._combine(other, 1.0)

    def __radd__(self, nothing: int) -> "Direction":
        """So that `sum` works, which begins with 0."""
        return self if isinstance(nothing, int) and nothing == 0 else NotImplemented

    def __sub__(self, other: "Direction") -> "Direction":
        return self._combine(other, -1.0)

    def __mul__(self, factor: float) -> "Direction":
        if isinstance(factor, Direction):
            return NotImplemented
        return self._map(lambda vector: vector * factor)

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> "Direction":
        return self * (1 / factor)

    def __neg__(self) -> "Direction":
        turned = self * -1.0
        return replace(turned, provenance={**self._from("negated")})

    def _from(self, method: str, *others: "Direction") -> dict[str, Any]:
        """The provenance of what is made from this one."""
        sources = [dict(each.provenance) for each in (self, *others)]
        return {"method": method, "of": sources, "model": self.provenance.get("model")}

    def unit(self) -> "Direction":
        """The same with every vector of length 1; `raw_norms` stay those of the data.

        Raises:
            InputError: a vector of length 0 has no direction.
        """
        for (site, layer), norm in self.norms.items():
            if norm == 0:
                raise InputError(f"the vector at {site}, layer {layer} has length 0.")
        vectors = {key: vector / vector.norm() for key, vector in self.vectors.items()}
        return replace(self, vectors=vectors)

    def scaled_to(self, other: "Direction") -> "Direction":
        """The same with the lengths of another direction, layer by layer.

        Raises:
            InputError: the other has no vector at some site or layer of this one.
        """
        unit, norms = self.unit(), other.norms
        if missing := [key for key in unit if key not in norms]:
            raise InputError(
                f"no length to take at {missing[0][0]}, layer {missing[0][1]}: the other direction "
                f"has vectors at {sorted(norms)}."
            )
        return unit._with({key: vector * norms[key] for key, vector in unit.vectors.items()})

    def only(self, layers: int | Sequence[int]) -> "Direction":
        """The part that belongs to some layers."""
        listed = layers if isinstance(layers, Iterable) else [layers]
        wanted = set(map(index, listed))
        for layer in wanted - set(self.layers):
            self.layer(layer, site=self.sites[0])
        return self._with({key: v for key, v in self.vectors.items() if key[1] in wanted})

    def at(self, site: str) -> "Direction":
        """The part that belongs to a site.

        Raises:
            InputError: it has no vectors there.
        """
        if site not in self.sites:
            raise InputError(f"no vectors at {site!r}: {did_you_mean(site, self.sites)}")
        return self._with({key: v for key, v in self.vectors.items() if key[0] == site})

    def _with(self, vectors: Mapping[Key, Tensor]) -> "Direction":
        return Direction(
            vectors,
            raw_norms={key: self.raw_norms[key] for key in vectors if key in self.raw_norms},
            typical_norms={k: self.typical_norms[k] for k in vectors if k in self.typical_norms},
            spreads={key: self.spreads[key] for key in vectors if key in self.spreads},
            provenance=self.provenance,
        )

    def project_off(self, other: "Direction") -> "Direction":
        """The part at right angles to another direction, layer by layer."""
        along = self.project_onto(other)
        left = self._with({key: v - along.vectors[key] for key, v in self.vectors.items()})
        # Another axis than this one's: how far activations spread along it is not known.
        return replace(left, spreads={}, provenance=self._from("project_off", other))

    def project_onto(self, other: "Direction") -> "Direction":
        """The part along another direction, layer by layer."""
        if set(self.vectors) - set(other.vectors):
            raise InputError("a direction is projected onto one of the same sites and layers.")
        unit = other.unit().vectors
        along = self._with(
            {key: (v * unit[key]).sum() * unit[key] for key, v in self.vectors.items()}
        )
        return replace(along, spreads={}, provenance=self._from("project_onto", other))

    def cosine(self, other: "Direction") -> dict[Key, float]:
        """Cosine with another direction at every site and layer both have.

        Raises:
            InputError: they are of different models' widths.
        """
        self._check_widths(other)
        shared = [key for key in self.vectors if key in other.vectors]
        pairs = {key: (self.vectors[key].flatten(), other.vectors[key].flatten()) for key in shared}
        return {key: float(torch.cosine_similarity(a, b, dim=0)) for key, (a, b) in pairs.items()}

    def random_like(self, seed: int) -> "Direction":
        """An isotropic random direction of the same length at every layer: the control."""
        generator = torch.Generator().manual_seed(seed)
        vectors = {}
        for key, vector in self.vectors.items():
            noise = torch.randn(vector.shape, generator=generator)
            vectors[key] = noise * (vector.norm() / noise.norm())
        made: dict[str, Any] = {
            "method": "random_like",
            "seed": seed,
            "model": self.provenance.get("model"),
        }
        return Direction(vectors, typical_norms=self.typical_norms, provenance=made)

    # -- files ------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, its metadata JSON."""
        from safetensors.torch import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name_of(key): vector.contiguous() for key, vector in self.vectors.items()}
        metadata = {
            "format": FORMAT,
            "raw_norms": numbers_as_json(self.raw_norms),
            "typical_norms": numbers_as_json(self.typical_norms),
            "spreads": numbers_as_json(self.spreads),
            "provenance": json.dumps(dict(self.provenance), default=_plain),
        }
        save_file(tensors, path, metadata=metadata)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Direction":
        """Read a file that `save` wrote.

        Raises:
            InputError: no such file, or no direction in it.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise InputError(f"no direction at {path}: there is no such file.")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(f"{path} is no safetensors file: {error}.") from error
        if metadata.get("format") != FORMAT:
            raise InputError(f"{path} holds no direction of audio_lens ({FORMAT}).")
        return cls(
            {key_of(name): tensor for name, tensor in tensors.items()},
            raw_norms=numbers_of(metadata["raw_norms"]),
            typical_norms=numbers_of(metadata["typical_norms"]),
            spreads=numbers_of(metadata.get("spreads", "{}")),
            provenance=json.loads(metadata["provenance"]),
        )

    def check_fits(self, lens: "AudioLens") -> None:
        """Raise unless it can be added to a model's sites; warn if it came from another model.

        Raises:
            SiteError: a site or layer the model does not have.
            InputError: another width.
        """
        cfg = lens.cfg
        for (name, layer), vector in self.vectors.items():
            site = lens.sites.of_key(name, layer)
            if not {*site.vector_axes} <= {*cfg.sizes} or not {*TIMES} & {*site.axes}:
                raise SiteError(
                    f"{name} [{' '.join(site.axes)}] is no place for a direction: take a site with "
                    f"positions, of the blocks or in front of them."
                )
            expected = tuple(cfg.sizes[axis] for axis in site.vector_axes)
            if tuple(vector.shape) != expected:
                raise InputError(
                    f"the direction's vector at {name}, layer {layer} has shape "
                    f"{tuple(vector.shape)}, but {cfg.model_name!r} has {expected} there: it was "
                    f"made on another model ({self.provenance.get('model')!r})."
                )
        made_on = self.provenance.get("model")
        if made_on is not None and made_on != cfg.model_name:
            warnings.warn(
                f"the direction was made on {made_on!r} and is used on {cfg.model_name!r}.",
                stacklevel=5,  # out of interventions, steer and the lens: to who asked for it
            )

    def __iter__(self) -> Iterator[Key]:
        return iter(self.vectors)

    def __repr__(self) -> str:
        lines = [f"Direction at {', '.join(self.sites)}, layers {list(self.layers)}"]
        for key, norm in self.norms.items():
            typical = self.typical_norms.get(key)
            beside = (
                "" if typical is None else f" = {norm / typical:.3f} of the typical {typical:.3g}"
            )
            lines.append(f"  {key[0]} {key[1]}: length {norm:.3g}{beside}")
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """What JSON does not know, as what it knows: mappings, and the numbers of NumPy and torch."""
    return value.tolist() if hasattr(value, "tolist") else dict(value)


def gram_schmidt(*directions: Direction) -> tuple[Direction, ...]:
    """The same directions, each without what those before it already say, layer by layer.

    Raises:
        InputError: different sites or layers, or one that lies wholly in those before it.

    Example:
        >>> a, b = (Direction({("resid_post", 0): torch.tensor(v)}) for v in ([2.0, 0], [1.0, 1]))
        >>> gram_schmidt(a, b)[1].layer(0)
        tensor([0., 1.])
    """
    found: list[Direction] = []
    for place, direction in enumerate(directions):
        left = direction
        for known in found:
            if set(known) != set(direction):
                raise InputError("directions combine only over the same sites and layers.")
            left = left.project_off(known)
        for key, norm in left.norms.items():
            if norm <= _NOTHING * direction.norms[key]:
                raise InputError(
                    f"direction {place} lies wholly in those before it at {key[0]} {key[1]}."
                )
        found.append(left)
    return tuple(found)


def cosine_table(named: Mapping[str, Direction]) -> "DataFrame":
    """Cosines of every two directions, one row per site and layer, one column per pair.

    Example:
        >>> a, b = (Direction({("resid_post", 0): torch.tensor(v)}) for v in ([2.0, 0], [1.0, 1]))
        >>> cosine_table({"tempo": a, "timbre": b})["tempo, timbre"].round(3).tolist()
        [0.707]
    """
    import pandas

    if len(named) < 2:
        raise InputError("a table of cosines needs at least two directions.")
    columns = {}
    for one, other in combinations(named, 2):
        columns[f"{one}, {other}"] = cosines = named[one].cosine(named[other])
        if not cosines:
            raise InputError(f"{one!r} and {other!r} share no site and layer.")
    table = pandas.DataFrame(columns)
    return table.rename_axis(["site", "layer"]).reset_index()


_NOTHING = 1e-5
