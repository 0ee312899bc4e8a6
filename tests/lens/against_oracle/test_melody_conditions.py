"""Melodies, texts and nothing at all as conditions, against transformers."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from checks import CLEAR, FRAMES, TOLERANCE, furthest, returning, spread
from pairs import CHROMA, KINDS, MELODIES, SEEDS, before, pair

from audio_lens import Prompt


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
