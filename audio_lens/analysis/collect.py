"""Activations gathered over prompts and pooled over time while they pass, one vector a row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from audio_lens.analysis._pooling import FIRST_CALL, Key, Pool, Pooling, Window, positions_to_pool
from audio_lens.audio.clip import Clip
from audio_lens.errors import InputError, SiteError
from audio_lens.lens.decode import Sampling
from audio_lens.lens.generation import Generation
from audio_lens.lens.rows import Prompts, as_prompts, as_seeds
from audio_lens.lens.sites import TIMES, Site
from audio_lens.provenance import prompts_sha256, strings_sha256, tensors_sha256, versions

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


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
    window: Window | None = None,
    branch: Literal["cond", "uncond"] = "cond",
    codes: Int[Tensor, "batch codebook frame"] | None = None,
    audio: Any = None,
    seconds: float = 6.0,
    seed: int | Sequence[int] = 0,
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
        site: A site of the blocks or the embeddings that has a position axis, or several. One in
            front of the blocks counts as layer -1.
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
        seed: Of the generation: the same for every prompt, or one each.
        guidance_scale: Of the generation; teacher-forced runs need it above 1 only to read the
            unconditional half.
        rows_at_once: Rows per batch.
        progress: Show progress bars.

    Raises:
        SiteError: a site without positions, or behind the blocks.
        InputError: a pool that does not exist, too little audio to pool, or rows that lack what is
            to be read of them.
    """
    values: dict[Key, list[Tensor]] = {}
    norms: dict[Key, list[Tensor]] = {}
    gathering = Gathering(
        lens, prompts, site=site, layers=layers, pool=pool, window=window, branch=branch,
        codes=codes, audio=audio, seconds=seconds, seed=seed, guidance_scale=guidance_scale,
        rows_at_once=rows_at_once, progress=progress,
    )  # fmt: skip
    for batch in gathering.batches():
        for key, (pooled, norm) in batch.items():
            values.setdefault(key, []).append(pooled)
            norms.setdefault(key, []).append(norm)
    return Activations(
        values={key: torch.cat(parts) for key, parts in values.items()},
        typical_norms={key: float(torch.cat(parts).mean()) for key, parts in norms.items()},
        made=gathering.made,
    )


Batch = Mapping[Key, tuple[Float[Tensor, "row *site"], Float[Tensor, " row"]]]
"""Pooled activations of some rows, and each row's mean length before pooling."""


