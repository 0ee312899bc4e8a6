"""A folder of your own audio with a table of labels, read as labelled clips are."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audio_lens.errors import InputError

from .splits import SPLITS, check_split, split_by

if TYPE_CHECKING:
    from audio_lens.audio.clip import Clip


@dataclass(frozen=True, eq=False)
class LabelledFolder:
    """Audio files with labels; a file is read when its clip is asked for."""

    folder: Path
    label: str
    """The column that is asked for."""
    labels: np.ndarray
    """[clip]: floats, or names of classes."""
    classes: tuple[str, ...] | None
    """None for graded labels."""
    table: Mapping[str, np.ndarray]
    """Every column, and `split`."""
    split: np.ndarray
    """[clip]: "train", "validation" or "test"."""
    seconds: float
    start: float
    groups: np.ndarray
    """[clip]: what belongs together, for intervals."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> "Clip":
        from audio_lens.audio.clip import Clip

        clip = Clip.load(self.folder / str(self.table["file"][index]))
        first = round(self.start * clip.sample_rate)
        last = first + round(self.seconds * clip.sample_rate)
        return replace(clip, waveform=clip.waveform[:, first:last])

    def __iter__(self) -> Iterator["Clip"]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        shares = ", ".join(f"{np.sum(self.split == split)} {split}" for split in SPLITS)
        asked = f"{len(self.classes)} classes" if self.classes else "graded"
        return (
            f"LabelledFolder({self.folder.name}: {len(self)} of {self.seconds:g} s, {self.label}, "
            f"{asked}; {shares})"
        )


def labelled_folder(
    folder: str | Path,
    label: str,
    *,
    seconds: float,
    table: str | Path | Mapping[str, Any] = "labels.csv",
    start: float = 0.0,
    group: str | None = None,
    graded: bool | None = None,
    seed: int = 0,
) -> LabelledFolder:
    """Read a folder's table, check every file, and split the clips.

    The table has a column `file` (paths inside the folder), one for the label, and whatever else is
    known. A column `split` ("train", "validation", "test") is kept; without one, three fifths
    train, a fifth validates and a fifth tests, drawn by group.

    Args:
        folder: With the audio: WAV, FLAC, OGG and whatever else libsndfile reads.
        label: The column to be asked for.
        seconds: How much of each file is heard; all of them must be as long.
        table: A CSV file inside the folder, or columns by name.
        start: Where in each file the hearing begins, in seconds.
        group: A column of what belongs together (the artist, the recording): no group is in two
            splits.
        graded: Whether the label is a quantity; if None, numbers are.
        seed: Of the split.

    Raises:
        InputError: no folder, table or column; files that are missing, unreadable or too short;
            labels that are missing, or names among numbers; clips or groups too few to split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}.")
    columns = _columns(folder, table)
    for wanted in ("file", label, *([group] if group else [])):
        if wanted not in columns:
            raise InputError(f"the table has no column {wanted!r}: it has {', '.join(columns)}.")
    if not (seconds > 0 and start >= 0):
        raise InputError(f"seconds={seconds}, start={start}: hear more than nothing, from 0 on.")
    labels, classes = _labels(columns[label], label, graded)
    _check_files(folder, columns["file"], start + seconds)
    named = {name: _plain(values) for name, values in columns.items()}
    split = named.get("split")
    if group:
        _check_filled(columns[group], group)
    groups = named[group] if group else np.arange(len(labels))
    split = split_by(groups, seed=seed) if split is None else split
    check_split(split, groups)
    kept = {**named, label: labels, "split": split}
    return LabelledFolder(folder, label, labels, classes, kept, split, seconds, start, groups)


def _plain(values: Sequence[Any]) -> np.ndarray:
    """A column as numbers where all of it is, else as it stands."""
    numbers = _numbers(values)
    return np.array(values) if numbers is None else numbers


def _numbers(values: Sequence[Any]) -> np.ndarray | None:
    """A column as numbers; None where some of it is none. Truths are not numbers here."""
    if any(isinstance(value, bool | np.bool_) for value in values):
        return None
    try:
        return np.array([float(value) for value in values])
    except (TypeError, ValueError):
        return None


def _columns(folder: Path, table: Any) -> dict[str, list[Any]]:
    if isinstance(table, str | Path):
        path = folder / table
        if not path.is_file():
            raise InputError(f"no table at {path}: a CSV file with a column 'file'.")
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not in UTF-8 ({error}): save it as such.") from error
        if not rows:
            raise InputError(f"{path} has no rows: give a line of column names and one per file.")
        for line, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise InputError(f"line {line} of {path} has more or fewer values than columns.")
        return {name: [row[name] for row in rows] for name in rows[0]}
    columns = {str(name): list(values) for name, values in dict(table).items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1 or not any(lengths.values()):
        raise InputError(f"the table's columns must be equally long and not empty, got {lengths}.")
    return columns


def _check_files(folder: Path, files: Sequence[Any], seconds: float) -> None:
    """Open every file's header, so that nothing is found missing after an hour."""
    import soundfile

    counts = Counter((folder / str(name)).resolve() for name in files)
    for name in files:
        if counts[(folder / str(name)).resolve()] > 1:
            raise InputError(f"the table names {name!r} twice: it would be learned and tested on.")
    for name in files:
        path = folder / str(name)
        if not path.is_file():
            raise InputError(f"the table names {name!r}, which is not in {folder}.")
        try:
            with soundfile.SoundFile(path) as file:
                length, last = file.frames / file.samplerate, round(seconds * file.samplerate) - 1
                if length < seconds:
                    raise InputError(
                        f"{path} lasts {length:.2f} s, but {seconds:g} s are to be heard: give "
                        f"fewer seconds, or leave it out of the table."
                    )
                file.seek(last)  # a file that was cut off still says its full length
                if len(file.read(1)) == 0:
                    raise InputError(f"{path} ends before the {length:.2f} s that it claims.")
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path} is no audio file that can be read: {error}.") from error


def _check_filled(values: Sequence[Any], name: str) -> None:
    for place, value in enumerate(values):
        if value is None or str(value).strip().lower() in ("", "nan"):
            raise InputError(f"the column {name!r} of row {place} is empty: fill it, or drop it.")


def _labels(
    values: Sequence[Any], name: str, graded: bool | None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    _check_filled(values, name)
    numbers = _numbers(values)
    if numbers is None and graded is not False:
        strange = [value for value in values if _numbers([value]) is None]
        if graded or len(strange) < len(values) / 2:
            raise InputError(
                f"the label {name!r} is graded, and {strange[0]!r} is no number: fill it, drop it, "
                f"or say graded=False if these are names."
            )
    if numbers is not None and graded is not False:
        return numbers, None
    names = np.array([str(value).strip() for value in values])
    return names, tuple(np.unique(names).tolist())
