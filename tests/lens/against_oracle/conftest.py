"""The mono model, its oracle, and what both say without edits."""

import pytest
import torch
from checks import FRAMES, PROMPTS, Untouched, generated, loud_lens, seen
from oracle import Oracle
from torch import Tensor

from audio_lens import AudioLens


@pytest.fixture(scope="module")
def lens() -> AudioLens:
    return loud_lens()


@pytest.fixture(scope="module")
def oracle(lens: AudioLens) -> Oracle:
    return Oracle.copying(lens.hf_model, lens.processor.tokenizer)


@pytest.fixture(scope="module")
def codes(lens: AudioLens) -> Tensor:
    return lens.random_codes(frames=FRAMES, batch=len(PROMPTS), seed=1)


@pytest.fixture(scope="module")
def untouched(lens: AudioLens, codes: Tensor) -> Untouched:
    """What the lens says without edits, by guidance scale, and by whether autograd watches.

    torch's sdpa takes another kernel under autograd, so the two differ by rounding.
    """
    baselines = {}
    for watching in (False, True):
        with torch.set_grad_enabled(watching):
            baselines |= {(scale, watching): seen(lens, codes, scale) for scale in (1.0, 3.0)}
    return baselines


@pytest.fixture(scope="module")
def unedited(lens: AudioLens) -> dict[tuple[float, int | None], tuple[Tensor, Tensor]]:
    return {
        (scale, seed): generated(lens, scale, seed) for scale in (1.0, 3.0) for seed in (None, 11)
    }
