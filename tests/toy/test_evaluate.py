"""The evaluation script on the packaged toy: every part, its files, its card."""

import json
import shutil

import pytest

from audio_lens import AudioLens, InputError
from audio_lens.lens.loading import CHECKPOINTS
from audio_lens.toy import _card, evaluate
from audio_lens.toy._listen import melody_report, told_apart


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys") / "toy"
    shutil.copytree(CHECKPOINTS["toy"], folder)
    for name in ("evaluation.json", "choice.json", "README.md"):
        (folder / name).unlink(missing_ok=True)
    evaluate.main([str(folder), "--quick", "--studies", str(folder.parent / "studies")])
    return folder


def test_a_rehearsal_leaves_evaluation_choice_and_card(measured):
    found = json.loads((measured / "evaluation.json").read_text())
    assert {"codec", "obedience", "steering", "settings"} <= set(found)
    choice = json.loads((measured / "choice.json").read_text())
    assert set(choice) == {"tempo", "timbre"}
    assert choice["tempo"]["+"] > 0 > choice["tempo"]["-"]
    log = json.loads((measured / "training.json").read_text())
    assert (measured / "README.md").read_text() == _card.write("toy", log, found)


def test_what_was_measured_is_kept_unless_asked_for_again(measured, monkeypatch):
    ran, found = [], json.loads((measured / "evaluation.json").read_text())
    for part in evaluate.PARTS:
        monkeypatch.setitem(
            evaluate.PARTS, part, lambda lens, settings, out, p=part: ran.append(p) or found[p]
        )
    evaluate.evaluate(measured, evaluate.QUICK, measured)
    assert ran == []
    evaluate.evaluate(measured, evaluate.QUICK, measured, again=["obedience"])
    assert ran == ["obedience"]


def test_measures_of_other_weights_are_none(measured, monkeypatch):
    ran, found = [], json.loads((measured / "evaluation.json").read_text())
    for part in evaluate.PARTS:
        monkeypatch.setitem(
            evaluate.PARTS, part, lambda lens, settings, out, p=part: ran.append(p) or found[p]
        )
    kept = (measured / "evaluation.json").read_text()
    (measured / "evaluation.json").write_text(json.dumps(found | {"weights": "others"}))
    evaluate.evaluate(measured, evaluate.QUICK, measured)
    assert ran == list(evaluate.PARTS)
    assert json.loads((measured / "evaluation.json").read_text()) == json.loads(kept)


def test_told_apart_counts_what_is_not_heard_as_wrong():
    row = told_apart([120, 130, float("nan"), 90], [60, 70, 80, 110], 98.0)
    assert row["balanced_accuracy"] == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert row["low"] < 5 / 8 < row["high"]


def test_a_rehearsal_is_no_part_of_an_evaluation(measured):
    with pytest.raises(InputError, match="rehearsal=True, wanted is False"):
        evaluate.evaluate(
            measured, evaluate.EvaluationSettings(codec_clips=2, prompts=1, seeds=1, seconds=2.0),
            measured.parent / "studies",
        )  # fmt: skip


def test_melodies_are_compared_frame_by_frame():
    found = melody_report(AudioLens.from_pretrained("toy-melody"), 3, 2.0)
    assert set(found) == {"clips"} | {
        name + others for name in ("with", "without", "codec") for others in ("", ", others")
    }
    assert found["codec"] > found["codec, others"]
