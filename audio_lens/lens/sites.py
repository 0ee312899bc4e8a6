"""The site table: every named point of the decoder, and all that is known of it.

Dispatch, order, the cache, the self-check and the documentation's site page are driven from
this one table.
"""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any, Literal

from torch import Tensor

from audio_lens.errors import SiteError
from audio_lens.lens.ports import Port

TIMES = ("pos", "audio_pos")
"""Axes along which music goes on."""
BEFORE = -1
"""Where a site in front of the blocks stands among the layers, in keys (shorthand, layer)."""


@dataclass(frozen=True, eq=False)
class Site:
    """A named point in the decoder."""

    name: str
    location: str
    """Where the engine meets it: a place in the wrapped tree, or inside attention."""
    port: Port = field(repr=False)
    axes: tuple[str, ...]
    about: str
    write: Literal["exact", "delta", "no"] = "exact"
    """`exact`: the model goes on with the written tensor itself. `delta`: the difference is
    added to what the site feeds. `no`: read-only."""
    steps: Literal["every", "first"] = "every"
    """Whether it fires at every step of generation or at the first only."""
    branches: tuple[str, ...] = ("cond", "uncond")
    """Halves of a guided run in which it carries anything."""
    rank: int = 0
    """Order of execution; set by the table."""

    @property
    def layer(self) -> int | None:
        """The block it belongs to, if any."""
        found = re.match(r"blocks\.(\d+)\.", self.name)
        return int(found[1]) if found else None

    @property
    def block(self) -> int:
        """The layer of a site that is known to have one."""
        if self.layer is None:
            raise SiteError(f"{self.name} belongs to no layer.")
        return self.layer

    @property
    def key(self) -> tuple[str, int]:
        """What activations and directions know it by: its shorthand and layer."""
        return self.shorthand, BEFORE if self.layer is None else self.layer

    @property
    def vector_axes(self) -> tuple[str, ...]:
        """Those of what it holds of one row at one time, as directions have them."""
        return tuple(axis for axis in self.axes if axis not in ("batch", *TIMES))

    def over_time(self, vector: Tensor) -> Tensor:
        """A vector, so that it broadcasts against what the site holds."""
        (time,) = (n for n, axis in enumerate(self.axes[1:]) if axis in TIMES)
        return vector.unsqueeze(time) if time else vector

    @property
    def family(self) -> str:
        """The name with its layer left open: `blocks.{i}.attn.hook_z`."""
        return re.sub(r"^blocks\.\d+\.", "blocks.{i}.", self.name)

    @property
    def shorthand(self) -> str:
        """The family without `blocks.{i}.` and `hook_`: `attn.z`."""
        return self.family.removeprefix("blocks.{i}.").replace("hook_", "")


Spec = str | Site | Callable[[str], bool] | Iterable[Any]
"""What sites can be meant by: a name, shorthand or glob, a site, a filter, or several of them."""


