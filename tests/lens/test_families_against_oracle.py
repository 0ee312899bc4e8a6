"""Stereo and melody against plain torch hooks, as test_against_oracle has it for mono."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from oracle import AXES, SCALES, Edit, Oracle, Visit, family, sees_text_only
from oracle_melody import MELODY_AXES, MELODY_SCALES, MelodyOracle, at_positions
from test_against_oracle import (
    CLEAR,
    FRAMES,
    LAYER,
    POSITIONS,
    PROMPTS,
    SETTINGS,
    SITES,
    SIZES,
    TOLERANCE,
    HookFunction,
    assert_agree,
    assert_gradients,
    assert_moved_at_every_step,
    furthest,
    in_place,
    in_place_and_returned,
    learnable,
    loss,
    masked,
    noise,
    on_row,
    returning,
    spread,
)
from torch import Tensor

from audio_lens import AudioLens, Intervention, Prompt
from audio_lens.testing import random_musicgen

# -- 8. stereo, and melody, whose conditions are a prefix: the ground ------------------------------

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


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_are_the_same_model(kind: str, scale: float, grad: bool) -> None:
    for actual, wanted in zip(pair(kind).seen(scale), pair(kind).expected(scale), strict=True):
        assert torch.equal(actual, wanted), furthest(actual, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_both_are_transformers_own_forward(kind: str) -> None:
    """Said once more with nothing of the oracle's but its model."""
    own, model = pair(kind), pair(kind).oracle.model
    inputs = own.oracle.tokenizer(list(own.prompts), padding=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    if own.melody is not None:
        inputs["input_features"] = own.melody
    start = torch.full((len(own.codes) * own.oracle.n_codebooks, 1), own.oracle.bos)
    _, ids = model.decoder.build_delay_pattern_mask(
        torch.cat([start, own.codes.flatten(0, 1)], 1), own.oracle.bos, max_length=POSITIONS + 1
    )
    logits = model(**inputs, decoder_input_ids=ids[:, :POSITIONS]).logits
    audio = logits.unflatten(0, (len(own.codes), -1))[:, :, -POSITIONS:]
    actual = own.lens(own.conditions, own.codes)
    for k in range(own.oracle.n_codebooks):
        delay = k // 2 if kind.startswith("stereo") else k
        assert torch.equal(actual[:, k], audio[:, k, delay : delay + FRAMES])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
def test_the_oracle_generates_what_it_forwards(kind: str, scale: float) -> None:
    """`generate` builds the guided prefix, the positions and the delays in ways of its own."""
    own = pair(kind)
    codes = own.wanted(scale)
    forced, _ = replace(own, codes=codes).expected(scale)
    assert torch.equal(forced.argmax(-1), codes)
    assert len(codes.unique()) > 10


@pytest.mark.parametrize("kind", MELODIES)
def test_the_oracles_sites_are_what_they_are_called(kind: str) -> None:
    """Each site of a block told by its neighbours, so that no name stands at a wrong place."""
    own = pair(kind)
    names = [name.replace("{i}", str(i)) for name in MELODY_AXES for i in range(3)]
    read = own.oracle_reads([*dict.fromkeys(names), *own.readable], 3.0)
    model = own.oracle.model
    stack = model.decoder.model.decoder

    def same(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE * spread(other))

    prefix = torch.cat([read["melody.hook_proj"], read["text.hook_proj"]], 1)
    same(read["hook_embed"][:, : own.oracle.prefix], prefix)
    same(read["hook_embed"][:, own.oracle.prefix :], read["embed.hook_codebook"].sum(1))
    same(read["text.hook_proj"][:3], model.enc_to_dec_proj(read["text.hook_out"]))
    assert not read["text.hook_proj"][3:].any()
    same(read["hook_embed"] + read["hook_pos_embed"], read["blocks.0.hook_resid_pre"])
    for i, block in enumerate(stack.layers):
        at = {name.split(f"blocks.{i}.")[1]: read[name] for name in read if f"blocks.{i}." in name}
        same(block.self_attn_layer_norm(at["hook_resid_pre"]), at["ln1.hook_normalized"])
        for letter in "qkv":
            projected = getattr(block.self_attn, f"{letter}_proj")(at["ln1.hook_normalized"])
            same(at[f"attn.hook_{letter}"].flatten(-2), projected)
        q, k, v = (at[f"attn.hook_{letter}"].transpose(1, 2) for letter in "qkv")
        scores = q @ k.mT / q.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
        same(at["attn.hook_attn_scores"], scores)
        same(at["attn.hook_pattern"], scores.softmax(-1))
        same(at["attn.hook_z"], (at["attn.hook_pattern"] @ v).transpose(1, 2))
        same(at["attn.hook_result"].sum(-2), at["hook_attn_out"])
        same(block.self_attn.out_proj(at["attn.hook_z"].flatten(-2)), at["hook_attn_out"])
        same(at["hook_resid_pre"] + at["hook_attn_out"], at["hook_resid_mid"])
        same(block.final_layer_norm(at["hook_resid_mid"]), at["ln2.hook_normalized"])
        same(block.fc1(at["ln2.hook_normalized"]), at["mlp.hook_pre"])
        same(block.activation_fn(at["mlp.hook_pre"]), at["mlp.hook_post"])
        same(block.fc2(at["mlp.hook_post"]), at["hook_mlp_out"])
        same(at["hook_resid_mid"] + at["hook_mlp_out"], at["hook_resid_post"])
    same(stack.layer_norm(read["blocks.2.hook_resid_post"]), read["ln_final.hook_normalized"])
    heads = [head(read["ln_final.hook_normalized"]) for head in model.decoder.lm_heads]
    same(read["hook_logits"], torch.stack(heads, 1))


@pytest.mark.parametrize("site", MELODY_SITES)
def test_the_oracle_edits_at_the_same_places_in_a_generation(site: str) -> None:
    """Codes that it generates under an edit are those of a forward under it."""
    own = pair("melody")
    with own.oracle.editing(site, own.noise(site)):
        codes = own.wanted(3.0)
        forced, _ = replace(own, codes=codes).expected(3.0)
    assert torch.equal(forced.argmax(-1), codes)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_have_these_families_and_no_other(kind: str) -> None:
    own = pair(kind)
    scales = {family(name) for name in own.readable if name.endswith("hook_scale")}
    assert {site.family for site in own.lens.sites} == set(own.axes) | scales
    for site in own.lens.sites:
        if site.family in own.axes:
            assert " ".join(site.axes) == f"batch {own.axes[site.family]}"
        branches = ("cond",) if own.cond_only(site.name) else ("cond", "uncond")
        assert tuple(site.branches) == branches


# -- 9. stereo and melody: forward -----------------------------------------------------------------


def cases_of(kind: str, settings: Sequence[tuple[str, float, str]], last: bool) -> list[Any]:
    """Every writable family of a kind of model, by the branches that are written."""
    return [
        pytest.param(kind, site, scale, branch, last, id=f"{kind}-{site}-{word}-{last}")
        for site in (SITES if kind == "stereo" else MELODY_SITES)
        for word, scale, branch in settings
        if not (branch == "uncond" and site == "text.hook_out")
    ]


FORWARDS = [
    *cases_of("stereo", SETTINGS[::3], False),
    *cases_of("melody", SETTINGS, False),
    *cases_of("melody", SETTINGS, True),
    *cases_of("stereo melody", SETTINGS, False),
]
"""The last is whether autograd watches."""

OTHER_GENERATIONS = [
    *cases_of("stereo", SETTINGS[3:], False),
    *cases_of("melody", SETTINGS[1:], False),
    *cases_of("melody", SETTINGS[3:], True),
    *cases_of("stereo melody", SETTINGS[3:], True),
]
"""The last is whether codes are drawn."""


@pytest.mark.parametrize(("kind", "site", "scale", "branch", "watching"), FORWARDS)
def test_forward_edit_of_stereo_and_melody(
    kind: str, site: str, scale: float, branch: str, watching: bool
) -> None:
    own, untouched = pair(kind), before(kind, scale, watching)
    edit = own.noise(site)
    with torch.set_grad_enabled(watching):
        with own.lens.hooks([(site, returning(edit))], branch=branch):
            actual = own.seen(scale)
        with own.oracle.editing(site, edit, branch=branch):
            wanted = own.expected(scale)
    for ours, theirs in zip(actual, wanted, strict=True):
        assert_agree(ours, theirs, site)
    assert furthest(actual[0], untouched[0]) > CLEAR
    cond, uncond = slice(0, 3), slice(3, None)
    if branch != "both":
        edited, other = (cond, uncond) if branch == "cond" else (uncond, cond)
        assert torch.equal(actual[1][other], untouched[1][other])
        assert furthest(actual[1][edited], untouched[1][edited]) > CLEAR


@pytest.mark.parametrize("kind", KINDS)
def test_stereo_and_melody_edited_everywhere_at_once(kind: str, grad: bool) -> None:
    own = pair(kind)
    names = [name.replace("{i}", str(layer)) for layer in range(3) for name in own.axes]
    edits = {name: own.noise(name, strength=0.1) for name in dict.fromkeys(names)}
    with own.lens.hooks([(name, returning(edit)) for name, edit in edits.items()]):
        actual = own.seen(3.0)
    only = {name: "cond" if own.cond_only(name) else "both" for name in edits}
    visits = {name: Visit(edit, only[name]) for name, edit in edits.items()}
    with own.oracle.visiting(visits):
        wanted = own.expected(3.0)
    for ours, theirs, were in zip(actual, wanted, before(kind, 3.0, grad), strict=True):
        atol = 5 * TOLERANCE * spread(theirs)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
        assert furthest(ours, were) > CLEAR


@pytest.mark.parametrize("layer", [0, 2])
def test_melodys_first_and_last_layer(layer: int) -> None:
    own = pair("melody")
    for name in (name for name in MELODY_AXES if name.startswith("blocks.")):
        site = name.replace("{i}", str(layer))
        with own.lens.hooks([(site, returning(own.noise(site)))]):
            actual = own.seen(3.0)
        with own.oracle.editing(site, own.noise(site)):
            wanted = own.expected(3.0)
        for ours, theirs in zip(actual, wanted, strict=True):
            assert_agree(ours, theirs, site)


@pytest.mark.parametrize("point", ["attn_scores", "pattern"])
def test_attention_edit_on_melodys_eager_kernel(point: str) -> None:
    source = random_musicgen(seed=0, melody=True)
    source.hf_model.decoder.set_attn_implementation("eager")
    lens = AudioLens.from_model(source.hf_model, source.processor)
    oracle = MelodyOracle.copying(lens.hf_model, lens.processor.tokenizer)
    own = replace(pair("melody"), lens=lens, oracle=oracle)
    site = f"blocks.{LAYER}.attn.hook_{point}"
    with lens.hooks([(site, returning(own.noise(site)))], branch="cond"):
        actual, _ = own.seen(3.0)
    with oracle.editing(site, own.noise(site), branch="cond"):
        wanted, _ = own.expected(3.0)
    assert_agree(actual, wanted, site)
    assert furthest(actual, own.seen(3.0)[0]) > CLEAR


def test_melodys_text_of_the_decoders_own_width_needs_no_projection() -> None:
    lens = random_musicgen(n_layers=2, d_text=64, seed=0, melody=True)
    oracle = MelodyOracle.copying(lens.hf_model, lens.processor.tokenizer)
    assert not hasattr(oracle.model, "enc_to_dec_proj")
    own, site = replace(pair("melody"), lens=lens, oracle=oracle), "text.hook_proj"
    with lens.hooks([(site, returning(own.noise(site)))]):
        actual, _ = own.seen(3.0)
    with oracle.editing(site, own.noise(site)):
        wanted, _ = own.expected(3.0)
    assert torch.equal(actual, wanted)
    assert furthest(actual, own.seen(3.0)[0]) > CLEAR


PARTS = {
    "end_of_text": range(-1, 0),
    "text": range(-6, 0),
    "chroma": range(-6 - CHROMA, -6),
    "audio": range(POSITIONS),
}
"""Where parts of the sequence lie, for prompts of five letters and the end of the text."""

POSITIONED = [
    site for site in MELODY_SITES if {"pos", "query"} & set(MELODY_AXES[family(site)].split())
]


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


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("site", POSITIONED)
def test_forward_edit_of_one_part_of_the_sequence(site: str, part: str) -> None:
    """By layout in one run, by positions in another, and the oracle counts for itself."""
    own = pair("melody")
    edit = own.noise(site)
    with own.lens.hooks([(site, within(part, edit))]):
        by_layout = own.seen(3.0)
    act = Intervention(
        site,
        op=lambda tensor, _, hook: edit(tensor, hook.positions),
        when=lambda hook: [position in PARTS[part] for position in hook.positions],
    )
    with own.lens.intervene(act):
        by_position = own.seen(3.0)
    with own.oracle.editing(site, at_positions(edit, PARTS[part])):
        wanted = own.expected(3.0)
    for ours, others, theirs in zip(by_layout, by_position, wanted, strict=True):
        assert_agree(ours, theirs, site)
        assert torch.equal(ours, others)
    untouched = before("melody", 3.0, True)[1]
    assert furthest(by_layout[1], untouched) > CLEAR
    ahead = own.oracle.prefix + PARTS[part].start
    if ahead:
        assert_agree(by_layout[1][:, :, :ahead], untouched[:, :, :ahead], site)


# -- 10. stereo and melody: generation -------------------------------------------------------------


@pytest.mark.parametrize(("kind", "site", "scale", "branch", "sampled"), OTHER_GENERATIONS)
def test_generation_edit_of_stereo_and_melody(
    kind: str, site: str, scale: float, branch: str, sampled: bool
) -> None:
    """Written at every step; where codes are drawn, each row has a seed of its own."""
    own = pair(kind)
    edit, seeds = own.noise(site), SEEDS if sampled else None
    with own.lens.hooks([(site, returning(edit))], branch=branch):
        codes, logits = own.generated(scale, seeds)
    with own.oracle.editing(site, edit, branch=branch):
        wanted = own.wanted(scale, seeds)
    assert torch.equal(codes, wanted)
    codes_before, logits_before = generated_before(kind, scale, sampled)
    assert not torch.equal(codes, codes_before)
    audio = (logits[:, :, -POSITIONS:], logits_before[:, :, -POSITIONS:])
    assert_moved_at_every_step(*audio, site, scale, branch)


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("kind", KINDS)
def test_unedited_codes_are_transformers(kind: str, scale: float) -> None:
    own, one = pair(kind), pair(kind).of([1])
    greedy, _ = own.generated(scale)
    assert torch.equal(greedy, own.wanted(scale))
    sampled, _ = own.generated(scale, SEEDS)
    assert torch.equal(sampled, own.wanted(scale, SEEDS))
    alone, _ = one.generated(scale, SEEDS[1:2])
    assert torch.equal(alone, one.wanted(scale, SEEDS[1]))  # from torch's own generator
    assert torch.equal(alone, sampled[1:2])
    assert not torch.equal(sampled, greedy)


@pytest.mark.parametrize("kind", KINDS)
def test_sound_is_transformers(kind: str) -> None:
    """The codecs of these models have codebooks, so here sound tells codes and channels apart."""
    own = pair(kind).of([1])
    (clip,) = own.lens.generate(own.conditions, seconds=FRAMES / 50, seed=3, progress=False)
    own.wanted(3.0, 3)
    assert torch.equal(clip.waveform, own.oracle.sound[0])
    assert clip.waveform.std() > 0
    assert kind == "melody" or not torch.equal(clip.waveform[0], clip.waveform[1])


@pytest.mark.parametrize("site", [None, "blocks.1.hook_resid_pre", "blocks.1.attn.hook_v"])
@pytest.mark.parametrize("kind", KINDS)
def test_continuations_are_transformers_edited_or_not(kind: str, site: str | None) -> None:
    """With known codes the first call covers them too, behind the prefix."""
    own = pair(kind)
    known = own.codes[..., :3]
    edit = None if site is None else own.noise(site)
    with own.lens.hooks([(site, returning(edit))] if site else []):
        codes, _ = own.generated(3.0, prefix=known)
    with own.oracle.visiting({site: Visit(edit)} if site else {}):
        wanted = own.wanted(3.0, known=known)
    assert torch.equal(codes[..., :3], known)
    assert torch.equal(codes, wanted)


@pytest.mark.parametrize("part", ["end_of_text", "chroma", "audio"])
@pytest.mark.parametrize(
    "site",
    ["hook_embed", "hook_pos_embed", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid",
     "blocks.1.attn.hook_k", "blocks.1.attn.hook_z", "blocks.1.hook_mlp_out"],
)  # fmt: skip
def test_generation_edit_of_one_part_of_the_sequence(site: str, part: str) -> None:
    own = pair("melody")
    edit = own.noise(site, strength=4.0)
    with own.lens.hooks([(site, within(part, edit))]):
        codes, _ = own.generated(3.0, SEEDS)
    with own.oracle.editing(site, at_positions(edit, PARTS[part])):
        wanted = own.wanted(3.0, SEEDS)
    assert torch.equal(codes, wanted)
    assert not torch.equal(codes, generated_before("melody", 3.0, True)[0])


@pytest.mark.parametrize("known", [0, 3])
def test_melodys_hooks_are_called_where_the_sequence_is(known: int) -> None:
    """Each site once per step and branch, told where it is; its tensor is as long as that."""
    own = pair("melody")
    calls: dict[tuple[str, str], list[tuple[int, range]]] = {}

    def note(tensor: Tensor, *, hook: object) -> None:
        calls.setdefault((hook.name, hook.branch), []).append((hook.step, hook.positions))
        axes = hook.site.axes
        if axes[1] in ("token", "chroma"):
            assert hook.step == 0
            return
        (axis,) = [i for i, name in enumerate(axes) if name in ("pos", "query", "audio_pos")]
        assert tensor.shape[axis] == len(hook.positions), hook.name
        assert hook.seconds == [position / 50 for position in hook.positions]
        if "key" in axes:
            assert tensor.shape[axes.index("key")] == 6 + CHROMA + hook.positions.stop
        layout, of_audio = hook.layout, "audio_pos" in axes
        parts = {name: getattr(layout, name) for name in ("chroma", "text", "audio")}
        found = {name: list(hook.positions[place]) for name, place in parts.items()}
        prefix = hook.step == 0 and not of_audio
        assert found == {
            "chroma": list(range(-6 - CHROMA, -6)) * prefix,
            "text": list(range(-6, 0)) * prefix,
            "audio": [position for position in hook.positions if position >= 0],
        }, hook.name
        if prefix:
            assert hook.positions[layout.end_of_text] == -1

    with own.lens.hooks([(lambda name: True, note)]):
        own.generated(3.0, prefix=own.codes[..., :known] if known else None)
    steps = range(POSITIONS - known)
    for site in own.lens.sites:
        cond = calls[site.name, "cond"]
        assert calls.get((site.name, "uncond")) == (None if own.cond_only(site.name) else cond)
        if site.name.startswith(("text.", "melody.")):
            assert [step for step, _ in cond] == [0]
            continue
        first = range(0 if site.name == "embed.hook_codebook" else -6 - CHROMA, known + 1)
        later = [(step, range(known + step, known + step + 1)) for step in steps[1:]]
        assert cond == [(0, first), *later]


# -- 11. stereo and melody: reads ------------------------------------------------------------------


def assert_reads(own: Pair, cache: Any, codes: Tensor, scale: float) -> None:
    for name, wanted in replace(own, codes=codes).oracle_reads(own.readable, scale).items():
        actual = cache[name] if own.cond_only(name) else halves(cache, name)
        assert not actual.requires_grad
        torch.testing.assert_close(
            actual,
            wanted[: len(actual)] if own.cond_only(name) else wanted,
            rtol=0,
            atol=TOLERANCE * spread(wanted),
            msg=lambda said, n=name: f"{n}: {said}",
        )


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("kind", KINDS)
def test_reads_of_stereo_and_melody(kind: str, scale: float, grad: bool) -> None:
    own = pair(kind)
    logits, cache = own.lens.run_with_cache(
        own.conditions, own.codes, names_filter=own.readable, guidance_scale=scale
    )
    assert_reads(own, cache, own.codes, scale)
    assert torch.equal(logits, before(kind, scale, grad)[0])


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("kind", KINDS)
def test_reads_of_a_generation_of_stereo_and_melody(kind: str, scale: float) -> None:
    own = pair(kind)
    clips, cache = own.lens.generate(
        own.conditions,
        seconds=FRAMES / 50,
        seed=SEEDS,
        guidance_scale=scale,
        names_filter=own.readable,
        progress=False,
    )
    codes = torch.stack([clip.codes for clip in clips])
    assert torch.equal(codes, generated_before(kind, scale, True)[0])
    assert_reads(own, cache, codes, scale)


# -- 12. stereo and melody: ways of writing, and rows ----------------------------------------------


@pytest.mark.parametrize("site", MELODY_SITES)
def test_melody_written_in_place_returned_or_left_as_it_was(site: str, grad: bool) -> None:
    own, calls = pair("melody"), []
    edit = own.noise(site)

    def same(tensor: Tensor, *, hook: object) -> Tensor:
        calls.append(hook.branch)
        return tensor.clone()

    def logits(hook: HookFunction) -> Tensor:
        hooks = [(site, hook)]
        return own.lens.run_with_hooks(
            own.conditions, own.codes, fwd_hooks=hooks, guidance_scale=3.0
        )

    untouched, _ = before("melody", 3.0, grad)
    assert torch.equal(logits(same), untouched)
    assert calls == (["cond"] if own.cond_only(site) else ["cond", "uncond"])
    returned = logits(returning(edit))
    assert torch.equal(logits(in_place(edit)), returned)
    assert torch.equal(logits(in_place_and_returned(edit)), returned)
    assert furthest(returned, untouched) > CLEAR


@pytest.mark.parametrize("branch", ["cond", "both"])
@pytest.mark.parametrize("site", MELODY_SITES)
def test_melodys_other_rows_keep_their_bits(site: str, branch: str) -> None:
    own = pair("melody")
    edit = own.noise(site)
    act = Intervention(
        site, op=lambda tensor, _, hook: edit(tensor, hook.positions), rows=[1], branch=branch
    )
    with own.lens.intervene(act):
        by_intervention = own.seen(3.0)
    with own.lens.hooks([(site, on_row(edit, 1))], branch=branch):
        by_hook = own.seen(3.0)
    with own.oracle.editing(site, edit, rows=[1], branch=branch):
        wanted = own.expected(3.0)
    untouched = before("melody", 3.0, True)
    for ours, others, theirs, were in zip(by_intervention, by_hook, wanted, untouched, strict=True):
        assert_agree(ours, theirs, site)
        assert torch.equal(ours, others)
        rows = [row for row in range(len(were)) if row % 3 != 1]
        assert torch.equal(ours[rows], were[rows])
    assert furthest(by_intervention[0][1], untouched[0][1]) > CLEAR


@pytest.mark.parametrize("site", MELODY_SITES)
def test_melodys_gradients_are_the_oracles(site: str) -> None:
    own, visit = pair("melody"), Visit(kept=[])
    _, cache = own.lens.run_with_cache(own.conditions, own.codes, names_filter=site, incl_bwd=True)
    own.lens.hf_model.zero_grad()
    with torch.enable_grad(), own.oracle.visiting({site: visit}):
        loss(own.expected(1.0)[0], own.codes).backward()
    own.oracle.model.zero_grad()
    wanted = torch.cat([part.grad for part in visit.kept], 1)
    assert_gradients(cache[f"{site}_grad"], wanted, site)


@pytest.mark.parametrize("learned", ["gain", "shift"])
@pytest.mark.parametrize(
    "site",
    ["text.hook_out", "text.hook_proj", "melody.hook_proj", "embed.hook_codebook", "hook_embed",
     "hook_pos_embed", "blocks.1.hook_resid_mid", "blocks.1.hook_resid_post"],
)  # fmt: skip
def test_gradients_reach_what_a_hook_brings_to_melody(site: str, learned: str) -> None:
    """The sites whose tensors are made in another way than where the text is attended to."""
    own = pair("melody")
    ours, theirs = learnable(own.noise(site), learned), learnable(own.noise(site), learned)
    with own.lens.hooks([(site, returning(ours))]):
        loss(own.lens(own.conditions, own.codes), own.codes).backward()
    own.lens.hf_model.zero_grad()
    with own.oracle.editing(site, theirs):
        loss(own.expected(1.0)[0], own.codes).backward()
    own.oracle.model.zero_grad()
    assert_gradients(getattr(ours, learned).grad, getattr(theirs, learned).grad, site)


# -- 13. melody: prompts of different length -------------------------------------------------------

GROUPS = ([0, 2], [1])
"""Rows of `OTHER_LENGTHS` with equally many tokens: they run together, by the oracle too."""


def unequal(kind: str) -> Pair:
    return replace(pair(kind), prompts=OTHER_LENGTHS)


def innermost(actual: Tensor, wanted: Tensor, axes: Sequence[str]) -> Tensor:
    """What rows of a cache hold of their own: NaN is in front of it, or zeros behind the text."""
    for axis, (label, size) in enumerate(zip(axes, wanted.shape, strict=True)):
        surplus = actual.shape[axis] - size
        if label == "token":
            assert not actual.narrow(axis, size, surplus).any()
            actual = actual.narrow(axis, 0, size)
        else:
            assert actual.narrow(axis, 0, surplus).isnan().all()
            actual = actual.narrow(axis, surplus, size)
    return actual


def assert_right_aligned(own: Pair, cache: Any, codes: Tensor) -> None:
    """Rows of a cache against their group, with music and the end of the text in line."""
    for rows in GROUPS:
        for name, read in own.of(rows, codes).oracle_reads(own.readable, 3.0).items():
            axes, atol = own.lens.sites[name].axes, TOLERANCE * spread(read)
            for branch, wanted in zip(cache.branches, read.split(len(rows)), strict=False):
                actual = innermost(cache.branch(branch)[name][rows], wanted, axes)
                message = f"{name}, {branch}"
                torch.testing.assert_close(
                    actual, wanted, rtol=0, atol=atol, msg=lambda said, m=message: f"{m}: {said}"
                )


@pytest.mark.parametrize("kind", MELODIES)
def test_rows_of_different_length_are_those_rows_alone(kind: str, grad: bool) -> None:
    own = unequal(kind)
    logits, cache = own.lens.run_with_cache(
        own.conditions, own.codes, names_filter=own.readable, guidance_scale=3.0
    )
    for rows in GROUPS:
        wanted, _ = own.of(rows).expected(3.0)
        assert torch.equal(logits[rows], wanted)
    assert_right_aligned(own, cache, own.codes)
    for row, prompt in enumerate(OTHER_LENGTHS):
        layout = cache.layouts[row]
        tokens = len(prompt) + 1
        ahead = LONGEST - CHROMA - tokens
        assert layout.pad == ahead
        assert layout.chroma == slice(ahead, ahead + CHROMA)
        assert layout.text == slice(ahead + CHROMA, LONGEST)
        assert layout.audio.start == LONGEST
        assert layout.end_of_text == LONGEST - 1


@pytest.mark.parametrize("site", MELODY_SITES)
def test_edits_of_rows_of_different_length(site: str) -> None:
    own = unequal("melody")
    edit = own.noise(site)
    with own.lens.hooks([(site, returning(edit))]):
        actual = own.lens(own.conditions, own.codes, guidance_scale=3.0)
    with own.oracle.editing(site, edit):
        for rows in GROUPS:
            assert_agree(actual[rows], own.of(rows).expected(3.0)[0], site)
    assert furthest(actual, own.lens(own.conditions, own.codes, guidance_scale=3.0)) > CLEAR


@pytest.mark.parametrize("row", [1, 2])
@pytest.mark.parametrize("site", ["text.hook_proj", "melody.hook_proj", "blocks.1.hook_resid_pre"])
def test_interventions_find_their_row_among_different_lengths(site: str, row: int) -> None:
    own = unequal("melody")
    edit = own.noise(site, strength=4.0)
    act = Intervention(site, op=lambda tensor, _, hook: edit(tensor, hook.positions), rows=[row])
    untouched, (drawn, _) = own.lens(own.conditions, own.codes), own.generated(3.0, SEEDS)
    with own.lens.intervene(act):
        actual, (codes, _) = own.lens(own.conditions, own.codes), own.generated(3.0, SEEDS)
    rows = next(rows for rows in GROUPS if row in rows)
    group, place = own.of(rows), rows.index(row)
    with own.oracle.editing(site, edit, rows=[place]):
        assert torch.equal(actual[row], group.expected(1.0)[0][place])
        wanted = group.wanted(3.0, [SEEDS[other] for other in rows])
        assert torch.equal(codes[row], wanted[place])
    others = [other for other in range(3) if other != row]
    assert torch.equal(actual[others], untouched[others])
    assert torch.equal(codes[others], drawn[others])
    assert not torch.equal(codes[row], drawn[row])


@pytest.mark.parametrize(
    "site", ["text.hook_proj", "hook_embed", "blocks.1.attn.hook_pattern", "hook_logits"]
)
def test_gradients_of_rows_of_different_length(site: str) -> None:
    own, visits = unequal("melody"), [Visit(kept=[]) for _ in GROUPS]
    _, cache = own.lens.run_with_cache(own.conditions, own.codes, names_filter=site, incl_bwd=True)
    own.lens.hf_model.zero_grad()
    logits = []
    for rows, visit in zip(GROUPS, visits, strict=True):
        with own.oracle.visiting({site: visit}):
            logits.append(own.of(rows).expected(1.0)[0])
    loss(torch.cat(logits), own.codes[[row for rows in GROUPS for row in rows]]).backward()
    own.oracle.model.zero_grad()
    for rows, visit in zip(GROUPS, visits, strict=True):
        wanted = torch.cat([part.grad for part in visit.kept], 1)
        actual = cache[f"{site}_grad"][rows]
        assert_gradients(innermost(actual, wanted, own.lens.sites[site].axes), wanted, site)


@pytest.mark.parametrize("kind", MELODIES)
def test_generated_rows_of_different_length_are_those_rows_alone(kind: str) -> None:
    own = unequal(kind)
    clips, cache = own.lens.generate(
        own.conditions,
        seconds=FRAMES / 50,
        seed=SEEDS,
        guidance_scale=3.0,
        names_filter=own.readable,
        progress=False,
    )
    codes = torch.stack([clip.codes for clip in clips])
    for rows in GROUPS:
        assert torch.equal(codes[rows], own.of(rows).wanted(3.0, [SEEDS[row] for row in rows]))
    for row in range(3):
        assert torch.equal(codes[row], own.of([row]).wanted(3.0, SEEDS[row])[0])
        assert str(clips[row].prompt) == OTHER_LENGTHS[row]
    assert_right_aligned(own, cache, codes)


@pytest.mark.parametrize("row_group", [1, 2, 4])
def test_row_groups_of_melody_change_no_code(row_group: int) -> None:
    own = unequal("melody")
    codes, _ = own.generated(3.0, SEEDS, row_group=row_group)
    for rows in GROUPS:
        assert torch.equal(codes[rows], own.of(rows).wanted(3.0, [SEEDS[row] for row in rows]))


# -- 14. melody: conditions ------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 3, 8, 11])
@pytest.mark.parametrize("kind", MELODIES)
def test_a_melody_of_any_length_fills_the_chroma(kind: str, frames: int) -> None:
    """Repeated where it is short, cut where it is long."""
    chroma = torch.rand(3, frames, 12, generator=torch.Generator().manual_seed(frames))
    own = replace(pair(kind), melody=chroma)
    cut = pytest.warns(UserWarning, match="11 chroma frames") if frames > CHROMA else nullcontext()
    with cut:
        for scale in (1.0, 3.0):
            for actual, wanted in zip(own.seen(scale), own.expected(scale), strict=True):
                assert torch.equal(actual, wanted)
            codes, _ = own.generated(scale)
            assert torch.equal(codes, own.wanted(scale))
        assert furthest(own.seen(1.0)[0], before(kind, 1.0, True)[0]) > CLEAR


def test_melodies_of_different_length_and_none_in_one_batch() -> None:
    own = pair("stereo melody")
    generator = torch.Generator().manual_seed(0)
    short, long = torch.rand(2, 12, generator=generator), torch.rand(8, 12, generator=generator)
    conditions = [Prompt("organ", melody=short), "drums", Prompt("bells", melody=long)]
    logits = own.lens(conditions, own.codes, guidance_scale=3.0)
    clips = own.lens.generate(
        conditions, seconds=FRAMES / 50, guidance_scale=3.0, seed=SEEDS, progress=False
    )
    for row, chroma in enumerate((short, None, long)):
        alone = own.of([row])
        alone = replace(alone, melody=None if chroma is None else chroma[None])
        wanted, _ = alone.expected(3.0)
        torch.testing.assert_close(
            logits[row : row + 1], wanted, rtol=0, atol=TOLERANCE * spread(wanted)
        )
        assert torch.equal(clips[row].codes, alone.wanted(3.0, SEEDS[row])[0])


@pytest.mark.parametrize("kind", MELODIES)
def test_unconditional_melody_is_transformers(kind: str) -> None:
    """Zeros where the text would be, and the first chroma all along; in any batch."""
    own = replace(pair(kind), prompts=[None] * 3, melody=None)
    for actual, wanted in zip(own.seen(1.0), own.expected(1.0), strict=True):
        assert torch.equal(actual, wanted)
    sampled, _ = own.generated(1.0, SEEDS)
    assert torch.equal(sampled, own.wanted(1.0, SEEDS))
    edit = own.noise("text.hook_proj")
    with own.lens.hooks([("text.hook_proj", returning(edit))]):
        actual, _ = own.seen(1.0)
    with own.oracle.editing("text.hook_proj", edit):
        wanted, _ = own.expected(1.0)
    assert torch.equal(actual, wanted)
    assert furthest(actual, own.seen(1.0)[0]) > CLEAR


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("kind", KINDS)
def test_few_tokens_are_transformers(kind: str, scale: float) -> None:
    """Matrices of a few rows take a kernel of their own, so that the order of work shows."""
    own = replace(pair(kind).of([0]), prompts=["a"])
    for actual, wanted in zip(own.seen(scale), own.expected(scale), strict=True):
        assert torch.equal(actual, wanted)


def test_a_melody_without_text_is_transformers() -> None:
    """The text is then the end of an empty one, which is not the same as no text."""
    own = replace(pair("melody"), prompts=[""] * 3)
    for scale in (1.0, 3.0):
        for actual, wanted in zip(own.seen(scale), own.expected(scale), strict=True):
            assert torch.equal(actual, wanted)
        codes, _ = own.generated(scale, SEEDS)
        assert torch.equal(codes, own.wanted(scale, SEEDS))
    nothing = replace(own, prompts=[None] * 3).expected(1.0)[0]
    assert furthest(own.seen(1.0)[0], nothing) > CLEAR


def test_no_text_at_all_and_an_empty_one_in_one_batch() -> None:
    """They have one token each, so they run together."""
    own, chroma = pair("melody"), pair("melody").melody.clone()
    chroma[1] = torch.eye(12)[0]  # what transformers takes where there is no melody
    wanted, _ = replace(own, prompts=["", None, ""], melody=chroma).expected(3.0)
    empty = [Prompt("", melody=melody) for melody in chroma]
    actual = own.lens([empty[0], None, empty[2]], own.codes, guidance_scale=3.0)
    torch.testing.assert_close(actual, wanted, rtol=0, atol=TOLERANCE * spread(wanted))
    assert furthest(actual, own.lens(empty, own.codes, guidance_scale=3.0)) > CLEAR


def test_a_prompt_among_unconditional_rows() -> None:
    """Guidance is for all rows then; an unconditional one has two equal halves."""
    own = replace(pair("stereo melody"), prompts=["organ", None, None])
    logits = own.lens(own.conditions, own.codes, guidance_scale=3.0)
    codes, _ = own.generated(3.0, SEEDS)
    for rows in ([0], [1, 2]):
        group = own.of(rows)
        assert torch.equal(logits[rows], group.expected(3.0)[0])
        assert torch.equal(codes[rows], group.wanted(3.0, [SEEDS[row] for row in rows]))
    cond, uncond = own.of([1, 2]).expected(3.0)[1].chunk(2)
    assert torch.equal(cond, uncond)
