"""Stereo and melody models, each with its oracle: what their tests share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from checks import (
    FRAMES,
    LAYER,
    POSITIONS,
    PROMPTS,
    SETTINGS,
    SITES,
    SIZES,
    HookFunction,
    masked,
    noise,
)
from oracle import AXES, SCALES, Edit, Oracle, Visit, family, sees_text_only
from oracle_melody import MELODY_AXES, MELODY_SCALES, MelodyOracle
from torch import Tensor

from audio_lens import AudioLens, Prompt
from audio_lens.testing import random_musicgen

CHROMA = 8
SAME_LENGTH = ["organ", "drums", "bells"]
OTHER_LENGTHS = ["drums", "a slow organ", "bells"]
LONGEST = CHROMA + len(OTHER_LENGTHS[1]) + 1
"""Positions of the longest prefix: a token per letter, and the end of the text."""
MELODY_SIZES = SIZES | {
    **dict.fromkeys(("pos", "query", "key", "audio_pos"), LONGEST + POSITIONS),
    "chroma": CHROMA,
}
MELODY_SITES = [name.replace("{i}", str(LAYER)) for name in MELODY_AXES]
MELODIES = ("melody", "stereo melody")
KINDS = ("stereo", *MELODIES)
SEEDS = [11, 5, 7]


@dataclass(frozen=True)
class Pair:
    """A lens and an oracle on the same weights, and what they are given."""

    lens: AudioLens
    oracle: Oracle
    prompts: Sequence[str | None]
    codes: Tensor
    melody: Tensor | None = None
    """Chroma `[batch frame 12]`."""

    @property
    def has_prefix(self) -> bool:
        return isinstance(self.oracle, MelodyOracle)

    @property
    def axes(self) -> dict[str, str]:
        return MELODY_AXES if self.has_prefix else AXES

    @property
    def sites(self) -> list[str]:
        return MELODY_SITES if self.has_prefix else SITES

    @property
    def readable(self) -> list[str]:
        *norms, _ = MELODY_SCALES if self.has_prefix else SCALES
        scales = [f"blocks.{LAYER}.{norm}.hook_scale" for norm in norms]
        return [*self.sites, *scales, "ln_final.hook_scale"]

    def noise(self, site: str, **options: Any) -> Edit:
        """As `noise`; with a prefix, positions are counted from the longest one on."""
        n_codebooks = {"codebook": self.oracle.n_codebooks}
        if not self.has_prefix:
            return noise(site, sizes=SIZES | n_codebooks, **options)
        axes, sizes = MELODY_AXES[family(site)], MELODY_SIZES | n_codebooks
        return noise(site, axes=axes, sizes=sizes, origin=-LONGEST, **options)

    def cond_only(self, site: str) -> bool:
        """Whether the unconditional half carries nothing there; a prefix is there in both."""
        return site == "text.hook_out" if self.has_prefix else sees_text_only(site)

    def of(self, rows: list[int], codes: Tensor | None = None) -> "Pair":
        """The same models, with some of the rows."""
        prompts = [self.prompts[row] for row in rows]
        codes = self.codes if codes is None else codes
        melody = None if self.melody is None else self.melody[rows]
        return replace(self, prompts=prompts, codes=codes[rows], melody=melody)

    @property
    def conditions(self) -> list[str | None]:
        """Prompts and their melodies, as the lens takes them."""
        if self.melody is None:
            return list(self.prompts)
        both = zip(self.prompts, self.melody, strict=True)
        return [Prompt(prompt, melody=chroma) for prompt, chroma in both]

    @property
    def given(self) -> dict[str, Any]:
        """Prompts and their melodies, as the oracle takes them."""
        return {"prompts": self.prompts} | ({"melody": self.melody} if self.has_prefix else {})

    def seen(self, scale: float) -> tuple[Tensor, Tensor]:
        """The lens's logits by frame, and by branch and position before guidance."""
        logits, cache = self.lens.run_with_cache(
            self.conditions, self.codes, names_filter="hook_logits", guidance_scale=scale
        )
        return logits, halves(cache, "hook_logits")

    def expected(self, scale: float) -> tuple[Tensor, Tensor]:
        """The same by the oracle."""
        logits = self.oracle.positional(**self.given, codes=self.codes, guidance_scale=scale)
        return self.oracle.aligned(logits, guidance_scale=scale), logits

    def generated(
        self, scale: float, seeds: list[int] | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Codes, and logits by branch and position: greedy, or sampled with a seed for each row."""
        clips, cache = self.lens.generate(
            self.conditions,
            seconds=FRAMES / 50,
            seed=seeds or 0,
            guidance_scale=scale,
            do_sample=seeds is not None,
            names_filter="hook_logits",
            progress=False,
            **options,
        )
        return torch.stack([clip.codes for clip in clips]), halves(cache, "hook_logits")

    def wanted(
        self, scale: float, seeds: list[int] | int | None = None, known: Tensor | None = None
    ) -> Tensor:
        """The codes of the oracle's own generation."""
        return self.oracle.generate(
            **self.given, frames=FRAMES, guidance_scale=scale, seed=seeds, known=known
        )

    def oracle_reads(self, names: list[str], scale: float) -> dict[str, Tensor]:
        """What the oracle finds at these sites in a teacher-forced forward."""
        visits = {name: Visit(kept=[]) for name in names}
        with torch.no_grad(), self.oracle.visiting(visits):
            self.expected(scale)
        return {name: whole(name, visit) for name, visit in visits.items()}


def whole(name: str, visit: Visit) -> Tensor:
    """What was kept of a site: codebooks come one by one, and a prefix before its audio."""
    read = torch.cat(visit.kept, 1)
    return masked(read) if name.endswith("attn_scores") else read


def halves(cache: Any, name: str) -> Tensor:
    """Both branches of a cached site, cond first, as the oracle has them."""
    return torch.cat([cache.branch(branch)[name] for branch in cache.branches])


@cache
def pair(kind: str) -> Pair:
    """A model of a kind; the mono melody comes with melodies to be repeated and then cut."""
    stereo, melody = kind.startswith("stereo"), kind.endswith("melody")
    lens = random_musicgen(
        n_layers=3,
        d_model=64,
        n_heads=4,
        n_codebooks=8 if stereo else 4,
        audio_channels=2 if stereo else 1,
        seed=0,
        **({"melody": True, "chroma_length": CHROMA} if melody else {}),
    )
    generator = torch.Generator().manual_seed(0)
    for name, values in lens.hf_model.named_parameters():
        if name.startswith(("enc_to_dec_proj", "audio_enc_to_dec_proj")):  # as loud as the stream
            loud = torch.randn(values.shape, generator=generator)
            values.data.copy_(loud / values.shape[-1] ** 0.5 if values.ndim > 1 else loud)
    return Pair(
        lens,
        (MelodyOracle if melody else Oracle).copying(lens.hf_model, lens.processor.tokenizer),
        SAME_LENGTH if melody else PROMPTS,
        lens.random_codes(frames=FRAMES, batch=3, seed=1),
        torch.rand(3, 3, 12, generator=generator) if kind == "melody" else None,
    )


@cache
def before(kind: str, scale: float, watching: bool) -> tuple[Tensor, Tensor]:
    """What the lens says without edits."""
    with torch.set_grad_enabled(watching):
        return pair(kind).seen(scale)


@cache
def generated_before(kind: str, scale: float, sampled: bool) -> tuple[Tensor, Tensor]:
    return pair(kind).generated(scale, SEEDS if sampled else None)


def cases_of(kind: str, settings: Sequence[tuple[str, float, str]], last: bool) -> list[Any]:
    """Every writable family of a kind of model, by the branches that are written."""
    return [
        pytest.param(kind, site, scale, branch, last, id=f"{kind}-{site}-{word}-{last}")
        for site in (SITES if kind == "stereo" else MELODY_SITES)
        for word, scale, branch in settings
        if not (branch == "uncond" and site == "text.hook_out")
    ]


OTHER_GENERATIONS = [
    *cases_of("stereo", SETTINGS[3:], False),
    *cases_of("melody", SETTINGS[1:], False),
    *cases_of("melody", SETTINGS[3:], True),
    *cases_of("stereo melody", SETTINGS[3:], True),
]
"""The last is whether codes are drawn."""
PARTS = {
    "end_of_text": range(-1, 0),
    "text": range(-6, 0),
    "chroma": range(-6 - CHROMA, -6),
    "audio": range(POSITIONS),
}
"""Where parts of the sequence lie, for prompts of five letters and the end of the text."""


def within(part: str, edit: Edit) -> HookFunction:
    """The edit at a part of the sequence, found by what a hook is told of its layout."""
    axis = next(i for i, name in enumerate(edit.axes.split(), 1) if name in ("pos", "query"))

    def hook(tensor: Tensor, *, hook: object) -> None:
        if hook.step and part == "end_of_text":  # it is in the first call alone
            return
        place = getattr(hook.layout, part)
        place = slice(place, place + 1) if isinstance(place, int) else place
        index = (*[slice(None)] * axis, place)
        tensor[index] = edit(tensor, hook.positions)[index]

    return hook
