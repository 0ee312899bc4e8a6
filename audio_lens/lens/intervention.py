"""The one primitive: what is done to a site, where, when, to which rows, and how strongly."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audio_lens.errors import HookError, InputError
from audio_lens.lens.engine import Registration
from audio_lens.lens.run import Branch, Hook, Run, check_branch
from audio_lens.lens.sites import Site, SiteTable, Spec
from audio_lens.lens.writes import check_write, no_text

Strength = float | Tensor
"""A coefficient as an operation gets it: a number, or a tensor that broadcasts over rows."""

Operation = Callable[[Tensor, Strength, Hook], Tensor | None]
"""`op(tensor, coefficient, hook) -> tensor`, or None after an edit in place; the coefficient
broadcasts against the tensor."""

Coefficient = float | Sequence[float] | Tensor | Callable[[Hook], Any]
When = Callable[[Hook], Any]
PerLayer = Tensor | Mapping[Any, Tensor]
"""One tensor for every layer, or one by layer."""


@dataclass(frozen=True)
class Intervention:
    """An operation at sites, for chosen layers, branch, times and rows.

    Attributes:
        site: A full name, shorthand, glob, filter or list of them.
        op: What is done: `add`, `replace`, `project_out`, or any
            `fn(tensor, coefficient, hook) -> tensor`.
        layers: One layer, several, or None for every layer the site has.
        branch: Halves of a guided run it acts on.
        when: `fn(hook)` returning one truth value, or one per position; see `window`.
        rows: Rows of the batch it acts on; None is all.
        coefficient: A number, one per row of the batch, or `fn(hook)` returning either.

    Example:
        >>> import torch
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2, d_model=64)
        >>> push = Intervention("resid_post", layers=1, op=add(torch.ones(64)), coefficient=0.5)
        >>> with lens.intervene(push):
        ...     clips = lens.generate("a song", seconds=0.1, progress=False)
    """

    site: Spec
    op: Operation
    layers: int | Iterable[int] | None = None
    branch: Branch = "both"
    when: When | None = None
    rows: Sequence[int] | Tensor | np.ndarray | None = None
    coefficient: Coefficient = 1.0
    label: str = ""
    """Said of it in a clip's `interventions`; made from the rest when left empty."""

    def bind(self, table: SiteTable) -> Registration:
        """The registration that carries it out on a model's sites."""
        self._check_parts()
        sites = table.resolve(self.site, layers=self.layers)
        check_branch(self.branch, sites)
        for site in sites:
            if site.write == "no":
                raise HookError(f"{site.name} is read-only and cannot be intervened on.")
            if check := getattr(self.op, "check", None):
                check(site)
        prepare = partial(self._prepare, sites)
        return Registration(self._act, sites, self.branch, prepare=prepare, label=self.describe)

    def _check_parts(self) -> None:
        if not callable(self.op):
            raise InputError(
                f"op must be an operation such as add(vector), or fn(tensor, coefficient, hook), "
                f"got {self.op!r}."
            )
        if self._chosen == ():
            raise InputError("rows must name at least one row, or be None for all.")

    @property
    def _chosen(self) -> tuple[int, ...] | None:
        """The rows as plain numbers."""
        if self.rows is None:
            return None
        try:
            if any("bool" in str(getattr(row, "dtype", type(row))) for row in self.rows):
                raise TypeError("truth values")
            return tuple(map(index, self.rows))
        except TypeError:
            raise InputError(
                f"rows must be a list of row numbers (at least one row), or None for all, got "
                f"{self.rows!r}."
            ) from None

    def describe(self, row: int) -> str:
        """What it does to a row, in a line; empty where it leaves the row alone."""
        if self._chosen is not None and row not in self._chosen:
            return ""
        strength = self.coefficient
        if callable(strength):
            shown = "varying"
        else:
            values = torch.as_tensor(strength)
            shown = f"{float(values if values.ndim == 0 else values[row]):g}"
        if self.when is not None:
            shown += f", {getattr(self.when, '__name__', 'when a function says so')}"
        if self.label:
            return f"{self.label} x {shown}"
        op = getattr(self.op, "__name__", type(self.op).__name__)
        site = self.site.name if isinstance(self.site, Site) else self.site
        layers = "" if self.layers is None else f", layers {self.layers}"
        return f"{op} x {shown} at {site}{layers}, {self.branch}"

    def _prepare(self, sites: tuple[Site, ...], run: Run) -> None:
        """Refuse what does not fit the rows of a run that is about to begin."""
        n_rows, chosen = run.n_rows, self._chosen
        for row in chosen or ():
            if not 0 <= row < n_rows:
                raise InputError(
                    f"intervention on row {row}, but the run has rows 0 to {n_rows - 1}."
                )
        _check_per_row(self.coefficient, n_rows)
        silent = [row for row in chosen or range(n_rows) if not run.with_text[row]]
        if len(silent) == n_rows or (chosen and silent):
            for site in sites:
                if site.branches == ("cond",):  # it carries text, and these rows have none
                    raise HookError(f"row {silent[0]}: {no_text(site)}")

    def _act(self, tensor: Tensor, *, hook: Hook) -> Tensor | None:
        mask = self._mask(tensor, hook)
        if mask is False:
            return None
        coefficient = self.coefficient
        if callable(coefficient):
            coefficient = coefficient(hook)
            _check_per_row(coefficient, hook.n_rows)
        strength = _broadcast(coefficient, tensor, hook)
        given = tensor if mask is True else tensor.clone()  # an operation may edit in place
        new = self.op(given, strength, hook)
        new = given if new is None else new
        if isinstance(strength, Tensor) and isinstance(new, Tensor):
            new = new.to(tensor.dtype)
        if mask is True:
            return new
        check_write(hook.site, tensor, new)
        return torch.where(mask, new, tensor)

    def _mask(self, tensor: Tensor, hook: Hook) -> Tensor | bool:
        """Where it acts: everywhere, nowhere, or a mask that broadcasts against the tensor."""
        mask: Tensor | bool = True
        if self.when is not None:
            mask = _when_mask(self.when(hook), tensor, hook)
            if mask is False:
                return False
        if (chosen := self._chosen) is None:
            return mask
        rows = torch.tensor([row in chosen for row in hook.rows], device=tensor.device)
        if not rows.any():
            return False
        rows = rows.view(-1, *[1] * (tensor.ndim - 1))
        return rows if mask is True else rows & mask


