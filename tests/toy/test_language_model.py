"""Training sees exactly what generation sees: delays, losses, and the unconditional branch."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from audio_lens import AudioLens, Prompt
from audio_lens.audio.synthesis import draw, render
from audio_lens.toy import _language_model as language_model
from audio_lens.toy._codec import encode
from audio_lens.toy._language_model import (
    LanguageModelSettings,
    Material,
    Phase,
    _Batches,
    _contradicted,
    code_loss,
    delayed,
    opening_weights,
    train_language_model,
    worth_of_words,
)
from audio_lens.toy._models import BOS, CHROMA_LENGTH, build_model, hidden_states, null_chroma
from audio_lens.toy._text import build_tokenizer


def test_delayed_input_is_what_generation_builds(toy):
    codes = torch.randint(0, 256, (2, 4, 9))
    ours = delayed(codes).view(2, 4, -1)
    assert ours.shape == (2, 4, 12)
    start = torch.full((2 * 4, 1), BOS)
    full = torch.cat([start, codes.reshape(8, -1)], dim=1)
    _, mask = toy.decoder.build_delay_pattern_mask(full, pad_token_id=BOS, max_length=13)
    assert torch.equal(ours.reshape(8, -1), mask[:, :12])


def test_loss_reads_each_code_where_generation_predicts_it():
    codes = torch.randint(0, 256, (2, 4, 9))
    logits = torch.zeros(2, 4, 12, 256)
    for book in range(4):
        for frame in range(9):
            logits[torch.arange(2), book, frame + book, codes[:, book, frame]] = 50.0
    assert code_loss(logits.view(8, 12, 256), codes).max() < 1e-6
    wrong = torch.roll(logits, 1, dims=2)
    assert code_loss(wrong.view(8, 12, 256), codes).min() > 1


def test_openings_count_most_and_weights_are_a_mean():
    settings = LanguageModelSettings()
    weights = opening_weights(200, settings)
    assert weights[0] == 1 + settings.opening_weight
    assert 1 < weights[-1] < 1.01
    assert (weights.diff() <= 0).all()
    codes = torch.randint(0, 256, (1, 4, 9))
    flat = torch.zeros(4, 12, 256)
    assert torch.allclose(code_loss(flat, codes, weights[:9]), torch.full((4,), 256.0).log())


def test_the_toy_predicts_real_codes_better_than_chance_and_text_helps(toy, processor):
    """Nats per code on held-out clips: far under log 256, and lower under their own captions."""
    recipes = [draw(seed) for seed in range(4_000_000, 4_000_040)]
    recipes = [r for r in recipes if r.tempo_word and r.timbre_word][:8]
    waves = torch.from_numpy(np.stack([render(recipe, 4.0) for recipe in recipes]))
    codes = encode(toy.audio_encoder, waves)
    losses = {}
    for name, shift in (("own", 0), ("other", 1)):
        captions = [recipe.caption for recipe in recipes[shift:] + recipes[:shift]]
        text = processor(text=captions, padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = toy(**text, decoder_input_ids=delayed(codes)).logits
        losses[name] = float(code_loss(logits, codes).mean())
    assert losses["own"] < 4.0 < 5.55
    assert losses["own"] < losses["other"]


def test_training_leaves_the_codec_alone_and_lowers_the_loss(toy, processor):
    model = deepcopy(toy)
    with torch.no_grad():
        for head in model.decoder.lm_heads:
            head.weight.zero_()
    before = {n: p.clone() for n, p in model.audio_encoder.state_dict().items()}
    material = Material(torch.randint(0, 4, (4, 4, 60)), [draw(seed) for seed in range(4)])
    settings = LanguageModelSettings(
        phases=(Phase(6, 40, 4),), bfloat16=False, warmup=2, learning_rate=1e-2
    )
    log = train_language_model(model, processor.tokenizer, material, material, settings)
    after = model.audio_encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert log["loss"][0] < 5.545
    assert log["worth_of_words"][-1]["step"] == 6
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_words_are_worth_something_to_the_packaged_toy_and_nothing_to_an_untrained_one(
    toy, processor
):
    recipes = [draw(seed) for seed in range(5_000_000, 5_000_024)]
    waves = torch.from_numpy(np.stack([render(recipe, 2.0) for recipe in recipes]))
    held_out = Material(encode(toy.audio_encoder, waves), recipes)
    worth = worth_of_words(toy, processor.tokenizer, held_out)
    assert min(worth.values()) > 0.01
    for name in ("encoder", "shared"):
        assert hasattr(toy.text_encoder, name)
    deaf = deepcopy(toy)
    with torch.no_grad():
        deaf.enc_to_dec_proj.weight.zero_()
    assert worth_of_words(deaf, processor.tokenizer, held_out) == {"tempo": 0, "timbre": 0}


def test_a_contradicted_caption_says_the_opposite_and_nothing_else():
    recipe = next(r for r in map(draw, range(50)) if r.tempo_word == "fast")
    other = _contradicted(recipe, "tempo")
    assert other.tempo_word == "slow"
    assert other.caption == recipe.caption.replace("fast", "slow")


def test_melody_windows_begin_where_their_chroma_do_and_captions_are_never_padded(processor):
    recipes = [draw(seed) for seed in range(40)]
    frames = torch.arange(500)
    codes = (frames // 32).expand(40, 4, -1)
    chroma = torch.zeros(40, CHROMA_LENGTH, 12)
    for frame in range(CHROMA_LENGTH):
        chroma[:, frame, (frame // 5) % 12] = 1
    batches = _Batches(
        Material(codes, recipes, chroma), processor.tokenizer, torch.Generator().manual_seed(0)
    )
    batch = batches.draw(Phase(1, 64, 8), no_melody=0.0)
    assert batch.text[1].all()
    assert torch.equal(batch.chroma[:, 0].argmax(-1), batch.codes[:, 0, 0] % 12)
    without = batches.draw(Phase(1, 64, 8), no_melody=1.0)
    assert torch.equal(without.chroma, null_chroma(8))


def test_hidden_states_are_those_of_the_lens(toy):
    """Training reads captions and melodies as a run of the lens does."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    for family in ("cross", "melody"):
        model = build_model(family, toy.audio_encoder, len(tokenizer)).eval()
        lens = AudioLens.from_model(model, tokenizer, name=family)
        codes = lens.random_codes(frames=7)
        chroma = torch.nn.functional.one_hot(torch.arange(CHROMA_LENGTH) % 12, 12).float()[None]
        prompt = Prompt("slow organ", melody=chroma[0]) if family == "melody" else "slow organ"
        ids = tokenizer("slow organ", return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = hidden_states(
                model,
                delayed(codes),
                (ids, torch.ones_like(ids)),
                torch.tensor([False]),
                chroma if family == "melody" else None,
            )
            _, cache = lens.run_with_cache(prompt, codes, names_filter="ln_final.normalized")
        kept = cache["ln_final.hook_normalized"]
        assert torch.allclose(hidden, kept[:, -hidden.shape[1] :], atol=1e-5)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(toy, processor, tmp_path, monkeypatch):
    recipes = [draw(seed) for seed in range(6)]
    waves = torch.from_numpy(np.stack([render(recipe, 2.0) for recipe in recipes]))
    material = Material(encode(toy.audio_encoder, waves), recipes)
    settings = LanguageModelSettings(
        phases=(Phase(5, 50, 2), Phase(3, 80, 2)), warmup=2, report_every=3
    )

    def train(file):
        torch.manual_seed(1)
        model = build_model("cross", deepcopy(toy.audio_encoder), len(processor.tokenizer))
        log = train_language_model(
            model, processor.tokenizer, material, material, settings, unfinished=file
        )
        return model, log

    whole, log = train(None)
    file, steps = tmp_path / "deep" / "unfinished.safetensors", []
    plain = language_model._step

    def stopped(*args):
        steps.append(len(steps))
        if len(steps) == 5:
            raise KeyboardInterrupt
        plain(*args)

    monkeypatch.setattr(language_model, "_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(file)
    monkeypatch.setattr(language_model, "_step", plain)
    assert file.is_file()
    again, second = train(file)
    for (name, a), b in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert second["loss"] == log["loss"]
    assert second["worth_of_words"] == log["worth_of_words"]
    assert not file.exists()
