"""The lens against plain torch hooks: edits, reads and gradients at every family of sites.

Logits and codes are compared, never sound. Where the lens and the oracle do the same arithmetic
they must agree to the bit; where they add in another order, to `TOLERANCE`, and every edit must
move the logits at least a thousand times further than that. Stereo and melody have a file of their
own, test_families_against_oracle.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from oracle import AXES, SCALES, Edit, Oracle, Visit, family, sees_text_only
from torch import Tensor, nn
from truth import loud

from audio_lens import AudioLens, Intervention
from audio_lens.errors import SiteError
from audio_lens.testing import random_musicgen

pytestmark = pytest.mark.families("mono")
"""What is not mono brings its own models, from section 8 on."""

PROMPTS = ["a slow organ", "fast bright bells", "drums"]
FRAMES, POSITIONS, TOKENS, LAYER = 6, 9, 18, 1
SIZES = {
    "codebook": 4,
    "pos": POSITIONS,
    "query": POSITIONS,
    "key": POSITIONS,
    "token": TOKENS,
    "head": 4,
    "d_head": 16,
    "d_model": 64,
    "d_mlp": 256,
    "d_text": 32,
    "vocab": 256,
}
TOLERANCE = 1e-5
CLEAR = 1000 * TOLERANCE

SITES = [name.replace("{i}", str(LAYER)) for name in AXES]
EVERYWHERE = list(
    dict.fromkeys(name.replace("{i}", str(layer)) for layer in range(3) for name in AXES)
)
"""The same families in all layers."""
READABLE = [
    *SITES,
    *(f"blocks.{LAYER}.{norm}.hook_scale" for norm in SCALES[:3]),
    "ln_final.hook_scale",
]
ROUNDED = ("hook_result", "attn_scores", "pattern")
"""Written by a difference, or on another kernel than sdpa: equal but for the order of adding."""

FAINT = ("hook_q", "hook_k", "attn_scores", "pattern", "ln_cross.hook_normalized")
"""Felt through attention's softmax alone: edited harder, so that codes change."""

SETTINGS = [("plain", 1.0, "both"), *((b, 3.0, b) for b in ("cond", "uncond", "both"))]
CASES = [
    pytest.param(site, scale, branch, id=f"{site}-{word}")
    for site in SITES
    for word, scale, branch in SETTINGS
    if not (branch == "uncond" and sees_text_only(site))
]
GENERATIONS = [
    pytest.param(*case.values, seed, id=f"{case.id}-{word}")
    for case in CASES
    for word, seed in (("greedy", None), ("sampled", 11))
    if seed is None or case.values[1:] == (3.0, "both")
]
"""Sampled where both branches are edited; the rest is left to greedy decoding."""

ONE_BRANCH = [case for case in CASES if case.values[2] != "both"]

HookFunction = Callable[..., Tensor | None]
Untouched = dict[tuple[float, bool], tuple[Tensor, Tensor]]


def loud_lens() -> AudioLens:
    """Cross-attention has something to choose from."""
    return loud(random_musicgen(n_layers=3, d_model=64, n_heads=4, seed=0))


@pytest.fixture(scope="module")
def lens() -> AudioLens:
    return loud_lens()


@pytest.fixture(scope="module")
def oracle(lens: AudioLens) -> Oracle:
    return Oracle.copying(lens.hf_model, lens.processor.tokenizer)


@pytest.fixture(scope="module")
def codes(lens: AudioLens) -> Tensor:
    return lens.random_codes(frames=FRAMES, batch=len(PROMPTS), seed=1)


@pytest.fixture(scope="module")
def untouched(lens: AudioLens, codes: Tensor) -> Untouched:
    """What the lens says without edits, by guidance scale, and by whether autograd watches.

    torch's sdpa takes another kernel under autograd, so the two differ by rounding.
    """
    baselines = {}
    for watching in (False, True):
        with torch.set_grad_enabled(watching):
            baselines |= {(scale, watching): seen(lens, codes, scale) for scale in (1.0, 3.0)}
    return baselines


# -- edits --------------------------------------------------------------------------------------


