"""Prompts: matched, balanced, never doubled; captions never use a held-out combination."""

from collections import Counter

import pytest

from audio_lens.audio import words

CONCEPTS = ("tempo", "timbre")


@pytest.mark.parametrize("concept", CONCEPTS)
def test_poles_are_identical_once_the_word_is_deleted(concept):
    prompts = words.pole_prompts(concept)
    for context, positive, negative in zip(
        prompts.contexts, prompts.positive, prompts.negative, strict=True
    ):
        bright, dark = words.pairs(concept)[context.pair]
        assert positive.count(bright) == 1
        assert negative.count(dark) == 1
        assert positive.replace(bright, "") == negative.replace(dark, "")


@pytest.mark.parametrize("concept", CONCEPTS)
def test_no_two_pole_prompts_are_equal(concept):
    prompts = words.pole_prompts(concept)
    assert len(prompts.positive) == len(prompts.negative) == 100
    assert len(set(prompts.positive + prompts.negative)) == 200


@pytest.mark.parametrize(("factor", "size"), [("instrument", 10), ("genre", 10), ("pair", 10)])
def test_contexts_are_balanced(factor, size):
    contexts = words.contexts()
    assert set(Counter(getattr(c, factor) for c in contexts).values()) == {10}
    with_template = Counter((getattr(c, factor), c.template) for c in contexts)
    assert len(with_template) == size * 5
    assert set(with_template.values()) == {2}


def test_every_word_pair_meets_every_instrument_and_genre_once():
    contexts = words.contexts()
    for factor in ("instrument", "genre"):
        assert len({(getattr(c, factor), c.pair) for c in contexts}) == 100


def test_neutral_prompts_are_split_and_stratified():
    records = words.neutral_records()
    cells = Counter((r.familiar, r.drums, r.split) for r in records)
    assert set(cells.values()) == {4, 6}
    assert len(cells) == 8
    assert all(n == (4 if split == "dev" else 6) for (_, _, split), n in cells.items())
    assert len({r.text for r in records}) == 40
    assert len(words.neutral_prompts("dev")) == 16
    assert len(words.neutral_prompts("test")) == 24
    assert set(words.neutral_prompts()) == {r.text for r in records}


def test_neutral_prompts_name_no_pole_and_tell_the_truth_about_drums():
    pole_words = {w for c in CONCEPTS for pair in words.pairs(c) for w in pair}
    for record in words.neutral_records():
        assert not pole_words & set(record.text.lower().replace(",", "").split())
        named = any(w in record.text for w in ("drums", "rhythm section", "beat"))
        assert named == record.drums
        known = record.instrument in words.INSTRUMENTS and record.genre in words.GENRES
        assert known == record.familiar


def test_familiar_neutral_prompts_are_no_pole_context():
    bare = {
        words.sentence(words.TEMPLATES[c.template], c.instrument, c.genre) for c in words.contexts()
    }
    assert not bare & set(words.neutral_prompts())


def test_words_left_out_leave_no_trace():
    template = words.TEMPLATES[2]
    assert words.sentence(template, "cello", "jazz") == (
        "An instrumental jazz track, led by cello over a steady beat"
    )
    assert words.sentence(template, "cello", "jazz", "slow", "dark") == (
        "An instrumental jazz track at a slow tempo and with a dark tone, "
        "led by cello over a steady beat"
    )
    free = words.FREE_TEMPLATES[0]
    assert words.sentence(free, "organ", "electronic") == "An electronic organ melody"
    assert words.sentence(free, "organ", "electronic", "slow") == "A slow electronic organ melody"


def test_held_out_combinations_are_exactly_the_pole_contexts():
    for context in words.contexts():
        assert words.is_held_out(context.instrument, context.genre, context.template)
        with pytest.raises(ValueError, match="held out for the pole prompts"):
            words.caption(context.instrument, context.genre, context.template)
    free = sum(
        words.is_held_out(i, g, t)
        for i in words.INSTRUMENTS
        for g in words.GENRES
        for t in range(len(words.all_templates()))
    )
    assert free == 100
    assert not words.is_held_out("clarinet", "jazz", 0)


def test_vocabulary_covers_every_prompt():
    known = set(words.vocabulary())
    texts = list(words.neutral_prompts())
    for concept in CONCEPTS:
        prompts = words.pole_prompts(concept)
        texts += [*prompts.positive, *prompts.negative]
    used = {word for text in texts for word in text.lower().replace(",", "").split()}
    assert used <= known


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="unknown concept 'mood'"):
        words.pole_prompts("mood")
    with pytest.raises(ValueError, match="unknown split 'train'"):
        words.neutral_prompts("train")
    with pytest.raises(ValueError, match="template 99 does not exist"):
        words.caption("piano", "pop", 99)
