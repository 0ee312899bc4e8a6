"""Sweeps: the same prompts and seeds over several coefficients, as rows of one batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from audio_lens.analysis.directions import Direction
from audio_lens.audio.clip import Clip
from audio_lens.errors import InputError
from audio_lens.lens.operations import add
from audio_lens.lens.rows import Prompts, as_prompts
from audio_lens.steering.steer import steer

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

_GENERATING = (
    "seconds", "guidance_scale", "do_sample", "temperature", "top_k", "prefix", "row_group"
)  # fmt: skip


def check_batched(options: Mapping[str, Any]) -> None:
    """Refuse what is numbered by row where rows are laid out here."""
    schedule = options.get("schedule")
    if options.get("rows") is not None or (schedule is not None and schedule.rows is not None):
        raise InputError("rows are laid out here: leave rows= and numbers per row out.")


@dataclass(frozen=True)
class SweepRow:
    """One clip of a sweep; the row with coefficient 0 and the same prompt and seed is its twin."""

    prompt: str | None
    seed: int
    coefficient: float
    clip: Clip


def sweep(
    lens: "AudioLens",
    prompts: Prompts,
    *,
    direction: Direction,
    coefficients: Sequence[float],
    seeds: Sequence[int] = (0,),
    rows_at_once: int = 128,
    progress: bool = True,
    **options: Any,
) -> list[SweepRow]:
    """Clips over prompts, seeds and coefficients, batched; twins share their randomness.

    Args:
        lens: The model.
        prompts: One or several.
        direction: What to steer by.
        coefficients: How strongly; include 0 for the unsteered twins.
        seeds: Each prompt runs with each.
        rows_at_once: Rows per batch.
        progress: Show progress bars.
        options: Of `steer` (op, strategy, scale, schedule, branch, ...) and of
            `AudioLens.generate` (seconds, guidance_scale, do_sample, temperature, top_k, prefix,
            row_group).

    Raises:
        InputError: no coefficients or seeds; options that are numbered by row; 0 among the
            coefficients of an operation that acts there too.

    Returns:
        Rows ordered by coefficient, then prompt, then seed.
    """
    texts = as_prompts(prompts)
    coefficients, seeds = [float(c) for c in coefficients], list(seeds)
    if not coefficients or not seeds:
        raise InputError("a sweep needs at least one coefficient and one seed.")
    if rows_at_once < 1:
        raise InputError(f"rows_at_once={rows_at_once}: expected at least 1.")
    check_batched(options)
    if 0 in coefficients and not getattr(options.get("op", add), "neutral", True):
        raise InputError(
            "at a coefficient of 0 this operation ablates, so that row would be no unsteered twin: "
            "leave 0 out, and generate the twins without steering."
        )
    generating = {name: options.pop(name) for name in _GENERATING if name in options}
    cells = list(product(coefficients, texts, seeds))
    rows: list[SweepRow] = []
    for start in range(0, len(cells), rows_at_once):
        part = cells[start : start + rows_at_once]
        strengths, part_texts, part_seeds = zip(*part, strict=True)
        with steer(lens, direction, coefficient=strengths, **options):
            clips = lens.generate(part_texts, seed=part_seeds, progress=progress, **generating)
        rows += [
            SweepRow(text, seed, float(strength), clip)
            for (strength, text, seed), clip in zip(part, clips, strict=True)
        ]
    return rows