def noise(
    site: str,
    *,
    strength: float | None = None,
    axes: str | None = None,
    sizes: dict[str, int] = SIZES,
    origin: int = 0,
) -> Edit:
    """A fixed edit that differs at every position, head, key, token and feature."""
    if strength is None:
        strength = 8.0 if site.endswith(FAINT) else 1.0
    axes = axes or AXES[family(site)]
    shape = [sizes[axis] for axis in axes.split()]
    generator = torch.Generator().manual_seed(len(site))
    gain = torch.randn(shape, generator=generator).mul(0.3 * min(strength, 2.0)).exp()
    shift = torch.randn(shape, generator=generator) * strength
    # A pattern keeps its zeros: otherwise a forward would look at keys generation has not made.
    return Edit(axes, gain, shift * (not site.endswith("pattern")), origin)


def silence(site: str, axis: str, index: int) -> Edit:
    """One head, neuron or codebook set to zero."""
    axes = AXES[family(site)]
    shape = [SIZES[axis] for axis in axes.split()]
    gain = torch.ones(shape)
    gain.select(axes.split().index(axis), index).zero_()
    return Edit(axes, gain, torch.zeros(shape))


def returning(edit: Edit) -> HookFunction:
    def hook(tensor: Tensor, *, hook: object) -> Tensor:
        return edit(tensor, hook.positions)

    return hook


def in_place(edit: Edit) -> HookFunction:
    def hook(tensor: Tensor, *, hook: object) -> None:
        tensor.copy_(edit(tensor, hook.positions))

    return hook


def in_place_and_returned(edit: Edit) -> HookFunction:
    def hook(tensor: Tensor, *, hook: object) -> Tensor:
        tensor[...] = edit(tensor, hook.positions)
        return tensor

    return hook


def on_row(edit: Edit, row: int) -> HookFunction:
    def hook(tensor: Tensor, *, hook: object) -> None:
        tensor[row] = edit(tensor[row : row + 1], hook.positions)[0]

    return hook


# -- runs ---------------------------------------------------------------------------------------


