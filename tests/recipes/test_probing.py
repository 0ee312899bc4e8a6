"""Probing tasks: a label that was written into a model is found there, not in random weights."""

import json

import numpy as np
import pandas
import pytest
import soundfile
import torch

from audio_lens import InputError
from audio_lens.audio import clips
from audio_lens.cli import main
from audio_lens.recipes.probing import (
    ProbingSettings,
    labelled_tasks,
    probe_tasks,
    report,
    table,
    write,
)
from audio_lens.testing import random_musicgen, random_twin

pytestmark = pytest.mark.families("mono")


def deaf(lens):
    """A model whose blocks and embeddings say nothing but what is written by hand."""
    decoder = lens.hf_model.decoder.model.decoder
    with torch.no_grad():
        for parameter in decoder.layers.parameters():
            parameter.zero_()
        for embedding in decoder.embed_tokens:
            embedding.weight.zero_()
    return lens


def test_what_training_put_there_is_told_from_what_random_weights_tell() -> None:
    """Loudness is in the codes, so random weights tell it; a deaf model does not."""
    lens = random_musicgen(n_layers=2)
    data = {"level": clips.level(60, seed=0, seconds=1.0, sample_rate=16000)}
    settings = ProbingSettings(shuffles=3)
    (found,) = probe_tasks(lens, data, settings=settings, progress=False)
    (silent,) = probe_tasks(
        deaf(random_musicgen(n_layers=2)), data, settings=settings, progress=False
    )
    row, none = found.row(), silent.row()
    assert row["score"].value > 0.5
    assert row["random weights"].value > 0.5
    assert none["score"].value < 0.1
    assert none["random weights"].value == row["random weights"].value
    assert row["score is"] == "R2"
    assert row["nothing heard"] < 0.1


def test_a_twin_shares_the_codec_alone() -> None:
    lens = random_musicgen(n_layers=2)
    twin = random_twin(lens, seed=3)
    clip = [clips.level(5, seed=0, seconds=1.0, sample_rate=16000)[0]]
    assert torch.equal(twin.encode(clip), lens.encode(clip))
    for mine, its in zip(lens.W_Q, twin.W_Q, strict=True):
        assert mine.shape == its.shape
        assert not torch.equal(mine, its)
    again = random_twin(lens, seed=3)
    assert torch.equal(again.W_Q[1], twin.W_Q[1])
    assert twin.cfg.model_name == "random with random weights"
    assert twin.check().ok


def test_everything_is_written(tmp_path) -> None:
    lens = random_musicgen(n_layers=2)
    data = labelled_tasks(lens, ["level", "brightness"], n=30)
    settings = ProbingSettings(site=("resid_post", "mlp_out"), shuffles=2)
    found = probe_tasks(lens, data, settings=settings, progress=False)
    folder = write(found, tmp_path / "deep" / "probe", settings, lens)
    every = pandas.read_csv(folder / "probes.csv")
    assert len(every) == 2 * 2 * 2 * 2  # tasks, weights, sites, layers
    assert set(every["weights"]) == {"model", "random"}
    assert (folder / "level.png").stat().st_size > 5000
    assert (folder / "probing.md").read_text() == report(found) + "\n"
    said = json.loads((folder / "configuration.json").read_text())
    assert said["settings"]["site"] == ["resid_post", "mlp_out"]
    assert "30" in said["clips"]["level"]
    assert table(found)["task"].tolist() == ["level", "brightness"]
    best = found[0].model.best()
    assert f"| {best[0]} {best[1]} |" in report(found)


def test_a_folder_of_your_own_is_probed_from_the_shell(tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    lines = ["file,loud"]
    for n in range(30):
        loud = n % 2
        wave = rng.standard_normal(8000) * (0.3 if loud else 0.003)
        soundfile.write(tmp_path / f"{n}.wav", wave, 16000)
        lines.append(f"{n}.wav,{'yes' if loud else 'no'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    asked = ["probe", "--folder", str(tmp_path), "--label", "loud", "--seconds", "0.5"]
    assert main([*asked, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "| loud | accuracy of 2 | resid_post" in printed
    assert (tmp_path / "out" / "loud.png").is_file()
    assert main(["probe", "--folder", str(tmp_path), "--label", "loud"]) == 1
    assert "--folder takes --label and --seconds" in capsys.readouterr().err
    assert main(["probe", "--label", "loud"]) == 1
    assert "are of --folder" in capsys.readouterr().err


def test_the_toy_is_asked_on_its_grid() -> None:
    assert {data.tuning for data in labelled_tasks(random_musicgen(), n=5).values()} == {"equal"}


@pytest.mark.parametrize(
    ("data", "asked", "match"),
    [
        ({}, {}, "no tasks"),
        ({"level": None}, {"site": ("logits",)}, "cannot be pooled"),
        ({"level": None}, {"pool": "middle"}, "pool must be one of"),
        ({"level": None}, {"pool": "every_step"}, "pool over time"),
        ({"level": None}, {"shuffles": 0}, "needs its control"),
    ],
)
def test_bad_input_is_named_before_anything_is_heard(data, asked, match, as_users_see_it) -> None:
    with pytest.raises(Exception, match=match):
        probe_tasks(random_musicgen(n_layers=1), data, settings=ProbingSettings(**asked))
    with pytest.raises(InputError, match="no task 'colour'"):
        labelled_tasks(random_musicgen(n_layers=1), ["colour"])
