"""Steering: a direction put to work by strategy, scale and schedule."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache, partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from audio_lens.analysis.directions import Direction
from audio_lens.errors import InputError, did_you_mean
from audio_lens.lens.intervention import Coefficient, Intervention
from audio_lens.lens.operations import Operation, add, scaled
from audio_lens.lens.run import Branch, Hook
from audio_lens.lens.schedules import Schedule, as_window
from audio_lens.lens.schedules import window as window_of
from audio_lens.lens.sites import BEFORE
from audio_lens.steering.strategies import Scale, Strategy, Weights, place

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

What = Callable[[Mapping[int, Tensor]], Operation]
"""`add`, `clamp`, `project_out`, or anything that makes an operation of vectors by layer."""


def interventions(
    lens: "AudioLens",
    direction: Direction,
    *,
    coefficient: Coefficient = 1.0,
    op: What = add,
    strategy: Strategy = "one_to_one",
    source_layer: int | None = None,
    layers: int | Sequence[int] | None = None,
    weights: Weights | None = None,
    branch: Branch = "both",
    scale: Scale = "raw",
    schedule: Schedule | None = None,
    window: tuple[float, float | None] | None = None,
    rows: Sequence[int] | None = None,
    label: str = "",
) -> list[Intervention]:
    """The interventions that steering by a direction comes down to, one per site."""
    if not isinstance(direction, Direction):
        raise InputError(
            f"steering takes one Direction, got {type(direction).__name__}: directions add "
            f"(0.7 * one + 0.3 * other), `with` blocks nest, and a tensor becomes one by "
            f'Direction({{("resid_post", 3): vector}}).'
        )
    direction.check_fits(lens)
    if source_layer is not None:
        source_layer = lens.sites.layer(source_layer)
    placed = place(
        direction, strategy=strategy, source_layer=source_layer, layers=layers, weights=weights,
        scale=scale, n_layers=lens.cfg.n_layers,
    )  # fmt: skip
    when = None if window is None else window_of(*as_window(window))
    made = []
    for site in placed.sites:
        vectors = {
            layer: lens.sites.of_key(name, layer).over_time(vector)
            for (name, layer), vector in placed.vectors.items()
            if name == site
        }
        chosen = sorted(vectors)
        how = "" if op is add else f"{_named(op)}, "
        made_op = _made(op, vectors)
        _check_length(made_op, strategy, scale)
        strength, moment = _scheduled(made_op, coefficient, schedule, when)
        made.append(
            Intervention(
                site,
                made_op,
                layers=None if chosen == [BEFORE] else chosen,
                branch=branch,
                when=moment,
                rows=rows,
                coefficient=strength,
                label=label or f"steered at {site} {_named_layers(chosen)}, {how}{branch}, {scale}",
            )
        )
    return made


def interventions_by_row(
    lens: "AudioLens", steered: Sequence[tuple[Direction, float]], **options: Any
) -> list[Intervention]:
    """As `interventions`, for a batch whose every row has a direction and coefficient of its own.

    Directions are added, each row's in one go: to the bit what each does alone. Raises InputError
    for directions that do not act at the same sites and layers.
    """
    directions = list(dict.fromkeys(direction for direction, _ in steered))
    own = torch.tensor([directions.index(direction) for direction, _ in steered])
    strength = torch.tensor([number for _, number in steered], dtype=torch.float32)
    each = [interventions(lens, one, coefficient=strength, op=add, **options) for one in directions]
    if len({repr([(one.site, one.layers) for one in made]) for made in each}) > 1:
        raise InputError(
            "rows have directions that act at different sites or layers: steer them in runs apart."
        )
    return [
        replace(same[0], op=_add_own([one.op.vector for one in same], own))
        for same in zip(*each, strict=True)
    ]


def _add_own(directions: Sequence[Mapping[int, Tensor]], own: Int[Tensor, " row"]) -> Operation:
    """Add to every row the vector of its own direction; directions hold vectors by layer."""
    stacked = {
        layer: torch.stack([vectors[layer] for vectors in directions]) for layer in directions[0]
    }

    @cache
    def placed(layer: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        return stacked[layer].to(device, dtype)

    def add_own(tensor: Tensor, coefficient: Any, hook: Hook) -> Tensor:
        known = placed(hook.site.key[1], tensor.device, tensor.dtype)
        vectors = known[own[list(hook.rows)]]
        ones = [1] * (tensor.ndim - vectors.ndim)
        return tensor + scaled(coefficient, vectors.view(len(vectors), *ones, *vectors.shape[1:]))

    return add_own


def _made(op: Any, vectors: Mapping[int, Tensor]) -> Operation:
    """The operation that `op` makes of a site's vectors."""
    try:
        signature(op).bind(vectors)
    except (TypeError, ValueError):
        raise InputError(
            f"op= makes an operation of the direction's vectors by layer, as add, clamp and "
            f"project_out do: give add itself and not add(vector). Got {op!r}."
        ) from None
    return op(vectors)