def seen(lens: AudioLens, codes: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The lens's logits by frame, and by branch and position before guidance."""
    logits, cache = lens.run_with_cache(
        PROMPTS, codes, names_filter="hook_logits", guidance_scale=scale
    )
    halves = [cache.branch(branch)["hook_logits"] for branch in cache.branches]
    return logits, torch.cat(halves)


def expected(oracle: Oracle, codes: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The same by the oracle."""
    logits = oracle.positional(PROMPTS, codes, guidance_scale=scale)
    return oracle.aligned(logits, guidance_scale=scale), logits


def assert_agree(actual: Tensor, wanted: Tensor, site: str) -> None:
    if site.endswith(ROUNDED):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=TOLERANCE * spread(wanted))
    else:
        assert torch.equal(actual, wanted), f"off by {(actual - wanted).abs().max()}"


def spread(tensor: Tensor) -> float:
    """The size of a tensor's values, to measure rounding by: at least 1."""
    return max(1.0, float(tensor.detach()[tensor.isfinite()].std()))


def furthest(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max())


# -- the ground: both are the same model, and they know the same sites ----------------------------


def test_oracle_and_lens_are_the_same_model(lens: AudioLens, oracle: Oracle, codes: Tensor) -> None:
    for scale in (1.0, 3.0):
        for actual, wanted in zip(
            seen(lens, codes, scale), expected(oracle, codes, scale), strict=True
        ):
            assert torch.equal(actual, wanted)


def test_delay_is_transformers_own(oracle: Oracle, codes: Tensor) -> None:
    ids = oracle.delayed(codes)
    bos = torch.full((len(ids), 1), oracle.bos)
    _, mask = oracle.model.decoder.build_delay_pattern_mask(
        torch.cat([bos, codes.flatten(0, 1)], 1), pad_token_id=oracle.bos, max_length=POSITIONS + 1
    )
    assert torch.equal(ids, mask[:, :POSITIONS])


def test_table_has_these_families_and_no_other(lens: AudioLens) -> None:
    scales = {f"blocks.{{i}}.{norm}.hook_scale" for norm in SCALES[:3]} | {"ln_final.hook_scale"}
    assert {site.family for site in lens.sites} == set(AXES) | scales
    for site in lens.sites:
        if site.family in AXES:
            assert " ".join(site.axes) == f"batch {AXES[site.family]}"


# -- 1. forward -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("site", "scale", "branch"), CASES)
def test_forward_edit_gives_the_oracles_logits(
    lens: AudioLens,
    oracle: Oracle,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    scale: float,
    branch: str,
    grad: bool,
) -> None:
    edit = noise(site)
    with lens.hooks([(site, returning(edit))], branch=branch):
        actual = seen(lens, codes, scale)
    with oracle.editing(site, edit, branch=branch):
        wanted = expected(oracle, codes, scale)
    for ours, theirs in zip(actual, wanted, strict=True):
        assert_agree(ours, theirs, site)
    assert furthest(actual[0], untouched[scale, grad][0]) > CLEAR


@pytest.mark.parametrize(
    ("site", "axis"),
    [
        pytest.param(site, axis, id=f"{site}-{axis}")
        for site in SITES
        for axis in ("head", "d_mlp", "codebook")
        # Zero times a masked score is NaN, and the scores' zero is no absence anyway.
        if axis in AXES[family(site)].split() and not site.endswith("attn_scores")
    ],
)
def test_one_silenced_part(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str, axis: str
) -> None:
    edit = silence(site, axis, 2)
    before = lens(PROMPTS, codes)
    actual = lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[(site, in_place(edit))])
    with oracle.editing(site, edit):
        wanted, _ = expected(oracle, codes, 1.0)
    assert_agree(actual, wanted, site)
    assert furthest(actual, before) > CLEAR


def test_edits_everywhere_at_once(
    lens: AudioLens, oracle: Oracle, codes: Tensor, grad: bool
) -> None:
    """All sites of all layers: they must compose in the order of the computation."""
    edits = {name: noise(name, strength=0.1) for name in EVERYWHERE}
    with lens.hooks([(name, returning(edit)) for name, edit in edits.items()]):
        actual, _ = seen(lens, codes, 3.0)
    visits = {
        name: Visit(edit, "cond" if sees_text_only(name) else "both")
        for name, edit in edits.items()
    }
    with oracle.visiting(visits):
        wanted, _ = expected(oracle, codes, 3.0)
    torch.testing.assert_close(actual, wanted, rtol=0, atol=5 * TOLERANCE * spread(wanted))
    assert furthest(actual, lens(PROMPTS, codes, guidance_scale=3.0)) > CLEAR


@pytest.mark.parametrize("layer", [0, 2])
def test_first_and_last_layer(lens: AudioLens, oracle: Oracle, codes: Tensor, layer: int) -> None:
    for name in (name for name in AXES if name.startswith("blocks.")):
        site = name.replace("{i}", str(layer))
        with oracle.editing(site, noise(site)):
            wanted, _ = expected(oracle, codes, 1.0)
        hooks = [(site, returning(noise(site)))]
        actual = lens.run_with_hooks(PROMPTS, codes, fwd_hooks=hooks)
        assert_agree(actual, wanted, site)


@pytest.mark.parametrize("point", ["attn_scores", "pattern"])
@pytest.mark.parametrize("kind", ["attn", "cross_attn"])
def test_attention_edit_on_the_eager_kernel(
    oracle: Oracle, codes: Tensor, kind: str, point: str
) -> None:
    source = loud_lens()
    model = source.hf_model
    model.decoder.set_attn_implementation("eager")
    lens = AudioLens.from_model(model, source.processor)
    site = f"blocks.{LAYER}.{kind}.hook_{point}"
    with lens.hooks([(site, returning(noise(site)))], branch="cond"):
        actual, _ = seen(lens, codes, 3.0)
    with oracle.editing(site, noise(site), branch="cond"):
        wanted, _ = expected(oracle, codes, 3.0)
    assert_agree(actual, wanted, site)
    assert furthest(actual, lens(PROMPTS, codes, guidance_scale=3.0)) > CLEAR


def test_text_of_the_decoders_own_width_needs_no_projection(codes: Tensor) -> None:
    lens = random_musicgen(n_layers=2, d_model=64, n_heads=4, d_text=64, seed=0)
    oracle = Oracle.copying(lens.hf_model, lens.processor.tokenizer)
    assert not hasattr(oracle.model, "enc_to_dec_proj")
    edit = noise("text.hook_proj")
    actual = lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[("text.hook_proj", returning(edit))])
    with oracle.editing("text.hook_proj", edit):
        wanted, _ = expected(oracle, codes, 1.0)
    assert torch.equal(actual, wanted)
    assert furthest(actual, lens(PROMPTS, codes)) > CLEAR


# -- 2. generation --------------------------------------------------------------------------------