def _when_mask(when: Any, tensor: Tensor, hook: Hook) -> Tensor | bool:
    when = torch.as_tensor(when, dtype=torch.bool)
    axis = next((a for a in ("pos", "audio_pos", "query") if a in hook.site.axes), None)
    if when.ndim > 0 and axis is None:
        raise InputError(
            f"{hook.name} has no position axis [{' '.join(hook.site.axes)}], so a window in time "
            f"cannot act on it: leave `when` out, or give a function that returns one bool."
        )
    if when.ndim > 0 and when.shape != (len(hook.positions),):
        raise InputError(
            f"`when` returned {tuple(when.shape)} values at {hook.name}; expected one, or one per "
            f"position ({len(hook.positions)} here)."
        )
    if when.all():
        return True
    if not when.any():
        return False
    behind = tensor.ndim - hook.site.axes.index(axis) - 1
    return when.to(tensor.device).view(-1, *[1] * behind)


def _check_per_row(coefficient: Any, n_rows: int) -> None:
    if callable(coefficient):
        return
    values = torch.as_tensor(coefficient)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != n_rows):
        raise InputError(
            f"coefficient has shape {tuple(values.shape)} for {n_rows} rows: give one number, or "
            f"one per row."
        )
    if not torch.isfinite(values.float()).all():
        raise InputError("coefficient is not finite: give numbers other than NaN and infinity.")


def _broadcast(coefficient: Any, tensor: Tensor, hook: Hook) -> Any:
    if isinstance(coefficient, int | float):
        return coefficient
    # At least float32, so that a list of one number means what the number means.
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    values = torch.as_tensor(coefficient, dtype=dtype, device=tensor.device)
    if values.ndim == 0:
        return values
    return values[list(hook.rows)].view(-1, *[1] * (tensor.ndim - 1))


