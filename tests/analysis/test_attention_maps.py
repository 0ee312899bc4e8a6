"""What heads look at: against patterns of the cache, and heads whose look was written by hand."""

import pytest
import torch

from audio_lens import AudioLens
from audio_lens.analysis.attention import (
    attention_by_lag,
    attention_to_words,
    head_summaries,
    words_of_tokens,
)
from audio_lens.errors import InputError

PROMPT = "a slow slow organ"


def look_back(lens, *, layer: int, head: int, lag: int, key: str):
    """Interventions that make one head attend to nothing but what lies `lag` behind."""

    def op(tensor, *, hook):
        pattern = tensor.clone()
        pattern[:, head] = 0
        n_query, n_key = pattern.shape[-2:]
        for query in range(n_query):
            pattern[:, head, query, max(query + n_key - n_query - lag, 0)] = 1
        return pattern

    return lens.hooks([(f"blocks.{layer}.{key}.hook_pattern", op)])


def test_shares_are_those_of_the_pattern(lens) -> None:
    codes = lens.random_codes(frames=20, batch=2, seed=3)
    found = attention_by_lag(lens, PROMPT, codes, seconds=0.1)
    assert found.weights.shape == (lens.cfg.n_layers, lens.cfg.n_heads, 6)
    _, cache = lens.run_with_cache([PROMPT] * 2, codes, names_filter="attn.pattern")
    pattern = cache["attn.pattern", 1][:, 2]
    start = cache.layout.n_prefix
    n = codes.shape[-1] + max(lens.cfg.delays)
    for lag in range(6):
        shares = [pattern[:, start + q, start + q - lag] for q in range(6, n)]
        wanted = torch.stack(shares).mean()
        assert found.weights[1, 2, lag] == pytest.approx(float(wanted), abs=1e-6)
    queries = slice(start + 6, None)
    assert found.bos[1, 2] == pytest.approx(float(pattern[:, queries, start].mean()), abs=1e-6)
    prefix = pattern[:, queries, :start].sum(-1).mean()
    assert found.prefix[1, 2] == pytest.approx(float(prefix), abs=1e-6)


def test_heads_made_to_look_back_are_found(lens) -> None:
    codes = lens.random_codes(frames=60, seed=3)
    with look_back(lens, layer=1, head=3, lag=1, key="attn"):
        previous = head_summaries(attention_by_lag(lens, PROMPT, codes, seconds=0.6))
    first = previous.sort_values("previous", ascending=False).iloc[0]
    assert (first["layer"], first["head"]) == (1, 3)
    assert first["previous"] == pytest.approx(1, abs=1e-5)
    with look_back(lens, layer=0, head=2, lag=25, key="attn"):
        beat = head_summaries(attention_by_lag(lens, PROMPT, codes, seconds=0.6), beat_seconds=0.5)
    first = beat.sort_values("beat_lift", ascending=False).iloc[0]
    assert (first["layer"], first["head"]) == (0, 2)
    assert first["beat"] == pytest.approx(1, abs=1e-5)
    others = beat.drop(first.name)["beat_lift"]
    assert first["beat_lift"] > 5 > others.max()


def test_words_get_the_shares_of_their_tokens(lens) -> None:
    codes = lens.random_codes(frames=6, batch=2, seed=3)
    found = attention_to_words(lens, PROMPT, codes)
    assert found.words == ("a", "slow", "slow", "organ", "</s>")
    words = words_of_tokens(lens, PROMPT)
    crossing = "cross_attn.pattern" in lens.sites.shorthands
    name = "cross_attn.pattern" if crossing else "attn.pattern"
    _, cache = lens.run_with_cache([PROMPT] * 2, codes, names_filter=name)
    pattern = cache[name, 1]
    if not crossing:
        pattern = pattern[:, :, cache.layout.audio, cache.layout.text]
    for place in range(5):
        tokens = [token for token, (word, _) in words.items() if word == place]
        wanted = pattern[..., tokens].sum(-1).mean(0)
        assert torch.allclose(found.weights[1, :, place], wanted, atol=1e-6)
    if crossing:
        assert torch.allclose(found.mean.sum(-1), torch.ones(()), atol=1e-5)
    table = found.to_dataframe()
    assert len(table) == lens.cfg.n_layers * lens.cfg.n_heads * 5
    row = table[(table["layer"] == 1) & (table["head"] == 2) & (table["place"] == 2)]
    assert row["share"].item() == pytest.approx(float(found.mean[1, 2, 2]))
    both = head_summaries(attention_by_lag(lens, PROMPT, codes, seconds=0.04), found)
    assert set(both["word"]) <= set(found.words)