def generated(lens: AudioLens, scale: float, seed: int | None) -> tuple[Tensor, Tensor]:
    """Codes, and logits by branch and position; greedy with two rows, or sampled with one."""
    clips, cache = lens.generate(
        PROMPTS[:2] if seed is None else PROMPTS[0],
        seconds=FRAMES / 50,
        seed=seed or 0,
        guidance_scale=scale,
        do_sample=seed is not None,
        names_filter="hook_logits",
        progress=False,
    )
    logits = torch.cat([cache.branch(branch)["hook_logits"] for branch in cache.branches])
    return torch.stack([clip.codes for clip in clips]), logits


def oracle_generated(oracle: Oracle, scale: float, seed: int | None, **edit: object) -> Tensor:
    with oracle.editing(**edit):
        prompts = PROMPTS[:2] if seed is None else PROMPTS[:1]
        return oracle.generate(prompts, frames=FRAMES, guidance_scale=scale, seed=seed)


@pytest.fixture(scope="module")
def unedited(lens: AudioLens) -> dict[tuple[float, int | None], tuple[Tensor, Tensor]]:
    return {
        (scale, seed): generated(lens, scale, seed) for scale in (1.0, 3.0) for seed in (None, 11)
    }


@pytest.mark.parametrize(("site", "scale", "branch", "seed"), GENERATIONS)
def test_generation_edit_gives_the_oracles_codes(
    lens: AudioLens,
    oracle: Oracle,
    unedited: dict[tuple[float, int | None], tuple[Tensor, Tensor]],
    site: str,
    scale: float,
    branch: str,
    seed: int | None,
) -> None:
    edit = noise(site)
    with lens.hooks([(site, returning(edit))], branch=branch):
        codes, logits = generated(lens, scale, seed)
    wanted = oracle_generated(oracle, scale, seed, name=site, edit=edit, branch=branch)
    assert torch.equal(codes, wanted)
    codes_before, logits_before = unedited[scale, seed]
    assert not torch.equal(codes, codes_before)
    assert_moved_at_every_step(logits, logits_before, site, scale, branch)


def assert_moved_at_every_step(
    after: Tensor, before: Tensor, site: str, scale: float, branch: str
) -> None:
    rows = len(after) // (2 if scale > 1 else 1)
    edited = slice(rows, None) if branch == "uncond" else slice(0, rows)
    moved = (after - before)[edited].abs().amax((0, 1, 3))
    # The first query has a single key, whose share is one whatever its score.
    first = 1 if site.endswith((".attn.hook_q", ".attn.hook_k", ".attn.hook_attn_scores")) else 0
    assert (moved[first:] > CLEAR).all(), moved


def test_continuation_is_edited_at_the_prefixs_positions(lens: AudioLens, codes: Tensor) -> None:
    """With a prefix the first call covers many positions: edits land where a forward puts them."""
    site = "blocks.1.hook_resid_pre"
    with lens.hooks([(site, returning(noise(site)))]):
        clips, cache = lens.generate(
            PROMPTS,
            prefix=codes[..., :3],
            seconds=FRAMES / 50,
            do_sample=False,
            guidance_scale=1.0,
            names_filter="hook_logits",
            progress=False,
        )
        made = torch.stack([clip.codes for clip in clips])
        _, logits = seen(lens, made, 1.0)
    assert torch.equal(made[..., :3], codes[..., :3])
    torch.testing.assert_close(
        cache["hook_logits"], logits, rtol=0, atol=TOLERANCE * spread(logits)
    )


# -- 3. one branch leaves the other alone ----------------------------------------------------------


@pytest.mark.parametrize(("site", "scale", "branch"), ONE_BRANCH)
def test_other_branch_keeps_its_bits(
    lens: AudioLens,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    scale: float,
    branch: str,
    grad: bool,
) -> None:
    _, before = untouched[scale, grad]
    with lens.hooks([(site, returning(noise(site)))], branch=branch):
        _, after = seen(lens, codes, scale)
    cond, uncond = (slice(0, len(PROMPTS)), slice(len(PROMPTS), None))
    edited, other = (cond, uncond) if branch == "cond" else (uncond, cond)
    assert torch.equal(after[other], before[other]), furthest(after[other], before[other])
    assert furthest(after[edited], before[edited]) > CLEAR


