"""What a study has heard so far, on disk: nothing is lost to an interrupt, nothing heard twice."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from jaxtyping import Int
from torch import Tensor

from audio_lens.errors import InputError
from audio_lens.files import partial_of, whole

FORMAT = "audio_lens.study.2"
CONFIGURATION = "configuration.json"
GROW = ("control_kinds", "control_seeds")
"""Settings of which a study may hear more later on: nothing that is frozen hangs on them."""
Row = dict[str, Any]


class Ledger:
    """A folder with a study's configuration, its rows by stage, and the codes of every clip.

    Rows are appended in batches, each with its clips' codes. The codes are written first and a
    batch's rows in one go, so what a kill leaves behind is whole batches and, at most, a torn line
    or codes without rows: both are dropped. One process at a time makes what is missing. A study
    that is gone on with may ask for more controls, and is then one of as many.

    Raises:
        InputError: the folder holds something else, or a study of another configuration.
    """

    def __init__(self, folder: str | Path, configuration: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._held: FileLock | None = None
        self._configuration = json.loads(json.dumps({"format": FORMAT, **configuration}))
        self._rows: dict[str, tuple[int, list[Row]]] = {}
        """By stage, with the length of the file that they were read from."""
        file = self.folder / CONFIGURATION
        if file.is_file():
            _check_goes_on(file, json.loads(file.read_text()), self._configuration)
        elif self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file: give a folder.")
        elif any(path != partial_of(file) for path in self.folder.glob("*")):
            raise InputError(f"{self.folder} holds something that is no study: give a new folder.")

    def file(self, name: str) -> Path:
        """Where something of the study is kept; the folder is made when it is first asked for."""
        if not (self.folder / CONFIGURATION).is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._configure()
        for part in ("rows", "codes"):
            (self.folder / part).mkdir(exist_ok=True)
        return self.folder / name

    def rows(self, stage: str) -> list[Row]:
        """All rows of a stage, in the order in which they were heard."""
        file = self._file(stage)
        size = file.stat().st_size if file.is_file() else 0
        known, rows = self._rows.get(stage, (0, []))
        if size != known:
            rows = [row for line in _whole_lines(file).splitlines() for row in json.loads(line)]
            self._rows[stage] = size, rows
        return list(rows)

    def append(
        self, stage: str, rows: Sequence[Mapping[str, Any]], codes: Int[Tensor, "row book frame"]
    ) -> None:
        """Keep a batch of rows with the codes of their clips.

        Raises:
            InputError: another process writes to the folder.
        """
        from safetensors.torch import save_file

        self.hold()
        number = sum(1 for _ in self.folder.glob(f"codes/{stage}-*.safetensors"))
        name = f"{stage}-{number:05d}.safetensors"
        with whole(self.file("codes") / name) as partial:
            save_file({"codes": codes.to(torch.int16).cpu().contiguous()}, partial)
        self._note(stage, [{**row, "codes": name, "place": n} for n, row in enumerate(rows)])

    def note(self, stage: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows of what was computed from clips and has none of its own; as `append`."""
        self.hold()
        self._note(stage, rows)

    def _note(self, stage: str, rows: Sequence[Mapping[str, Any]]) -> None:
        path = self._file(stage)
        if path.is_file() and (lines := _whole_lines(path)) != path.read_text():
            write_whole(path, lines)
        known, line = self.rows(stage), json.dumps(list(rows))
        with path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows[stage] = path.stat().st_size, known + json.loads(line)

    def hold(self) -> None:
        """Keep other processes from writing to the folder, until this one ends.

        Raises:
            InputError: another process holds it.
        """
        if self._held is not None:
            return
        lock = FileLock(self.file(".lock"), is_singleton=True, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"{self.folder}: another process goes on with this study. Wait until it has ended, "
                f"or give another folder."
            ) from error
        self._held = lock
        self._configure()  # what was asked for may have grown

    def _configure(self) -> None:
        configuration = json.dumps(self._configuration, indent=1) + "\n"
        write_whole(self.folder / CONFIGURATION, configuration)

    def codes(self, rows: Iterable[Mapping[str, Any]]) -> Int[Tensor, "row book frame"]:
        """The codes of rows' clips."""
        from safetensors.torch import load_file

        rows = list(rows)
        files = {name: self.folder / "codes" / name for name in {row["codes"] for row in rows}}
        known = {name: load_file(file)["codes"] for name, file in files.items()}
        return torch.stack([known[row["codes"]][row["place"]] for row in rows]).long()

    def _file(self, stage: str) -> Path:
        return self.folder / "rows" / f"{stage}.jsonl"


def _whole_lines(file: Path) -> str:
    """Without a last one that a kill tore, or that is being written."""
    text = file.read_text()
    return text[: text.rfind("\n") + 1]


def kept_settings(folder: str | Path) -> dict[str, Any] | None:
    """The settings of the study that a folder holds; None where it holds none."""
    file = Path(folder) / CONFIGURATION
    return json.loads(file.read_text()).get("settings") if file.is_file() else None


def _check_goes_on(file: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if known.get("format") != FORMAT:
        raise InputError(f"{file} is of no study of this version ({FORMAT}): give a new folder.")
    known, wanted = (_flat(each) for each in (known, wanted))
    for name in sorted({*known, *wanted}):
        old: Any = known.get(name)
        new: Any = wanted.get(name)
        if old == new or (name in GROW and _grows(old, new)):
            continue
        raise InputError(
            f"{file.parent} holds another study: its {name} is {old!r}, asked for is {new!r}. Give "
            f"another folder, or the same settings to go on; {' and '.join(GROW)} alone may grow."
        )


def _grows(old: Any, new: Any) -> bool:
    return set(old) < set(new) if isinstance(new, list) else new > old


def _flat(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """With its settings beside the rest, but for what a budget left out: those are words."""
    settings = {n: v for n, v in configuration.get("settings", {}).items() if n != "dropped"}
    return {n: v for n, v in configuration.items() if n != "settings"} | settings


def write_whole(file: Path, text: str) -> None:
    """Text, in one go."""
    with whole(file) as partial:
        partial.write_text(text, encoding="utf-8")
