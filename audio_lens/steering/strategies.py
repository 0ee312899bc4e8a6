"""Strategies and scales: which layer is given which vector of a direction, and how long it is."""

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.analysis.directions import Direction
from audio_lens.errors import InputError, did_you_mean

Strategy = Literal["one_to_one", "one_to_all", "all_to_all", "block", "weighted"]
Scale = Literal["raw", "unit", "resid_norm", "proj_std"]
Weights = Mapping[int, Any]
"""By layer: a number, or a number for each head."""


def place(
    direction: Direction,
    *,
    strategy: Strategy = "one_to_one",
    source_layer: int | None = None,
    layers: int | Sequence[int] | None = None,
    weights: Weights | None = None,
    scale: Scale = "raw",
    n_layers: int,
) -> Direction:
    """The direction as it is added: which layer gets which vector, at which length.

    Args:
        direction: Where the vectors come from.
        strategy: `one_to_one` adds the source layer's vector at that layer; `one_to_all` adds
            it at every layer, as arXiv 2504.04479 does; `all_to_all` adds each layer's own;
            `block` adds at some `layers`, the source layer's vector or else each layer's own;
            `weighted` adds each layer's own times its weight.
        source_layer: The layer whose vector is used; needed unless the direction has but one.
        layers: Of a `block`.
        weights: Of `weighted`: a number for each layer, or numbers for its heads where the
            direction has heads; layers that are left out get nothing. See `soft_weights`.
        scale: Length of a vector at coefficient 1: as it came (`raw`), 1 (`unit`), the typical
            length of the activations where it is added (`resid_norm`), or one standard deviation
            of their projections on it (`proj_std`). Weights come on top.
        n_layers: Layers of the model.

    Raises:
        InputError: an unknown strategy or scale; options that the strategy does not take or
            lacks; layers that do not exist; lengths that the direction does not know.

    Example:
        >>> import torch
        >>> faster = Direction({("resid_post", n): torch.ones(4) * n for n in (1, 2)})
        >>> place(faster, strategy="block", source_layer=2, layers=[0, 1], n_layers=3).norms
        {('resid_post', 0): 4.0, ('resid_post', 1): 4.0}
    """
    _check_name("strategy", strategy, get_args(Strategy))
    _check_name("scale", scale, get_args(Scale))
    _check_options(strategy, source_layer=source_layer, layers=layers, weights=weights)
    if strategy == "weighted":
        numbers = _numbers_by_layer("weights", weights)
        chosen = _existing(list(numbers), n_layers)
        return _weighted(_scaled(direction.only(chosen), scale), numbers)
    if strategy == "all_to_all" or (strategy == "block" and source_layer is None):
        placed = direction
    else:
        placed = direction.only(_source(direction, strategy, source_layer))
    if strategy == "one_to_all":
        placed = _copied(placed, direction, range(n_layers))
    if strategy == "block":
        chosen = _existing(layers, n_layers)
        placed = placed.only(chosen) if source_layer is None else _copied(placed, direction, chosen)
    return _scaled(placed, scale)


def soft_weights(scores: Weights, *, power: float = 3.0) -> dict[int, Tensor]:
    """Weights from a probe's scores by layer or by layer and head: the best counts 1, the worst 0.

    `((score - min) / (max - min)) ** power`, as SMITIN weighs heads (arXiv 2404.02252).

    Args:
        scores: By layer: a number, or a number for each head; see `ProbeSweep.by_layer`.
        power: How much the best are preferred.

    Raises:
        InputError: scores that are all the same, or not by layer.

    Example:
        >>> soft_weights({0: 0.5, 1: 0.75, 2: 1.0})
        {0: tensor(0.), 1: tensor(0.1250), 2: tensor(1.)}
    """
    values = _numbers_by_layer("scores", scores)
    every = torch.cat([v.flatten() for v in values.values()])
    low, high = every.min(), every.max()
    if not high > low:
        raise InputError(f"all scores are {float(high):g}: they prefer nothing.")
    return {layer: ((v - low) / (high - low)) ** power for layer, v in values.items()}


def _check_name(what: str, given: Any, known: Sequence[str]) -> None:
    if given not in known:
        raise InputError(f"no {what} {given!r}: {did_you_mean(given, known)}")