@pytest.mark.parametrize("site", [site for site in SITES if sees_text_only(site)])
def test_what_only_the_text_has_refuses_the_other_branch(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str
) -> None:
    """And rightly: the oracle shows that an edit there would change nothing."""
    with pytest.raises(SiteError, match="uncond"), lens.hooks([(site, print)], branch="uncond"):
        pass
    before = expected(oracle, codes, 3.0)[1]
    with oracle.editing(site, noise(site), branch="uncond"):
        after = expected(oracle, codes, 3.0)[1]
    torch.testing.assert_close(after, before, rtol=0, atol=TOLERANCE * spread(before))


# -- 4. how often hooks are called -----------------------------------------------------------------


@pytest.mark.parametrize("known", [0, 3])
def test_every_hook_is_called_once_per_step_and_branch(
    lens: AudioLens, oracle: Oracle, codes: Tensor, known: int
) -> None:
    calls: dict[tuple[str, str], list[tuple[int, range]]] = {}

    def note(tensor: Tensor, *, hook: object) -> None:
        calls.setdefault((hook.name, hook.branch), []).append((hook.step, hook.positions))

    with lens.hooks([(lambda name: True, note)]):
        lens.generate(
            PROMPTS,
            prefix=codes[..., :known] if known else None,
            seconds=FRAMES / 50,
            progress=False,
        )
    later = [(step, range(known + step, known + step + 1)) for step in range(1, POSITIONS - known)]
    for site in lens.sites:
        once = site.name.startswith("text.") or site.name.endswith(
            ("cross_attn.hook_k", "cross_attn.hook_v")
        )
        cond = calls[site.name, "cond"]
        assert [step for step, _ in cond] == ([0] if once else list(range(POSITIONS - known)))
        if not site.name.startswith("text."):  # the decoder has no positions yet
            assert cond == [(0, range(known + 1))] + [] * once + later * (not once)
        assert calls.get((site.name, "uncond")) == (None if sees_text_only(site.name) else cond)


def test_oracle_prefills_twice_and_the_lens_once(oracle: Oracle) -> None:
    """Why step counts are not compared with `generate`: it runs its first call twice."""
    oracle.generate(PROMPTS[:1], frames=FRAMES, guidance_scale=3.0)
    assert len(oracle.calls) == POSITIONS + 1


# -- 5. reads --------------------------------------------------------------------------------------


def oracle_reads(oracle: Oracle, codes: Tensor, scale: float) -> dict[str, Tensor]:
    visits = {name: Visit(kept=[]) for name in READABLE}
    with torch.no_grad(), oracle.visiting(visits):
        oracle.positional(PROMPTS, codes, guidance_scale=scale)
    reads = {}
    for name, visit in visits.items():
        parts = visit.kept
        read = torch.cat(parts, 1) if "codebook" in AXES.get(family(name), "") else parts[0]
        reads[name] = masked(read) if name.endswith("attn_scores") else read
    return reads


def masked(scores: Tensor) -> Tensor:
    """Masked scores as the lens shows them, transformers adding a very low number instead."""
    return scores.masked_fill(scores < -1e30, float("-inf"))


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
def test_forward_reads_are_the_oracles(
    lens: AudioLens, oracle: Oracle, codes: Tensor, scale: float, grad: bool
) -> None:
    _, cache = lens.run_with_cache(PROMPTS, codes, names_filter=READABLE, guidance_scale=scale)
    for name, wanted in oracle_reads(oracle, codes, scale).items():
        branches = ("cond",) if sees_text_only(name) else cache.branches
        for branch, half in zip(branches, wanted.split(len(PROMPTS)), strict=False):
            actual = cache.branch(branch)[name]
            message = f"{name}, {branch}"
            assert not actual.requires_grad
            torch.testing.assert_close(
                actual, half, rtol=0, atol=TOLERANCE, msg=lambda said, m=message: f"{m}: {said}"
            )


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
def test_generation_cache_is_a_teacher_forced_read(
    lens: AudioLens, oracle: Oracle, scale: float
) -> None:
    clips, cache = lens.generate(
        PROMPTS,
        seconds=FRAMES / 50,
        guidance_scale=scale,
        names_filter=READABLE,
        progress=False,
    )
    codes = torch.stack([clip.codes for clip in clips])
    for name, wanted in oracle_reads(oracle, codes, scale).items():
        branches = ("cond",) if sees_text_only(name) else cache.branches
        for branch, half in zip(branches, wanted.split(len(PROMPTS)), strict=False):
            message = f"{name}, {branch}"
            atol = TOLERANCE * spread(half)
            torch.testing.assert_close(
                cache.branch(branch)[name],
                half,
                rtol=0,
                atol=atol,
                msg=lambda said, m=message: f"{m}: {said}",
            )


