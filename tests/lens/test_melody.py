"""The melody family: a prefix of chroma and text in front of the music."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from truth import n_prefix

from audio_lens import Clip, Intervention, Prompt, add, difference_in_means, window
from audio_lens.analysis.collect import collect
from audio_lens.audio.melody import chroma_of
from audio_lens.errors import InputError, SiteError
from audio_lens.lens.layout import Layout

pytestmark = pytest.mark.families("melody", "stereo-melody")
EVEN = ["slow piano", "fast drums"]
UNEVEN = ["a slow piano melody", "organ", "drums", None]
PUSH = torch.randn(64, generator=torch.Generator().manual_seed(2))
TUNE = torch.nn.functional.one_hot(torch.tensor([4, 7, 7, 2, 11]), 12).float()


def test_rows_of_different_length_are_what_they_are_alone(lens):
    codes = lens.random_codes(frames=6, batch=4)
    with torch.no_grad():
        together = lens(UNEVEN, codes, guidance_scale=3.0)
    for row, prompt in enumerate(UNEVEN):
        with torch.no_grad():
            alone = lens([prompt, "organ"], codes[[row, row]], guidance_scale=3.0)[:1]
        assert torch.allclose(together[row], alone[0], atol=1e-4)
    made = lens.generate(UNEVEN, seed=[1, 2, 3, 4], seconds=0.2, progress=False)
    for row, prompt in enumerate(UNEVEN[:3]):
        (alone,) = lens.generate(prompt, seed=row + 1, seconds=0.2, progress=False)
        assert torch.equal(made[row].codes, alone.codes)


def test_the_prompt_changes_the_output(lens):
    """Releases of transformers existed that dropped it silently."""
    codes = lens.random_codes(frames=6)
    with torch.no_grad():
        logits = [lens(prompt, codes) for prompt in [*EVEN, None]]
    assert all((a - b).abs().max() > 0.1 for a, b in pairwise(logits))
    settings = {"seconds": 0.3, "progress": False}
    a, b = (lens.generate(prompt, **settings)[0].codes for prompt in EVEN)
    assert not torch.equal(a, b)


def transformers_forward(lens, prompts, codes, chroma):
    """Transformers' own teacher-forced logits, by position, with a melody."""
    inputs = lens.processor(text=prompts, padding=True, return_tensors="pt")
    tokens = lens.delay.apply(codes).flatten(0, 1)
    with torch.no_grad():
        logits = lens.hf_model(**inputs, input_features=chroma, decoder_input_ids=tokens).logits
    return logits.unflatten(0, (len(prompts), -1))[:, :, n_prefix(lens, prompts[0]) :]


@pytest.mark.parametrize("n_frames", [1, 3, 5, 7])
def test_a_melody_is_transformers_input_features(lens, n_frames):
    codes, chroma = lens.random_codes(frames=5), TUNE.repeat(2, 1)[:n_frames]
    prompt = Prompt("organ", melody=chroma)
    theirs = lens.delay.align(transformers_forward(lens, ["organ"], codes, chroma[None]))
    with torch.no_grad():
        ours, without = lens(prompt, codes), lens("organ", codes)
    assert torch.equal(ours, theirs)
    assert (ours - without).abs().max() > 0.01


def test_generation_with_a_melody_is_transformers(lens):
    seen = []
    codec = lens.hf_model.audio_encoder
    decode = codec.decode
    codec.decode = lambda codes, **options: (seen.append(codes[0]), decode(codes, **options))[1]
    try:
        torch.manual_seed(3)
        inputs = lens.processor(text=["organ"], return_tensors="pt")
        lens.hf_model.generate(
            **inputs, input_features=TUNE[None], top_k=250, guidance_scale=3.0, max_new_tokens=13
        )
    finally:
        del codec.decode
    (ours,) = lens.generate(Prompt("organ", melody=TUNE), seconds=0.2, seed=3, progress=False)
    assert torch.equal(ours.codes[None], torch.stack(seen, 2).flatten(1, 2))


def test_rows_with_and_without_a_melody_are_what_they_are_alone(lens):
    codes = lens.random_codes(frames=5, batch=3)
    prompts = [Prompt("organ", melody=TUNE), "drums", Prompt("", melody=TUNE[:2])]
    with torch.no_grad():
        together = lens(prompts, codes, guidance_scale=2.0)
        for row, prompt in enumerate(prompts):
            alone = lens(prompt, codes[row : row + 1], guidance_scale=2.0)
            assert torch.allclose(together[row], alone[0], atol=1e-4)


