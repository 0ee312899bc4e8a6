"""The tokenizer takes any text, and every word of training is one token."""

import pytest
import torch

from audio_lens.audio import words
from audio_lens.toy._text import build_processor


@pytest.mark.parametrize(
    "text",
    ["techno at 180 BPM!!!", "Qué café, naïve façade", "日本の音楽 🎵", "a\n\tb  c", "", "x" * 100],
)
def test_any_text_is_taken_and_can_be_read_back(processor, text):
    ids = processor.tokenizer(text).input_ids
    assert ids[-1] == processor.tokenizer.eos_token_id
    back = processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert back.replace(" ", "") == text.lower().replace(" ", "")


def test_known_words_are_one_token_each(processor):
    plain = [word for word in words.vocabulary() if "-" not in word]
    assert {len(processor.tokenizer(word).input_ids) for word in plain} == {2}
    assert len(processor.tokenizer("clavichord").input_ids) > 3


def test_capitals_and_the_first_place_do_not_matter(processor):
    first = processor.tokenizer("Latin piano").input_ids
    assert first == processor.tokenizer("latin Piano").input_ids
    assert processor.tokenizer("a latin piano").input_ids[1:] == first


def test_different_pole_words_have_different_tokens(processor):
    for concept in ("tempo", "timbre"):
        coded = [tuple(processor.tokenizer(w).input_ids) for p in words.pairs(concept) for w in p]
        assert len(set(coded)) == 20


def test_the_packaged_processor_is_the_one_the_script_builds(processor):
    built = build_processor(16_000)
    prompts = list(words.neutral_prompts())
    packaged, fresh = (
        p(text=prompts, padding=True, return_tensors="pt") for p in (processor, built)
    )
    assert torch.equal(packaged.input_ids, fresh.input_ids)
    assert torch.equal(packaged.attention_mask, fresh.attention_mask)
    assert processor.feature_extractor.sampling_rate == 16_000
