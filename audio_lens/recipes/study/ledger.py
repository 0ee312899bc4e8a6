"""What a study has heard so far, on disk: nothing is lost to an interrupt, nothing heard twice."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from audio_lens.errors import InputError
from audio_lens.files import whole

FORMAT = "audio_lens.study.1"
CONFIGURATION = "configuration.json"
Row = dict[str, Any]


class Ledger:
    """A folder with a study's configuration, its rows by stage, and the codes of every clip.

    Rows are appended in batches, each with its clips' codes. The codes are written first and a
    batch's rows in one go, so what a kill leaves behind is whole batches and, at most, a torn line
    or codes without rows: both are dropped.

    Raises:
        InputError: the folder holds something else, or a study of another configuration.
    """

    def __init__(self, folder: str | Path, configuration: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._configuration = json.loads(json.dumps({"format": FORMAT, **configuration}))
        self._rows: dict[str, list[Row]] = {}
        file = self.folder / CONFIGURATION
        if file.is_file():
            _check_same(file, json.loads(file.read_text()), self._configuration)
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            raise InputError(f"{self.folder} holds something that is no study: give a new folder.")

    def file(self, name: str) -> Path:
        """Where something of the study is kept; the folder is made when it is first asked for."""
        configuration = self.folder / CONFIGURATION
        if not configuration.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(configuration, json.dumps(self._configuration, indent=1) + "\n")
        for part in ("rows", "codes"):
            (self.folder / part).mkdir(exist_ok=True)
        return self.folder / name

    def rows(self, stage: str) -> list[Row]:
        """All rows of a stage, in the order in which they were heard."""
        if stage not in self._rows:
            self._rows[stage] = self._read(stage)
        return list(self._rows[stage])

    def _read(self, stage: str) -> list[Row]:
        file = self._file(stage)
        if not file.is_file():
            return []
        text = file.read_text()
        lines = text[: text.rfind("\n") + 1]
        if lines != text:  # a kill tore the last one
            write_whole(file, lines)
        return [row for line in lines.splitlines() for row in json.loads(line)]

    def append(
        self, stage: str, rows: Sequence[Mapping[str, Any]], codes: Int[Tensor, "row book frame"]
    ) -> None:
        """Keep a batch of rows with the codes of their clips."""
        from safetensors.torch import save_file

        number = sum(1 for _ in self.folder.glob(f"codes/{stage}-*.safetensors"))
        name = f"{stage}-{number:05d}.safetensors"
        with whole(self.file("codes") / name) as partial:
            save_file({"codes": codes.to(torch.int16).cpu().contiguous()}, partial)
        kept = [{**row, "codes": name, "place": place} for place, row in enumerate(rows)]
        known, line = self.rows(stage), json.dumps(kept)
        with self._file(stage).open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows[stage] = known + json.loads(line)  # as they will be read again

    def codes(self, rows: Iterable[Mapping[str, Any]]) -> Int[Tensor, "row book frame"]:
        """The codes of rows' clips."""
        from safetensors.torch import load_file

        rows = list(rows)
        files = {name: self.folder / "codes" / name for name in {row["codes"] for row in rows}}
        known = {name: load_file(file)["codes"] for name, file in files.items()}
        return torch.stack([known[row["codes"]][row["place"]] for row in rows]).long()

    def _file(self, stage: str) -> Path:
        return self.folder / "rows" / f"{stage}.jsonl"


def kept_settings(folder: str | Path) -> dict[str, Any] | None:
    """The settings of the study that a folder holds; None where it holds none."""
    file = Path(folder) / CONFIGURATION
    return json.loads(file.read_text()).get("settings") if file.is_file() else None


def _check_same(file: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if known.get("format") != FORMAT:
        raise InputError(f"{file} is of no study of this version ({FORMAT}): give a new folder.")
    for name in sorted({*known, *wanted}):
        if known.get(name) != wanted.get(name):
            raise InputError(
                f"{file.parent} holds another study: its {name} is {known.get(name)!r}, asked for "
                f"is {wanted.get(name)!r}. Give another folder, or the same settings to go on."
            )


def write_whole(file: Path, text: str) -> None:
    """Text, in one go."""
    with whole(file) as partial:
        partial.write_text(text)
