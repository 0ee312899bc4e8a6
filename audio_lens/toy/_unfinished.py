"""What a training run that was stopped goes on from: one file, no pickle."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from audio_lens.files import whole

from ._models import ToyModel


@dataclass(frozen=True, eq=False)
class Unfinished:
    """The file of one run (or None: nothing is kept), and what it keeps."""

    path: Path | None
    model: ToyModel
    optimizers: Sequence[torch.optim.Optimizer]
    generator: torch.Generator

    def write(self, log: dict[str, Any]) -> None:
        """Keep weights, the optimizers' moments, the state of the draws, and the log so far."""
        if self.path is None:
            return
        tensors = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        for n, optimizer in enumerate(self.optimizers):
            for place, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{n}.{place}.{name}": t for name, t in state.items()}
        tensors["generator"] = self.generator.get_state()
        with whole(self.path) as partial:
            save_file(
                {name: tensor.clone().contiguous() for name, tensor in tensors.items()}, partial,
                metadata={"log": json.dumps(log)},
            )  # fmt: skip

    def read(self, log: dict[str, Any]) -> dict[str, Any]:
        """Go on from the file if there is one: the log that it keeps, else the one given.

        Raises SystemExit for the file of a run with other settings.
        """
        if self.path is None or not self.path.is_file():
            return log
        with safe_open(str(self.path), framework="pt") as file:
            kept = json.loads((file.metadata() or {})["log"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if kept["settings"] != json.loads(json.dumps(log["settings"])):
            raise SystemExit(f"{self.path} is of a run with other settings: remove it.")
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
        for n, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict(
                {**optimizer.state_dict(), "state": _states(tensors, f"optimizer.{n}.")}
            )
        self.generator.set_state(tensors["generator"])
        return kept

    def remove(self) -> None:
        """A finished run leaves nothing to go on from."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _states(tensors: dict[str, Tensor], prefix: str) -> dict[int, dict[str, Tensor]]:
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            place, _, what = name.removeprefix(prefix).partition(".")
            states.setdefault(int(place), {})[what] = tensor
    return states
