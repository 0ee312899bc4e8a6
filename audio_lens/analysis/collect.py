"""Activations gathered over prompts and pooled over time while they pass, one vector a row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from audio_lens.audio.clip import Clip
from audio_lens.errors import InputError, SiteError
from audio_lens.lens.decode import Sampling
from audio_lens.lens.generation import Generation
from audio_lens.lens.recording import along_rows
from audio_lens.lens.rows import Prompts, as_prompts
from audio_lens.lens.sites import Site

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens
    from audio_lens.lens.run import Hook

Pool = Literal["mean_steps", "max_steps", "last", "every_step", "first_step", "end_of_text"]
Key = tuple[str, int]
"""A site's shorthand and a layer."""


@dataclass(frozen=True, eq=False)
class Activations:
    """Pooled activations, and how large the unpooled ones were."""

    values: Mapping[Key, Float[Tensor, "row *site"]]
    typical_norms: Mapping[Key, float]
    """Mean length of the activation over the pooled positions and rows."""
    made: Mapping[str, Any]
    """How they were gathered."""


def collect(
    lens: "AudioLens",
    prompts: Prompts,
    *,
    site: str | Sequence[str] = "resid_post",
    layers: int | Sequence[int] | None = None,
    pool: Pool = "mean_steps",
    window: tuple[float, float | None] | None = None,
    branch: Literal["cond", "uncond"] = "cond",
    codes: Int[Tensor, "batch codebook frame"] | None = None,
    audio: Any = None,
    seconds: float = 6.0,
    seed: int = 0,
    guidance_scale: float = 3.0,
    rows_at_once: int = 100,
    progress: bool = True,
) -> Activations:
    """Run prompts and keep one pooled activation per row, site and layer, in float32.

    Rows are prompts that generate their own music; or codes, or sounds, that the model reads.

    Positions at which some codebook holds padding are left out: BOS and the delay pattern's
    ramps at both ends. (`first_step` and `end_of_text` are single positions: 0, and the last
    one of a melody model's prefix.)

    Args:
        lens: The model.
        prompts: One row each; or one for all rows of `audio` or `codes`, None for no prompt.
        site: A site that belongs to layers and has a position axis, or several.
        layers: Some layers only.
        pool: `mean_steps` or `max_steps` over positions, the `last` position, `every_step` (not
            pooled: [row pos ...]), the `first_step`, or the `end_of_text` in a melody model's
            prefix, where arXiv 2504.04479 takes its directions.
        window: From and to which second to pool; to the end if the latter is None.
        branch: The half of a guided run to read.
        codes: Teacher-force these codes (one row for all prompts, or a row each) instead of
            letting every prompt generate its own.
        audio: Sounds to encode and teacher-force, a row each: clips, paths, labelled clips. They
            are read `rows_at_once` at a time, so a long list need not fit into memory.
        seconds: Length generated for each prompt, where `codes` are not given.
        seed: Of the generation, the same for every prompt.
        guidance_scale: Of the generation; teacher-forced runs need it above 1 only to read the
            unconditional half.
        rows_at_once: Rows per batch.
        progress: Show progress bars.

    Raises:
        SiteError: a site without layers or positions.
        InputError: a pool that does not exist, or too little audio to pool.
    """
    asked = gathering(
        lens, prompts, site=site, layers=layers, pool=pool, window=window, branch=branch,
        codes=codes, audio=audio, seconds=seconds, seed=seed, guidance_scale=guidance_scale,
        rows_at_once=rows_at_once, progress=progress,
    )  # fmt: skip
    values: dict[Key, list[Tensor]] = {}
    norms: dict[Key, list[Tensor]] = {}
    for batch in asked.batches():
        for key, (pooled, norm) in batch.items():
            values.setdefault(key, []).append(pooled)
            norms.setdefault(key, []).append(norm)
    return Activations(
        values={key: torch.cat(parts) for key, parts in values.items()},
        typical_norms={key: float(torch.cat(parts).mean()) for key, parts in norms.items()},
        made=asked.made,
    )


Batch = Mapping[Key, tuple[Float[Tensor, "row *site"], Float[Tensor, " row"]]]
"""Pooled activations of some rows, and each row's mean length before pooling."""