class SiteTable:
    """All sites of a model, given in order of execution; prints as a table.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> sites = random_musicgen(n_layers=2).sites
        >>> sites["blocks.1.attn.hook_z"].axes
        ('batch', 'pos', 'head', 'd_head')
        >>> [site.name for site in sites.match("*.hook_resid_post")]
        ['blocks.0.hook_resid_post', 'blocks.1.hook_resid_post']
    """

    def __init__(self, sites: Iterable[Site]) -> None:
        ordered = [replace(site, rank=rank) for rank, site in enumerate(sites)]
        self._by_name = {site.name: site for site in ordered}
        self._families: dict[str, list[Site]] = {}
        for site in ordered:
            self._families.setdefault(site.shorthand, []).append(site)
        layers = [site.layer for site in ordered if site.layer is not None]
        self.n_layers = max(layers) + 1

    def __iter__(self) -> Iterator[Site]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Site:
        """The site of that full name.

        Raises:
            SiteError: no such site; the nearest names are suggested.
        """
        if name not in self._by_name:
            raise self._unknown(name)
        return self._by_name[name]

    @property
    def shorthands(self) -> tuple[str, ...]:
        """Every family's shorthand, in order of execution."""
        return tuple(self._families)

    def match(self, pattern: str) -> list[Site]:
        """Sites whose full name matches a glob such as `"blocks.*.attn.hook_z"`."""
        return [site for site in self if fnmatch.fnmatchcase(site.name, pattern)]

    def resolve(self, spec: Spec, *, layers: int | Iterable[int] | None = None) -> tuple[Site, ...]:
        """The sites meant by a full name, shorthand, glob, filter, `Site`, or several of them.

        A shorthand such as `"resid_post"` means every layer; `layers` narrows it down, and
        negative layers count from the end.

        Raises:
            SiteError: nothing matches, the name is ambiguous, or a layer is out of range.
        """
        sites = self._resolve(spec)
        if not sites:
            raise SiteError(f"{spec!r} names no site. `print(lens.sites)` lists them all.")
        if layers is None:
            return sites
        listed = layers if isinstance(layers, Iterable) else [layers]
        wanted = {self.layer(layer) for layer in listed}
        if any(site.layer is None for site in sites):
            names = sorted({site.name for site in sites if site.layer is None})
            raise SiteError(f"{', '.join(names)} belongs to no layer: leave `layers` out.")
        chosen = tuple(site for site in sites if site.layer in wanted)
        if not chosen:
            raise SiteError(f"{spec!r} names no site in layers {sorted(wanted)}.")
        return chosen

    def of_key(self, shorthand: str, layer: int) -> Site:
        """The site of a key: of layer -1, one in front of the blocks.

        Raises:
            SiteError: there is none, or several.
        """
        in_front = layer == BEFORE and all(site.layer is None for site in self._resolve(shorthand))
        found = self.resolve(shorthand, layers=None if in_front else layer)
        if len(found) > 1:
            raise SiteError(f"{shorthand!r} names {len(found)} sites at layer {layer}: name one.")
        return found[0]

    def layer(self, layer: int) -> int:
        """A layer index made non-negative.

        Raises:
            SiteError: out of range, or no whole number.
        """
        try:
            layer = index(layer)
        except TypeError:
            raise SiteError(f"a layer is a whole number, got {layer!r}.") from None
        if not -self.n_layers <= layer < self.n_layers:
            raise SiteError(
                f"layer {layer} is out of range: the model has layers 0 to {self.n_layers - 1} "
                f"(or -{self.n_layers} to -1 from the end)."
            )
        return layer % self.n_layers

    def _resolve(self, spec: Spec) -> tuple[Site, ...]:
        if isinstance(spec, Site):
            return (spec,)
        if isinstance(spec, str):
            return self._named(spec)
        if callable(spec):
            return tuple(site for site in self if spec(site.name))
        if isinstance(spec, Iterable):
            chosen = {site for part in spec for site in self._resolve(part)}
            return tuple(sorted(chosen, key=lambda site: site.rank))
        raise SiteError(
            f"a site is given by name, shorthand, glob, filter or a list of them, got {spec!r}. "
            f'Say a layer in the name ("blocks.1.hook_resid_post") or with layers=.'
        )

    def _named(self, name: str) -> tuple[Site, ...]:
        if name in self._by_name:
            return (self._by_name[name],)
        if name in self._families:
            return tuple(self._families[name])
        if any(character in name for character in "*?["):
            shorthands = fnmatch.filter(self._families, name)
            found = {*self.match(name), *(s for word in shorthands for s in self._families[word])}
            if found:
                return tuple(sorted(found, key=lambda site: site.rank))
        raise self._unknown(name)

    def _unknown(self, name: str) -> SiteError:
        layer = re.match(r"blocks\.(\d+)\.", name)
        if layer and int(layer[1]) >= self.n_layers:
            try:
                self.layer(int(layer[1]))
            except SiteError as error:
                return SiteError(f"no site {name!r}: {error}")
        ending = [s for s in self._families if s.rpartition(".")[2] == name.removeprefix("hook_")]
        if ending:
            options = " or ".join(repr(option) for option in ending)
            return SiteError(f"{name!r} could be several sites: say {options}.")
        known = [*self._by_name, *self._families]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        return SiteError(f"no site {name!r}.{hint} `print(lens.sites)` lists them all.")

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """One row per family: name, axes, write, steps, what it is."""
        seen: dict[str, Site] = {}
        for site in self:
            seen.setdefault(site.family, site)
        return [
            (family, " ".join(site.axes), site.write, site.steps, site.about)
            for family, site in seen.items()
        ]

    def __repr__(self) -> str:
        header = ("site", "axes", "write", "steps", "what it is")
        rows = [header, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            + f"  {row[4]}"
            for row in rows
        )
