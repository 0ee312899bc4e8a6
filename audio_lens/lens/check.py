"""The self-check: on any model, that every site reads as it should and that writing it acts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.lens.musicgen_sites import DECODER
from audio_lens.lens.run import Hook
from audio_lens.lens.sites import Site

if TYPE_CHECKING:
    from audio_lens.lens.cache import ActivationCache
    from audio_lens.lens.lens import AudioLens

_FRAMES = 2
_POSITIONS_AT_ONCE = 320
_PROMPT = "a melody"


@dataclass(frozen=True)
class SiteCheck:
    """What the self-check found at one site."""

    name: str
    write: str
    seen: bool
    """Whether the site fired, with the axes the table says."""
    effect: float | None
    """Largest change of any logit when the site was written; None where it is read-only."""

    @property
    def ok(self) -> bool:
        """Seen, and either read-only or of effect when written."""
        return self.seen and (self.effect is None or self.effect > 0)


@dataclass(frozen=True)
class CheckReport:
    """The self-check's findings; prints as a table.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> random_musicgen(n_layers=2).check().ok
        True
    """

    model_name: str
    identity: bool
    """Logits with every site hooked, but nothing changed, equal the plain ones to the bit."""
    isolated: bool
    """A row that nobody writes stays equal to the bit while all others are written."""
    residuals: bool
    """The stream between sublayers is the sum of its parts, to the bit."""
    sites: tuple[SiteCheck, ...]
    skipped: tuple[str, ...] = ()
    """Sites of the text side, which a lens without a tokenizer cannot bring to life."""

    @property
    def ok(self) -> bool:
        """Whether everything passed."""
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """What failed, by name."""
        flags = {
            "identity": self.identity,
            "isolation of rows": self.isolated,
            "residual identities": self.residuals,
        }
        return [name for name, ok in flags.items() if not ok] + [
            site.name for site in self.sites if not site.ok
        ]

    def __repr__(self) -> str:
        passed = sum(site.ok for site in self.sites)
        lines = [
            f"{self.model_name}: {passed} of {len(self.sites)} sites pass; "
            f"identity {_word(self.identity)}; isolation of rows {_word(self.isolated)}; "
            f"residual identities {_word(self.residuals)}",
            f"{'site':<38}{'write':<8}{'effect':>10}  result",
        ]
        if self.skipped:
            lines.insert(1, f"not checked without a tokenizer: {', '.join(self.skipped)}")
        for site in self.sites:
            effect = "" if site.effect is None else f"{site.effect:.2e}"
            lines.append(f"{site.name:<38}{site.write:<8}{effect:>10}  {_word(site.ok)}")
        return "\n".join(lines)


def check(lens: "AudioLens") -> CheckReport:
    """Read every site in one forward, then write each one on a row of its own.

    Rows are compared with themselves in an unwritten forward of the same shape, so that a write
    without effect shows as exactly zero. A row that nobody writes rides along. All is kept
    small, so that a model of real size is through in a minute.
    """
    codes = lens.random_codes(frames=_FRAMES, seed=0)
    prompts = [_PROMPT] if lens.has_tokenizer else None
    seen: dict[str, Tensor] = {}

    def look(tensor: Tensor, *, hook: Hook) -> Tensor:
        seen[hook.name] = tensor.clone()
        return tensor

    with torch.no_grad():
        plain = lens(prompts, codes)
        hooked = lens.run_with_hooks(prompts, codes, fwd_hooks=[(lambda name: True, look)])
        textual = {s for s in lens.sites if "uncond" not in s.branches}
        skipped = set() if lens.has_tokenizer else textual
        writable = [s for s in lens.sites if s.write != "no" and s not in skipped]
        n_rows = max(4, _POSITIONS_AT_ONCE // seen["hook_embed"].shape[1])
        batch = codes.expand(n_rows + 1, -1, -1)
        unwritten, streams = lens.run_with_cache(prompts, batch, names_filter="resid_pre")
        effects: dict[str, float] = {}
        isolated = True
        for start in range(0, len(writable), n_rows):
            chunk = writable[start : start + n_rows]
            with lens._engine.skipping(_before(lens, chunk, streams)):
                written = _written(lens, prompts, batch, chunk)
            change = (written - unwritten).abs().flatten(1).amax(1)
            isolated &= float(change[len(chunk) :].max()) == 0
            effects |= {s.name: float(c) for s, c in zip(chunk, change, strict=False)}
    return CheckReport(
        model_name=lens.cfg.model_name,
        identity=torch.equal(plain, hooked),
        isolated=isolated,
        residuals=_residual_identities(lens, seen),
        sites=tuple(
            SiteCheck(s.name, s.write, _as_declared(lens, s, seen), effects.get(s.name))
            for s in lens.sites
            if s not in skipped
        ),
        skipped=tuple(s.name for s in lens.sites if s in skipped),
    )


def _written(
    lens: "AudioLens",
    prompts: list[str] | None,
    batch: Int[Tensor, "row codebook frame"],
    sites: list[Site],
) -> Float[Tensor, "row codebook frame vocab"]:
    """Logits with a row per written site; the rows behind them are left alone."""
    writes = [(site, partial(_disturb, row)) for row, site in enumerate(sites)]
    return lens.run_with_hooks(prompts, batch, fwd_hooks=writes)


def _disturb(row: int, tensor: Tensor, *, hook: Hook) -> None:
    """Another value of the same size in a row: noise that differs along every axis."""
    value = tensor[row]
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(value.device, value.dtype)
    if hook.name.endswith("pattern"):
        tensor[row] = noise.softmax(-1)
    else:
        tensor[row] = value + noise * (1 + value[value.isfinite()].abs().mean())


def _before(lens: "AudioLens", sites: list[Site], streams: "ActivationCache") -> dict[str, Any]:
    """What the blocks before all of these sites put out: nobody writes there, so it is known."""
    first = min(_first_block(lens, site) for site in sites)
    block_output = lens.sites["blocks.0.hook_resid_post"].port
    output = block_output.put((None, None), streams["resid_pre", first], {})
    return {f"{DECODER}.layers.{layer}": output for layer in range(first)}


def _first_block(lens: "AudioLens", site: Site) -> int:
    """The first block whose output depends on a site, or the last one if none does."""
    if site.layer is not None:
        return site.layer
    in_front = site.rank < lens.sites["blocks.0.hook_resid_pre"].rank
    return 0 if in_front else lens.cfg.n_layers - 1


def _as_declared(lens: "AudioLens", site: Site, seen: Mapping[str, Tensor]) -> bool:
    """Whether it was seen with the axes that the table says."""
    value, cfg, positions = seen.get(site.name), lens.cfg, lens.delay.n_positions(_FRAMES)
    if value is None:
        return False
    text = seen["text.hook_proj"].shape[1] if "text.hook_proj" in seen else 1
    every = positions + (cfg.chroma_length + text if cfg.chroma_length else 0)
    known = {
        **cfg.sizes, "batch": 1, "pos": every, "query": every, "key": every, "audio_pos": positions,
        "token": text, "chroma": cfg.chroma_length, "d_text": cfg.d_text,
    }  # fmt: skip
    return value.ndim == len(site.axes) and all(
        known.get(axis, size) == size for axis, size in zip(site.axes, value.shape, strict=True)
    )


def _residual_identities(lens: "AudioLens", seen: Mapping[str, Tensor]) -> bool:
    """Whether each sublayer's output, added to the stream, gives the stream after it."""
    cross = ["cross_attn_out", "resid_mid2"] if "cross_attn_out" in lens.sites.shorthands else []
    stream = ["resid_pre", "attn_out", "resid_mid", *cross, "mlp_out", "resid_post"]
    for layer in range(lens.cfg.n_layers):
        names = [f"blocks.{layer}.hook_{name}" for name in stream]
        if not set(names) <= set(seen):
            return False
        x = [seen[full] for full in names]
        sums = zip(x[:-2:2], x[1:-1:2], x[2::2], strict=True)
        if not all(torch.equal(stream + added, after) for stream, added, after in sums):
            return False
    return True


def _word(ok: bool) -> str:
    return "ok" if ok else "FAILED"
