"""The training script: a rehearsal of every stage, resumable, refused where it makes no sense."""

import json

import pytest
import torch
from transformers import MusicgenForConditionalGeneration

from audio_lens.toy import train


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    train.main(["--out", str(folder), "--quick", "--workers", "1"])
    return folder


def test_a_rehearsal_leaves_checkpoint_log_and_card(rehearsal):
    log = json.loads((rehearsal / "training.json").read_text())
    assert {"codec", "language_model", "measured", "seconds", "versions"} <= set(log)
    assert set(log["measured"]) == {"neutral", "tempo +", "tempo -", "timbre +", "timbre -"}
    assert "| codec, out against in |" in (rehearsal / "README.md").read_text()
    model = MusicgenForConditionalGeneration.from_pretrained(rehearsal)
    assert model.generation_config.guidance_scale == 3.0


def test_resuming_keeps_the_codec_and_counts_both_stages(rehearsal, tmp_path):
    train.main(
        ["--out", str(tmp_path), "--quick", "--workers", "1", "--start", str(rehearsal), "--resume"]
    )
    log = json.loads((tmp_path / "training.json").read_text())
    assert len(log["language_model"]) == 2
    first, second = (
        MusicgenForConditionalGeneration.from_pretrained(folder).state_dict()
        for folder in (rehearsal, tmp_path)
    )
    same = {name: torch.equal(first[name], second[name]) for name in first}
    assert all(equal for name, equal in same.items() if name.startswith("audio_encoder."))
    assert not all(equal for name, equal in same.items() if name.startswith("decoder."))


def test_resuming_needs_a_run_to_go_on_from(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path), "--resume"])
    assert "--resume needs --start" in capsys.readouterr().err