@dataclass(frozen=True, eq=False)
class Gathering:
    """What is to be gathered, checked, before anything has run; `collect` has the words."""

    lens: "AudioLens"
    texts: tuple[str | None, ...]
    sites: tuple[Site, ...]
    pool: Pool
    window: tuple[float, float | None] | None
    branch: Literal["cond", "uncond"]
    codes: Int[Tensor, "batch codebook frame"] | None
    audio: Any
    seconds: float
    seed: int
    guidance_scale: float
    rows_at_once: int
    progress: bool

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return len(self.texts)

    @property
    def generates(self) -> bool:
        """Whether prompts play their own music."""
        return self.codes is None and self.audio is None

    @property
    def made(self) -> dict[str, Any]:
        """How it is gathered, for provenance."""
        source = "generated" if self.generates else "given" if self.audio is None else "encoded"
        return {
            "model": self.lens.cfg.model_name,
            "site": ", ".join(dict.fromkeys(each.shorthand for each in self.sites)),
            "pool": self.pool,
            **({} if self.window is None else {"window": list(self.window)}),
            "branch": self.branch,
            "codes": source,
            **({"seconds": self.seconds, "seed": self.seed} if self.generates else {}),
            "guidance_scale": self.guidance_scale,
        }

    def batches(self) -> Iterator[Batch]:
        """Run, some rows at a time."""
        lens = self.lens
        starts = range(0, self.n_rows, self.rows_at_once)
        length = None
        quiet = not self.progress or len(starts) == 1
        for start in tqdm(starts, desc="activations", disable=quiet):
            rows = range(start, min(start + self.rows_at_once, self.n_rows))
            read = self._codes_of(rows)
            frames = lens.delay.frames(self.seconds) if read is None else read.shape[-1]
            if frames != (length := length or frames):
                raise InputError(
                    f"sounds of {length} and {frames} frames: what is averaged over would differ, "
                    f"cut them to one length."
                )
            pooling = _Pooling(self.pool, _positions(lens, frames, self.window, self.pool))
            with lens.hooks([(self.sites, pooling)], branch=self.branch), torch.no_grad():
                self._run(rows, read)
            yield pooling.results()

    def _run(self, rows: range, read: Int[Tensor, "row codebook frame"] | None) -> None:
        texts = [self.texts[row] for row in rows]
        if read is not None:
            self.lens(texts, read, guidance_scale=self.guidance_scale)
            return
        sampling = Sampling(self.guidance_scale)
        Generation.plan(
            self.lens, texts, seconds=self.seconds, seed=self.seed, sampling=sampling
        ).codes(progress=self.progress)

    def _codes_of(self, rows: range) -> Int[Tensor, "row codebook frame"] | None:
        """What a batch of rows reads; None where it generates."""
        if self.audio is not None:
            return self.lens.encode([self.audio[row] for row in rows])
        if self.codes is None or len(self.codes) == 1:
            return self.codes
        return self.codes[rows.start : rows.stop]


def gathering(
    lens: "AudioLens",
    prompts: Prompts,
    *,
    site: str | Sequence[str] = "resid_post",
    layers: int | Sequence[int] | None = None,
    pool: Pool = "mean_steps",
    window: tuple[float, float | None] | None = None,
    branch: Literal["cond", "uncond"] = "cond",
    codes: Int[Tensor, "batch codebook frame"] | None = None,
    audio: Any = None,
    seconds: float = 6.0,
    seed: int = 0,
    guidance_scale: float = 3.0,
    rows_at_once: int = 100,
    progress: bool = True,
) -> Gathering:
    """What is asked for, checked; arguments as for `collect`."""
    sites = _poolable(lens, site, layers)
    _check_pool(lens, pool, branch)
    if rows_at_once < 1:
        raise InputError(f"rows_at_once={rows_at_once}: expected at least 1.")
    texts = _rows(prompts, codes, audio)
    given = codes is not None or audio is not None
    seconds = 1 / lens.cfg.frame_rate if pool in _FIRST_CALL else seconds
    if not given:
        _positions(lens, lens.delay.frames(seconds), window, pool)
    return Gathering(
        lens, texts, sites, pool, window, branch, codes, audio, seconds, seed,
        guidance_scale if not given or branch == "uncond" else 1.0, rows_at_once, progress,
    )  # fmt: skip


def _poolable(lens: "AudioLens", site: Any, layers: Any) -> tuple[Site, ...]:
    sites = lens.sites.resolve(site, layers=layers)
    for found in sites:
        if found.layer is None or "pos" not in found.axes:
            raise SiteError(
                f"{found.name} cannot be pooled over time per layer: it needs a layer and a "
                f"position axis, as resid_post, attn_out or attn.z have."
            )
    return sites


