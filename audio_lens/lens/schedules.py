"""When, and how strongly: factors over time and rows that multiply.

Time is counted in positions of the music, so a schedule means the same in a generation, which goes
position by position, and in a forward over given codes.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.errors import InputError

if TYPE_CHECKING:
    from audio_lens.lens.engine import Registration
    from audio_lens.lens.run import Hook, Run
    from audio_lens.lens.sites import SiteTable

Factor = Float[Tensor, "row_or_one pos_or_one"]


@runtime_checkable
class Reader(Protocol):
    """What reads while a schedule is in use, such as a monitor."""

    def bind(self, table: "SiteTable") -> "Registration":
        """The registration that reads."""


class Schedule:
    """A factor for every row and position; for `Intervention`'s `coefficient` or `when`.

    Schedules multiply with each other, with a number, and with one number per row. As `when`,
    what is not 0 counts.

    Example:
        >>> fading = 0.7 * every(5) * decay(0.998)
        >>> print(fading)
        0.7 x every 5 steps x decaying by 0.998 a step
    """

    __array_ufunc__ = None  # so that an array of numbers leaves the product to us

    def __init__(
        self,
        factor: "Callable[[Hook], Any]",
        name: str,
        *,
        check: "Callable[[Run], None] | None" = None,
        needs: Sequence[Reader] = (),
        rows: Sequence[float] | None = None,
    ) -> None:
        self._factor = factor
        self._name = name
        self._check = check
        self.needs = tuple(needs)
        """What must be in place for it."""
        self.rows = None if rows is None else tuple(rows)
        """One number per row, where it was multiplied with such."""

    def __call__(self, hook: "Hook") -> Factor:
        return self._factor(hook)

    def check(self, run: "Run") -> None:
        """Refuse a run in which it would mean nothing, before anything is run."""
        if self.rows is not None and len(self.rows) != run.n_rows:
            raise InputError(
                f"a schedule was multiplied with {len(self.rows)} numbers, but the run has "
                f"{run.n_rows} rows: give one number, or one per row."
            )
        if self._check is not None:
            self._check(run)

    def __mul__(self, other: Any) -> "Schedule":
        if isinstance(other, int | float) and other == 1:
            return self
        if not isinstance(other, Schedule):
            other = _constant(other)
            return _product(other, self)
        return _product(self, other)

    __rmul__ = __mul__

    def describe(self, row: int | None = None) -> str:
        """What it is in words; for one row, if that is named."""
        if self.rows is None:
            return self._name
        shown = [self.rows[row]] if row is not None else self.rows
        numbers = ", ".join(f"{value:g}" for value in shown)
        numbers = numbers if row is not None else f"[{numbers}]"
        return f"{numbers} x {self._name}" if self._name else numbers

    def __repr__(self) -> str:
        return self.describe()


def _product(one: Schedule, other: Schedule) -> Schedule:
    def check(run: "Run") -> None:
        one.check(run)
        other.check(run)

    rows = one.rows or other.rows
    if one.rows and other.rows:
        if len(one.rows) != len(other.rows):
            raise InputError(f"{len(one.rows)} and {len(other.rows)} numbers per row: one of each.")
        rows = tuple(a * b for a, b in zip(one.rows, other.rows, strict=True))
    name = " x ".join(part for part in (one._name, other._name) if part)
    return Schedule(
        lambda hook: one(hook) * other(hook), name, check=check, needs=(*one.needs, *other.needs),
        rows=rows,
    )  # fmt: skip


def _constant(value: Any) -> Schedule:
    """A number, or one per row."""
    values = torch.as_tensor(value, dtype=torch.float32).cpu()
    if values.ndim > 1 or not values.isfinite().all():
        raise InputError(f"schedules multiply with a finite number or one per row, got {value!r}.")
    if values.ndim == 0:
        return Schedule(lambda hook: values.view(1, 1), f"{float(values):g}")
    return Schedule(lambda hook: values[list(hook.rows)].view(-1, 1), "", rows=values.tolist())


def over_time(
    factor: Callable[[Float[Tensor, " pos"]], Tensor], name: str, **options: Any
) -> Schedule:
    """A schedule of your own: a function from positions' times in seconds to their factors.

    A melody model's prefix has negative times.

    Example:
        >>> swelling = over_time(lambda seconds: torch.sin(seconds).clamp(min=0), "swelling")
    """

    def at(hook: "Hook") -> Factor:
        return _as_row(factor(torch.tensor(hook.seconds, dtype=torch.float64)))

    return Schedule(at, name, **options)


def _as_row(factors: Any) -> Factor:
    return torch.as_tensor(factors, dtype=torch.float32).cpu().view(1, -1)


def _begins(second: float, what: str) -> "Callable[[Run], None]":
    """Refuse runs that end before anything happens."""

    def check(run: "Run") -> None:
        if second >= (lasts := run.n_positions / run.frame_rate):
            raise InputError(f"{what} begins behind the end: this run lasts {lasts:g} s.")

    return check


def as_window(given: Any) -> tuple[float, float | None]:
    """From and to which second, as users give them.

    Raises:
        InputError: anything but two of them.
    """
    if not isinstance(given, Sequence) or len(given) != 2:
        raise InputError(f"window={given!r}: give from and to which second, such as (2.0, 6.0).")
    return given[0], given[1]


def window(start: float, stop: float | None = None) -> Schedule:
    """From `start` to `stop` seconds of the clip (to its end if None).

    Raises:
        InputError: a window that is empty; when a run begins, one that lies behind its end.

    Example:
        >>> inside = window(2.0, None)
    """
    if not 0 <= start < float("inf") or not (stop is None or stop > start):
        raise InputError(f"window({start}, {stop}): need 0 <= start < stop, in seconds.")
    name = f"from {start:g} s" + ("" if stop is None else f" to {stop:g} s")

    end = float("inf") if stop is None else stop
    check = _begins(start, f"window({start:g}, {stop})")
    return over_time(lambda seconds: (seconds >= start) & (seconds < end), name, check=check)


def every(steps: int, *, first: int = 0) -> Schedule:
    """At every `steps`-th position of the music, from `first` on.

    Example:
        >>> sparse = every(25)
    """
    if not (steps >= 1 and steps == int(steps)) or not first >= 0:
        raise InputError(f"every({steps}, first={first}): whole steps from 1, first from 0.")

    def at(hook: "Hook") -> Factor:
        positions = torch.tensor(hook.positions)
        chosen = (positions >= first) & ((positions - first) % steps == 0)
        return chosen.float().view(1, -1)

    def check(run: "Run") -> None:
        _begins(first / run.frame_rate, f"every({steps}, first={first})")(run)

    return Schedule(at, f"every {steps} steps", check=check)


def chance(probability: float, *, seed: int = 0) -> Schedule:
    """At positions drawn with a probability, all rows and layers alike, from its own seed.

    Args:
        probability: Of each position of the music; a prefix has the draw of position 0.
        seed: The same positions are drawn in every run.

    Example:
        >>> sometimes = chance(0.3, seed=1)
    """
    if not 0 <= probability <= 1:
        raise InputError(f"chance({probability}): expected a probability, from 0 to 1.")
    drawn = torch.zeros(0)

    def at(hook: "Hook") -> Factor:
        nonlocal drawn
        positions = torch.tensor(hook.positions).clamp(min=0)
        if len(drawn) <= (last := int(positions[-1])):  # doubled: drawn again but a few times
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.rand(max(64, 1 << last.bit_length()), generator=generator)
        return (drawn[positions] < probability).float().view(1, -1)

    return Schedule(at, f"with chance {probability:g}")


def decay(rate: float, *, floor: float = 0.0) -> Schedule:
    """`rate` to the power of the position, not below `floor`.

    Example:
        >>> fading = decay(0.998, floor=0.2)
    """
    if not 0 < rate <= 1 or not 0 <= floor <= 1:
        raise InputError(f"decay({rate}, floor={floor}): rate in (0, 1], floor from 0 to 1.")

    def at(hook: "Hook") -> Factor:
        positions = torch.tensor(hook.positions).clamp(min=0)
        return (rate ** positions.float()).clamp(min=floor).view(1, -1)

    return Schedule(at, f"decaying by {rate:g} a step")


def ramp(start: float, stop: float, *, low: float = 0.0, high: float = 1.0) -> Schedule:
    """From `low` until `start` seconds smoothly to `high` from `stop` seconds on (half a cosine).

    Smooth ramps are preferred by listeners to sudden onsets (Prokopiou et al., arXiv 2605.31295).

    Example:
        >>> rising, falling = ramp(1.0, 3.0), ramp(1.0, 3.0, low=1.0, high=0.0)
    """
    if not 0 <= start < stop:
        raise InputError(f"ramp({start}, {stop}): need 0 <= start < stop, in seconds.")

    def shape(seconds: Tensor) -> Tensor:
        share = ((seconds - start) / (stop - start)).clamp(0, 1)
        return low + (high - low) * (1 - torch.cos(torch.pi * share)) / 2

    check = _begins(start, f"ramp({start:g}, {stop:g})") if low == 0 else None
    return over_time(shape, f"from {low:g} to {high:g} over {start:g} to {stop:g} s", check=check)
