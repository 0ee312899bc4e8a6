"""Promise 2: wrapping changes nothing. Transformers' own output is the truth."""

import shutil

import pytest
import torch
from truth import n_prefix, our_codes, transformers_codes

from audio_lens import AudioLens
from audio_lens.errors import InputError
from audio_lens.testing import random_musicgen

ONE = ["a slow piano melody"]
THREE = ["a slow piano melody", "a fast piano melody", "a warm organ melody"]
UNEVEN = ["a slow piano melody", "fast drums", "an organ in a very large and very old church"]


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("prompts", [ONE, THREE, UNEVEN], ids=["one", "three", "uneven"])
def test_greedy_codes_are_transformers(lens, prompts, guidance_scale):
    settings = {"do_sample": False, "guidance_scale": guidance_scale, "max_new_tokens": 43}
    if lens.cfg.chroma_length and prompts is UNEVEN:
        # A prefix's padding is not masked by transformers, so its batches change their rows:
        # the truth is a row alone.
        alone = [transformers_codes(lens, [prompt], **settings) for prompt in prompts]
        theirs = torch.cat(alone)
    else:
        theirs = transformers_codes(lens, prompts, **settings)
    ours = our_codes(lens, prompts, do_sample=False, guidance_scale=guidance_scale, seconds=40 / 50)
    assert ours.unique().numel() > 5  # not a constant that anything would equal
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("seed", [0, 5, 1234])
def test_sampled_codes_of_one_prompt_are_transformers(lens, seed, guidance_scale):
    torch.manual_seed(seed)
    settings = {"guidance_scale": guidance_scale, "top_k": 50, "temperature": 0.9}
    theirs = transformers_codes(lens, ONE, do_sample=True, max_new_tokens=60, **settings)
    assert torch.equal(our_codes(lens, ONE, seconds=57 / 50, seed=seed, **settings), theirs)


def test_unconditional_codes_are_transformers(lens):
    torch.manual_seed(3)
    theirs = transformers_codes(
        lens, None, do_sample=True, guidance_scale=1.0, top_k=250, max_new_tokens=33
    )
    assert torch.equal(our_codes(lens, None, seconds=30 / 50, seed=3), theirs)


def test_continuation_is_transformers(lens):
    prefix = lens.random_codes(frames=11, seed=2)
    theirs = transformers_codes(
        lens,
        ONE,
        decoder_input_ids=prefix.flatten(0, 1),
        do_sample=False,
        guidance_scale=3.0,
        max_new_tokens=30,
    )
    frames = theirs.shape[-1]
    ours = our_codes(lens, ONE, do_sample=False, seconds=frames / 50, prefix=prefix)
    assert torch.equal(ours[..., :11], prefix)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("prompts", [ONE, THREE], ids=["one", "three"])
def test_logits_are_transformers(lens, prompts):
    codes = lens.random_codes(frames=9, batch=len(prompts))
    inputs = lens.processor(text=prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = lens.delay.apply(codes).flatten(0, 1)
        theirs = lens.hf_model(**inputs, decoder_input_ids=tokens).logits
        ours = lens(prompts, codes)
    theirs = theirs.unflatten(0, (len(prompts), lens.cfg.n_codebooks))
    theirs = theirs[:, :, n_prefix(lens, prompts[0]) :]
    for k, delay in enumerate(lens.cfg.delays):
        assert torch.equal(ours[:, k], theirs[:, k, delay : delay + 9])


def test_delay_is_transformers(lens):
    codes = lens.random_codes(frames=9, batch=2)
    decoder = lens.hf_model.decoder
    start = torch.full((2 * lens.cfg.n_codebooks, 1), lens.cfg.bos)
    prompt = torch.cat([start, codes.flatten(0, 1)], dim=1)
    _, mask = decoder.build_delay_pattern_mask(prompt, lens.cfg.bos, max_length=9 + 4)
    assert torch.equal(lens.delay.grid(codes, 9), mask.unflatten(0, (2, -1)))
    assert torch.equal(lens.delay.undo(lens.delay.grid(codes, 9)), codes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in what compiles flex attention
@pytest.mark.parametrize("kernel", ["eager", "flex_attention"])
def test_other_kernels_are_served_too(kernel):
    if kernel == "flex_attention" and not shutil.which("g++"):
        pytest.skip("no g++, which flex attention is compiled by")
    sdpa = random_musicgen(n_layers=1, seed=4)
    model = random_musicgen(n_layers=1, seed=4).hf_model
    model.decoder.set_attn_implementation(kernel)
    other = AudioLens.from_model(model, sdpa.processor)
    assert other.hf_model.decoder.config._attn_implementation == f"audio_lens_{kernel}"
    assert other.check().ok
    with torch.no_grad():
        _, ours = other.run_with_cache(ONE, sdpa.random_codes(frames=8), guidance_scale=3.0)
        _, theirs = sdpa.run_with_cache(ONE, sdpa.random_codes(frames=8), guidance_scale=3.0)
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, atol=1e-4), name


def test_kernels_that_were_never_tried_are_refused():
    model = random_musicgen(n_layers=1).hf_model
    model.decoder.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InputError, match=r"'flash_attention_2' is not supported.*'sdpa'"):
        AudioLens.from_model(model)


def test_wrapping_leaves_gradients_settings_alone(lens):
    model = random_musicgen(n_layers=1).hf_model
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    before = [p.requires_grad for p in model.parameters()]
    wrapped = AudioLens.from_model(model, lens.processor)
    assert [p.requires_grad for p in model.parameters()] == before
    assert wrapped(ONE, wrapped.random_codes(frames=4)).requires_grad
    assert wrapped.generate(ONE, seconds=0.1, progress=False)[0].waveform.requires_grad is False
