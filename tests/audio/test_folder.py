"""A user's own folder: read as labelled clips are, and checked before anything is heard."""

import numpy as np
import pytest
import soundfile

from audio_lens import InputError
from audio_lens.audio.folder import labelled_folder

RATE = 8000


@pytest.fixture
def folder(tmp_path):
    """Ten files of one second; the loudness of each is its number."""
    lines = ["file,artist,mood,bpm"]
    for n in range(10):
        samples = np.full(RATE, (n + 1) / 20, dtype=np.float32)
        samples[: RATE // 2] = 0
        name = f"part{n % 2}/clip {n}.wav"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, samples, RATE)
        lines.append(f"{name},artist {n // 2},{'glad' if n % 2 else 'sad'},{60 + n}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_table_and_its_files_are_labelled_clips(folder) -> None:
    data = labelled_folder(folder, "mood", seconds=0.25, start=0.5)
    assert len(data) == 10
    assert data.classes == ("glad", "sad")
    assert data.labels[:2].tolist() == ["sad", "glad"]
    clip = data[3]
    assert clip.seconds == 0.25
    assert clip.samples.mean() == pytest.approx(4 / 20, abs=1e-3)
    assert [c.samples.mean() for c in data] == pytest.approx(np.arange(1, 11) / 20, abs=1e-3)
    assert {name: int((data.split == name).sum()) for name in ("train", "validation", "test")} == {
        "train": 6, "validation": 2, "test": 2,
    }  # fmt: skip
    again = labelled_folder(folder, "mood", seconds=0.25)
    assert again.split.tolist() == data.split.tolist()


def test_numbers_are_graded_unless_they_are_names(folder) -> None:
    assert labelled_folder(folder, "bpm", seconds=0.5).labels.tolist() == list(range(60, 70))
    named = labelled_folder(folder, "bpm", seconds=0.5, graded=False)
    assert named.classes == tuple(str(n) for n in range(60, 70))


def test_groups_stay_together_and_a_split_of_ones_own_is_kept(folder) -> None:
    data = labelled_folder(folder, "mood", seconds=0.5, group="artist")
    for artist in set(data.table["artist"].tolist()):
        assert len(set(data.split[data.table["artist"] == artist].tolist())) == 1
    table = {
        "file": data.table["file"],
        "mood": data.labels,
        "split": ["train"] * 6 + ["validation", "validation", "test", "test"],
    }
    assert labelled_folder(folder, "mood", table=table, seconds=0.5).split[9] == "test"
    table["artist"] = ["same"] * 10
    with pytest.raises(InputError, match="group 'same' is in the splits"):
        labelled_folder(folder, "mood", table=table, seconds=0.5, group="artist")


def test_truths_are_classes_and_other_columns_are_numbers(folder) -> None:
    data = labelled_folder(folder, "mood", seconds=0.5, group="artist")
    assert data.groups.tolist() == data.table["artist"].tolist()
    assert data.table["bpm"].dtype.kind == "f"
    table = {"file": data.table["file"], "live": [True, False] * 5}
    assert labelled_folder(folder, "live", table=table, seconds=0.5).classes == ("False", "True")


def test_a_column_called_label_stays_what_it_is(folder) -> None:
    table = {
        "file": [f"part{n % 2}/clip {n}.wav" for n in range(10)],
        "mood": ["sad", "glad"] * 5,
        "label": [f"record company {n}" for n in range(10)],
    }
    data = labelled_folder(folder, "mood", table=table, seconds=0.5)
    assert data.table["label"].tolist() == table["label"]
    assert data.table["mood"].tolist() == data.labels.tolist() == table["mood"]


def test_a_probe_hears_it(folder) -> None:
    from audio_lens.analysis.probe_sweep import probe_sweep
    from audio_lens.testing import random_musicgen

    lens = random_musicgen(n_layers=1)
    data = labelled_folder(folder, "bpm", seconds=0.5)
    found = probe_sweep(lens, data, shuffles=1, progress=False)
    assert found.label == "bpm"


def spoil(folder, change) -> None:
    """What to ask for after one thing went wrong."""
    if change == "empty":
        for path in [*folder.glob("*/*.wav"), folder / "labels.csv"]:
            path.unlink()
    elif change == "missing":
        next(folder.glob("*/*.wav")).unlink()
    elif change == "unreadable":
        next(folder.glob("*/*.wav")).write_text("no sound")
    elif change == "no rows":
        (folder / "labels.csv").write_text("file,mood\n")
    elif change == "ragged":
        (folder / "labels.csv").write_text("file,mood\nclip.wav\n")
    elif change == "cut off":
        samples, _ = soundfile.read(folder / "part1/clip 3.wav")
        noisy = samples + 0.1 * np.random.default_rng(0).standard_normal(len(samples))
        soundfile.write(folder / "whole.flac", noisy, RATE)
        whole = (folder / "whole.flac").read_bytes()
        (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
        (folder / "labels.csv").write_text("file,mood\ncut.flac,sad\n")
    elif change == "Latin-1":
        (folder / "labels.csv").write_bytes("file,mood\nclip.wav,fröhlich\n".encode("latin-1"))
    elif change == "nobody":
        text = (folder / "labels.csv").read_text()
        (folder / "labels.csv").write_text(text.replace("artist 0", ""))
    elif change == "blank":
        text = (folder / "labels.csv").read_text()
        (folder / "labels.csv").write_text(text.replace("glad", " "))


@pytest.mark.parametrize(
    ("change", "asked", "match"),
    [
        ("empty", {}, "no table at .*labels.csv"),
        ("missing", {}, "which is not in"),
        ("unreadable", {}, "no audio file that can be read"),
        ("no rows", {}, "has no rows"),
        ("ragged", {}, "line 2 of .* has more or fewer values"),
        ("blank", {}, "the column 'mood' of row 1 is empty"),
        ("", {"seconds": 2.0}, "lasts 1.00 s, but 2 s are to be heard"),
        ("", {"label": "colour"}, "no column 'colour': it has file, artist, mood, bpm"),
        ("", {"label": "mood", "graded": True}, "is graded, and 'sad' is no number"),
        (
            "",
            {"table": {"file": list("abcde"), "mood": [60, 70, "n/a", 80, 90]}},
            "'n/a' is no number",
        ),
        ("cut off", {"seconds": 0.9}, "ends before the 1.00 s|no audio file that can be read"),
        ("Latin-1", {}, "is not in UTF-8"),
        ("nobody", {"group": "artist"}, "the column 'artist' of row 0 is empty"),
        ("", {"table": {"file": ["a"], "mood": []}}, "equally long"),
        ("", {"folder": "nowhere"}, "no folder at"),
        ("", {"seconds": 0}, "hear more than nothing"),
        ("", {"start": -1.0}, "hear more than nothing"),
        ("", {"table": {"file": ["part0/clip 0.wav"] * 9, "mood": list("abcabcabc")}}, "twice"),
        (
            "",
            {"table": {"file": ["part0/clip 0.wav", "./part0/clip 0.wav"], "mood": "ab"}},
            "twice",
        ),
        (
            "",
            {
                "table": {
                    "file": [f"part{n % 2}/clip {n}.wav" for n in range(5)],
                    "mood": [1.0, 2.0, float("nan"), 1.0, 2.0],
                }
            },
            "of row 2 is empty",
        ),
    ],
)
def test_bad_input_is_named(folder, change, asked, match, as_users_see_it) -> None:
    spoil(folder, change)
    asked = {"folder": folder, "label": "mood", "seconds": 0.5} | asked
    with pytest.raises(InputError, match=match):
        labelled_folder(asked.pop("folder"), asked.pop("label"), **asked)
