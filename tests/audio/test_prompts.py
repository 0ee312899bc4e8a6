"""The data file of prompts: what the functions say now, and every promise made about it."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest

from audio_lens import AudioLens
from audio_lens.audio import prompts, words

DATA = json.loads(prompts.PATH.read_text(encoding="utf-8"))
POLES = ("positive", "negative")


def every_prompt() -> list[str]:
    """All texts of the file."""
    poles = [p[pole] for c in DATA["concepts"].values() for p in c["prompts"] for pole in POLES]
    return poles + [record["text"] for record in DATA["neutral"]]


def test_the_file_is_what_the_script_would_write():
    assert prompts.PATH.read_text(encoding="utf-8") == prompts.as_text(), (
        "run `python -m audio_lens.audio.prompts --write`"
    )
    assert DATA["format_version"] == prompts.FORMAT_VERSION == 1


def test_the_script_tells_a_stale_file_and_mends_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prompts, "PATH", tmp_path / "prompts.json")
    assert prompts.main([]) == 1
    assert "is stale: run" in capsys.readouterr().err
    assert prompts.main(["--write"]) == 0
    assert prompts.main([]) == 0
    prompts.PATH.write_text(prompts.as_text().replace("slow", "calm"), encoding="utf-8")
    assert prompts.main([]) == 1


def test_the_file_stands_alone():
    """Whoever reads it needs no function of the package to use it."""
    assert set(DATA["concepts"]) == {"tempo", "timbre"}
    for concept, held in DATA["concepts"].items():
        poles = words.pole_prompts(concept)
        assert tuple(p["positive"] for p in held["prompts"]) == poles.positive
        assert tuple(p["negative"] for p in held["prompts"]) == poles.negative
        for prompt in held["prompts"]:
            pair = held["pairs"][prompt["pair"]]
            for pole in POLES:
                assert f" {pair[pole]} " in f"{prompt[pole].replace(',', '')} "
                assert prompt["instrument"].lower() in prompt[pole].lower()
                assert prompt["genre"].lower() in prompt[pole].lower()
        core = held["pairs"][held["core_pair"]]
        assert core in (
            {"positive": "fast", "negative": "slow"}, {"positive": "bright", "negative": "dark"},
        )  # fmt: skip


def test_no_text_stands_twice():
    texts = every_prompt()
    assert len(texts) == 2 * 200 + 40
    assert len(set(texts)) == len(texts)


def test_words_left_out_occur_nowhere():
    everywhere = " ".join([*every_prompt(), *words.vocabulary()]).lower()
    left_out = [*DATA["not_used"]["words"], *DATA["not_used"]["genres"]]
    assert len(left_out) == 13 + 10
    for word in left_out:
        assert not re.search(rf"\b{re.escape(word)}\b", everywhere), word


def test_words_left_out_say_why():
    reasons = {"level", "energy", "mood", "the other concept"}
    for word in DATA["not_used"]["words"].values():
        assert word["also_means"]
        assert set(word["also_means"]) <= reasons


def test_neutral_prompts_are_split_by_stratum():
    cells: dict[tuple, list[str]] = {}
    for record in DATA["neutral"]:
        stratum = record["stratum"]
        cells.setdefault((stratum["drums"], stratum["familiar"]), []).append(record["split"])
    assert len(cells) == 4
    for splits in cells.values():
        assert (splits.count("dev"), splits.count("test"), len(splits)) == (4, 6, 10)


def test_seeds_of_different_purposes_never_meet():
    seeds = DATA["seeds"]
    assert seeds["dev"] == {"first": 0, "last": 99}
    assert seeds["test"] == {"first": 1000, "last": 1099}
    assert seeds["directions"] == {"first": 2000, "last": None}
    ends = sorted((s["first"], s["last"] or np.inf) for s in seeds.values())
    assert all(last < first for (_, last), (first, _) in pairwise(ends))


@pytest.fixture(scope="module")
def tokenizer():
    return AudioLens.from_pretrained("toy").processor.tokenizer


@pytest.mark.parametrize("concept", ["tempo", "timbre"])
def test_the_poles_have_as_many_tokens_on_the_toy(concept, tokenizer):
    counts = prompts.token_counts(concept, tokenizer)
    assert counts.shape == (2, 100)
    assert np.array_equal(counts[0], counts[1])
    first = words.pole_prompts(concept).positive[0]
    assert counts[0, 0] == len(tokenizer(first).input_ids)


def test_token_counts_are_printed(tokenizer, tmp_path, capsys):
    tokenizer.save_pretrained(tmp_path)
    assert prompts.main(["--tokens", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"tempo: 16\.\d and 16\.\d tokens .* 100% of pairs equal", printed)
    assert "timbre: " in printed
