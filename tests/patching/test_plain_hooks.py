"""Activation patching against plain torch hooks on transformers' own model, cell by cell."""

from dataclasses import dataclass

import pytest
import torch
from oracle import AXES, Edit, Oracle, Visit, family
from oracle_melody import MELODY_AXES, MelodyOracle
from torch import Tensor

from audio_lens import AudioLens, activation_patch, metrics

TOLERANCE = 1e-5


def hooked(site: str) -> str:
    """A shorthand with its `hook_` back in place."""
    inside, _, last = site.rpartition(".")
    return f"{inside}{'.' if inside else ''}hook_{last}"


AXES_OF = {"mono": AXES, "stereo": AXES, "melody": MELODY_AXES}
IN_BLOCKS = [
    (kind, name.removeprefix("blocks.{i}.").replace("hook_", ""))
    for kind, table in AXES_OF.items()
    for name in table
    if name.startswith("blocks")
]
"""Every writable kind of site inside the blocks that a family has."""
ALONG_TIME = [
    (kind, site)
    for kind, site in IN_BLOCKS
    if {"pos", "query"} & set(AXES_OF[kind][f"blocks.{{i}}.{hooked(site)}"].split())
]


def oracle_of(model: AudioLens) -> Oracle:
    kind = MelodyOracle if "melody.proj" in model.sites.shorthands else Oracle
    return kind.copying(model.hf_model, model.processor.tokenizer)


def score(codes: Tensor, logits: Tensor) -> Tensor:
    """Mean log-probability, said another way than in the package."""
    nats = torch.nn.functional.cross_entropy(
        logits.flatten(0, 2), codes.flatten(), reduction="none"
    )
    return -nats.view(len(codes), -1).mean(1)


@dataclass
class Halves:
    """An edit of its own for the conditional half and for the other, if there are two."""

    edits: list[Edit]

    def __call__(self, tensor: Tensor, positions: range, index: int | None = None) -> Tensor:
        parts = zip(self.edits, tensor.chunk(len(self.edits)), strict=True)
        return torch.cat([edit(part, positions, index) for edit, part in parts])


class Patcher:
    """Runs of the oracle with one tensor put in at one place."""

    def __init__(self, model: AudioLens, sides: dict, example: int, scale: float = 1.0) -> None:
        self.oracle, self.scale = oracle_of(model), scale
        self.sides = {
            name: (prompt, codes[example : example + 1]) for name, (prompt, codes) in sides.items()
        }

    def activation(self, name: str, side: str) -> Tensor:
        """A site's tensor in a run, halves one after the other."""
        visit = Visit(kept=[])
        prompt, codes = self.sides[side]
        with self.oracle.visiting({name: visit}):
            self.oracle.positional([prompt], codes, guidance_scale=self.scale)
        if AXES[family(name)].startswith("codebook"):  # visited one by one, or at once
            return torch.cat(visit.kept, dim=1)
        return visit.kept[0]

    def patched(self, name: str, index: tuple, *, branch: str = "both") -> Tensor:
        """The metric of the corrupted run with clean activations at an index of a site."""
        edits = [self.edit(name, clean, index) for clean in self.activation(name, "clean")]
        prompt, codes = self.sides["corrupted"]
        with self.oracle.editing(name, Halves(edits), branch=branch):
            with torch.no_grad():
                logits = self.oracle.positional([prompt], codes, guidance_scale=self.scale)
            aligned = self.oracle.aligned(logits, guidance_scale=self.scale)
        return score(self.sides["clean"][1], aligned)

    def edit(self, name: str, clean: Tensor, index: tuple) -> Edit:
        axes = AXES[family(name)]
        here = torch.zeros_like(clean, dtype=torch.bool)
        here[index] = True
        zero = torch.zeros_like(clean)
        origin = -(self.n_prefix(clean, axes))
        return Edit(
            axes, gain=(~here).to(clean), shift=torch.where(here, clean, zero), origin=origin
        )

    def n_prefix(self, clean: Tensor, axes: str) -> int:
        named = axes.split()
        dim = next((n for n, axis in enumerate(named) if axis in ("pos", "query")), None)
        frames = self.sides["clean"][1].shape[-1]
        return 0 if dim is None else clean.shape[dim] - frames - self.oracle.delays[-1]


