"""What results say of how they were made: versions, and fingerprints of what went in."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn


def versions() -> dict[str, str]:
    """What a result was made with."""
    packages = {"audio_lens": "audio-lens"} | {n: n for n in ("torch", "transformers", "nnsight")}
    return {name: version(package) for name, package in packages.items()}


def tensors_sha256(tensors: Iterable[Tensor]) -> str:
    """A fingerprint of numbers and shapes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        found.update(plain.view(torch.uint8).numpy().data)
    return found.hexdigest()


def strings_sha256(strings: Iterable[str]) -> str:
    """A fingerprint of texts in their order."""
    return hashlib.sha256(json.dumps(list(strings)).encode()).hexdigest()


def function_sha256(function: Callable[..., Any]) -> str:
    """A fingerprint of what a function does: its code, constants and names, not what it calls.

    Of what has no Python code (a class, a partial) it is of how it is written out.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return hashlib.sha256(repr(function).encode()).hexdigest()
    constants = [each for each in code.co_consts if not isinstance(each, CodeType)]
    inner = [each.co_code.hex() for each in code.co_consts if isinstance(each, CodeType)]
    said = [code.co_code.hex(), repr(constants), code.co_names, inner]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


_FIRST_NUMBERS = 64


def weights_sha256(model: nn.Module) -> str:
    """A fingerprint of the beginning of every weight: quick, and other weights have another."""
    return tensors_sha256(p.detach().flatten()[:_FIRST_NUMBERS] for p in model.parameters())


def prompts_sha256(texts: Sequence[Sequence[str | None]]) -> str:
    """A fingerprint of sets of prompts, melodies included."""
    named = [
        [[text, None if (c := getattr(text, "chroma", None)) is None else c.tolist()]
         for text in one] for one in texts
    ]  # fmt: skip
    plain = all(melody is None for one in named for _, melody in one)
    kept = [[text for text, _ in one] for one in named] if plain else named
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()