def test_reading_everything_changes_nothing(lens: AudioLens, codes: Tensor, grad: bool) -> None:
    read, _ = lens.run_with_cache(PROMPTS, codes, guidance_scale=3.0)
    assert torch.equal(read, lens(PROMPTS, codes, guidance_scale=3.0))


@pytest.mark.parametrize("site", SITES)
def test_a_cache_around_an_edit_holds_what_was_there(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str, grad: bool
) -> None:
    """Before the edit what was found, even where the same memory is written later; then after."""
    visits = {name: Visit(kept=[]) for name in EVERYWHERE} | {site: Visit(noise(site), kept=[])}
    with torch.no_grad(), oracle.visiting(visits):
        oracle.positional(PROMPTS, codes)
    with lens.hooks([(site, in_place(noise(site)))]):
        _, cache = lens.run_with_cache(PROMPTS, codes, names_filter=EVERYWHERE)
    for name, visit in visits.items():
        stacked = "codebook" in AXES[family(name)]
        wanted = torch.cat(visit.kept, 1) if stacked else visit.kept[0]
        wanted = masked(wanted) if name.endswith("attn_scores") else wanted
        atol = TOLERANCE * spread(wanted)
        torch.testing.assert_close(
            cache[name], wanted, rtol=0, atol=atol, msg=lambda said, n=name: f"{n}: {said}"
        )


# -- 6. ways of writing, and rows ------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_in_place_edits_count_returned_or_not(
    lens: AudioLens,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    grad: bool,
) -> None:
    edit = noise(site)
    before, _ = untouched[1.0, grad]
    returned, unreturned, both = (
        lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[(site, way(edit))])
        for way in (returning, in_place, in_place_and_returned)
    )
    assert torch.equal(returned, unreturned)
    assert torch.equal(returned, both)
    assert furthest(returned, before) > CLEAR


@pytest.mark.parametrize("site", SITES)
def test_other_rows_keep_their_bits(
    lens: AudioLens,
    oracle: Oracle,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    grad: bool,
) -> None:
    edit = noise(site)
    before, _ = untouched[3.0, grad]
    with lens.hooks([(site, on_row(edit, 1))]):
        after = lens(PROMPTS, codes, guidance_scale=3.0)
    with oracle.editing(site, edit, rows=[1], branch="cond" if sees_text_only(site) else "both"):
        wanted, _ = expected(oracle, codes, 3.0)
    assert torch.equal(after[[0, 2]], before[[0, 2]]), furthest(after[[0, 2]], before[[0, 2]])
    assert_agree(after[1], wanted[1], site)
    assert furthest(after[1], before[1]) > CLEAR


@pytest.mark.parametrize("site", SITES)
def test_intervention_on_rows_is_the_hook_on_rows(
    lens: AudioLens,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    grad: bool,
) -> None:
    edit = noise(site)
    with lens.hooks([(site, on_row(edit, 1))], branch="cond"):
        by_hook = lens(PROMPTS, codes, guidance_scale=3.0)
    act = Intervention(
        site, op=lambda tensor, _, hook: edit(tensor, hook.positions), rows=[1], branch="cond"
    )
    with lens.intervene(act):
        by_intervention = lens(PROMPTS, codes, guidance_scale=3.0)
    assert torch.equal(by_intervention, by_hook)
    assert furthest(by_hook[1], untouched[3.0, grad][0][1]) > CLEAR


@pytest.mark.parametrize("site", SITES)
def test_writing_what_was_there_keeps_every_bit(
    lens: AudioLens,
    codes: Tensor,
    untouched: Untouched,
    site: str,
    grad: bool,
) -> None:
    calls: list[str] = []

    def same(tensor: Tensor, *, hook: object) -> Tensor:
        calls.append(hook.branch)
        return tensor.clone()

    before, _ = untouched[3.0, grad]
    with lens.hooks([(site, same)]):
        after = lens(PROMPTS, codes, guidance_scale=3.0)
    assert calls == (["cond"] if sees_text_only(site) else ["cond", "uncond"])
    assert torch.equal(after, before), furthest(after, before)