def _check_pool(lens: "AudioLens", pool: str, branch: str) -> None:
    if pool not in get_args(Pool):
        raise InputError(
            f"pool must be one of {', '.join(map(repr, get_args(Pool)))}, got {pool!r}."
        )
    if pool == "end_of_text" and not lens.cfg.chroma_length:
        raise InputError(
            'pool="end_of_text" needs a melody model: in this one the text is no position of the '
            'decoder. Use "mean_steps".'
        )
    if pool == "end_of_text" and branch == "uncond":
        raise InputError(
            'pool="end_of_text" reads nothing of a prompt in the unconditional half, whose text '
            'is zero: use branch="cond".'
        )


def _rows(prompts: Prompts, codes: Tensor | None, audio: Any) -> tuple[str | None, ...]:
    """A prompt for every row."""
    if codes is not None and audio is not None:
        raise InputError("give codes or audio, not both: each is what the model reads.")
    if audio is not None:
        if isinstance(audio, str | Path | Clip):
            raise InputError("audio is a list of sounds: give [sound] for a single one.")
        if len(audio) == 0:
            raise InputError("audio is empty: give at least one sound.")
        return as_prompts(prompts, len(audio))
    if codes is not None and len(codes) == 0:
        raise InputError("codes have no rows: give at least one.")
    texts = as_prompts(prompts)
    if codes is None or len(codes) in (1, len(texts)):
        return texts
    if len(texts) == 1:
        return as_prompts(prompts, len(codes))
    raise InputError(
        f"got {len(codes)} rows of codes for {len(texts)} prompts: give one, or one each."
    )


def _positions(
    lens: "AudioLens", frames: int, window: tuple[float, float | None] | None, pool: str
) -> range:
    """Positions to pool: where every codebook holds a real code, within the window."""
    if pool in _FIRST_CALL:
        if window is not None:
            raise InputError(f"pool={pool!r} is one position: it takes no window.")
        return _FIRST_CALL[pool]
    full = range(max(lens.cfg.delays) + 1, frames + 1)
    if len(full) == 0:
        raise InputError(
            f"{frames} frames leave no position at which all codebooks hold a code: give at least "
            f"{max(lens.cfg.delays) + 1}."
        )
    if window is None:
        return full
    start, stop = (None if edge is None else lens.delay.frames(edge) for edge in window)
    within = range(max(full.start, start or 0), min(full.stop, full.stop if stop is None else stop))
    if len(within) == 0:
        rate = lens.cfg.frame_rate
        raise InputError(
            f"window={window} holds none of the positions that can be pooled, "
            f"{full.start / rate:g} to {(full.stop - 1) / rate:g} s."
        )
    return within


_FIRST_CALL = {"first_step": range(0, 1), "end_of_text": range(-1, 0)}
"""Pools that need no more than the first decoder call, and their position."""


class _Pooling:
    """A hook that pools activations over positions while they pass."""

    def __init__(self, pool: str, positions: range) -> None:
        self._pool = pool
        self._positions = positions[-1:] if pool == "last" else positions
        self._found: dict[Key, dict[tuple[int, ...], Tensor]] = {}
        self._norms: dict[Key, dict[tuple[int, ...], Tensor]] = {}

    def __call__(self, tensor: Tensor, *, hook: "Hook") -> None:
        start = hook.positions.start
        first = max(self._positions.start - start, 0)
        last = min(self._positions.stop - start, tensor.shape[1])
        if first >= last:
            return
        part = tensor[:, first:last].detach().float()
        key = (hook.site.shorthand, hook.site.block)
        found, norms = self._found.setdefault(key, {}), self._norms.setdefault(key, {})
        norm = part.flatten(2).norm(dim=-1).sum(1)
        norms[hook.rows] = norms.get(hook.rows, 0) + norm
        found[hook.rows] = self._joined(found.get(hook.rows), part)

    def _joined(self, known: Tensor | None, part: Float[Tensor, "row pos *site"]) -> Tensor:
        """What was pooled so far with some more positions."""
        if self._pool == "every_step":
            return part.clone() if known is None else torch.cat([known, part], 1)
        if self._pool == "max_steps":
            most = part.amax(1)
            return most if known is None else torch.maximum(known, most)
        return part.sum(1) if known is None else known + part.sum(1)

    def results(self) -> dict[Key, tuple[Tensor, Tensor]]:
        """Pooled activation and mean length, per row."""
        n = len(self._positions)
        summed = self._pool not in ("every_step", "max_steps")
        return {
            key: (
                (_in_order(found) / (n if summed else 1)).cpu(),
                (_in_order(self._norms[key]) / n).cpu(),
            )
            for key, found in self._found.items()
        }


def _in_order(groups: dict[tuple[int, ...], Tensor]) -> Tensor:
    """Rows that ran apart, in the caller's order."""
    return along_rows(groups, ())
