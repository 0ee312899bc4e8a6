"""The door from a shell."""

import subprocess
import sys

import pytest

from audio_lens import Clip
from audio_lens.cli import main
from audio_lens.testing import random_musicgen


def test_sites_and_check(capsys):
    assert main(["sites"]) == 0
    assert "blocks.{i}.attn.hook_z" in capsys.readouterr().out
    assert main(["check"]) == 0
    printed = capsys.readouterr().out
    assert "toy: 153 of 153 sites pass" in printed


def test_a_failed_check_exits_with_one(tmp_path, capsys):
    lens = random_musicgen(n_layers=1)
    lens.hf_model.decoder.model.decoder.layers[0].fc2.weight.data.zero_()
    lens.hf_model.save_pretrained(tmp_path)
    lens.processor.save_pretrained(tmp_path)
    assert main(["check", str(tmp_path)]) == 1
    assert "FAILED: blocks.0.mlp.hook_post" in capsys.readouterr().err


def test_generate(tmp_path, capsys):
    out = tmp_path / "clip.flac"
    assert main(["generate", "a fast organ melody", "--seconds", "0.3", "--out", str(out)]) == 0
    assert Clip.load(out).seconds == pytest.approx(0.3)
    assert str(out) in capsys.readouterr().out


def test_demo(tmp_path, capsys):
    assert main(["demo", "--quick", "--quiet", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name in ("tempo", "timbre"):
        said = (tmp_path / name / "report.txt").read_text()
        assert said.startswith(f"{name}: difference in means of 2 matched prompt pairs")
        assert said in printed
    assert printed.index("tempo:") < printed.index("timbre:")
    assert main(["demo", "--model", "/no/such/folder", "--out", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("audio-lens: no folder at")


def test_bad_input_is_one_line(capsys):
    assert main(["check", "/no/such/folder"]) == 1
    assert capsys.readouterr().err.startswith("audio-lens: no folder at")
    assert main(["generate", "organ", "--out", "clip.mp3"]) == 1
    assert "cannot save as '.mp3'" in capsys.readouterr().err
    assert main(["generate", "organ", "--seconds", "0"]) == 1
    assert "above 0" in capsys.readouterr().err


def test_the_command_is_installed():
    done = subprocess.run(
        [sys.executable, "-m", "audio_lens", "--help"], capture_output=True, text=True, check=True
    )
    assert "demo" in done.stdout