_TAKES: Mapping[str, tuple[str, ...]] = {
    "one_to_one": ("source_layer",),
    "one_to_all": ("source_layer",),
    "all_to_all": (),
    "block": ("source_layer", "layers"),
    "weighted": ("weights",),
}
_NEEDS: Mapping[str, str] = {"block": "layers", "weighted": "weights"}


def _check_options(strategy: str, **options: Any) -> None:
    for name, value in options.items():
        if value is not None and name not in _TAKES[strategy]:
            raise InputError(f"{name} has no meaning with strategy={strategy!r}.")
        if value is None and _NEEDS.get(strategy) == name:
            raise InputError(f"strategy={strategy!r} needs {name}=.")


def _existing(layers: Any, n_layers: int) -> list[int]:
    try:
        listed = [index(layer) for layer in (layers if isinstance(layers, Iterable) else [layers])]
    except TypeError:
        raise InputError(f"layers are whole numbers, got {layers!r}.") from None
    if not listed or not all(0 <= layer < n_layers for layer in listed):
        raise InputError(f"layers={listed}: the model has layers 0 to {n_layers - 1}.")
    return sorted(set(listed))


def _numbers_by_layer(what: str, given: Any) -> dict[int, Tensor]:
    try:
        return {
            index(layer): torch.as_tensor(number, dtype=torch.float32)
            for layer, number in given.items()
        }
    except (AttributeError, TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{what} are numbers by layer, {{3: 1.0, 4: [0.5, 0.7]}}; got {given!r}."
        ) from None


def _source(direction: Direction, strategy: str, source_layer: int | None) -> int:
    if source_layer is not None:
        return source_layer
    if len(direction.layers) > 1:
        raise InputError(
            f"strategy={strategy!r} takes one layer's vector: say source_layer=, one of "
            f"{list(direction.layers)}."
        )
    return direction.layers[0]


def _copied(source: Direction, direction: Direction, layers: Sequence[int]) -> Direction:
    """One layer's vectors at several layers, with the typical lengths that are known there.

    How far activations spread along a vector is known at its own layer alone, and taken over.
    """
    spreads = {site: spread for (site, _), spread in source.spreads.items()}
    vectors = {(s, layer): v for (s, _), v in source.vectors.items() for layer in layers}
    return Direction(
        vectors,
        typical_norms={k: n for k, n in direction.typical_norms.items() if k in vectors},
        spreads={key: spreads[key[0]] for key in vectors if key[0] in spreads},
        provenance=direction.provenance,
    )


def _weighted(direction: Direction, weights: Mapping[int, Tensor]) -> Direction:
    vectors = {}
    for (site, layer), vector in direction.vectors.items():
        weight = weights[layer]
        if weight.ndim and weight.shape != vector.shape[:1]:
            raise InputError(
                f"weights of layer {layer} have shape {tuple(weight.shape)}, the vector at {site} "
                f"{tuple(vector.shape)}: give one number, or one per head where it has heads."
            )
        by_head = weight.view(-1, *[1] * (vector.ndim - 1)) if weight.ndim else weight
        vectors[site, layer] = vector * by_head
    return Direction(
        vectors, typical_norms=direction.typical_norms, provenance=direction.provenance
    )


def _scaled(direction: Direction, scale: str) -> Direction:
    if scale == "raw":
        return direction
    unit = direction.unit()
    if scale == "unit":
        return unit
    lengths = direction.typical_norms if scale == "resid_norm" else direction.spreads
    missing = [key for key in unit.vectors if key not in lengths]
    if missing:
        what = "typical norm" if scale == "resid_norm" else "spread of projections"
        raise InputError(
            f"scale={scale!r} needs the {what} at {missing[0][0]}, layer {missing[0][1]}, "
            f"which this direction does not carry: use another scale, or find it by "
            f"audio_lens.analysis.yardsticks.measured(direction, activations)."
        )
    vectors: dict[tuple[str, int], Float[Tensor, "*site"]] = {
        key: v * lengths[key] for key, v in unit.vectors.items()
    }
    return Direction(
        vectors,
        typical_norms=direction.typical_norms,
        spreads=direction.spreads,
        provenance=direction.provenance,
    )
