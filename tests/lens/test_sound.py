"""Clips out, codes in: generation's clips, and encoding of what can be encoded."""

import re

import numpy as np
import pytest
import torch

from audio_lens import Clip
from audio_lens.errors import InputError


def test_a_clip_says_how_it_was_made(lens):
    (clip,) = lens.generate("organ", seconds=0.5, seed=3, temperature=0.8, progress=False)
    assert clip.waveform.shape == (lens.cfg.audio_channels, 8000)
    assert clip.waveform.dtype == torch.float32
    assert clip.codes.shape == (lens.cfg.n_codebooks, 25)
    assert (clip.seconds, clip.sample_rate, clip.seed, clip.prompt) == (0.5, 16000, 3, "organ")
    assert clip.settings["guidance_scale"] == 3.0
    assert clip.settings["temperature"] == 0.8
    assert clip.settings["model"] == "random"
    again = lens.generate(
        clip.prompt, seed=clip.seed, seconds=clip.settings["seconds"], temperature=0.8,
        progress=False,
    )  # fmt: skip
    assert torch.equal(again[0].waveform, clip.waveform)


def test_progress_is_quiet_when_told(lens, capsys):
    lens.generate("organ", seconds=0.1, progress=False)
    assert capsys.readouterr() == ("", "")
    lens.generate("organ", seconds=0.1)
    assert "generating 1 x 0.1 s" in capsys.readouterr().err


def test_the_prefix_is_kept_and_continued(lens):
    clips = lens.generate(["organ", "drums"], seconds=0.2, seed=[1, 2], progress=False)
    longer = lens.generate(["organ", "drums"], seconds=0.4, prefix=clips, progress=False)
    for clip, more in zip(clips, longer, strict=True):
        assert torch.equal(more.codes[:, :10], clip.codes)
        assert more.codes.shape == (lens.cfg.n_codebooks, 20)
    from_one = lens.generate(["organ", "drums"], seconds=0.4, prefix=clips[0], progress=False)
    assert torch.equal(from_one[1].codes[:, :10], clips[0].codes)


def test_continuing_a_clip_with_its_own_seed_is_not_the_clip(lens):
    whole = lens.generate("organ", seconds=0.6, seed=1, progress=False)[0]
    prefix = whole.codes[None, :, :10]
    more = lens.generate("organ", seconds=0.6, seed=1, prefix=prefix, progress=False)[0]
    assert torch.equal(more.codes[:, :10], whole.codes[:, :10])
    assert not torch.equal(more.codes[:, 10:], whole.codes[:, 10:])


def test_greedy_continuation_is_the_whole(lens):
    settings = {"seconds": 0.6, "do_sample": False, "progress": False}
    whole = lens.generate("organ", **settings)[0].codes
    more = lens.generate("organ", prefix=whole[None, :, :13], **settings)[0].codes
    assert torch.equal(more, whole)


def test_clips_keep_their_codes(lens):
    clips = lens.generate(["organ", "drums"], seconds=0.2, progress=False)
    assert torch.equal(lens.encode(clips), torch.stack([clip.codes for clip in clips]))


@pytest.mark.families("stereo", "stereo-melody")
def test_two_channels_are_coded_side_by_side(lens):
    rng = np.random.default_rng(0)
    wave = torch.from_numpy(rng.normal(size=(2, 6400)).astype(np.float32)) * 0.1
    codec, codes = lens.hf_model.audio_encoder, lens.encode(Clip(wave, 16000))
    bandwidth = codec.config.target_bandwidths[-1]
    for channel in range(2):
        with torch.no_grad():
            alone = codec.encode(wave[None, channel : channel + 1], bandwidth=bandwidth)
        assert torch.equal(codes[:, channel::2], alone.audio_codes[0])
    assert not torch.equal(codes[:, ::2], codes[:, 1::2])
    mono = lens.encode(wave[:1], sample_rate=16000)
    assert torch.equal(mono[:, ::2], codes[:, ::2])
    assert torch.equal(mono[:, ::2], mono[:, 1::2])


@pytest.mark.families("stereo")
def test_a_mono_clip_with_codes_is_coded_anew(lens):
    wave = torch.randn(1, 6400, generator=torch.Generator().manual_seed(0)) * 0.1
    clip = Clip(wave, 16000, codes=torch.zeros(4, 20, dtype=torch.long))
    assert torch.equal(lens.encode(clip), lens.encode(wave, sample_rate=16000))
    assert lens.generate("organ", seconds=0.6, prefix=clip, progress=False)[0].codes.shape[0] == 8


@pytest.mark.families("stereo", "stereo-melody")
def test_two_channels_are_heard_side_by_side(lens):
    (clip,) = lens.generate("organ", seconds=0.3, progress=False)
    codec = lens.hf_model.audio_encoder
    for channel in range(2):
        side = clip.codes[None, None, channel::2]
        with torch.no_grad():
            alone = codec.decode(side, audio_scales=[None]).audio_values[0, 0]
        assert torch.equal(clip.waveform[channel], alone)
    assert not torch.equal(clip.waveform[0], clip.waveform[1])


@pytest.mark.families("mono", "melody")
def test_encoding_is_the_codecs(lens, tmp_path):
    rng = np.random.default_rng(0)
    wave = torch.from_numpy(rng.normal(size=(1, 6400)).astype(np.float32)) * 0.1
    codec = lens.hf_model.audio_encoder
    bandwidth = codec.config.target_bandwidths[-1]
    with torch.no_grad():
        expected = codec.encode(wave[None], bandwidth=bandwidth).audio_codes[0]
    assert expected.unique().numel() > 10
    assert torch.equal(lens.encode(Clip(wave, 16000)), expected)
    assert torch.equal(lens.encode(wave, sample_rate=16000), expected)
    assert torch.equal(lens.encode([wave.numpy()] * 2, sample_rate=16000)[1:], expected)
    path = Clip(wave, 16000).save(tmp_path / "noise.wav")
    assert (lens.encode(path) == expected).float().mean() > 0.9  # 16 bits round a little
    stereo = torch.cat([wave, wave])
    assert torch.equal(lens.encode(stereo, sample_rate=16000), expected)


def test_other_sample_rates_are_resampled(lens):
    time = np.arange(32000) / 32000
    wave = 0.3 * np.sin(2 * np.pi * 440 * time)
    assert lens.encode(wave, sample_rate=32000).shape == (1, lens.cfg.n_codebooks, 50)


@pytest.mark.parametrize(
    ("audio", "rate", "said"),
    [
        ([], None, "nothing to encode"),
        (np.zeros(800), None, "give sample_rate="),
        (np.zeros((1, 2, 3)), 16000, "[channel sample]"),
        (np.zeros((800, 2)), 16000, "would have 800 channels"),
        (np.zeros(800), 0, "whole number of Hz above 0"),
        (np.zeros(800), 44100.5, "whole number of Hz above 0"),
        (np.array([]), 16000, "[channel sample]"),
        (np.array([np.nan] * 800), 16000, "NaN"),
        (np.zeros(800, dtype=np.int16), 16000, "divide 16-bit samples by 32768"),
        ([np.zeros(800), np.zeros(1600)], 16000, "cut them to one length"),
        ("nowhere.wav", None, "no audio file at"),
    ],
)
def test_what_cannot_be_encoded(lens, audio, rate, said):
    with pytest.raises(InputError, match=re.escape(said)):
        lens.encode(audio, sample_rate=rate)
