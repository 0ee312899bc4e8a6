"""Clips: files that keep the sound as it is, and players that do not normalise."""

import base64
import io
import re

import numpy as np
import pytest
import soundfile
import torch

from audio_lens import Clip
from audio_lens.errors import InputError


def tone(peak: float = 0.25, channels: int = 1) -> Clip:
    time = torch.arange(8000) / 16000
    wave = peak * torch.sin(2 * torch.pi * 440 * time)
    return Clip(wave.repeat(channels, 1), 16000, prompt="a <tone>", seed=3)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("ending", "error"), [("wav", 1e-4), ("flac", 1e-4), ("ogg", 0.05)])
def test_files_keep_the_sound(tmp_path, ending, error, channels):
    clip = tone(channels=channels)
    loaded = Clip.load(clip.save(tmp_path / "new" / f"tone.{ending}"))
    assert loaded.sample_rate == 16000
    assert loaded.waveform.shape == (channels, 8000)
    assert float((loaded.waveform - clip.waveform).abs().max()) < error


def test_loudness_is_never_changed(tmp_path):
    quiet = tone(peak=0.001)
    assert float(Clip.load(quiet.save(tmp_path / "a.wav")).waveform.abs().max()) < 0.0011


def test_beyond_full_scale_is_said(tmp_path):
    with pytest.warns(UserWarning, match="peaks at 1.50"):
        path = tone(peak=1.5).save(tmp_path / "loud.wav")
    assert float(Clip.load(path).waveform.abs().max()) <= 1


def test_the_player_holds_the_sound_itself():
    html = tone(peak=0.01)._repr_html_()
    assert "a &lt;tone&gt;" in html
    assert "seed 3" in html
    data = base64.b64decode(re.search(r"base64,([^']+)'", html)[1])
    samples, rate = soundfile.read(io.BytesIO(data))
    assert rate == 16000
    assert np.abs(samples).max() == pytest.approx(0.01, rel=0.01)
    assert tone().play().data == tone()._repr_html_()


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match=r"use one of \.wav, \.flac, \.ogg"):
        tone().save(tmp_path / "tone.mp3")
    with pytest.raises(InputError, match="no audio file at"):
        Clip.load(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(InputError, match="no audio file that can be read"):
        Clip.load(tmp_path / "text.wav")


def test_what_is_shown():
    assert repr(tone()) == "Clip(0.50 s at 16000 Hz, 'a <tone>', seed 3)"
