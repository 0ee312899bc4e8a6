"""The ledger: rows and codes come back, whatever a kill left behind."""

import json
import subprocess
import sys

import pytest
import torch
from pandas import DataFrame

from audio_lens import InputError
from audio_lens.recipes.study.ledger import Ledger, kept_settings

SETTINGS = {"model": "toy", "concept": "tempo", "doses": [-1.0, 0.0, 1.0]}


def codes(n, first=0):
    return torch.arange(first, first + n * 8).view(n, 4, 2)


def test_rows_and_codes_come_back_in_order(tmp_path) -> None:
    ledger = Ledger(tmp_path / "deep" / "study", SETTINGS)
    assert ledger.rows("dose") == []
    ledger.append(
        "dose", [{"bpm": 90.5, "prompt": "a"}, {"bpm": float("nan"), "prompt": "b"}], codes(2)
    )
    ledger.append("dose", [{"bpm": 100.0, "prompt": "c"}], codes(1, 100))
    ledger.append("poles", [{"bpm": 1.0}], codes(1, 500))
    again = Ledger(tmp_path / "deep" / "study", SETTINGS)
    rows = again.rows("dose")
    assert [row["prompt"] for row in rows] == ["a", "b", "c"]
    assert DataFrame(rows)["bpm"].isna().tolist() == [False, True, False]
    assert torch.equal(again.codes([rows[2], rows[0]]), torch.cat([codes(1, 100), codes(2)[:1]]))
    assert torch.equal(again.codes(again.rows("poles")), codes(1, 500))


@pytest.mark.parametrize("left", ['[{"bpm": 1', '[{"bpm": 1}]', ""])
def test_a_torn_line_is_dropped(tmp_path, left) -> None:
    ledger = Ledger(tmp_path / "study", SETTINGS)
    ledger.append("dose", [{"bpm": 90.0}], codes(1))
    with (tmp_path / "study" / "rows" / "dose.jsonl").open("a") as file:
        file.write(left)
    (tmp_path / "study" / "codes" / "dose-00001.safetensors").write_bytes(b"no rows lead here")
    again = Ledger(tmp_path / "study", SETTINGS)
    assert [row["bpm"] for row in again.rows("dose")] == [90.0]
    again.append("dose", [{"bpm": 91.0}], codes(1, 40))
    rows = Ledger(tmp_path / "study", SETTINGS).rows("dose")
    assert [row["bpm"] for row in rows] == [90.0, 91.0]
    assert torch.equal(again.codes(rows), torch.cat([codes(1), codes(1, 40)]))


def test_another_study_is_refused(tmp_path) -> None:
    kept = Ledger(tmp_path / "study", SETTINGS)
    assert not (tmp_path / "study").exists()
    kept.append("dose", [{"bpm": 90.0}], codes(1))
    with pytest.raises(InputError, match=r"its doses is .*asked for is"):
        Ledger(tmp_path / "study", {**SETTINGS, "doses": [0.0]})
    with pytest.raises(InputError, match="its seed is None"):
        Ledger(tmp_path / "study", {**SETTINGS, "seed": 1})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no study"):
        Ledger(tmp_path / "other", SETTINGS)
    file = tmp_path / "study" / "configuration.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": "older"}))
    with pytest.raises(InputError, match="no study of this version"):
        Ledger(tmp_path / "study", SETTINGS)


def test_a_study_may_hear_more_controls_later(tmp_path) -> None:
    def asked(seeds, dropped=(), kinds=("isotropic",), **other):
        controls = {"control_seeds": seeds, "control_kinds": kinds}
        return {"model": "toy", "settings": {**controls, "dropped": dropped, **other}}

    Ledger(tmp_path, asked(1, ["one seed under controls"])).append("dose", [{"n": 1}], codes(1))
    grown = Ledger(tmp_path, asked(4))
    assert kept_settings(tmp_path)["control_seeds"] == 1  # until something is heard
    grown.append("controls", [{"n": 2}], codes(1))
    kept = {"control_seeds": 4, "control_kinds": ["isotropic"], "dropped": []}
    assert kept_settings(tmp_path) == kept
    assert Ledger(tmp_path, asked(4)).rows("dose") == grown.rows("dose")
    with pytest.raises(InputError, match="its control_seeds is 4, asked for is 1"):
        Ledger(tmp_path, asked(1))
    with pytest.raises(InputError, match="its doses is None"):
        Ledger(tmp_path, asked(4, doses=[1.0]))
    Ledger(tmp_path, asked(4, kinds=("isotropic", "matched"))).hold()
    assert kept_settings(tmp_path)["control_kinds"] == ["isotropic", "matched"]
    with pytest.raises(InputError, match="its control_kinds is"):
        Ledger(tmp_path, asked(4, kinds=("isotropic", "flipped")))


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path) -> None:
    script = (
        "import sys, torch\n"
        "from audio_lens.recipes.study.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1], {})\n"
        "ledger.append('dose', [{'prompt': 'a'}], torch.zeros(1, 4, 2).long())\n"
        "print('kept', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout.readline() == "kept\n"
    ours = Ledger(tmp_path, {})
    with pytest.raises(InputError, match="another process goes on with this study"):
        ours.append("dose", [{"prompt": "b"}], codes(1))
    other.communicate("")
    ours.append("dose", [{"prompt": "b"}], codes(1))
    Ledger(tmp_path, {}).append("dose", [{"prompt": "c"}], codes(1))  # the same process may
    assert [row["prompt"] for row in Ledger(tmp_path, {}).rows("dose")] == ["a", "b", "c"]


def test_two_ledgers_of_a_folder_see_what_the_other_keeps(tmp_path) -> None:
    one, other = Ledger(tmp_path, {}), Ledger(tmp_path, {})
    one.append("dose", [{"prompt": "a"}], codes(1))
    assert len(other.rows("dose")) == 1
    one.append("dose", [{"prompt": "b"}], codes(1))
    other.append("dose", [{"prompt": "c"}], codes(1))
    assert [row["prompt"] for row in one.rows("dose")] == ["a", "b", "c"]
    assert one.rows("dose") == other.rows("dose") == Ledger(tmp_path, {}).rows("dose")


def test_a_reader_leaves_alone_what_is_being_written(tmp_path) -> None:
    Ledger(tmp_path, {}).append("dose", [{"prompt": "a"}], codes(1))
    file = tmp_path / "rows" / "dose.jsonl"
    half = file.read_text() + '[{"prompt": "b"'
    file.write_text(half)
    ledger = Ledger(tmp_path, {})
    assert [row["prompt"] for row in ledger.rows("dose")] == ["a"]
    assert file.read_text() == half
    ledger.append("dose", [{"prompt": "c"}], codes(1))
    assert [row["prompt"] for row in Ledger(tmp_path, {}).rows("dose")] == ["a", "c"]


def test_a_file_is_no_folder_and_a_kill_at_birth_leaves_nothing_in_the_way(tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file: give a folder"):
        Ledger(tmp_path / "file", SETTINGS)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "configuration.json.part").write_text('{"for')
    ledger = Ledger(tmp_path / "study", SETTINGS)
    ledger.append("dose", [{"bpm": 90.0}], codes(1))
    assert len(Ledger(tmp_path / "study", SETTINGS).rows("dose")) == 1
