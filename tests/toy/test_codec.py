"""The codec: gradients pass its codebooks, training fills them, and storing keeps every sound."""

import numpy as np
import pytest
import torch
from transformers import MusicgenForConditionalGeneration

from audio_lens.audio.synthesis import draw, render
from audio_lens.toy import _codec
from audio_lens.toy._models import build_model
from audio_lens.toy._storage import round_to_half, save
from audio_lens.toy._text import build_processor


@pytest.fixture(scope="module")
def clips():
    return torch.from_numpy(np.stack([render(draw(seed), 2.0) for seed in range(8)]))


@pytest.fixture(scope="module")
def trained(clips):
    torch.manual_seed(0)
    codec = _codec.build_codec()
    settings = _codec.CodecSettings(continuous_steps=3, quantized_steps=3, batch=4)
    log = _codec.train_codec(codec, clips, settings)
    round_to_half(codec)
    return codec, log


def test_training_fills_every_codebook_and_logs_its_losses(trained):
    codec, log = trained
    assert all(book.codebook.embed.std() > 0 for book in codec.quantizer.layers)
    assert len(log["continuous_loss"]) == len(log["quantized_loss"]) == 1
    assert log["settings"]["batch"] == 4
    assert np.isfinite(log["quantized_loss"][0])


def test_each_codebook_brings_the_states_nearer(trained, clips):
    codec, _ = trained
    with torch.no_grad():
        states = codec.encoder(clips[:, None])
        codes = codec.quantizer.encode(states)
        errors = [
            float((states - codec.quantizer.decode(codes[:n])).pow(2).mean()) for n in range(1, 5)
        ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]


def test_codes_and_audio_have_the_published_shape(trained, clips):
    codec, _ = trained
    codes = _codec.encode(codec, clips)
    assert codes.shape == (8, 4, 100)
    assert _codec.decode(codec, codes).shape == clips.shape


def test_saving_and_loading_changes_no_code_and_no_sample(trained, clips, tmp_path):
    codec, _ = trained
    processor = build_processor(16_000)
    model = build_model("cross", codec, len(processor.tokenizer))
    round_to_half(model)
    save(model, processor, tmp_path)
    loaded = MusicgenForConditionalGeneration.from_pretrained(tmp_path)
    codes = _codec.encode(codec, clips)
    assert torch.equal(codes, _codec.encode(loaded.audio_encoder, clips))
    assert torch.equal(_codec.decode(codec, codes), _codec.decode(loaded.audio_encoder, codes))
    for (name, one), other in zip(
        model.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_the_loss_is_zero_for_a_perfect_copy_and_hears_missing_highs(clips):
    target = clips[:, None]
    assert float(_codec.codec_loss(target, target)) == 0.0
    spectrum = torch.fft.rfft(target)
    spectrum[..., spectrum.shape[-1] // 4 :] = 0
    dulled = torch.fft.irfft(spectrum, target.shape[-1])
    assert float(_codec.codec_loss(dulled, target)) > 0.05
