"""Ports: how a site's tensor is taken out of the value at its location, and put back.

A location is a place nnsight hands over: a module's input `(args, kwargs)`, its output, or a
point inside the attention function. A port turns that raw value into the site's tensor
`[rows, ...]`, and a written tensor back into the raw value.
"""

from typing import Any

import torch
from torch import Tensor, nn

Captured = dict[str, Any]
"""Values the engine remembered at other locations of the same step."""

_PREFIX = "encoder_hidden_states"
"""The decoder's argument that holds a melody model's prefix."""


class Port:
    """The tensor is the raw value itself."""

    aliased = True
    """Whether `get` returns the raw value's own memory, so that in-place edits are writes."""

    needs: tuple[str, ...] = ()
    """Locations whose values of the same step it reads from `captured`."""

    def get(self, raw: Any, captured: Captured) -> Tensor:
        """The site's tensor."""
        return raw

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        """The raw value that carries `new`."""
        return new


class First(Port):
    """The first of a module's outputs."""

    def get(self, raw: Any, captured: Captured) -> Tensor:
        return raw[0]

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        return (new, *raw[1:])


class Heads(Port):
    """A module's output, split into heads."""

    def __init__(self, n_heads: int) -> None:
        self.n_heads = n_heads

    def get(self, raw: Any, captured: Captured) -> Tensor:
        return raw.unflatten(-1, (self.n_heads, -1))

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        return new.flatten(-2)


class Argument(Port):
    """A module's first argument."""

    def get(self, raw: Any, captured: Captured) -> Tensor:
        return raw[0][0]

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        (_, *rest), kwargs = raw
        return (new, *rest), kwargs


class ArgumentHeads(Argument):
    """A module's first argument, split into heads."""

    def __init__(self, n_heads: int) -> None:
        self.n_heads = n_heads

    def get(self, raw: Any, captured: Captured) -> Tensor:
        return super().get(raw, captured).unflatten(-1, (self.n_heads, -1))

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        return super().put(raw, new.flatten(-2), captured)


class Residual(Argument):
    """The residual stream, reached through the LayerNorm that reads it.

    The norm's input and the stream that bypasses the sublayer are one tensor, so the write
    goes into that tensor: replacing the argument would change the norm alone.
    """

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        raw[0][0].copy_(new)
        return raw


class Scale(Argument):
    """The standard deviation by which a LayerNorm divides (read-only)."""

    aliased = False

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.eps = norm.eps

    def get(self, raw: Any, captured: Captured) -> Tensor:
        x = super().get(raw, captured)
        return (x.var(-1, keepdim=True, unbiased=False) + self.eps).sqrt()


class Result(Port):
    """What each head adds to the stream; a write moves the sum by the difference."""

    aliased = False

    def __init__(self, projection: nn.Linear, n_heads: int, z: str) -> None:
        self.projection = projection
        self.n_heads = n_heads
        self.needs = (z,)

    def get(self, raw: Any, captured: Captured) -> Tensor:
        (z, *_), _ = captured[self.needs[0]]
        return torch.einsum(
            "bphd,mhd->bphm",
            z.unflatten(-1, (self.n_heads, -1)),
            self.projection.weight.unflatten(1, (self.n_heads, -1)),
        )

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        return raw + (new - self.get(raw, captured)).sum(-2)


class Embedded(Argument):
    """What block 0 reads: the codebooks' embeddings, summed, behind a prefix if the model has
    one, plus positions.
    """

    aliased = False

    def __init__(self, codebooks: tuple[str, ...], positions: str, prefix: str = "") -> None:
        self.codebooks = codebooks
        self.positions = positions
        self.prefix = prefix
        self.needs = (*codebooks, positions, *([prefix] if prefix else []))

    def before(self, captured: Captured) -> Tensor | None:
        """The prefix in front of this call's codes, if any."""
        return captured[self.prefix][1].get(_PREFIX) if self.prefix else None

    def embedding(self, captured: Captured) -> Tensor:
        """Prefix and summed embeddings, before positions are added."""
        audio = sum(captured[location] for location in self.codebooks)
        before = self.before(captured)
        return audio if before is None else torch.cat([before, audio], dim=1)


class Codebooks(Embedded):
    """The codebooks' embeddings before they are summed; the sum is made anew when written."""

    def get(self, raw: Any, captured: Captured) -> Tensor:
        return torch.stack([captured[location] for location in self.codebooks], dim=1)

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        captured.update(zip(self.codebooks, new.unbind(1), strict=True))
        return super().put(raw, self.embedding(captured) + captured[self.positions], captured)


class Embedding(Embedded):
    """The sum of the codebooks' embeddings, before positions are added."""

    def get(self, raw: Any, captured: Captured) -> Tensor:
        return self.embedding(captured)

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        audio = new
        if (before := self.before(captured)) is not None:
            captured[self.prefix] = ((), {_PREFIX: new[:, : before.shape[1]]})
            audio = new[:, before.shape[1] :]
        captured.update({location: torch.zeros_like(audio) for location in self.codebooks[1:]})
        captured[self.codebooks[0]] = audio
        return super().put(raw, new + captured[self.positions], captured)


class Positions(Embedded):
    """The positional embedding, one copy per row so that rows can be written apart."""

    def get(self, raw: Any, captured: Captured) -> Tensor:
        x = super().get(raw, captured)
        return captured[self.positions].expand_as(x).clone()

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        return super().put(raw, self.embedding(captured) + new, captured)


class Logits(Port):
    """The language-model heads' output, codebooks unfolded from the batch axis."""

    def __init__(self, n_codebooks: int) -> None:
        self.n_codebooks = n_codebooks

    def get(self, raw: Any, captured: Captured) -> Tensor:
        return raw.logits.unflatten(0, (-1, self.n_codebooks))

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        raw.logits = new.flatten(0, 1)
        return raw


class TextStates(Port):
    """The text encoder's last hidden state."""

    def get(self, raw: Any, captured: Captured) -> Tensor:
        return raw.last_hidden_state

    def put(self, raw: Any, new: Tensor, captured: Captured) -> Any:
        raw.last_hidden_state = new
        return raw
