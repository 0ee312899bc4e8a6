"""Exact reuse: only the layers and positions that a patch can change are run again.

A patch at (layer l, position p) changes nothing below l and nothing before p. Cells that begin at
the same position run together, as a staircase: the row of a cell joins in front of the first
block that it changes, over the kept run's keys and values.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from audio_lens.lens.blocks import Kept, Tail, keep
from audio_lens.lens.decode import guide
from audio_lens.patching.grid import Cell

if TYPE_CHECKING:
    from audio_lens.patching.budget import Budget
    from audio_lens.patching.experiment import Experiment

_ALONG_TIME = ("pos", "audio_pos", "query")


def reusable(experiment: "Experiment") -> str:
    """Why whole forwards are needed; empty where reuse is exact."""
    if experiment.lens._engine.active:
        return "other hooks are in place."
    if experiment.metric.reads_sites:
        return "the metric reads sites beside the logits."
    for cell in experiment.grid.cells:
        for site in cell.sites:
            if site.layer is None:
                return f"{site.name} lies outside of the blocks."
            if not any(axis in site.axes for axis in _ALONG_TIME):
                return f"{site.name} has no positions of the music."
    return ""


def run_reusing(
    experiment: "Experiment", todo: Sequence[int], budget: "Budget"
) -> Iterator[tuple[int, Tensor]]:
    """Cells in staircases; yields each one's number and score."""
    kept = keep(
        experiment.lens,
        list(experiment.base.prompts),
        experiment.base.tokens,
        experiment.guidance_scale,
    )
    by_start: dict[int, list[int]] = {}
    for place in todo:
        by_start.setdefault(_start(experiment, place), []).append(place)
    for start, places in by_start.items():
        at_once = budget.cells(experiment, start)
        places.sort(key=lambda place: _entry(experiment.grid.cells[place]))
        for first in range(0, len(places), at_once):
            part = places[first : first + at_once]
            yield from zip(part, _staircase(experiment, kept, start, part), strict=True)


def share_run(experiment: "Experiment", place: int) -> float:
    """How much of a whole forward a cell runs; reading out and scoring count as a block."""
    n_layers, length = experiment.lens.cfg.n_layers, experiment.base.tokens.shape[-1]
    length += experiment.n_prefix
    blocks = n_layers - _entry(experiment.grid.cells[place])
    return (blocks * (1 - _start(experiment, place) / length) + 1) / (n_layers + 1)


def _start(experiment: "Experiment", place: int) -> int:
    """The first place of the decoder's axis that a cell changes."""
    position = experiment.grid.cells[place].first_position
    return 0 if position is None else position + experiment.n_prefix


def _entry(cell: Cell) -> int:
    """The block in front of which a cell's row joins."""
    layer = min(site.block for site in cell.sites)
    return layer + 1 if _enters(cell, "resid_post") else layer


def _enters(cell: Cell, shorthand: str = "") -> bool:
    """Whether a cell writes nothing but the stream between two blocks."""
    between = (shorthand,) if shorthand else ("resid_pre", "resid_post")
    return len(cell.sites) == 1 and cell.sites[0].shorthand in between


def _staircase(
    experiment: "Experiment", kept: Kept, start: int, places: Sequence[int]
) -> Iterator[Tensor]:
    """Scores of cells that begin at one place of the decoder's axis, in order of their entry."""
    cells = [experiment.grid.cells[place] for place in places]
    tail = Tail(experiment.lens, kept, start)
    n_layers, n = experiment.lens.cfg.n_layers, experiment.n_examples
    hooked = {block: cell for block, cell in enumerate(cells) if not _enters(cell)}
    joined = 0
    with experiment.lens._engine.registered(experiment.patches(hooked, start)):
        for layer in range(_entry(cells[0]), n_layers + 1):
            while joined < len(cells) and _entry(cells[joined]) == layer:
                stream = tail.join(layer, range(n))
                cell = cells[joined]
                if _enters(cell):
                    for branch, rows in zip(kept.branches, stream, strict=True):
                        experiment.write(cell, cell.sites[0], branch, rows, start)
                joined += 1
            if layer < n_layers:
                tail.through(layer)
    new = tail.logits()
    before = kept.logits[..., : max(start - experiment.n_prefix, 0), :]
    for block in range(len(cells)):
        part = slice(block * n, (block + 1) * n)
        logits = torch.cat([before, new[:, part]], dim=-2)
        guided = guide(logits.flatten(0, 1), kept.run(range(n)), experiment.guidance_scale)
        yield experiment.metric(experiment.lens.delay.align(guided)).float().cpu()
