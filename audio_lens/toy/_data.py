"""The toys' clips: rendered by a few processes, which import no more than synthesis needs."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from audio_lens.audio.synthesis import SAMPLE_RATE, draw, render

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import EncodecModel

    from ._language_model import Material

#: Seeds of clips that training never draws.
FIRST_HELD_OUT_SEED = 1_000_000


def _render(seconds: float, seed: int) -> Float[np.ndarray, " sample"]:
    return render(draw(seed), seconds)


def synthesise(
    seeds: Sequence[int], seconds: float, workers: int
) -> Float[np.ndarray, "clip sample"]:
    """Clips of these seeds; the number of worker processes changes nothing but the time."""
    job = partial(_render, seconds)
    if workers == 1:
        return np.stack([job(seed) for seed in seeds])
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return np.stack(list(pool.map(job, seeds, chunksize=16)))


def material(
    codec: Path, seeds: Sequence[int], seconds: float, workers: int, kept: Path | None = None
) -> "Material":
    """Codes, recipes and melodies of clips; read from the file `kept` where it is there.

    codec: folder of a trained one.
    """
    from safetensors.torch import load_file, save_file

    from ._language_model import Material

    if kept is not None and kept.is_file():
        tensors = load_file(kept)
    else:
        tensors = _encoded(codec, seeds, seconds, workers)
        if kept is not None:
            save_file(tensors, kept)
    if len(tensors["codes"]) != len(seeds):
        raise SystemExit(f"{kept} holds {len(tensors['codes'])} clips, not {len(seeds)}: remove it")
    codes, chroma = tensors["codes"].long(), tensors["chroma"].float()
    return Material(codes, [draw(seed) for seed in seeds], chroma)


def _encoded(
    codec: Path, seeds: Sequence[int], seconds: float, workers: int
) -> dict[str, "Tensor"]:
    """Codes and chroma as bytes, each clip rendered and encoded by one process on one thread."""
    import torch
    from tqdm import tqdm

    job = partial(_encode_one, codec, seconds)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        made = list(tqdm(pool.map(job, seeds, chunksize=8), desc="clips", total=len(seeds)))
    codes, chroma = zip(*made, strict=True)
    return {
        "codes": torch.from_numpy(np.stack(codes)),
        "chroma": torch.from_numpy(np.stack(chroma)),
    }


def _encode_one(codec: Path, seconds: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    import torch

    from audio_lens.audio.melody import SAMPLE_RATE as MELODY_RATE
    from audio_lens.audio.melody import chroma_of
    from audio_lens.audio.sound import samples_of

    from ._codec import encode

    wave = torch.from_numpy(_render(seconds, seed))
    codes = encode(_loaded(codec), wave[None])[0]
    chroma = chroma_of(samples_of(wave, SAMPLE_RATE, wanted=MELODY_RATE)[0])
    return codes.byte().numpy(), chroma.byte().numpy()


@lru_cache(maxsize=1)
def _loaded(codec: Path) -> "EncodecModel":
    """The codec, read once in each process."""
    import torch
    from transformers import EncodecModel

    torch.set_num_threads(1)
    return EncodecModel.from_pretrained(codec).eval()
