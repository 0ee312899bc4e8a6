"""What an intervention does with a tensor: add, replace, project out, clamp."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from audio_lens.errors import InputError
from audio_lens.lens.sites import Site

if TYPE_CHECKING:
    from audio_lens.lens.run import Hook

Strength = float | Tensor
"""A coefficient as an operation gets it: a number, or a tensor that broadcasts."""

Operation = Callable[[Tensor, Strength, "Hook"], Tensor | None]
"""`op(tensor, coefficient, hook) -> tensor`, or None after an edit in place; the coefficient
broadcasts against the tensor."""

PerLayer = Tensor | Mapping[Any, Tensor]
"""One tensor for every layer, or one by layer."""


class VectorOperation:
    """An operation with a vector, the same for all layers or one per layer."""

    neutral = True
    """Whether a coefficient of 0 leaves everything as it is."""
    by_length = True
    """Whether the vector's length matters."""

    def __init__(self, vector: PerLayer) -> None:
        self.vector = vector
        self._placed: dict[Site, tuple[Any, Tensor]] = {}

    def check(self, site: Site) -> None:
        """Refuse a layer without a vector while nothing has run yet."""
        if isinstance(self.vector, Mapping) and site.key[1] not in self.vector:
            raise InputError(
                f"{type(self).__name__}: no vector for layer {site.key[1]} ({site.name}); there "
                f"are vectors for layers {sorted(self.vector)}."
            )

    def at(self, tensor: Tensor, hook: "Hook") -> Tensor:
        """The vector for this site, on the tensor's device and in its dtype."""
        given = self.vector
        vector = given[hook.site.key[1]] if isinstance(given, Mapping) else given
        state = _state(vector, tensor)
        known, placed = self._placed.get(hook.site, (None, tensor))
        if state is None or known != state:
            placed = torch.as_tensor(vector).to(tensor.device, tensor.dtype)
            self._check_shape(placed, tensor, hook)
            self._placed[hook.site] = (state, placed)
        return placed

    def _check_shape(self, vector: Tensor, tensor: Tensor, hook: "Hook") -> None:
        try:
            fits = torch.broadcast_shapes(vector.shape, tensor.shape) == tensor.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise InputError(
                f"{type(self).__name__}: a vector of shape {tuple(vector.shape)} does not fit "
                f"{hook.name} {tuple(tensor.shape)} [{' '.join(hook.site.axes)}]."
            )


def _state(vector: Any, tensor: Tensor) -> tuple[Any, ...] | None:
    """What a placed vector depends on; None if it must be placed anew each time."""
    if not isinstance(vector, Tensor) or vector.requires_grad or vector.is_inference():
        return None  # an array may change unseen, and a gradient needs a fresh way back
    return id(vector), vector._version, tensor.dtype, tensor.device


def scaled(coefficient: Strength, values: Tensor) -> Tensor:
    """The product, rounded once: a list of one number does what the number does."""
    if isinstance(coefficient, Tensor):
        return (coefficient * values.to(coefficient.dtype)).to(values.dtype)
    return coefficient * values


class add(VectorOperation):  # noqa: N801 - reads as the operation it is
    """Add `coefficient * vector`; with `keep_norm`, scale the sum back to the tensor's own norm.

    Keeping the norm (along the last axis) turns the tensor and leaves its length, so that strong
    pushes do not drown what else is said: after Panda et al. (arXiv 2506.10225).
    """

    def __init__(self, vector: PerLayer, *, keep_norm: bool = False) -> None:
        super().__init__(vector)
        self._keep_norm = keep_norm
        self._last: dict[Site, tuple[Any, float, Tensor]] = {}

    def __call__(self, tensor: Tensor, coefficient: Strength, hook: "Hook") -> Tensor:
        new = tensor + self._product(tensor, coefficient, hook)
        return _as_long(new, tensor) if self._keep_norm else new

    def _product(self, tensor: Tensor, coefficient: Strength, hook: "Hook") -> Tensor:
        vector = self.at(tensor, hook)
        state, _ = self._placed[hook.site]
        if isinstance(coefficient, Tensor) or state is None:
            return scaled(coefficient, vector)
        # One number at every step is the common case: its product is worth remembering.
        of, by, product = self._last.get(hook.site, (None, None, vector))
        if of != state or by != coefficient:
            product = coefficient * vector
            self._last[hook.site] = (state, coefficient, product)
        return product


def _as_long(new: Tensor, old: Tensor) -> Tensor:
    """Vectors of one tensor with the lengths of another's."""
    lengths = [x.float().norm(dim=-1, keepdim=True) for x in (old, new)]
    return (new * (lengths[0] / lengths[1].clamp_min(torch.finfo().tiny))).to(new.dtype)


class replace(VectorOperation):  # noqa: N801
    """Move towards a value: `tensor + coefficient * (value - tensor)`; 1 puts it in place."""

    def __call__(self, tensor: Tensor, coefficient: Strength, hook: "Hook") -> Tensor:
        value = self.at(tensor, hook).expand_as(tensor)
        if isinstance(coefficient, int | float) and coefficient == 1:
            return value.clone()
        return torch.lerp(tensor, value, torch.as_tensor(coefficient, dtype=tensor.dtype))


class project_out(VectorOperation):  # noqa: N801
    """Remove `coefficient` of the part that lies along a vector; 1 removes all of it."""

    by_length = False

    def __call__(self, tensor: Tensor, coefficient: Strength, hook: "Hook") -> Tensor:
        return tensor - scaled(coefficient, _along(tensor, self.at(tensor, hook)))


class clamp(VectorOperation):  # noqa: N801
    """Make the part along a vector `coefficient * vector`: ablate what is there, then add.

    With a vector of length 1 the projection becomes `coefficient`, whatever it was. A coefficient
    of 0 therefore ablates, and leaves nothing as it was.
    """

    neutral = False

    def __call__(self, tensor: Tensor, coefficient: Strength, hook: "Hook") -> Tensor:
        vector = self.at(tensor, hook)
        return tensor - _along(tensor, vector) + scaled(coefficient, vector)


def _along(tensor: Tensor, vector: Tensor) -> Tensor:
    """The part along a vector; nothing along one of length 0."""
    unit = vector / vector.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(vector.dtype).tiny)
    return (tensor * unit).sum(-1, keepdim=True) * unit