@pytest.mark.parametrize("site", SITES)
def test_edits_count_in_inference_mode(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str
) -> None:
    with torch.inference_mode():
        actual = lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[(site, in_place(noise(site)))])
    with torch.no_grad(), oracle.editing(site, noise(site)):
        wanted, _ = expected(oracle, codes, 1.0)
    assert_agree(actual, wanted, site)


@pytest.mark.parametrize("site", ["blocks.1.hook_resid_pre", "blocks.1.attn.hook_pattern"])
def test_rows_are_the_callers_when_they_run_in_groups(
    lens: AudioLens, oracle: Oracle, site: str
) -> None:
    """The last group holds one row and a copy of it; the edit is on that row."""
    act = Intervention(
        site, op=lambda tensor, _, hook: noise(site)(tensor, hook.positions), rows=[2]
    )
    with lens.intervene(act):
        clips = lens.generate(
            PROMPTS, seconds=FRAMES / 50, do_sample=False, row_group=2, progress=False
        )
    made = torch.stack([clip.codes for clip in clips])
    with oracle.editing(site, noise(site), rows=[2]):
        wanted = oracle.generate(PROMPTS, frames=FRAMES, guidance_scale=3.0)
    unedited = oracle.generate(PROMPTS, frames=FRAMES, guidance_scale=3.0)
    assert torch.equal(made, wanted)
    assert torch.equal(made[:2], unedited[:2])
    assert not torch.equal(made[2], unedited[2])


# -- 7. gradients ----------------------------------------------------------------------------------


def loss(logits: Tensor, codes: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 2), codes.flatten())


def oracle_gradients(
    oracle: Oracle, codes: Tensor, scale: float, edits: dict[str, Edit]
) -> dict[str, Tensor]:
    """The loss's gradient at every site: autograd's own, from tensors that retain it."""
    visits = {name: Visit(edits.get(name), kept=[]) for name in SITES}
    with torch.enable_grad(), oracle.visiting(visits):
        loss(expected(oracle, codes, scale)[0], codes).backward()
    oracle.model.zero_grad()
    gradients = {}
    for name, visit in visits.items():
        parts = [tensor.grad for tensor in visit.kept]
        gradients[name] = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    return gradients


def assert_gradients(
    actual: Tensor, wanted: Tensor, name: str, *, relative: float = 5 * TOLERANCE
) -> None:
    assert float(wanted.abs().max()) > 0
    torch.testing.assert_close(
        actual,
        wanted,
        rtol=0,
        atol=relative * float(wanted.abs().max()),
        msg=lambda said: f"{name}: {said}",
    )


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guided"])
@pytest.mark.parametrize("site", SITES)
def test_backward_hooks_see_autograds_gradients(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str, scale: float
) -> None:
    got: dict[str, Tensor] = {}

    def keep(gradient: Tensor, *, hook: object) -> None:
        got[hook.branch] = gradient.clone()

    logits = lens.run_with_hooks(PROMPTS, codes, bwd_hooks=[(site, keep)], guidance_scale=scale)
    assert got == {}
    loss(logits, codes).backward()
    lens.hf_model.zero_grad()
    wanted = oracle_gradients(oracle, codes, scale, {})[site]
    halves = wanted.split(len(PROMPTS))
    for branch, half in zip(got, halves, strict=False):
        assert_gradients(got[branch], half, f"{site}, {branch}")
    guided = scale > 1 and not sees_text_only(site)
    assert list(got) == (["cond", "uncond"] if guided else ["cond"])


@pytest.mark.parametrize("edited", [None, "blocks.1.attn.hook_z", "blocks.1.hook_resid_mid"])
def test_incl_bwd_is_autograd_through_the_oracle(
    lens: AudioLens, oracle: Oracle, codes: Tensor, edited: str | None
) -> None:
    edits = {edited: noise(edited)} if edited else {}
    with lens.hooks([(name, returning(edit)) for name, edit in edits.items()]):
        _, cache = lens.run_with_cache(PROMPTS, codes, names_filter=SITES, incl_bwd=True)
    lens.hf_model.zero_grad()
    for name, wanted in oracle_gradients(oracle, codes, 1.0, edits).items():
        assert_gradients(cache[f"{name}_grad"], wanted, name)