@pytest.mark.parametrize(("model", "site"), ALONG_TIME, indirect=["model"])
def test_every_site_and_position_agrees_with_plain_hooks(model, sides, site) -> None:
    metric = metrics.logprob(sides["clean"][1])
    layers = [0, 2]
    results = {
        method: activation_patch(
            model,
            **sides,
            site=site,
            axes=("layer", "pos"),
            metric=metric,
            layers=layers,
            positions={"early": range(2), "one": range(4, 5), "last": range(7, 9)},
            method=method,
            progress=False,
        )
        for method in ("full", "reuse")
    }
    assert results["reuse"].provenance["method"] == "reuse"
    difference = results["full"].per_example - results["reuse"].per_example
    assert difference.abs().max() < TOLERANCE
    patcher = Patcher(model, sides, example=1)
    named = next(s for s in model.sites if s.shorthand == site and s.layer == 2)
    axis = next(n for n, a in enumerate(named.axes) if a in ("pos", "query")) - 1
    prefix = patcher.n_prefix(patcher.activation(named.name, "clean")[0], " ".join(named.axes[1:]))
    for place, span in enumerate((range(2), range(4, 5), range(7, 9))):
        index = [slice(None)] * (len(named.axes) - 1)
        index[axis] = slice(span.start + prefix, span.stop + prefix)
        wanted = patcher.patched(named.name, tuple(index))
        assert results["full"].per_example[1, place, 1] == pytest.approx(float(wanted), abs=1e-5)


@pytest.mark.parametrize(("model", "site"), IN_BLOCKS, indirect=["model"])
def test_whole_layers_agree_with_plain_hooks(model, sides, site) -> None:
    result = activation_patch(
        model,
        **sides,
        site=site,
        axes=("layer",),
        metric=metrics.logprob(sides["clean"][1]),
        progress=False,
    )
    patcher = Patcher(model, sides, example=0)
    named = next(s for s in model.sites if s.shorthand == site and s.layer == 1)
    wanted = patcher.patched(named.name, (slice(None),))
    assert result.per_example[1, 0] == pytest.approx(float(wanted), abs=1e-5)


@pytest.mark.parametrize("branch", ["cond", "uncond", "both"])
@pytest.mark.parametrize("site", ["mlp_out", "attn.z", "cross_attn_out", "resid_mid2"])
def test_branches_agree_with_plain_hooks(mono, branch, site) -> None:
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    sides = {"clean": ("a slow organ", codes[0]), "corrupted": ("a fast organ", codes[1])}
    results = [
        activation_patch(
            mono,
            **sides,
            site=site,
            axes=("layer",),
            metric=metrics.logprob(codes[0]),
            guidance_scale=3.0,
            branch=branch,
            method=method,
            progress=False,
        )
        for method in ("full", "reuse")
    ]
    assert (results[0].per_example - results[1].per_example).abs().max() < TOLERANCE
    patcher = Patcher(mono, sides, example=0, scale=3.0)
    for layer in (0, 2):
        named = next(s for s in mono.sites if s.shorthand == site and s.layer == layer)
        wanted = patcher.patched(named.name, (slice(None),), branch=branch)
        assert results[0].per_example[layer, 0] == pytest.approx(float(wanted), abs=1e-5)


PARTS = [
    ("attn.z", "head"),
    ("attn.pattern", "head"),
    ("attn.k", "head"),
    ("cross_attn.z", "head"),
    ("cross_attn.v", "head"),
    ("cross_attn.v", "text_token"),
    ("cross_attn.k", "text_token"),
    ("text.proj", "text_token"),
    ("text.out", "text_token"),
    ("embed.codebook", "codebook"),
    ("logits", "codebook"),
]


@pytest.mark.parametrize(("site", "axis"), PARTS)
def test_heads_tokens_and_codebooks_agree_with_plain_hooks(mono, site, axis) -> None:
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    sides = {"clean": ("a slow organ", codes[0]), "corrupted": ("a fast organ", codes[1])}
    named = next(s for s in mono.sites if s.shorthand == site and s.layer in (None, 1))
    result = activation_patch(
        mono, **sides, site=site, axes=(axis,), metric=metrics.logprob(codes[0]), progress=False,
        **({} if named.layer is None else {"layers": 1}),
    )  # fmt: skip
    patcher = Patcher(mono, sides, example=0)
    dim = named.axes.index("token" if axis == "text_token" else axis) - 1
    assert result.per_example.shape[0] > 2
    for part, found in enumerate(result.per_example[:, 0]):
        index = (*[slice(None)] * dim, part)
        wanted = patcher.patched(named.name, index)
        assert float(found) == pytest.approx(float(wanted), abs=1e-5)
    assert result.effect.abs().max() > 1e-5


@pytest.mark.parametrize("site", ["resid_post", "attn.z", "cross_attn_out"])
def test_what_is_reused_is_exact_for_every_code(mono, site) -> None:
    """To 1e-5 in the log-probability of single codes, where a mean could hide a difference."""
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    for book, frame in ((0, 0), (1, 5), (3, 2), (3, 5)):
        metric = metrics.logprob(codes[0], codebooks=book, frames=(frame, frame + 1))
        full, reused = (
            activation_patch(
                mono, clean=("a slow organ", codes[0]), corrupted=("a fast organ", codes[1]),
                site=site, metric=metric, method=method, progress=False,
            ).values
            for method in ("full", "reuse")
        )  # fmt: skip
        assert (full - reused).abs().max() < TOLERANCE
        assert full.std() > 1e-4