def test_spaces_belong_to_the_word_behind_them(lens) -> None:
    codes = lens.random_codes(frames=6, seed=3)
    found = attention_to_words(lens, "  at 120\tbpm", codes)
    assert found.words == ("at", "120", "bpm", "</s>")


@pytest.mark.families("mono")
def test_a_space_of_its_own_opens_the_next_word(lens) -> None:
    toy = AudioLens.from_pretrained("toy")
    tokens = [token.replace("Ġ", " ") for token in toy.text_tokens("jazz music at 120 bpm")]
    words = words_of_tokens(toy, "jazz music at 120 bpm")
    read = {}
    for token, (_, word) in words.items():
        read[word] = read.get(word, "") + tokens[token]
    assert read["120"].strip() == "120"
    assert read["at"].strip() == "at"


@pytest.mark.families("mono")
def test_pictures(lens) -> None:
    codes = lens.random_codes(frames=20, seed=3)
    lags = attention_by_lag(lens, PROMPT, codes, seconds=0.2, layers=[0, 1])
    figure = lags.plot()
    assert [axis.get_title() for axis in figure.axes[:2]] == ["layer 0", "layer 1"]
    words = attention_to_words(lens, PROMPT, codes).plot()
    shown = [label.get_text() for label in words.axes[0].get_xticklabels()]
    assert shown == ["a", "slow", "slow", "organ", "</s>"]


@pytest.mark.families("mono")
def test_the_other_half_is_read_too(lens) -> None:
    codes = lens.random_codes(frames=20, seed=3)
    asked = {"seconds": 0.1, "branch": "uncond", "guidance_scale": 3.0}
    uncond = attention_by_lag(lens, PROMPT, codes, **asked)
    alone = attention_by_lag(lens, None, codes, seconds=0.1)
    assert torch.allclose(uncond.weights, alone.weights, atol=1e-5)


@pytest.mark.families("mono")
def test_bad_input_is_named(lens, as_users_see_it) -> None:
    codes = lens.random_codes(frames=20, seed=3)
    with pytest.raises(InputError, match="at least a frame, and shorter than the codes"):
        attention_by_lag(lens, PROMPT, codes, seconds=5)
    with pytest.raises(InputError, match="one half, got 'both'"):
        attention_by_lag(lens, PROMPT, codes, seconds=0.1, branch="both")
    with pytest.raises(InputError, match="words are those of one prompt"):
        attention_to_words(lens, [PROMPT], codes)
    found = attention_by_lag(lens, PROMPT, codes, seconds=0.1)
    with pytest.raises(InputError, match=r"a lag of 3.0 s was not measured"):
        head_summaries(found, beat_seconds=3.0)
    with pytest.raises(InputError, match="layers differ"):
        head_summaries(found, attention_to_words(lens, PROMPT, codes, layers=[0]))


def test_heads_are_averaged_listed_and_drawn(lens) -> None:
    codes = lens.random_codes(frames=30, seed=3)
    lags = attention_by_lag(lens, PROMPT, codes, seconds=0.2)
    words = attention_to_words(lens, PROMPT, codes)
    for found, shares in ((lags, lags.weights), (words, words.mean)):
        assert torch.allclose(found.over_heads[1], torch.stack([*shares[1]]).mean(0))
        (panel, _) = found.plot(averaged=True).axes
        assert panel.get_ylabel() == "layer"
        assert torch.allclose(torch.as_tensor(panel.images[0].get_array()), found.over_heads)
        assert len(found.plot().axes) == lens.cfg.n_layers + 1
    table = lags.to_dataframe().set_index(["layer", "head", "seconds"])
    assert table.loc[(2, 1, 0.1), "share"] == pytest.approx(float(lags.weights[2, 1, 5]))
