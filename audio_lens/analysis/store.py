"""Raw activations on disk: sharded safetensors with a manifest, read back a part at a time."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from audio_lens.analysis._keys import name_of
from audio_lens.analysis.collect import Gathering, Key
from audio_lens.errors import InputError
from audio_lens.lens.rows import Prompts

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

FORMAT = "audio_lens.activations.1"
MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Stored:
    """A folder of activations; `stored[site, layer]` reads one place of all rows."""

    folder: Path
    keys: tuple[Key, ...]
    n_rows: int
    shards: tuple[str, ...]
    """File names, in order of rows."""
    made: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> "Stored":
        """A folder that `store` wrote.

        Raises:
            InputError: no manifest there, of another format, or shards that are missing.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise InputError(f"no {MANIFEST} in {folder}: it holds no stored activations.")
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is no JSON: {error}.") from error
        if found.get("format") != FORMAT:
            raise InputError(f"{path} has the format {found.get('format')!r}, not {FORMAT!r}.")
        missing = [name for name in found["shards"] if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder} lacks {missing[0]}, which its manifest lists.")
        keys = tuple((site, layer) for site, layer in found["keys"])
        shards = tuple(found["shards"])
        return cls(folder, keys, found["rows"], shards, MappingProxyType(found["made"]))

    def batches(self, key: Key) -> Iterator[Float[Tensor, "row *site"]]:
        """One shard after another."""
        from safetensors import safe_open

        if key not in self.keys:
            raise InputError(f"{key} was not stored: there are {self.keys}.")
        for name in self.shards:
            with safe_open(str(self.folder / name), framework="pt") as file:
                yield file.get_tensor(name_of(key))

    def __getitem__(self, key: Key) -> Float[Tensor, "row *site"]:
        return torch.cat(list(self.batches(key)))


def store(
    lens: "AudioLens", prompts: Prompts, out: str | Path, *, progress: bool = True, **asked: Any
) -> Stored:
    """Run prompts, codes or sounds and write what is gathered, one shard per batch.

    Says how much disk all will take before anything runs. The manifest is written last, so that a
    run which did not end is no stored set.

    Args:
        lens: The model.
        prompts: As for `collect`.
        out: A new or empty folder.
        progress: Say the size, and show a progress bar.
        asked: `site`, `layers`, `pool` (`"every_step"` keeps them all), `rows_at_once` (rows per
            shard), ... as for `collect`.

    Raises:
        InputError: a folder that holds something, or a disk with too little room; and as `collect`
            does.

    Example:
        >>> import tempfile
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> codes = lens.random_codes(frames=8, batch=20)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stored = store(lens, None, folder, codes=codes, rows_at_once=8, progress=False)
        ...     print(len(stored.shards), stored["resid_post", 1].shape)
        3 torch.Size([20, 64])
    """
    from safetensors.torch import save_file

    plan = Gathering(lens, prompts, progress=False, **asked)
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something already: give a new or empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    size, free = plan.n_bytes, shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"{folder} would take {_gib(size)}, and {_gib(free)} are free: pool, or take fewer "
            f"sites, layers or seconds."
        )
    if progress:
        tqdm.write(f"{folder} will take about {_gib(size)}.", file=sys.stderr)
    shards: list[str] = []
    keys: list[Key] = []
    start = 0
    bar = tqdm(total=plan.n_rows, desc="storing", disable=not progress)
    for batch in plan.batches():
        tensors = {name_of(key): values.contiguous() for key, (values, _) in batch.items()}
        n_rows = len(next(iter(tensors.values())))
        keys = list(batch)
        shards.append(f"rows-{start:08d}.safetensors")
        save_file(tensors, folder / shards[-1])
        start += n_rows
        bar.update(n_rows)
    bar.close()
    manifest = {
        "format": FORMAT, "keys": keys, "rows": plan.n_rows, "shards": shards, "made": plan.made,
    }  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return Stored.open(folder)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
