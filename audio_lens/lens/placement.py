"""Where a model lies and in which type: moved and cast in place, the lens kept in step."""

from typing import Any, TypeVar

import torch

from audio_lens.lens.config import HFModule

Placed = TypeVar("Placed", bound="Placement")


class Placement:
    """The ways torch has to move and cast a module, for the lens to inherit."""

    _module: HFModule

    def _describe(self) -> None:
        raise NotImplementedError

    def to(self: Placed, *args: Any, **kwargs: Any) -> Placed:
        """Move or cast the model in place; returns the lens."""
        self._module.to(*args, **kwargs)
        self._describe()
        return self

    def cpu(self: Placed) -> Placed:
        """Move the model to the CPU."""
        return self.to("cpu")

    def cuda(self: Placed, device: int | torch.device | None = None) -> Placed:
        """Move the model to an accelerator."""
        return self.to("cuda" if device is None else device)

    def float(self: Placed) -> Placed:
        """Cast the weights to float32."""
        return self.to(torch.float32)

    def double(self: Placed) -> Placed:
        """Cast the weights to float64."""
        return self.to(torch.float64)

    def half(self: Placed) -> Placed:
        """Cast the weights to float16."""
        return self.to(torch.float16)

    def bfloat16(self: Placed) -> Placed:
        """Cast the weights to bfloat16."""
        return self.to(torch.bfloat16)
