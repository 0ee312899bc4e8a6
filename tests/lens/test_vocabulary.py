"""Words a checkpoint was never taught are told of: once each, at the user's line, with advice."""

import linecache
import warnings

import pytest
import torch
from transformers import MusicgenForConditionalGeneration

from audio_lens import AudioLens, Direction, Prompt, UnknownWordWarning
from audio_lens.audio import words
from audio_lens.audio.synthesis import draw
from audio_lens.lens.vocabulary import Vocabulary, words_of
from audio_lens.testing import random_musicgen

WORDS = ("a", "bright", "fast", "melody", "organ", "saxophone", "slow", "slow-paced", "tempo")
TUNE = torch.eye(12)[:4]
UP = Direction({("resid_post", 0): torch.ones(64)}, typical_norms={("resid_post", 0): 8.0})


def taught(vocabulary=WORDS, **shape) -> AudioLens:
    """A random model whose configuration lists its words, as the toy's does."""
    model = random_musicgen(n_layers=1, **shape)
    hf_model, processor = model.hf_model, model.processor
    hf_model.config.vocabulary = list(vocabulary)
    return AudioLens.from_model(hf_model, processor)


@pytest.fixture(params=[False, True], ids=["mono", "melody"])
def reader(request) -> AudioLens:
    return taught(melody=request.param)


def bound_forward(lens, prompts):
    bound = lens.bind(prompts)
    rows = 1 if isinstance(prompts, str) else len(prompts)
    return bound(bound.to_tokens(lens.random_codes(frames=3, batch=rows)))


CALLS = {
    "forward": lambda lens, prompt: lens(prompt, lens.random_codes(frames=3)),
    "cache": lambda lens, prompt: lens.run_with_cache(prompt, lens.random_codes(frames=3)),
    "bound": bound_forward,
    "generate": lambda lens, prompt: lens.generate(prompt, seconds=0.04, progress=False),
    "grouped": lambda lens, prompt: lens.generate(
        prompt, seconds=0.04, row_group=1, progress=False
    ),
    "sweep": lambda lens, prompt: lens.sweep(
        prompt, direction=UP, coefficients=[1], seconds=0.04, progress=False
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_in_warns_once_a_word(reader, call):
    with pytest.warns(UnknownWordWarning) as told:
        call(reader, ["a calm organ", "a fast banjo"])
    (warning,) = told
    assert "never taught the words 'calm', 'banjo': they mean nothing" in str(warning.message)
    assert "`lens.cfg.vocabulary` lists the words it knows" in str(warning.message)
    call(reader, ["a calm organ", "a slow banjo"])  # warnings are errors here: it is not said again
    with pytest.warns(UnknownWordWarning, match="the word 'lively': it means nothing"):
        call(reader, "a lively banjo")


def test_it_points_at_the_users_line(reader):
    with pytest.warns(UnknownWordWarning) as told:
        reader.generate("banjo", seconds=0.04, progress=False)  # this line
    assert told[0].filename == __file__
    assert linecache.getline(__file__, told[0].lineno).endswith("# this line\n")
    with (
        pytest.warns(UnknownWordWarning) as told,
        reader.trace("harp", reader.random_codes(frames=3)),
    ):
        pass
    assert "'harp'" in str(told[0].message)


def test_each_lens_says_it_for_itself():
    for _ in range(2):
        with pytest.warns(UnknownWordWarning, match="'banjo'"):
            taught().generate("banjo", seconds=0.04, progress=False)


def test_a_word_that_was_refused_is_refused_again(reader):
    """Where warnings are errors nothing was run, so nothing was told."""
    for _ in range(2):
        with pytest.raises(UnknownWordWarning, match="'banjo'"):
            reader.generate("banjo", seconds=0.04, progress=False)
    assert not reader._engine.active


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("orgen", "organ"),
        ("melodies", "melody"),
        ("sax", "saxophone"),
        ("(fast)", "fast"),
        ("slow/bright", "slow bright"),
        ("fast\nslow", "fast slow"),
        ("adagio", "slow"),
        ("speed", "tempo"),
    ],
)
def test_known_words_are_suggested(word, meant):
    with pytest.warns(UnknownWordWarning) as told:
        taught().generate(word, seconds=0.04, progress=False)
    assert f"(perhaps {meant!r})" in str(told[0].message)


def test_only_known_words_are_suggested():
    assert Vocabulary(["fast"]).suggestion("adagio") is None
    assert Vocabulary(["fast", "saxophone"]).suggestion("calm") is None
    assert Vocabulary(["fast", "saxophone"]).suggestion("sa") is None


@pytest.fixture(scope="module")
def toy() -> AudioLens:
    return AudioLens.from_pretrained("toy")


def test_words_are_told_apart_as_the_toys_tokenizer_does(toy):
    """A word is known where it is the token that training used."""
    vocabulary = Vocabulary(toy.cfg.vocabulary)
    for text in (
        "FAST organ", "fast,organ", " fast  organ.", "ｆａｓｔ organ", "fast\u00a0organ!",
        "(fast) organ", "fast\norgan", "fast/organ", "fast-organ", "“fast” organ",
    ):  # fmt: skip
        tokens = set(toy.text_tokens(text))
        assert ({"Ġfast", "Ġorgan"} <= tokens) == (not vocabulary.unknown([text])), text


def test_prompts_of_known_words_are_quiet(reader):
    reader.generate(["A FAST, bright organ melody.", None], seconds=0.04, progress=False)
    reader(None, reader.random_codes(frames=3))
    assert words_of(" ,. ") == ()


def test_a_melody_may_come_without_words():
    lens, codes = taught(melody=True), torch.zeros(1, 4, 3, dtype=torch.long)
    lens(Prompt("", melody=TUNE), codes)
    lens(Prompt("a slow organ", melody=TUNE), codes)
    with pytest.warns(UnknownWordWarning, match="'banjo'"):
        lens(Prompt("a slow banjo", melody=TUNE), codes)


def test_models_without_a_list_read_anything():
    lens = random_musicgen(n_layers=1)
    assert lens.cfg.vocabulary is None
    lens.generate("banjo 120 bpm ¿qué?", seconds=0.04, progress=False)


def test_the_toy_lists_its_words(toy):
    assert toy.cfg.vocabulary == words.vocabulary()
    assert "vocabulary" not in repr(toy.cfg)


def test_all_of_the_recipes_prompts_and_captions_are_known(toy):
    vocabulary = Vocabulary(toy.cfg.vocabulary)
    texts = [*words.neutral_prompts(), *(draw(seed).caption for seed in range(300))]
    for concept in ("tempo", "timbre"):
        poles = words.pole_prompts(concept)
        texts += [*poles.positive, *poles.negative]
    assert vocabulary.unknown(texts) == []
    assert vocabulary.unknown([" ".join(words.vocabulary())]) == []
    assert vocabulary.unknown(words.NOT_USED) == list(words.NOT_USED)


def test_the_toy_tells_what_it_never_heard(toy):
    with pytest.warns(UnknownWordWarning, match=r"'song' \(perhaps 'track'\)"):
        toy.generate("a slow song", seconds=0.04, progress=False)


def test_the_check_is_quiet_on_the_toy(toy):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownWordWarning)
        assert toy.check().ok


def test_transformers_alone_keeps_the_list(toy, tmp_path):
    toy.hf_model.save_pretrained(tmp_path)
    again = MusicgenForConditionalGeneration.from_pretrained(tmp_path)
    assert tuple(again.config.vocabulary) == words.vocabulary()
    assert AudioLens.from_pretrained(tmp_path).cfg.vocabulary == words.vocabulary()
