"""Keys and values of a generation whose length is known: written in place, never copied."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PretrainedConfig
from transformers.cache_utils import Cache, DynamicLayer


class _RoomyLayer(DynamicLayer):
    """A layer's keys and values in memory laid out once.

    Transformers' dynamic layer copies everything it holds at every step, which outweighs the
    attention itself in large batches. What it returns here is a view of the same values.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        batch, heads, _, width = key_states.shape
        self._room = torch.empty(
            2, batch, heads, self._capacity, width, dtype=self.dtype, device=self.device
        )

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self._length = self._length, self._length + key_states.shape[-2]
        self._room[0, :, :, start : self._length] = key_states
        self._room[1, :, :, start : self._length] = value_states
        self.keys, self.values = self._room[:, :, :, : self._length].unbind()
        return self.keys, self.values


def generation_cache(config: PretrainedConfig, positions: int) -> EncoderDecoderCache:
    """A cache with room for so many positions of self-attention."""
    layers: list[Any] = [_RoomyLayer(positions) for _ in range(config.num_hidden_layers)]
    return EncoderDecoderCache(Cache(layers=layers), DynamicCache(config=config))
