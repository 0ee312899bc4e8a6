"""Half precision: the same promises, with transformers in the same type as the truth."""

import pytest
import torch
from truth import our_codes, transformers_codes

from audio_lens import AudioLens, Direction, Intervention, add, difference_in_means, replace
from audio_lens.testing import random_musicgen

PROMPT = ["slow piano"]
VECTOR = torch.randn(64, generator=torch.Generator().manual_seed(1))
FAMILIES = [{}, {"melody": True, "audio_channels": 2, "n_codebooks": 8}]


@pytest.fixture(
    scope="module",
    params=[(dtype, family) for dtype in (torch.bfloat16, torch.float16) for family in FAMILIES],
    ids=["bfloat16", "bfloat16-stereo-melody", "float16", "float16-stereo-melody"],
)
def half(request: pytest.FixtureRequest) -> AudioLens:
    dtype, family = request.param
    return random_musicgen(n_layers=2, **family).to(dtype)


def test_every_site_passes_the_self_check(half):
    report = half.check()
    assert report.ok, report.failures


def test_torchs_words_for_casting_keep_the_lens_in_step():
    lens = random_musicgen(n_layers=1)
    casts = [("bfloat16", torch.bfloat16), ("half", torch.float16), ("double", torch.float64),
             ("float", torch.float32)]  # fmt: skip
    for word, dtype in casts:
        assert getattr(lens, word)() is lens
        assert lens.cfg.dtype == dtype == next(lens.hf_model.decoder.parameters()).dtype
    assert lens.cpu() is lens


@pytest.mark.parametrize("do_sample", [False, True])
def test_codes_are_transformers(half, do_sample):
    torch.manual_seed(5)
    settings = {"do_sample": do_sample, "guidance_scale": 3.0, "top_k": 250}
    theirs = transformers_codes(half, PROMPT, max_new_tokens=33, **settings)
    ours = our_codes(half, PROMPT, seconds=30 / 50, seed=5, **settings)
    assert torch.equal(ours, theirs)
    assert ours.unique().numel() > 5


def test_vectors_take_the_type_of_the_site(half):
    codes = half.random_codes(frames=5)

    def stream():
        _, cache = half.run_with_cache(PROMPT, codes, names_filter="resid_post")
        return cache["resid_post", 1]

    plain = stream()
    with half.intervene(Intervention("resid_post", add(VECTOR), layers=1, coefficient=0.5)):
        pushed = stream()
    with half.intervene(Intervention("resid_post", replace(VECTOR.double()), layers=1)):
        replaced = stream()
    assert plain.dtype == pushed.dtype == half.cfg.dtype
    assert torch.equal(pushed, plain + 0.5 * VECTOR.to(half.cfg.dtype))
    assert torch.equal(replaced, VECTOR.to(half.cfg.dtype).expand_as(replaced))


def test_directions_are_made_in_float32_and_steer(half):
    made = difference_in_means(
        half, positive=["fast"], negative=["slow"], seconds=0.3, progress=False
    )
    assert {vector.dtype for vector in made.vectors.values()} == {torch.float32}
    settings = {"seconds": 0.4, "progress": False, "seed": 1}
    plain = half.generate(PROMPT, **settings)[0]
    with half.steer(Direction({("resid_post", 0): 5 * VECTOR})):
        steered = half.generate(PROMPT, **settings)[0]
    assert not torch.equal(plain.codes, steered.codes)
    assert steered.waveform.dtype == torch.float32
    assert steered.waveform.isfinite().all()
