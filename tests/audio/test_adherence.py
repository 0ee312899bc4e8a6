"""Prompt adherence: cosines of whatever embedder is given, and CLAP without its weights."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from audio_lens import Clip
from audio_lens.audio.adherence import Clap, adherence
from audio_lens.errors import InputError


def tone(hertz: float, seconds: float = 0.5, rate: int = 16_000) -> Clip:
    time = torch.arange(round(seconds * rate)) / rate
    return Clip(0.1 * torch.sin(2 * torch.pi * hertz * time)[None], rate)


class Stub:
    """Hears the pitch of a tone and reads it from a text."""

    def audio(self, clips: Sequence[Clip]) -> np.ndarray:
        spectra = [np.abs(np.fft.rfft(clip.samples[0])) for clip in clips]
        return self._at([2.0 * spectrum.argmax() for spectrum in spectra])

    def text(self, texts: Sequence[str]) -> np.ndarray:
        return self._at([float(text.split()[0]) for text in texts])

    @staticmethod
    def _at(hertz: list[float]) -> np.ndarray:
        angle = np.array(hertz) / 1000 * np.pi / 2
        return 7 * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_adherence_is_a_cosine_for_each_pair():
    found = adherence([tone(500), tone(500), tone(500)], ["500 Hz", "0 Hz", "1500 Hz"], Stub())
    assert found == pytest.approx([1, np.sqrt(0.5), 0], abs=1e-6)


def test_pairs_and_rows_must_match(as_users_see_it):
    with pytest.raises(InputError, match="1 clips with 2 prompts"):
        adherence([tone(500)], ["a", "b"], Stub())
    with pytest.raises(InputError, match="0 clips"):
        adherence([], [], Stub())

    class Broken(Stub):
        def text(self, texts):
            return np.ones((1, 3))

    with pytest.raises(InputError, match=r"returned \(1, 2\) for 1 clips and \(1, 3\)"):
        adherence([tone(500)], ["500"], Broken())


class Letters:
    """A tokenizer of letters."""

    def __call__(self, texts, padding, return_tensors):
        from transformers import BatchEncoding

        longest = max(map(len, texts))
        ids = [[ord(c) % 40 + 2 for c in t] + [1] * (longest - len(t)) for t in texts]
        ids = torch.tensor(ids)
        return BatchEncoding({"input_ids": ids, "attention_mask": (ids != 1).long()})


@pytest.fixture(scope="module")
def clap() -> Clap:
    """transformers' own classes, small and untrained."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    text = {
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 40, "pad_token_id": 1,
    }  # fmt: skip
    audio = {
        "hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [1, 1],
        "num_attention_heads": [2, 2], "num_hidden_layers": 2, "num_mel_bins": 64,
    }  # fmt: skip
    torch.manual_seed(0)
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8))
    return Clap(model, ClapFeatureExtractor(truncation="rand_trunc"), Letters())


def test_clap_embeds_both_into_unit_rows_of_one_space(clap):
    heard = clap.audio([tone(440), tone(3000)])
    meant = clap.text(["a slow organ", "fast"])
    assert heard.shape == meant.shape == (2, 8)
    for rows in (heard, meant):
        assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
        assert not np.allclose(rows[0], rows[1])
    found = adherence([tone(440), tone(3000)], ["a slow organ", "fast"], clap)
    assert found == pytest.approx((heard * meant).sum(axis=1), abs=1e-6)


def test_clap_hears_long_clips_whole_and_the_same_twice(clap):
    """The extractor alone would take ten seconds of them at random."""
    long = Clip(torch.cat([tone(440, 12).waveform, tone(3000, 12).waveform], dim=1), 16_000)
    assert np.array_equal(clap.audio([long]), clap.audio([long]))
    assert np.linalg.norm(clap.audio([long])) < 1 - 1e-6  # a mean of different pieces


def test_a_checkpoint_that_is_not_there_is_named_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"hf download .*nowhere`, or give adherence\(\)"):
        Clap.from_pretrained(str(tmp_path / "nowhere"))