def _named_layers(layers: Sequence[int]) -> str:
    first, last = layers[0], layers[-1]
    if last == BEFORE:
        return "in front of the blocks"
    return f"layer {first}" if first == last else f"layers {first}-{last}"


def _scheduled(
    op: Operation, coefficient: Coefficient, schedule: Schedule | None, when: Schedule | None
) -> tuple[Coefficient, Schedule | None]:
    """Coefficient and `when`: where a schedule is 0, nothing is done, whatever the operation."""
    if schedule is None:
        return coefficient, when
    if not isinstance(schedule, Schedule):
        raise InputError(
            f"schedule= is one of audio_lens.schedules, got {schedule!r}: a number or fn(hook) "
            f"goes into coefficient=."
        )
    if callable(coefficient) and not isinstance(coefficient, Schedule):
        raise InputError("give schedule= or a function as coefficient=, not both.")
    if getattr(op, "neutral", False):
        return schedule * coefficient, when
    if isinstance(coefficient, Schedule):
        raise InputError("this operation acts at a coefficient of 0 too: give schedule= alone.")
    return coefficient, schedule if when is None else when * schedule


def _check_length(op: Operation, strategy: str, scale: str) -> None:
    if not getattr(op, "by_length", True) and (strategy == "weighted" or scale != "raw"):
        raise InputError(
            f"{type(op).__name__} takes a vector's direction and not its length, so weights and "
            f"scale= would say nothing: its coefficient is the share that is removed."
        )


def _named(op: Any) -> str:
    if isinstance(op, partial):
        said = ", ".join(f"{name}={value}" for name, value in op.keywords.items())
        return f"{_named(op.func)}({said})"
    return getattr(op, "__name__", type(op).__name__)


def steer(
    lens: "AudioLens", direction: Direction, **options: Any
) -> AbstractContextManager["AudioLens"]:
    """A direction put to work while the `with` block lasts.

    Args:
        lens: The model.
        direction: What to add.
        options: `coefficient` (a number, one per row, a schedule, or `fn(hook)`), `op` (`add`,
            `clamp`, `project_out`, or what makes an operation of vectors by layer), `strategy`
            with its `source_layer`, `layers` or `weights`, `branch`, `scale`, `schedule` (times
            the coefficient), `window` in seconds, `rows`, `label`. See `place` and `schedules`.
            Where a schedule is 0, nothing is done; of operations that act at a coefficient of 0
            too (`clamp`), it says when and not how strongly.

    Raises:
        TypeError: an option that does not exist.
        InputError: options that do not fit each other or the model.

    Example:
        >>> import torch
        >>> from audio_lens import schedules
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2, d_model=64)
        >>> up = Direction({("resid_post", 1): torch.ones(64)})
        >>> with lens.steer(up, coefficient=0.5, schedule=schedules.every(5)):
        ...     clips = lens.generate("a song", seconds=0.1, progress=False)
        >>> clips[0].interventions
        ('steered at resid_post layer 1, both, raw x 0.5 x every 5 steps',)
    """
    known = [
        p.name for p in signature(interventions).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    for name in options:
        if name not in known:
            raise TypeError(f"steering has no option {name!r}: {did_you_mean(name, known)}")
    return lens.intervene(*interventions(lens, direction, **options))
