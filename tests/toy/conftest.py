"""The packaged toy, loaded once, by transformers alone."""

from collections.abc import Iterator

import pytest
import torch
from transformers import MusicgenForConditionalGeneration, MusicgenProcessor

from audio_lens.lens.loading import CHECKPOINTS


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Training small things on threads that must wait for each other is many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy() -> MusicgenForConditionalGeneration:
    torch.manual_seed(0)
    return MusicgenForConditionalGeneration.from_pretrained(CHECKPOINTS["toy"]).eval()


@pytest.fixture(scope="session")
def processor() -> MusicgenProcessor:
    return MusicgenProcessor.from_pretrained(CHECKPOINTS["toy"])
