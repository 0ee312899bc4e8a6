"""The evaluation script on the packaged toy: every part, its files, its card."""

import json
import shutil

import numpy as np
import pytest

from audio_lens.lens.loading import CHECKPOINTS
from audio_lens.toy import _card, evaluate
from audio_lens.toy._listen import told_apart
from audio_lens.toy._steer import Cell, _reach, ways


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys") / "toy"
    shutil.copytree(CHECKPOINTS["toy"], folder)
    for name in ("evaluation.json", "choice.json", "README.md"):
        (folder / name).unlink(missing_ok=True)
    evaluate.main([str(folder), "--quick"])
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
    ran = []
    for part in evaluate.PARTS:
        monkeypatch.setitem(
            evaluate.PARTS, part, lambda lens, found, s, p=part: ran.append(p) or found[p]
        )
    evaluate.evaluate(measured, evaluate.QUICK)
    assert ran == []
    evaluate.evaluate(measured, evaluate.QUICK, again=["obedience"])
    assert ran == ["obedience"]


def test_told_apart_counts_what_is_not_heard_as_wrong():
    row = told_apart([120, 130, float("nan"), 90], [60, 70, 80, 110], 98.0)
    assert row["balanced_accuracy"] == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert row["low"] < 5 / 8 < row["high"]


def test_reach_is_a_share_of_the_prompted_shift_and_nothing_where_music_breaks():
    whole = Cell(np.array([[0.3], [0.5], [np.nan]]), np.ones((3, 1)))
    assert _reach(whole, 0.6) == pytest.approx(0.5)
    assert _reach(whole, -0.6) == pytest.approx(-0.5)
    broken = Cell(np.full((10, 1), 0.6), np.array([[1.0]] * 8 + [[0.0]] * 2))
    assert _reach(broken, 0.6) == 0


def test_every_way_of_steering_is_a_candidate():
    candidates = ways(5)
    assert len(candidates) == len(set(candidates)) == 22
    assert {way.strategy for way in candidates} == {"one_to_one", "one_to_all", "all_to_all"}
