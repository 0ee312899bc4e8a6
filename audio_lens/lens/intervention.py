"""The one primitive: what is done to a site, where, when, to which rows, and how strongly."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audio_lens.errors import HookError, InputError
from audio_lens.lens.engine import Registration
from audio_lens.lens.operations import Operation
from audio_lens.lens.run import Branch, Hook, Run, check_branch
from audio_lens.lens.schedules import Schedule
from audio_lens.lens.sites import TIMES, Site, SiteTable, Spec
from audio_lens.lens.writes import check_write, no_text

Coefficient = float | Sequence[float] | Tensor | Callable[[Hook], Any]
When = Callable[[Hook], Any]


@dataclass(frozen=True)
class Intervention:
    """An operation at sites, for chosen layers, branch, times and rows.

    Attributes:
        site: A full name, shorthand, glob, filter or list of them.
        op: What is done: `add`, `replace`, `project_out`, `clamp`, or any
            `fn(tensor, coefficient, hook) -> tensor`.
        layers: One layer, several, or None for every layer the site has.
        branch: Halves of a guided run it acts on.
        when: A schedule such as `window`, or `fn(hook)` returning one truth value, or one per
            position.
        rows: Rows of the batch it acts on; None is all.
        coefficient: A number, one per row of the batch, a schedule, or `fn(hook)` returning a
            number, one per row, or [row pos] (1 stands for all).

    Example:
        >>> import torch
        >>> from audio_lens import add
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
            if self.schedules and _time_axis(site) is None:
                raise InputError(
                    f"{site.name} has no position axis [{' '.join(site.axes)}], so nothing can "
                    f"vary in time there: leave windows and schedules out."
                )
        prepare = partial(self._prepare, sites)
        return Registration(self._act, sites, self.branch, prepare=prepare, label=self.describe)

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """Those that decide when it acts and how strongly."""
        return tuple(s for s in (self.when, self.coefficient) if isinstance(s, Schedule))

    def _check_parts(self) -> None:
        if not callable(self.op):
            raise InputError(
                f"op must be an operation such as add(vector), or fn(tensor, coefficient, hook), "
                f"got {self.op!r}."
            )
        if isinstance(self.coefficient, Schedule) and not getattr(self.op, "neutral", True):
            op = type(self.op).__name__
            raise InputError(
                f"{op} acts at a coefficient of 0 too, so a schedule as coefficient= would not "
                f"switch it off: give when=, or lens.steer(..., op={op}, schedule=...)."
            )
        if not callable(self.coefficient):
            try:
                torch.as_tensor(self.coefficient, dtype=torch.float32)
            except (TypeError, ValueError, RuntimeError):
                raise InputError(
                    f"coefficient must be a number, one per row, a schedule or fn(hook), got "
                    f"{self.coefficient!r}."
                ) from None
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
            shown = strength.describe(row) if isinstance(strength, Schedule) else "varying"
        else:
            values = torch.as_tensor(strength)
            shown = f"{float(values if values.ndim == 0 else values[row]):g}"
        if self.when is not None:
            moment = self.when.describe(row) if isinstance(self.when, Schedule) else None
            shown += f", {moment or 'when a function says so'}"
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
        for schedule in self.schedules:
            schedule.check(run)
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
            _check_varying(coefficient, hook.n_rows)
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
    when = torch.as_tensor(when)
    if when.ndim == 1:
        if len(when) != len(hook.positions):
            raise InputError(
                f"`when` gave {len(when)} values at {hook.name}; expected one, or one per position "
                f"({len(hook.positions)} here)."
            )
        when = when[None]
    when = _over_rows_and_positions(when.bool(), tensor, hook, "`when`")
    if when.all():
        return True
    return when if when.any() else False


def _time_axis(site: Site) -> str | None:
    return next((axis for axis in (*TIMES, "query") if axis in site.axes), None)


def _over_rows_and_positions(values: Tensor, tensor: Tensor, hook: Hook, what: str) -> Tensor:
    """A number, or [row pos] with 1 for all, made to broadcast against a site's tensor."""
    values = values.to(tensor.device)
    if values.ndim == 0:
        return values
    n_rows, n_pos = len(tensor), len(hook.positions)
    if values.ndim != 2 or values.shape[0] not in (1, n_rows):
        raise InputError(
            f"{what} gave values of shape {tuple(values.shape)} at {hook.name}; expected one, or "
            f"[row pos] with {n_rows} rows (or 1) and {n_pos} positions (or 1)."
        )
    if values.shape[1] == 1:
        return values.view(-1, *[1] * (tensor.ndim - 1))
    axis = _time_axis(hook.site)
    if axis is None:
        raise InputError(
            f"{hook.name} has no position axis [{' '.join(hook.site.axes)}], so nothing can vary "
            f"in time there: leave windows and schedules out, or give one value."
        )
    if values.shape[1] != n_pos:
        raise InputError(
            f"{what} gave {values.shape[1]} values at {hook.name}; expected one, or one per "
            f"position ({n_pos} here)."
        )
    place = hook.site.axes.index(axis)
    shape = [values.shape[0], *[1] * (tensor.ndim - 1)]
    shape[place] = n_pos
    return values.reshape(shape)


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


def _check_varying(coefficient: Any, n_rows: int) -> None:
    """What a function gave: as what is given once, or over rows and positions."""
    if torch.as_tensor(coefficient).ndim < 2:
        _check_per_row(coefficient, n_rows)
    elif not torch.isfinite(torch.as_tensor(coefficient).float()).all():
        raise InputError("a coefficient's function gave NaN or infinity: give finite numbers.")


def _broadcast(coefficient: Any, tensor: Tensor, hook: Hook) -> Any:
    if isinstance(coefficient, int | float):
        return coefficient
    # At least float32, so that a list of one number means what the number means.
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    values = torch.as_tensor(coefficient, dtype=dtype, device=tensor.device)
    if values.ndim == 1:  # one per row of the caller's
        values = values[list(hook.rows), None]
    return _over_rows_and_positions(values, tensor, hook, "the coefficient")
