"""The training script: a rehearsal of every part, which goes on where it stopped."""

import json

import pytest
import torch
from transformers import (
    AutoTokenizer,
    EncodecModel,
    MusicgenForConditionalGeneration,
    MusicgenMelodyForConditionalGeneration,
)

from audio_lens import AudioLens, Prompt
from audio_lens.audio import words
from audio_lens.toy import train
from audio_lens.toy._models import build_model


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    train.main(["--out", str(folder), "--quick", "--workers", "1"])
    return folder


def test_a_rehearsal_leaves_codec_and_both_toys_with_their_logs(rehearsal):
    codec = EncodecModel.from_pretrained(rehearsal / "codec")
    families = {
        "toy": MusicgenForConditionalGeneration,
        "toy-melody": MusicgenMelodyForConditionalGeneration,
    }
    for name, kind in families.items():
        model = kind.from_pretrained(rehearsal / name)
        log = json.loads((rehearsal / name / "training.json").read_text())
        assert {"settings", "loss", "worth_of_words", "codec", "seconds", "versions"} <= set(log)
        assert log["settings"]["bfloat16"] in (True, False)  # what was used, not what was left open
        assert model.config.vocabulary == list(words.vocabulary())
        assert model.generation_config.guidance_scale == 3.0
        for key, value in codec.state_dict().items():
            assert torch.equal(model.audio_encoder.state_dict()[key], value)
        assert AutoTokenizer.from_pretrained(rehearsal / name)("slow").input_ids


def test_the_lens_takes_both_and_melodies_reach_the_prefix(rehearsal):
    lens = AudioLens.from_pretrained(rehearsal / "toy-melody")
    tone = torch.sin(2 * torch.pi * 300 * torch.arange(16000 * 10) / 16000)
    codes = lens.random_codes(frames=8)
    plain, sung = (
        lens(prompt, codes)
        for prompt in ("slow organ", Prompt("slow organ", melody=tone, sample_rate=16000))
    )
    assert lens.cfg.vocabulary == words.vocabulary()
    assert not torch.allclose(plain, sung)


def test_the_melody_toy_begins_with_what_the_other_learned(rehearsal):
    codec = EncodecModel.from_pretrained(rehearsal / "codec")
    other = MusicgenForConditionalGeneration.from_pretrained(rehearsal / "toy").state_dict()
    model = build_model("melody", codec, len(other["text_encoder.shared.weight"]))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    train.begin_with(model, rehearsal / "toy")
    taken = {n for n, w in model.state_dict().items() if n in other and torch.equal(w, other[n])}
    left = {name for name in before if name not in taken}
    assert left == {"audio_enc_to_dec_proj.weight", "audio_enc_to_dec_proj.bias"}
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in left)
    assert any(not torch.equal(before[name], other[name]) for name in taken)


def test_the_melody_toy_needs_the_other(rehearsal, tmp_path):
    (tmp_path / "codec").symlink_to(rehearsal / "codec")
    with pytest.raises(SystemExit, match="begins with the toy in"):
        train.main(["--out", str(tmp_path), "--quick", "--parts", "toy-melody"])


def test_parts_that_lie_finished_are_kept(rehearsal):
    before = {p: p.stat().st_mtime_ns for p in rehearsal.rglob("*") if p.is_file()}
    train.main(["--out", str(rehearsal), "--quick", "--workers", "1"])
    assert {p: p.stat().st_mtime_ns for p in rehearsal.rglob("*") if p.is_file()} == before


def test_a_toy_needs_a_codec(tmp_path):
    with pytest.raises(SystemExit, match="train the codec first"):
        train.main(["--out", str(tmp_path), "--quick", "--parts", "toy"])


def test_clips_of_another_plan_are_refused(rehearsal, tmp_path):
    kept = rehearsal / "clips.safetensors"
    with pytest.raises(SystemExit, match="holds 24 clips, not 5: remove it"):
        train._data.material(rehearsal / "codec", range(5), 2.0, 1, kept)
