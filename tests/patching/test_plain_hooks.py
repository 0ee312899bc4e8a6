"""Activation patching against plain torch hooks on transformers' own model, cell by cell."""

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


class Patcher:
    """Runs of the oracle with one tensor put in at one place."""

    def __init__(self, model: AudioLens, sides: dict, example: int, scale: float = 1.0) -> None:
        self.oracle, self.scale = oracle_of(model), scale
        self.sides = {
            name: (prompt, codes[example : example + 1]) for name, (prompt, codes) in sides.items()
        }

    def activation(self, name: str, side: str) -> Tensor:
        visit = Visit(kept=[])
        prompt, codes = self.sides[side]
        with self.oracle.visiting({name: visit}):
            self.oracle.positional([prompt], codes, guidance_scale=self.scale)
        return visit.kept[0]

    def patched(self, name: str, index: tuple, *, branch: str = "both") -> Tensor:
        """The metric of the corrupted run with clean activations at an index of a site."""
        axes = AXES[family(name)]
        clean = self.activation(name, "clean")[:1][0]
        here = torch.zeros_like(clean, dtype=torch.bool)
        here[index] = True
        zero = torch.zeros_like(clean)
        origin = -(self.n_prefix(clean, axes))
        edit = Edit(
            axes, gain=(~here).to(clean), shift=torch.where(here, clean, zero), origin=origin
        )
        prompt, codes = self.sides["corrupted"]
        with self.oracle.editing(name, edit, branch=branch):
            with torch.no_grad():
                logits = self.oracle.positional([prompt], codes, guidance_scale=self.scale)
            aligned = self.oracle.aligned(logits, guidance_scale=self.scale)
        return score(self.sides["clean"][1], aligned)

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
def test_branches_agree_with_plain_hooks(mono, branch) -> None:
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    sides = {"clean": ("a slow organ", codes[0]), "corrupted": ("a fast organ", codes[1])}
    results = [
        activation_patch(
            mono,
            **sides,
            site="mlp_out",
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
    assert (results[0].effect.abs() > 1e-4).all()
