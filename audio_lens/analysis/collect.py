"""Activations gathered over prompts and pooled over time while they pass, one vector a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.errors import InputError, SiteError
from audio_lens.lens.decode import Sampling
from audio_lens.lens.generation import Generation
from audio_lens.lens.recording import along_rows

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens
    from audio_lens.lens.run import Hook

Pool = Literal["mean_steps", "last", "first_step", "end_of_text"]
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
    prompts: Sequence[str | None],
    *,
    site: str = "resid_post",
    layers: int | Sequence[int] | None = None,
    pool: Pool = "mean_steps",
    branch: Literal["cond", "uncond"] = "cond",
    codes: Int[Tensor, "batch codebook frame"] | None = None,
    seconds: float = 6.0,
    seed: int = 0,
    guidance_scale: float = 3.0,
    rows_at_once: int = 100,
    progress: bool = True,
) -> Activations:
    """Run prompts and keep one pooled activation per prompt, site and layer, in float32.

    Positions at which some codebook holds padding are left out: BOS and the delay pattern's
    ramps at both ends. (`first_step` and `end_of_text` are single positions: 0, and the last
    one of a melody model's prefix.)

    Args:
        lens: The model.
        prompts: One row each.
        site: A site that belongs to layers and has a position axis.
        layers: Some layers only.
        pool: `mean_steps` over positions, the `last` position, the `first_step`, or the
            `end_of_text` in a melody model's prefix, where arXiv 2504.04479 takes its directions.
        branch: The half of a guided run to read.
        codes: Teacher-force these codes (one row for all prompts, or a row each) instead of
            letting every prompt generate its own.
        seconds: Length generated for each prompt, where `codes` are not given.
        seed: Of the generation, the same for every prompt.
        guidance_scale: Of the generation; teacher-forced runs need it above 1 only to read the
            unconditional half.
        rows_at_once: Prompts per batch.
        progress: Show progress bars.

    Raises:
        SiteError: a site without layers or positions.
        InputError: a pool that does not exist, or too little audio to pool.
    """
    sites = _poolable(lens, site, layers)
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
    if codes is not None and len(codes) not in (1, len(prompts)):
        raise InputError(
            f"got {len(codes)} rows of codes for {len(prompts)} prompts: give one, or one each."
        )
    pooled = _Pooling(pool, _full_positions(lens, codes, seconds, pool))
    generated = 1 / lens.cfg.frame_rate if pool in _FIRST_CALL else seconds
    guided = guidance_scale if codes is None or branch == "uncond" else 1.0
    values: dict[Key, list[Tensor]] = {}
    norms: dict[Key, list[Tensor]] = {}
    for start in range(0, len(prompts), rows_at_once):
        part = list(prompts[start : start + rows_at_once])
        pooled.clear()
        with lens.hooks([(sites, pooled)], branch=branch):
            if codes is None:
                Generation.plan(
                    lens,
                    part,
                    seconds=generated,
                    seed=seed,
                    sampling=Sampling(guidance_scale),
                ).codes(progress=progress)
            else:
                own = codes if len(codes) == 1 else codes[start : start + rows_at_once]
                with torch.no_grad():
                    lens(part, own, guidance_scale=guided)
        for key, (mean, norm) in pooled.results().items():
            values.setdefault(key, []).append(mean)
            norms.setdefault(key, []).append(norm)
    return Activations(
        values={key: torch.cat(parts) for key, parts in values.items()},
        typical_norms={key: float(torch.cat(parts).mean()) for key, parts in norms.items()},
        made={
            "model": lens.cfg.model_name,
            "site": sites[0].shorthand,
            "pool": pool,
            "branch": branch,
            "codes": "generated" if codes is None else "given",
            **({"seconds": generated, "seed": seed} if codes is None else {}),
            "guidance_scale": guided,
        },
    )


def _poolable(lens: "AudioLens", site: str, layers: Any) -> tuple[Any, ...]:
    sites = lens.sites.resolve(site, layers=layers)
    for found in sites:
        if found.layer is None or "pos" not in found.axes:
            raise SiteError(
                f"{found.name} cannot be pooled over time per layer: it needs a layer and a "
                f"position axis, as resid_post, attn_out or attn.z have."
            )
    return sites


def _full_positions(lens: "AudioLens", codes: Tensor | None, seconds: float, pool: str) -> range:
    """Positions at which every codebook holds a real code."""
    if pool in _FIRST_CALL:
        return _FIRST_CALL[pool]
    frames = codes.shape[-1] if codes is not None else lens.delay.frames(seconds)
    full = range(max(lens.cfg.delays) + 1, frames + 1)
    if len(full) == 0:
        raise InputError(
            f"{frames} frames leave no position at which all codebooks hold a code: give at least "
            f"{max(lens.cfg.delays) + 1}."
        )
    return full


_FIRST_CALL = {"first_step": range(0, 1), "end_of_text": range(-1, 0)}
"""Pools that need no more than the first decoder call, and their position."""


class _Pooling:
    """A hook that sums activations over the positions it is to pool."""

    def __init__(self, pool: str, positions: range) -> None:
        self._positions = positions[-1:] if pool == "last" else positions
        self.clear()

    def clear(self) -> None:
        self._sums: dict[Key, dict[tuple[int, ...], Tensor]] = {}
        self._norms: dict[Key, dict[tuple[int, ...], Tensor]] = {}

    def __call__(self, tensor: Tensor, *, hook: "Hook") -> None:
        start = hook.positions.start
        first = max(self._positions.start - start, 0)
        last = min(self._positions.stop - start, tensor.shape[1])
        if first >= last:
            return
        part = tensor[:, first:last].detach().float()
        key = (hook.site.shorthand, hook.site.block)
        sums, norms = self._sums.setdefault(key, {}), self._norms.setdefault(key, {})
        norm = part.flatten(2).norm(dim=-1).sum(1)
        sums[hook.rows] = sums.get(hook.rows, 0) + part.sum(1)
        norms[hook.rows] = norms.get(hook.rows, 0) + norm

    def results(self) -> dict[Key, tuple[Tensor, Tensor]]:
        """Mean activation and mean length, per row."""
        n = len(self._positions)
        return {
            key: ((_in_order(sums) / n).cpu(), (_in_order(self._norms[key]) / n).cpu())
            for key, sums in self._sums.items()
        }


def _in_order(groups: dict[tuple[int, ...], Tensor]) -> Tensor:
    """Rows that ran apart, in the caller's order."""
    return along_rows(groups, ())
