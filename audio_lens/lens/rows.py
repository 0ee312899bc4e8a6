"""Rows: prompts and seeds made equally long, checked, and grouped."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any

from audio_lens.errors import InputError
from audio_lens.lens.run import Run

if TYPE_CHECKING:
    from audio_lens.lens.conditioning import Conditioner
    from audio_lens.lens.delay import DelayPattern

Prompts = str | None | Sequence[str | None]


def as_prompts(prompts: Prompts, n_rows: int | None = None) -> tuple[str | None, ...]:
    """Prompts as a tuple; a single one, or None, is repeated to `n_rows`.

    Raises:
        InputError: no prompts, an empty one, something that is no text, or another number.
    """
    listed: tuple[str | None, ...] = (
        (prompts,) if prompts is None or isinstance(prompts, str) else tuple(prompts)
    )
    if not listed:
        raise InputError("prompts are empty: give at least one, or None for unconditional music.")
    for place, prompt in enumerate(listed):
        if prompt is not None and not isinstance(prompt, str):
            raise InputError(f"prompt {place} must be text or None, got {type(prompt).__name__}.")
        has_melody = getattr(prompt, "chroma", None) is not None
        if prompt is not None and not prompt.strip() and not has_melody:
            raise InputError(f"prompt {place} is empty: use None for unconditional music.")
    if n_rows is None or len(listed) == n_rows:
        return listed
    if len(listed) == 1:
        return listed * n_rows
    raise InputError(f"got {len(listed)} prompts for {n_rows} rows: give one, or one per row.")


def as_seeds(seed: Any, n_rows: int) -> tuple[int, ...]:
    """One seed per row; a single number serves every row.

    Raises:
        InputError: another number of seeds than rows, or seeds that are no integers.
    """
    try:
        seeds = tuple(map(index, seed)) if isinstance(seed, Sequence) else (index(seed),) * n_rows
    except TypeError:
        raise InputError(f"seeds must be whole numbers, got {seed!r}.") from None
    if len(seeds) != n_rows:
        raise InputError(
            f"got {len(seeds)} seeds for {n_rows} rows: give one number for all, or one per row."
        )
    if any(s < 0 for s in seeds):
        raise InputError(f"seeds must be integers of at least 0, got {list(seeds)}.")
    return seeds


def branches_for(prompts: Sequence[str | None], guidance_scale: float) -> tuple[str, ...]:
    """The halves of a run: guidance needs a prompt to guide towards.

    Raises:
        InputError: a guidance scale below 1.
    """
    if not guidance_scale >= 1:
        raise InputError(f"guidance_scale must be at least 1 (1 is off), got {guidance_scale}.")
    guided = guidance_scale > 1 and any(prompt is not None for prompt in prompts)
    return ("cond", "uncond") if guided else ("cond",)


def run_of(
    group: "Group",
    prompts: Sequence[str | None],
    guidance_scale: float,
    *,
    pattern: "DelayPattern",
    n_positions: int,
) -> Run:
    """The run of a group. Its branches are decided by all rows, so no row depends on its group."""
    return Run(
        rows=group.rows,
        padded=group.padded,
        branches=branches_for(prompts, guidance_scale),
        frame_rate=pattern.frame_rate,
        n_positions=n_positions,
        first_full=pattern.first_full,
        with_text=tuple(prompt is not None for prompt in prompts),
    )


@dataclass(frozen=True)
class Group:
    """Rows that run together, and how they are padded."""

    rows: tuple[int, ...]
    padded: int
    text_length: int | None

    def pad(self, values: Any) -> list[Any]:
        """The group's values out of a per-row sequence, its last row copied behind."""
        chosen = [values[row] for row in self.rows]
        return chosen + [chosen[-1]] * (self.padded - len(chosen))


def group_rows(
    prompts: Sequence[str | None], row_group: int | None, conditioner: "Conditioner"
) -> list[Group]:
    """Rows that can run together, in groups of exactly `row_group` with copies behind, if given.

    With `row_group` every group has the same shape whatever else is asked for, which makes a
    row's result bit-equal however rows are grouped. All prompts of a call pass here once, before
    any work: so here is said which words the checkpoint does not know.
    """
    if row_group is not None and row_group < 1:
        raise InputError(f"row_group must be at least 1, got {row_group}.")
    conditioner.heed(prompts)
    lengths = conditioner.lengths(prompts, fixed=row_group is not None)
    by_length: dict[int | None, list[int]] = {}
    for row, length in enumerate(lengths):
        by_length.setdefault(length, []).append(row)
    groups = []
    for length, rows in by_length.items():
        size = row_group or len(rows)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        groups += [Group(tuple(part), size, length) for part in parts]
    return groups