def test_layouts_say_where_things_are(lens):
    codes = lens.random_codes(frames=6, batch=2)
    names = ["resid_pre", "hook_embed", "text.*", "melody.*", "embed.codebook"]
    _, cache = lens.run_with_cache(EVEN, codes, names_filter=names)
    layout, n_text = cache.layout, len(lens.text_tokens(EVEN[0]))
    assert layout == Layout(n_chroma=8, n_text=n_text)
    embed = cache["hook_embed"]
    assert torch.equal(embed[:, layout.chroma], cache["melody.proj"])
    assert torch.equal(embed[:, layout.text], cache["text.proj"])
    assert torch.equal(embed[:, layout.end_of_text], cache["text.proj"][:, -1])
    assert torch.equal(embed[:, layout.audio], cache["embed.codebook"].sum(1))
    assert embed[:, layout.audio].shape[1] == lens.delay.n_positions(6)


def test_caches_of_uneven_rows_line_up_at_the_music(lens):
    codes, prompts = lens.random_codes(frames=6, batch=3), UNEVEN[:3]
    _, cache = lens.run_with_cache(prompts, codes)
    stream, pattern = cache["resid_post", 2], cache["attn.pattern", 1]
    with pytest.raises(SiteError, match="texts differ in length"):
        _ = cache.layout
    for row, prompt in enumerate(prompts):
        _, alone = lens.run_with_cache(prompt, codes[row : row + 1])
        layout, pad = cache.layouts[row], cache.layouts[row].pad
        assert stream[row, :pad].isnan().all()
        assert torch.allclose(stream[row, pad:], alone["resid_post", 2][0], atol=1e-5)
        end = alone["resid_post", 2][0, alone.layout.end_of_text]
        assert torch.allclose(stream[row, layout.end_of_text], end, atol=1e-5)
        assert torch.allclose(pattern[row, :, pad:, pad:], alone["attn.pattern", 1][0], atol=1e-5)
    assert {layout.end_of_text for layout in cache.layouts} == {cache.layouts[0].end_of_text}
    one = cache.apply_slice_to_batch_dim([1])
    assert one.layout == cache.layouts[1]


@pytest.mark.parametrize("kept", ["text.proj", "melody.proj", "embed.codebook", "logits"])
def test_a_cache_knows_its_layout_whatever_was_kept(lens, kept):
    _, cache = lens.run_with_cache("organ", lens.random_codes(frames=6), names_filter=kept)
    assert cache.layout == Layout(n_chroma=8, n_text=len(lens.text_tokens("organ")))
    _, cache = lens.generate("organ", seconds=0.1, names_filter=kept, progress=False)
    assert cache.layout.n_prefix == n_prefix(lens, "organ")


def test_stopping_early_with_uneven_rows(lens):
    codes, prompts = lens.random_codes(frames=6, batch=3), UNEVEN[:3]
    stream, cache = lens.run_with_cache(prompts, codes, stop_at_layer=1)
    whole = lens.run_with_cache(prompts, codes, names_filter="resid_pre")[1]["resid_pre", 1]
    assert torch.equal(stream.isnan(), whole.isnan())
    assert torch.equal(stream.nan_to_num(), whole.nan_to_num())
    assert ("resid_post", 1) not in cache


def test_prefix_and_music_can_be_written_apart(lens):
    codes = lens.random_codes(frames=6)
    first, before = lens.delay.n_positions(6), n_prefix(lens, "organ")

    def changed(when):
        push = Intervention("resid_post", add(PUSH), layers=1, when=when)
        plain = lens.run_with_cache("organ", codes, names_filter="resid_post")[1]["resid_post", 1]
        with lens.intervene(push):
            edited = lens.run_with_cache("organ", codes, names_filter="resid_post")[1]
        return (edited["resid_post", 1] != plain).any(-1)[0].tolist()

    assert changed(window(0.0, None)) == [False] * before + [True] * first
    assert changed(lambda hook: [p < 0 for p in hook.positions]) == (
        [True] * before + [False] * first
    )
    ends = changed(lambda hook: [p == -1 for p in hook.positions])
    assert ends == [False] * (before - 1) + [True] + [False] * first


def test_the_unconditional_text_is_a_place_too(lens):
    """Zeros there, but positions: unlike text that is cross-attended, writing them acts."""
    codes = lens.random_codes(frames=5)
    push = Intervention("text.proj", add(PUSH), branch="uncond")
    with torch.no_grad():
        plain, cache = lens.run_with_cache("organ", codes, guidance_scale=3.0)
        with lens.intervene(push):
            written, edited = lens.run_with_cache("organ", codes, guidance_scale=3.0)
    assert cache.branch("uncond")["text.proj"].count_nonzero() == 0
    assert torch.equal(edited["logits"], cache["logits"])
    assert not torch.equal(written, plain)


def test_a_window_reaches_the_codebooks(lens):
    codes, seen = lens.random_codes(frames=6), {}
    push = Intervention("embed.codebook", add(PUSH), when=window(0.04, 0.06))

    def look(tensor, *, hook):
        seen[hook.name] = tensor.clone()

    plain = lens.run_with_cache("organ", codes, names_filter="embed.codebook")[1]
    with lens.intervene(push):
        lens.run_with_hooks("organ", codes, fwd_hooks=[("embed.codebook", look)])
    changed = (seen["embed.hook_codebook"] != plain["embed.codebook"]).any(-1)[0, 0]
    assert changed.tolist() == [False, False, True] + [False] * 6


