"""How the toy lies on disk: half-precision numbers that load as the very floats that were used."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MusicgenProcessor, PreTrainedTokenizerFast

from ._models import ToyModel


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Round every weight and buffer to a float16 value, in place, still stored as float32.

    Done before a model is used further, so that storing at half size loses nothing.
    """
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())


def _halved(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in module.state_dict().items()
    }


def save(
    model: ToyModel, processor: MusicgenProcessor | PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write model and processor (or tokenizer) so that transformers alone loads them, in float32.

    The configuration says float32 while the file holds float16: loading converts. Call
    `round_to_half` first, or what is loaded differs from what was trained in the last digits.
    """
    # Where the parts were loaded from is nobody's business but this machine's.
    for part in (model, model.audio_encoder, model.text_encoder):
        part.config._name_or_path = ""
    # Using a tokenizer leaves the last call's padding behind in it.
    tokenizer: Any = getattr(processor, "tokenizer", processor)
    tokenizer.backend_tokenizer.no_padding()
    model.save_pretrained(folder, state_dict=_halved(model))
    processor.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
