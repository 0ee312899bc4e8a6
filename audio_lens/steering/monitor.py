"""Self-monitoring: a read-out while the model runs, which turns steering up or down, row by row.

After SMITIN (Koo et al., arXiv 2404.02252), where probes switch off what is no longer needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.analysis.directions import Direction
from audio_lens.analysis.probes import Probe
from audio_lens.errors import InputError, SiteError
from audio_lens.lens.engine import Registration
from audio_lens.lens.schedules import Schedule
from audio_lens.lens.sites import TIMES

if TYPE_CHECKING:
    from audio_lens.lens.run import Hook
    from audio_lens.lens.sites import SiteTable

Rows = Float[Tensor, " row"]
Respond = Callable[[Rows, Rows], Rows]
"""`(reading, factor so far) -> factor from here on`, row by row."""


def monitor(
    read: "Probe | Direction | Callable[[Tensor], Tensor]",
    respond: Respond,
    *,
    site: str | None = None,
    layer: int | None = None,
    branch: Literal["cond", "uncond"] = "cond",
    seconds: float | None = None,
    every: int = 1,
) -> Schedule:
    """A schedule that is 1 at first, then what is made of a reading of the positions before.

    Readings begin behind BOS and the delay ramp, as pooled activations do; until then the factor
    is 1. A position's factor depends on earlier positions alone, so a generation and a forward
    over its codes are steered alike. Where many positions are run at once (a forward, or codes
    that are continued), it must therefore read in front of where it steers.

    Args:
        read: A probe (the probability of `classes[1]`, or the graded label), a direction (the
            projection on its unit vector), or a function `[row *site] -> [row]`.
        respond: What is made of it: `until`, `fading`, `holding`, or your own.
        site: Where a function reads; probes and directions know it.
        layer: See `site`; needed for a direction of several layers.
        branch: The half that is read.
        seconds: Read the mean over so much of the immediate past; over all of it if None, which
            is what probes of `pool="mean_steps"` were fitted on.
        every: Read anew at every so many positions.

    Raises:
        InputError: a probe that gives no single number, or no place to read at; when it runs,
            one that needs readings it cannot have, or readings that are not finite.
        SiteError: a site without positions.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> up = Direction({("resid_post", 1): torch.ones(64)})
        >>> with lens.steer(up, schedule=monitor(up, until(2.0))):
        ...     clips = lens.generate("a song", seconds=0.2, progress=False)
    """
    if every < 1 or (seconds is not None and seconds <= 0):
        raise InputError(f"every={every}, seconds={seconds}: expected at least 1, and above 0.")
    site, layer = _place(read, site, layer)
    reading = _Reading(
        _as_function(read, site, layer), respond, site, layer, branch, seconds, every
    )
    name = f"as long as a monitor of {site} {layer} lets it"
    return Schedule(reading.factors, name, needs=(reading,))


def until(threshold: float) -> Respond:
    """On while the reading is below a threshold, off while it is not.

    Example:
        >>> until(0.8)(torch.tensor([0.5, 0.9]), torch.ones(2))
        tensor([1., 0.])
    """
    return lambda value, factor: (value < threshold).float()


def fading(threshold: float, *, rate: float = 0.1) -> Respond:
    """Weaker with every reading, by `rate` times it (a probability); off at a threshold.

    The factor so far is kept, so steering that was switched off stays off.

    Example:
        >>> fading(0.8)(torch.tensor([0.5, 0.9]), torch.ones(2))
        tensor([0.9500, 0.0000])
    """
    return lambda value, factor: factor * (1 - rate * value).clamp(0, 1) * (value < threshold)


def holding(target: float, *, gain: float = 0.1, most: float = 2.0) -> Respond:
    """Turned up while the reading is below a target and down while it is above, from 0 to `most`.

    Example:
        >>> holding(1.0)(torch.tensor([0.0, 3.0]), torch.ones(2))
        tensor([1.1000, 0.8000])
    """
    return lambda value, factor: (factor + gain * (target - value)).clamp(0, most)


def _place(read: Any, site: str | None, layer: int | None) -> tuple[str, int]:
    if isinstance(read, Probe):
        if site is not None or layer is not None:
            raise InputError(f"a probe reads where it was fitted, at {read.site} {read.layer}.")
        if read.kind == "mass_mean":
            raise InputError("class means give no probability: read the probe's direction.")
        if read.classes is not None and len(read.classes) > 2:
            raise InputError(
                f"a monitor reads one number, but the probe tells {len(read.classes)} classes: "
                f"give its direction_of one, or a function."
            )
        return read.site, read.layer
    if isinstance(read, Direction):
        sites = read.sites if site is None else (site,)
        layers = read.layers if layer is None else (layer,)
        if len(sites) > 1 or len(layers) > 1:
            raise InputError(
                f"the direction has vectors at {', '.join(read.sites)}, layers "
                f"{list(read.layers)}: say site= and layer= to be read at."
            )
        read.layer(layers[0], site=sites[0])
        return sites[0], layers[0]
    if site is None or layer is None:
        raise InputError("a function reads at a site and a layer: give site= and layer=.")
    return site, layer


def _as_function(read: Any, site: str, layer: int) -> Callable[[Tensor], Tensor]:
    if isinstance(read, Probe):
        told = read.read
        if read.classes is None or read.kind == "mlp":  # a label, or a probability already
            return lambda x: told(x)[:, 0]
        return lambda x: told(x)[:, 0].sigmoid()
    if isinstance(read, Direction):
        unit = read.unit().layer(layer, site=site).flatten()
        return lambda x: x.flatten(1).cpu() @ unit
    return read


@dataclass
class _Past:
    """What was read of a run so far."""

    factors: list[Rows] = field(default_factory=list)
    """Of every position up to the next; the first is 1."""
    recent: list[Tensor] = field(default_factory=list)
    total: Tensor | None = None
    n_seen: int = 0


@dataclass(frozen=True, eq=False)
class _Reading:
    """A hook that reads, and the factors that follow from it."""

    read: Callable[[Tensor], Tensor]
    respond: Respond
    site: str
    layer: int
    branch: Literal["cond", "uncond"]
    seconds: float | None
    every: int

    def bind(self, table: "SiteTable") -> Registration:
        """The registration that reads."""
        sites = table.resolve(self.site, layers=self.layer)
        if sites[0].axes[1] not in TIMES:
            raise SiteError(
                f"a monitor reads position by position, but {sites[0].name} is "
                f"[{' '.join(sites[0].axes)}]: take a site such as resid_post or attn.z."
            )
        return Registration(self._take_in, sites, self.branch, "read")

    def factors(self, hook: "Hook") -> Float[Tensor, "row pos"]:
        """For the positions of a call, from what was read at those before them."""
        known = self._past(hook).factors
        places = [max(position, 0) for position in hook.positions]
        if places[-1] >= len(known):
            raise InputError(
                f"a monitor of {self.site} {self.layer} steers {hook.name}, but has not read the "
                f"positions before: where many positions are run at once, it must read in front "
                f"of where it steers."
            )
        return torch.stack([known[place] for place in places], dim=1)

    def _past(self, hook: "Hook") -> _Past:
        past = hook.notes.setdefault(self, _Past())
        if not past.factors:
            past.factors.append(torch.ones(len(hook.rows)))
        return past

    def _take_in(self, tensor: Tensor, *, hook: "Hook") -> None:
        past = self._past(hook)
        most = None if self.seconds is None else max(round(self.seconds * hook.frame_rate), 1)
        # A copy: the stream is written in place once it was read.
        for position, x in zip(
            hook.positions, tensor.detach().float().clone().unbind(1), strict=True
        ):
            if position < 0 or position < len(past.factors) - 1:  # a prefix, or read already
                continue
            if position < hook.first_full:
                past.factors.append(past.factors[-1])
                continue
            past.n_seen += 1
            past.total = x if past.total is None else past.total + x
            if most is not None:
                past.recent.append(x)
                if len(past.recent) > most:
                    past.total = past.total - past.recent.pop(0)
            factor = past.factors[-1]
            if past.n_seen % self.every == 0:
                mean = past.total / (past.n_seen if most is None else len(past.recent))
                value = torch.as_tensor(self.read(mean)).float().cpu()
                factor = torch.as_tensor(self.respond(value, factor)).float()
                self._check(value, factor, len(hook.rows))
            past.factors.append(factor)

    def _check(self, value: Tensor, factor: Tensor, n_rows: int) -> None:
        for what, found in (("read", value), ("respond", factor)):
            if found.shape != (n_rows,) or not found.isfinite().all():
                raise InputError(
                    f"the monitor's {what} gave {tuple(found.shape)} values, finite or not; "
                    f"expected {n_rows} finite ones, one per row."
                )
