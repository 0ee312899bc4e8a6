"""Direct logit attribution: how much each part of the model adds to the logit of a code.

The stream that is unembedded is a sum of what embeddings, heads and MLPs wrote, and the final
LayerNorm is linear once its scale is known; so a logit is a sum over parts (Elhage et al. 2021, "A
Mathematical Framework for Transformer Circuits"). Direct means: what a part does by way of later
parts is counted with these.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.analysis.logit_lens import music
from audio_lens.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from audio_lens.lens.cache import ActivationCache
    from audio_lens.lens.lens import AudioLens

PerCode = Float[Tensor, "batch codebook frame"]


@dataclass(frozen=True, eq=False)
class LogitAttribution:
    """What each part adds to the logits of some codes; the parts sum to them."""

    parts: tuple[str, ...]
    """`embed`, `pos_embed`, `3.attn.1` (a head), `3.cross_attn.0`, `3.mlp`, and `bias`; `edits` is
    what hooks and interventions that were in place wrote into the stream itself."""
    values: Float[Tensor, "part batch codebook frame"]
    """In logits."""
    frame_rate: int

    @property
    def total(self) -> PerCode:
        """The sum over all parts: the logit, less that of what it is held against."""
        return self.values.sum(0)

    def to_dataframe(self) -> "DataFrame":
        """One row per part and codebook, averaged over examples and frames."""
        import pandas

        mean = self.values.mean((1, 3))
        index = pandas.MultiIndex.from_product(
            [self.parts, range(mean.shape[1])], names=["part", "codebook"]
        )
        return pandas.DataFrame({"logits": mean.flatten().tolist()}, index=index).reset_index()

    def plot(self, *, example: int | None = None) -> "Figure":
        """What blocks add, layers by their parts, one panel per codebook, averaged over frames.

        What is no part of a block (embeddings, bias, edits) stands in the title as a sum.
        """
        from audio_lens.plots.panels import Axis, panels

        chosen = (self.values.mean(1) if example is None else self.values[:, example]).mean(-1)
        placed = [part.partition(".") for part in self.parts]  # "3.attn.1": layer 3, its attn.1
        in_blocks = [(int(layer), name) for layer, dot, name in placed if dot]
        layers = sorted({layer for layer, _ in in_blocks})
        columns = list(dict.fromkeys(name for _, name in in_blocks))
        maps = {}
        for book in range(chosen.shape[1]):
            added = dict(zip(placed, chosen[:, book].tolist(), strict=True))
            rest = sum(value for (_, dot, _), value in added.items() if not dot)
            grid = [[added[str(layer), ".", name] for name in columns] for layer in layers]
            maps[f"codebook {book} (elsewhere {rest:+.1f})"] = np.array(grid)
        return panels(
            maps,
            rows=Axis("layer", [str(layer) for layer in layers]),
            columns=Axis("part", [_short(name) for name in columns]),
            scale="logits",
            signed=True,
        )


def _short(part: str) -> str:
    """`attn.1` as `a1`, `cross_attn.1` as `c1`, `mlp` as it is."""
    kind, dot, head = part.partition(".")
    return f"{kind[0]}{head}" if dot else part


@torch.no_grad()
def logit_attribution(
    lens: "AudioLens",
    prompts: Any,
    codes: Int[Tensor, "batch codebook frame"],
    *,
    against: Literal["mean", "nothing"] | Int[Tensor, "batch codebook frame"] = "mean",
    heads: bool = True,
    branch: Literal["cond", "uncond"] = "cond",
    guidance_scale: float = 1.0,
) -> LogitAttribution:
    """Split the logits of codes into what each part of the model adds to them directly.

    Args:
        lens: The model.
        prompts: One, or one per row of codes.
        codes: Undelayed: both what is read and whose logits are split.
        against: What a logit is held against: the `"mean"` over the codebook's entries (what all
            have in common says nothing about the code), other codes, or `"nothing"`.
        heads: Split attention by head.
        branch: Which half of a guided run, before guidance.
        guidance_scale: Above 1 where the unconditional half is meant.

    Raises:
        InputError: codes to hold against that do not fit.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> codes = lens.random_codes(frames=6)
        >>> found = logit_attribution(lens, "a song", codes, against="nothing", heads=False)
        >>> found.parts[:5]
        ('embed', 'pos_embed', '0.attn', '0.cross_attn', '0.mlp')
        >>> logits = lens("a song", codes)
        >>> torch.allclose(found.total, logits.gather(-1, codes[..., None])[..., 0], atol=1e-4)
        True
    """
    attentions = [kind for kind in ("attn", "cross_attn") if f"{kind}.z" in lens.sites.shorthands]
    edited = lens._engine.active
    last = f"blocks.{lens.cfg.n_layers - 1}.hook_resid_post"
    sites = ["hook_embed", "hook_pos_embed", "mlp_out", "ln_final.hook_scale"]
    sites += [last] if edited else []
    sites += [f"{kind}.z" for kind in attentions] if heads else [f"{k}_out" for k in attentions]
    logits, cache = lens.run_with_cache(
        prompts, codes, names_filter=sites, guidance_scale=guidance_scale
    )
    cache = cache.branch(branch)
    codes = codes.to(logits.device).expand(len(logits), -1, -1)
    towards = _directions(lens, codes, against)
    bias = lens.ln_final.bias
    constant = torch.zeros_like(codes, dtype=towards.dtype) if bias is None else towards @ bias
    weight = 1 if lens.ln_final.weight is None else lens.ln_final.weight
    reads = towards * weight
    reads = reads - reads.mean(-1, keepdim=True)  # LayerNorm takes the mean off what it reads
    reads = reads / _at_codes(lens, _part(cache, "ln_final.hook_scale"))
    values: dict[str, Tensor] = {
        name: _along(lens, reads, _part(cache, f"hook_{name}")) for name in ("embed", "pos_embed")
    }
    for layer in range(lens.cfg.n_layers):
        for kind in attentions:
            key = ("attn.z" if kind == "attn" else "cross_attn.z") if heads else f"{kind}_out"
            if (key, layer) not in cache:  # no text in this half: nothing is written
                continue
            written = _part(cache, key, layer)
            if heads:
                out = (lens.W_O if kind == "attn" else lens.cross_W_O)[layer]
                values |= _by_head(lens, reads, written, out, f"{layer}.{kind}")
            else:
                values[f"{layer}.{kind}"] = _along(lens, reads, written)
        values[f"{layer}.mlp"] = _along(lens, reads, _part(cache, "mlp_out", layer))
    if edited:
        values["edits"] = _along(lens, reads, _part(cache, last)) - sum(values.values())
    values["bias"] = constant
    return LogitAttribution(
        tuple(values), torch.stack(list(values.values())).float().cpu(), lens.cfg.frame_rate
    )


def _directions(
    lens: "AudioLens", codes: Int[Tensor, "batch codebook frame"], against: Any
) -> Float[Tensor, "batch codebook frame d_model"]:
    """The unembeddings of codes, less those of what they are held against."""
    if isinstance(against, Tensor):
        if against.shape[1:] != codes.shape[1:] or len(against) not in (1, len(codes)):
            raise InputError(
                f"against= has codes {tuple(against.shape)}, the run {tuple(codes.shape)}: give "
                f"as many."
            )
        lens.delay.check_codes(against, name="against")
        others = against.to(codes.device).expand(len(codes), -1, -1)
    elif against not in ("mean", "nothing"):
        raise InputError(f'against must be "mean", "nothing" or codes, got {against!r}.')
    towards = []
    for book, unembedding in enumerate(lens.W_U):
        own = unembedding.T[codes[:, book]]
        if isinstance(against, Tensor):
            own = own - unembedding.T[others[:, book]]
        elif against == "mean":
            own = own - unembedding.mean(1)
        towards.append(own)
    return torch.stack(towards, dim=1)


def _part(cache: "ActivationCache", *key: Any) -> Tensor:
    """A site's tensor at the positions of the music."""
    return cache[key if len(key) > 1 else key[0]][:, music(cache)]


def _at_codes(lens: "AudioLens", tensor: Tensor) -> Tensor:
    """What stands at the position that predicts each code: [batch codebook frame ...]."""
    delays = lens.cfg.delays
    frames = tensor.shape[1] - max(delays)
    return torch.stack([tensor[:, delay : delay + frames] for delay in delays], dim=1)


def _along(lens: "AudioLens", reads: Tensor, written: Float[Tensor, "batch pos d_model"]) -> Tensor:
    return (_at_codes(lens, written) * reads).sum(-1)


def _by_head(
    lens: "AudioLens",
    reads: Float[Tensor, "batch codebook frame d_model"],
    z: Float[Tensor, "batch pos head d_head"],
    out: Float[Tensor, "head d_head d_model"],
    name: str,
) -> dict[str, PerCode]:
    """Each head's part; its output is never made, only what is read of it."""
    wanted = torch.einsum("bkfd,hed->bkfhe", reads, out)
    each = (_at_codes(lens, z) * wanted).sum(-1)
    return {f"{name}.{head}": each[..., head] for head in range(each.shape[-1])}
