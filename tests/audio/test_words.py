"""Prompts: matched, balanced, never doubled; captions never use a held-out combination."""

import re
from collections import Counter

import pytest

from audio_lens.audio import words

CONCEPTS = ("tempo", "timbre")


def test_few_contexts_are_as_balanced_as_all():
    few = [words.contexts()[place] for place in words.FEW_CONTEXTS]
    for what, times in (("instrument", 4), ("genre", 4), ("pair", 4), ("template", 8)):
        assert set(Counter(getattr(context, what) for context in few).values()) == {times}
        assert len({getattr(context, what) for context in few}) == 40 // times


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
def test_poles_have_the_same_articles_and_they_fit(concept):
    prompts = words.pole_prompts(concept)
    for positive, negative in zip(prompts.positive, prompts.negative, strict=True):
        articles = [re.findall(r"\b(an?) (\w)", text.lower()) for text in (positive, negative)]
        assert [a for a, _ in articles[0]] == [a for a, _ in articles[1]]
        assert articles[0]
        for article, letter in articles[0] + articles[1]:
            assert article == ("an" if letter in "aeiou" else "a")


def test_no_word_stands_for_two_poles():
    every = [word for concept in CONCEPTS for pair in words.pairs(concept) for word in pair]
    assert [len(words.pairs(concept)) for concept in CONCEPTS] == [10, 10]
    assert len(set(every)) == len(every) == 40


def test_both_concepts_have_the_same_contexts():
    tempo, timbre = map(words.pole_prompts, CONCEPTS)
    assert tempo.contexts == timbre.contexts == words.contexts()
    bare = [
        {re.sub(rf",? {phrase} \S+( \S+)? {noun}", "", text) for text in prompts.positive}
        for prompts, phrase, noun in ((tempo, "at a", "tempo"), (timbre, "with a", "tone"))
    ]
    assert bare[0] == bare[1]
    assert len(bare[0]) == 100


def test_contexts_follow_the_protocol():
    for n, context in enumerate(words.contexts()):
        i, j = divmod(n, 10)
        assert (context.instrument, context.genre) == (words.INSTRUMENTS[i], words.GENRES[j])
        assert (context.pair, context.template) == ((i + j) % 10, (i + 3 * j) % 5)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_some_pairs_are_chosen_with_their_contexts(concept):
    whole, some = words.pole_prompts(concept), words.pole_prompts(concept, only=[2, 7])
    kept = [n for n, context in enumerate(whole.contexts) if context.pair in (2, 7)]
    assert len(kept) == 20
    assert some.contexts == tuple(whole.contexts[n] for n in kept)
    assert some.positive == tuple(whole.positive[n] for n in kept)
    assert some.negative == tuple(whole.negative[n] for n in kept)
    assert words.pole_prompts(concept, only=range(10)) == whole


@pytest.mark.parametrize(("concept", "core"), [("tempo", "fast/slow"), ("timbre", "bright/dark")])
def test_robustness_sets_leave_one_pair_out_or_keep_the_core(concept, core):
    sets, whole = words.robustness_sets(concept), set(words.pole_prompts(concept).positive)
    assert list(sets) == ["core"] + [f"without {'/'.join(pair)}" for pair in words.pairs(concept)]
    fast, slow = core.split("/")
    assert all(f" a {fast} " in text for text in sets["core"].positive)
    assert all(f" a {slow} " in text for text in sets["core"].negative)
    left = [whole - set(chosen.positive) for name, chosen in sets.items() if name != "core"]
    assert [len(part) for part in left] == [10] * 10
    assert set.union(*left) == whole
    assert whole - set(sets[f"without {core}"].positive) == set(sets["core"].positive)
    for chosen in sets.values():  # still balanced: each word meets each instrument and genre once
        for factor in ("instrument", "genre"):
            met = Counter(getattr(context, factor) for context in chosen.contexts)
            assert set(met.values()) == {len(chosen.contexts) // 10}


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


def test_neutral_prompts_are_no_pole_prompts_and_cover_the_words():
    records = words.neutral_records()
    familiar = [r for r in records if r.familiar]
    for drums in (True, False):
        cell = [r for r in familiar if r.drums == drums]
        assert {r.instrument for r in cell} == set(words.INSTRUMENTS)
        assert {r.genre for r in cell} == set(words.GENRES)
    for record in records:
        if not record.familiar:
            new = (record.instrument in words.EXTRA_INSTRUMENTS) + (
                record.genre in words.EXTRA_GENRES
            )
            assert new == 1
    for concept in CONCEPTS:
        poles = words.pole_prompts(concept)
        assert not {r.text for r in records} & {*poles.positive, *poles.negative}


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
    with pytest.raises(ValueError, match="no word pair 10: expected places from 0 to 9"):
        words.pole_prompts("tempo", only=[0, 10])
    with pytest.raises(ValueError, match="unknown split 'train'"):
        words.neutral_prompts("train")
    with pytest.raises(ValueError, match="template 99 does not exist"):
        words.caption("piano", "pop", 99)