@pytest.mark.parametrize("site", SITES)
def test_weights_get_the_oracles_gradients_through_an_edit(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str
) -> None:
    """An edit that scales what it finds must scale the gradient on its way back, not cut it."""
    edit = noise(site)
    loss(lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[(site, in_place(edit))]), codes).backward()
    with oracle.editing(site, edit):
        loss(expected(oracle, codes, 1.0)[0], codes).backward()
    theirs = dict(oracle.model.named_parameters())
    for name, parameter in lens.hf_model.named_parameters():
        ours, wanted = parameter.grad, theirs[name].grad
        assert (ours is None) == (wanted is None), name
        if ours is not None and float(wanted.abs().max()) > 1e-7:
            assert_gradients(ours, wanted, name, relative=10 * TOLERANCE)
    lens.hf_model.zero_grad()
    oracle.model.zero_grad()


@pytest.fixture
def frozen(lens: AudioLens) -> Iterator[None]:
    """No weight asks for a gradient, as after `model.requires_grad_(False)`."""
    lens.hf_model.requires_grad_(False)
    yield
    lens.hf_model.requires_grad_(True)


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("site", SITES)
def test_gradients_reach_a_site_of_a_frozen_model(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str
) -> None:
    _, cache = lens.run_with_cache(PROMPTS, codes, names_filter=site, incl_bwd=True)
    wanted = oracle_gradients(oracle, codes, 1.0, {})[site]
    assert_gradients(cache[f"{site}_grad"], wanted, site)


LEARNED = [
    pytest.param(site, learned, id=f"{site}-{learned}")
    for site in SITES
    for learned in ("gain", "shift")
    # A factor on minus infinity has no gradient that is a number.
    if not (learned == "gain" and site.endswith("attn_scores"))
]


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize(("site", "learned"), LEARNED)
def test_gradients_reach_what_a_hook_brings(
    lens: AudioLens, oracle: Oracle, codes: Tensor, site: str, learned: str
) -> None:
    """A vector learned by descent: the only thing that asks for a gradient.

    That of a gain needs the tensor as the hook found it, which a write must not destroy.
    """
    ours, theirs = learnable(noise(site), learned), learnable(noise(site), learned)
    way = returning if learned == "gain" else in_place
    loss(lens.run_with_hooks(PROMPTS, codes, fwd_hooks=[(site, way(ours))]), codes).backward()
    with oracle.editing(site, theirs):
        loss(expected(oracle, codes, 1.0)[0], codes).backward()
    oracle.model.zero_grad()
    assert_gradients(getattr(ours, learned).grad, getattr(theirs, learned).grad, site)


def learnable(edit: Edit, learned: str) -> Edit:
    values = {name: getattr(edit, name).clone() for name in ("gain", "shift")}
    values[learned].requires_grad_()
    return replace(edit, **values)


def test_watching_gradients_changes_no_logit(
    lens: AudioLens, codes: Tensor, untouched: Untouched
) -> None:
    hooks = [(SITES, lambda gradient, *, hook: None)]
    logits = lens.run_with_hooks(PROMPTS, codes, bwd_hooks=hooks, guidance_scale=3.0)
    assert logits.requires_grad
    assert torch.equal(logits, untouched[3.0, True][0]), furthest(logits, untouched[3.0, True][0])


def test_a_backward_hook_can_change_the_gradient(
    lens: AudioLens, oracle: Oracle, codes: Tensor
) -> None:
    """Doubled at one site, everything before it gets what autograd gives it for that."""
    site, before = "blocks.1.hook_resid_post", "blocks.0.hook_resid_pre"
    got: list[Tensor] = []

    def double(gradient: Tensor, *, hook: object) -> Tensor:
        return 2 * gradient

    def keep(gradient: Tensor, *, hook: object) -> None:
        got.append(gradient.clone())

    logits = lens.run_with_hooks(PROMPTS, codes, bwd_hooks=[(site, double), (before, keep)])
    loss(logits, codes).backward()
    lens.hf_model.zero_grad()
    visits = {before: Visit(kept=[])}
    with oracle.visiting(visits):
        loss(expected(oracle, codes, 1.0)[0], codes).backward()
    oracle.model.zero_grad()
    assert_gradients(got[0], 2 * visits[before].kept[0].grad, before)
