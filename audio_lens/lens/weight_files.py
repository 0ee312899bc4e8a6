"""Weight files of a checkpoint: which there are, and whether they are whole, before any is read."""

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from audio_lens.errors import InputError

_INDEX = ".index.json"
SAFE = ("model.safetensors", "model.safetensors" + _INDEX)
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin" + _INDEX)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises where the file holds none."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}. Download it again.") from error
    if not isinstance(read, dict):
        raise InputError(f"{path} holds a {type(read).__name__}, expected a JSON object.")
    return read


def weight_files(folder: Path, named: str | None, allow_pickle: bool) -> list[Path]:
    """The files that transformers will read, in the order in which it looks for them."""
    wanted = (named,) if named else (*SAFE, *_PICKLED)
    first = next((folder / name for name in wanted if (folder / name).is_file()), None)
    if first is None:
        raise InputError(
            f"{folder} has a config.json but no weights: expected {wanted[0]} (or its shards "
            f"and {wanted[0]}{_INDEX}). Download them too."
        )
    weights = _shards(first) if first.name.endswith(_INDEX) else [first]
    pickled = [path for path in weights if path.suffix != ".safetensors"]
    if pickled and not allow_pickle:
        raise InputError(
            f"{pickled[0]} holds pickled weights, and unpickling a file can run code that is "
            f"hidden in it. If you trust its source, pass allow_pickle=True, once: "
            f"lens.hf_model.save_pretrained(FOLDER) then writes safetensors. Or take a revision "
            f"that has a model.safetensors."
        )
    return weights


def _shards(index: Path) -> list[Path]:
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise InputError(f"{index} has no weight_map, which says where tensors are.")
    shards = [index.parent / str(shard) for shard in sorted(set(placed.values()))]
    for shard in shards:
        if not shard.is_file():
            lost = sorted(name for name, file in placed.items() if file == shard.name)
            raise InputError(
                f"{shard} is missing: {index.name} places {len(lost)} tensors there "
                f"({some(lost)}). Download it too."
            )
    return shards


def tensors_in(path: Path) -> Iterable[str]:
    """Names of the tensors in a file; raises where it is not whole."""
    return _safe_header(path) if path.suffix == ".safetensors" else _pickle_header(path)


def _safe_header(path: Path) -> Iterable[str]:
    """Tensors of a safetensors file: 8 bytes of length, a JSON header of that length with each
    tensor's place in the bytes that follow, and those bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise InputError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull`.")
        begin = 8 + int.from_bytes(start, "little")
        if size < max(begin, 9):
            raise InputError(
                f"{path} is cut short, or no safetensors file: its {size} bytes end within its "
                f"header. Download it again."
            )
        raw = file.read(begin - 8)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        ends = {name: begin + int(tensor["data_offsets"][1]) for name, tensor in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path} is damaged, or no safetensors file: its header cannot be read. Download it "
            f"again. It said: {error}"
        ) from error
    _check_size(path, size, max(ends.values(), default=begin), ends)
    return ends


def _check_size(path: Path, size: int, whole: int, ends: Mapping[str, int]) -> None:
    if size < whole:
        lost = sorted((name for name in ends if ends[name] > size), key=ends.__getitem__)
        raise InputError(
            f"{path} is cut short: it has {size} bytes of {whole}, so {lost[0]!r} is not all there "
            f"(tensors lost: {len(lost)}). Download it again."
        )
    if size > whole:
        raise InputError(
            f"{path} is damaged: it has {size} bytes, but its header speaks of {whole}. Download "
            f"it again."
        )


def _pickle_header(path: Path) -> Iterable[str]:
    try:
        return torch.load(
            path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path)
        ).keys()
    except Exception as error:  # torch raises many; its advice is to load it without this guard
        raise InputError(
            f"{path} cannot be read as pickled weights ({type(error).__name__}): it is damaged, or "
            f"holds something else than weights."
        ) from error


def some(names: list[str], most: int = 4) -> str:
    """Names for an error: the first few, and how many more."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
