"""What a grid costs: how many rows fit into a budget of memory, and about how long it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from audio_lens.errors import InputError
from audio_lens.lens.rows import branches_for
from audio_lens.lens.sites import Site

if TYPE_CHECKING:
    from audio_lens.patching.experiment import Experiment

_GIB = 2**30
#: What a block holds at once for each position that it runs, in multiples of the stream: the
#: stream entering and leaving, its norm, queries, keys, values and the attention's output.
_STREAMS = 10
#: Keys and values of every position, before and after they are joined to those in front.
_KEYS_AND_VALUES = 4
#: Copies of a cell's logits on the way to its score: joined, guided, aligned, log-softmax.
_LOGITS_OF_CELL = 6


@dataclass(frozen=True)
class Budget:
    """Bounds on a grid: rows in flight, and memory beside the model (GiB)."""

    max_rows: int
    max_gib: float | None = None

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise InputError(f"max_rows={self.max_rows}: expected at least 1.")
        if self.max_gib is not None and not self.max_gib > 0:
            raise InputError(f"max_gib={self.max_gib}: expected more than 0 GiB.")

    def cells(self, experiment: "Experiment", start: int = 0) -> int:
        """Cells that may run at once from position `start` of the decoder's axis on.

        Raises:
            InputError: one cell alone is over the bound on memory.
        """
        rows = experiment.n_examples * _n_branches(experiment)
        by_rows = max(1, self.max_rows // rows)
        if self.max_gib is None:
            return by_rows
        fixed, each = _fixed_bytes(experiment), rows * _row_bytes(experiment, start)
        by_memory = int((self.max_gib * _GIB - fixed) // each)
        if by_memory < 1:
            raise InputError(
                f"max_gib={self.max_gib:g} is too little: what is kept takes about "
                f"{fixed / _GIB:.2f} GiB and one cell of {rows} rows {each / _GIB:.2f} more. Give "
                f"more, or fewer examples."
            )
        return min(by_rows, by_memory)


def _n_branches(experiment: "Experiment") -> int:
    return len(branches_for(experiment.base.prompts, experiment.guidance_scale))


def _n_positions(experiment: "Experiment") -> int:
    return int(experiment.base.tokens.shape[-1]) + experiment.n_prefix


def _row_bytes(experiment: "Experiment", start: int) -> int:
    """What one more row takes at the fullest moment, in a block or at the logits."""
    cfg, length = experiment.lens.cfg, _n_positions(experiment)
    in_block = _STREAMS * cfg.d_model + 2 * cfg.d_mlp
    at_logits = 2 * cfg.d_model + 2 * cfg.n_codebooks * cfg.d_vocab
    run = (length - start) * max(in_block, at_logits)
    seen = (
        _numbers(experiment, experiment.lens.sites.resolve(experiment.metric.sites))
        if (experiment.metric.reads_sites)
        else 0
    )
    widest = max(_numbers(experiment, [site]) for site in experiment.grid.sites)
    kept = length * _KEYS_AND_VALUES * cfg.d_model + seen + widest
    return (run + kept) * cfg.dtype.itemsize


def _numbers(experiment: "Experiment", sites: Sequence[Site]) -> int:
    """How many numbers a row's tensors at some sites hold."""
    cfg, length = experiment.lens.cfg, _n_positions(experiment)
    sizes = {
        "pos": length, "audio_pos": length, "query": length, "key": length,
        "head": cfg.n_heads, "d_head": cfg.d_head, "d_mlp": cfg.d_mlp, "d_model": cfg.d_model,
        "codebook": cfg.n_codebooks, "vocab": cfg.d_vocab,
    }  # fmt: skip
    return sum(prod(sizes.get(axis, 1) for axis in site.axes[1:]) for site in sites)


def _fixed_bytes(experiment: "Experiment") -> int:
    """What is there whatever the rows: donors, the kept run, and the logits of one cell."""
    cfg, length = experiment.lens.cfg, _n_positions(experiment)
    donors = sum(
        tensor.untyped_storage().nbytes()
        for tensors in experiment.donor.values.values()
        for tensor in tensors.values()
    )
    logits = cfg.n_codebooks * cfg.d_vocab
    each = 3 * cfg.n_layers * cfg.d_model + (1 + _LOGITS_OF_CELL) * logits
    rows = experiment.n_examples * _n_branches(experiment)
    return donors + rows * length * each * cfg.dtype.itemsize


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(40), duration(200), duration(9000)
    ('40 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