@dataclass(frozen=True, eq=False)
class Gathering:
    """What is to be gathered, checked before anything runs; `collect` has the words."""

    lens: "AudioLens"
    prompts: Prompts
    _: KW_ONLY
    site: str | Sequence[str] = "resid_post"
    layers: int | Sequence[int] | None = None
    pool: Pool = "mean_steps"
    window: Window | None = None
    branch: Literal["cond", "uncond"] = "cond"
    codes: Int[Tensor, "batch codebook frame"] | None = None
    audio: Any = None
    seconds: float = 6.0
    seed: int | Sequence[int] = 0
    guidance_scale: float = 3.0
    rows_at_once: int = 100
    progress: bool = True
    _heard: list[str] = field(default_factory=list, init=False)
    """Fingerprints of the codes that sounds were encoded to."""

    def __post_init__(self) -> None:
        _check_pool(self.lens, self.pool, self.branch)
        if self.rows_at_once < 1:
            raise InputError(f"rows_at_once={self.rows_at_once}: expected at least 1.")
        if self.generates:
            positions_to_pool(self.lens, self._frames, self.window, self.pool)
        for place, text in enumerate(self.texts):
            if text is None and self.pool == "end_of_text":
                raise InputError(f'row {place} has no prompt: pool="end_of_text" reads one.')
            if text is None and self.branch == "uncond":
                raise InputError(
                    f"row {place} has no prompt, so it runs unguided and has no unconditional half "
                    f'to read: use branch="cond", which is the same without a prompt.'
                )
        _ = self.seeds
        _ = self.sites  # a wrong name costs nothing here

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Where to read."""
        return _poolable(self.lens, self.site, self.layers, self.pool)

    @cached_property
    def texts(self) -> tuple[str | None, ...]:
        """The prompt of every row."""
        return _rows(self.prompts, self.codes, self.audio)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every row."""
        return as_seeds(self.seed, len(self.texts))

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return len(self.texts)

    @property
    def generates(self) -> bool:
        """Whether prompts play their own music."""
        return self.codes is None and self.audio is None

    @property
    def _frames(self) -> int:
        """Frames to generate: one where the first call is all that is read."""
        return 1 if self.pool in FIRST_CALL else self.lens.delay.frames(self.seconds)

    @property
    def _guidance(self) -> float:
        """Of generation; a forward is guided only for its other half to be read."""
        return self.guidance_scale if self.generates or self.branch == "uncond" else 1.0

    @property
    def made(self) -> dict[str, Any]:
        """How it is gathered, for provenance."""
        made: dict[str, Any] = {
            "model": self.lens.cfg.model_name,
            "site": ", ".join(dict.fromkeys(each.shorthand for each in self.sites)),
            "pool": self.pool,
            "branch": self.branch,
            "guidance_scale": self._guidance,
            "rows": self.n_rows,
            **versions(),
        }
        if self.lens.revision is not None:
            made["revision"] = self.lens.revision
        if self.window is not None:
            made["window"] = list(self.window)
        if any(text is not None for text in self.texts):
            made["prompts_sha256"] = prompts_sha256([self.texts])
        if self.generates:
            return made | {
                "codes": "generated",
                "seconds": self._frames / self.lens.cfg.frame_rate,
                "seed": self.seeds[0] if len(set(self.seeds)) == 1 else list(self.seeds),
            }
        if self.codes is None:
            return made | {"codes": "encoded", "codes_sha256": strings_sha256(self._heard)}
        return made | {"codes": "given", "codes_sha256": tensors_sha256([self.codes])}

    @property
    def n_bytes(self) -> int:
        """What all rows take in float32, known before anything runs."""
        sizes = self.lens.cfg.sizes
        numbers = sum(prod(sizes[axis] for axis in site.vector_axes) for site in self.sites)
        kept = 1
        if self.pool == "every_step":
            kept = len(positions_to_pool(self.lens, self._n_frames, self.window, self.pool))
        return 4 * self.n_rows * kept * numbers

    @property
    def _n_frames(self) -> int:
        """Frames of every row; of sounds, of the first one."""
        if self.codes is not None:
            return self.codes.shape[-1]
        if self.audio is not None:
            return self.lens.encode([self.audio[0]]).shape[-1]
        return self._frames

    def batches(self) -> Iterator[Batch]:
        """Run, some rows at a time."""
        lens = self.lens
        self._heard.clear()
        starts = range(0, self.n_rows, self.rows_at_once)
        length = None
        quiet = not self.progress or len(starts) == 1
        for start in tqdm(starts, desc="activations", disable=quiet):
            rows = range(start, min(start + self.rows_at_once, self.n_rows))
            read = self._codes_of(rows)
            frames = self._frames if read is None else read.shape[-1]
            if frames != (length := length or frames):
                raise InputError(
                    f"sounds of {length} and {frames} frames: what is averaged over would differ, "
                    f"cut them to one length."
                )
            positions = positions_to_pool(lens, frames, self.window, self.pool)
            pooling = Pooling(self.pool, positions)
            with lens.hooks([(self.sites, pooling)], branch=self.branch), torch.no_grad():
                self._run(rows, read)
            yield pooling.results()

    def _run(self, rows: range, read: Int[Tensor, "row codebook frame"] | None) -> None:
        texts = [self.texts[row] for row in rows]
        if read is not None:
            self.lens(texts, read, guidance_scale=self._guidance)
            return
        Generation.plan(
            self.lens,
            texts,
            seconds=self._frames / self.lens.cfg.frame_rate,
            seed=[self.seeds[row] for row in rows],
            sampling=Sampling(self._guidance),
        ).codes(progress=self.progress)

    def _codes_of(self, rows: range) -> Int[Tensor, "row codebook frame"] | None:
        """What a batch of rows reads; None where it generates."""
        if self.audio is not None:
            codes = self.lens.encode([self.audio[row] for row in rows])
            self._heard.extend(tensors_sha256([row]) for row in codes)
            return codes
        if self.codes is None or len(self.codes) == 1:
            return self.codes
        return self.codes[rows.start : rows.stop]


def _poolable(lens: "AudioLens", site: Any, layers: Any, pool: str) -> tuple[Site, ...]:
    sites = lens.sites.resolve(site, layers=layers)
    for found in sites:
        before_blocks = (
            found.layer is None and found.rank < lens.sites["blocks.0.hook_resid_pre"].rank
        )
        if (found.layer is None and not before_blocks) or not {*TIMES} & {*found.axes}:
            raise SiteError(
                f"{found.name} cannot be pooled over time per layer: take a site of the blocks or "
                f"the embeddings with a position axis, as resid_post, attn.z or embed.codebook."
            )
        if pool == "end_of_text" and "pos" not in found.axes:
            raise SiteError(f"{found.name} holds the music alone: there is no end of the text.")
    return sites


def _check_pool(lens: "AudioLens", pool: str, branch: str) -> None:
    if branch not in ("cond", "uncond"):
        raise InputError(
            f'branch={branch!r}: activations are gathered from one half, "cond" or "uncond".'
        )
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