def test_a_clip_that_does_not_fit_behind_its_prompt_is_refused(lens):
    with pytest.raises(InputError, match="the prompt's own positions taken off"):
        lens.generate("organ", seconds=lens.cfg.max_seconds, progress=False)


def test_prompts_with_other_melodies_are_other_prompts(lens):
    one, two = Prompt("organ", melody=TUNE), Prompt("organ", melody=TUNE.roll(3, 1))
    assert one == Prompt("organ", melody=TUNE.clone())
    assert one != two
    assert one != "organ"
    assert Prompt("organ") == "organ"
    assert len({one, two, Prompt("organ", melody=TUNE)}) == 2
    higher = difference_in_means(
        lens, positive=[two], negative=[one], pool="end_of_text", progress=False
    )
    other = difference_in_means(
        lens, positive=[one], negative=[two], pool="end_of_text", progress=False
    )
    assert max(higher.norms.values()) > 0.01
    assert higher.provenance["prompts_sha256"] != other.provenance["prompts_sha256"]
    assert higher.provenance["seconds"] == 1 / 50


def test_poles_of_different_length_are_warned_of(lens):
    with pytest.warns(UserWarning, match="different numbers of text tokens"):
        difference_in_means(
            lens, positive=["fast"], negative=["slowly"], pool="end_of_text", progress=False
        )


def test_an_end_of_text_without_text_is_refused(lens):
    with pytest.raises(InputError, match="whose text is zero"):
        collect(lens, ["organ"], pool="end_of_text", branch="uncond", progress=False)
    with pytest.raises(InputError, match="row 1 has no prompt"):
        collect(lens, ["organ", None], pool="end_of_text", progress=False)


def test_pooling_at_the_end_of_the_text(lens):
    pooled = collect(lens, UNEVEN[:3], pool="end_of_text", progress=False)
    taught = collect(
        lens, UNEVEN[:3], pool="end_of_text", codes=lens.random_codes(frames=4), progress=False
    )
    _, cache = lens.run_with_cache(UNEVEN[:3], lens.random_codes(frames=4, batch=3))
    ends = torch.stack([cache["resid_post", 1][r, cache.layouts[r].end_of_text] for r in range(3)])
    for values in (pooled, taught):
        assert torch.allclose(values.values["resid_post", 1], ends, atol=1e-4)


def test_pooling_over_uneven_rows_keeps_their_order(lens):
    codes = lens.random_codes(frames=8, batch=3)
    pooled = collect(lens, UNEVEN[:3], codes=codes, progress=False)
    for row, prompt in enumerate(UNEVEN[:3]):
        alone = collect(lens, [prompt], codes=codes[row : row + 1], progress=False)
        ours = pooled.values["resid_post", 2][row]
        assert torch.allclose(ours, alone.values["resid_post", 2][0], atol=1e-5)


@pytest.mark.families("mono")
def test_no_end_of_text_without_a_prefix(lens):
    with pytest.raises(InputError, match="needs a melody model"):
        collect(lens, ["organ"], pool="end_of_text", progress=False)
    seen = []
    with lens.hooks([("resid_post", lambda t, *, hook: seen.append(hook.layout))]):
        lens("organ", lens.random_codes(frames=4))
    assert set(seen) == {Layout()}
    assert Layout().audio == slice(0, None)
    with pytest.raises(InputError, match="no text on this position axis"):
        _ = Layout().end_of_text


@pytest.mark.families("mono")
def test_chroma_name_the_pitch_class(lens):
    """Each semitone of two octaves, known beforehand; and two seconds make 16 frames."""
    time = torch.arange(64000) / 32000
    for semitone in range(-9, 15):
        tone = torch.sin(2 * torch.pi * 440 * 2 ** (semitone / 12) * time)
        chroma = chroma_of(tone)
        assert chroma.shape == (16, 12)
        assert (chroma.argmax(-1) == (9 + semitone) % 12).all(), semitone
    halves = torch.cat([torch.sin(2 * torch.pi * f * time) for f in (261.63, 392.0)])
    assert chroma_of(halves).argmax(-1).unique_consecutive().tolist() == [0, 7]


@pytest.mark.families("mono")
def test_prompts_take_a_melody_in_any_form(lens, tmp_path):
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(32000) / 16000)
    clip = Clip(torch.stack([tone, tone]), 16000)
    path = clip.save(tmp_path / "tone.wav")
    forms = [(clip, None), (path, None), (tone, 16000), (np.stack([tone, tone]), 16000)]
    for melody, rate in forms:
        prompt = Prompt("an organ", melody=melody, sample_rate=rate)
        assert str(prompt) == "an organ"
        assert prompt.chroma.argmax(-1).unique().tolist() == [9]
    assert Prompt("an organ").chroma is None