class _VectorOperation:
    """An operation with a vector, the same for all layers or one per layer."""

    def __init__(self, vector: PerLayer) -> None:
        self.vector = vector
        self._placed: dict[Site, tuple[Any, Tensor]] = {}

    def check(self, site: Site) -> None:
        """Refuse a layer without a vector while nothing has run yet."""
        if isinstance(self.vector, Mapping) and site.layer not in self.vector:
            raise InputError(
                f"{type(self).__name__}: no vector for layer {site.layer} ({site.name}); there are "
                f"vectors for layers {sorted(self.vector)}."
            )

    def at(self, tensor: Tensor, hook: Hook) -> Tensor:
        """The vector for this site, on the tensor's device and in its dtype."""
        given = self.vector
        vector = given[hook.layer()] if isinstance(given, Mapping) else given
        state = _state(vector, tensor)
        known, placed = self._placed.get(hook.site, (None, tensor))
        if state is None or known != state:
            placed = torch.as_tensor(vector).to(tensor.device, tensor.dtype)
            self._check_shape(placed, tensor, hook)
            self._placed[hook.site] = (state, placed)
        return placed

    def _check_shape(self, vector: Tensor, tensor: Tensor, hook: Hook) -> None:
        try:
            fits = torch.broadcast_shapes(vector.shape, tensor.shape) == tensor.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise InputError(
                f"{type(self).__name__}: a vector of shape {tuple(vector.shape)} does not fit "
                f"{hook.name} {tuple(tensor.shape)} [{' '.join(hook.site.axes)}]."
            )


def _state(vector: Any, tensor: Tensor) -> tuple[Any, ...] | None:
    """What a placed vector depends on; None if it must be placed anew each time."""
    if not isinstance(vector, Tensor) or vector.requires_grad or vector.is_inference():
        return None  # an array may change unseen, and a gradient needs a fresh way back
    return id(vector), vector._version, tensor.dtype, tensor.device


def _times(coefficient: Strength, values: Tensor) -> Tensor:
    """The product, rounded once: a list of one number does what the number does."""
    if isinstance(coefficient, Tensor):
        return (coefficient * values.to(coefficient.dtype)).to(values.dtype)
    return coefficient * values


class add(_VectorOperation):  # noqa: N801 - reads as the operation it is
    """Add `coefficient * vector`."""

    def __init__(self, vector: PerLayer) -> None:
        super().__init__(vector)
        self._last: dict[Site, tuple[Any, float, Tensor]] = {}

    def __call__(self, tensor: Tensor, coefficient: Strength, hook: Hook) -> Tensor:
        vector = self.at(tensor, hook)
        state, _ = self._placed[hook.site]
        if isinstance(coefficient, Tensor) or state is None:
            return tensor + _times(coefficient, vector)
        # One number at every step is the common case: its product is worth remembering.
        of, by, product = self._last.get(hook.site, (None, None, vector))
        if of != state or by != coefficient:
            product = coefficient * vector
            self._last[hook.site] = (state, coefficient, product)
        return tensor + product


class replace(_VectorOperation):  # noqa: N801
    """Move towards a value: `tensor + coefficient * (value - tensor)`; 1 puts it in place."""

    def __call__(self, tensor: Tensor, coefficient: Strength, hook: Hook) -> Tensor:
        value = self.at(tensor, hook).expand_as(tensor)
        if isinstance(coefficient, int | float) and coefficient == 1:
            return value.clone()
        return torch.lerp(tensor, value, torch.as_tensor(coefficient, dtype=tensor.dtype))


class project_out(_VectorOperation):  # noqa: N801
    """Remove `coefficient` of the part that lies along a vector; 1 removes all of it."""

    def __call__(self, tensor: Tensor, coefficient: Strength, hook: Hook) -> Tensor:
        vector = self.at(tensor, hook)
        unit = vector / vector.norm(dim=-1, keepdim=True)
        along = (tensor * unit).sum(-1, keepdim=True)
        return tensor - _times(coefficient, along) * unit


def window(start: float, stop: float | None = None) -> When:
    """Act from `start` to `stop` seconds of the clip (to its end if None), on `pos` axes.

    Example:
        >>> inside = window(2.0, None)
    """
    if start < 0 or (stop is not None and stop <= start):
        raise InputError(f"window({start}, {stop}): need 0 <= start < stop, in seconds.")

    def inside(hook: Hook) -> list[bool]:
        return [start <= second and (stop is None or second < stop) for second in hook.seconds]

    inside.__name__ = f"from {start:g} s" + ("" if stop is None else f" to {stop:g} s")
    return inside
