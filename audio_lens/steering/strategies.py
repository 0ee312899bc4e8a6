"""Strategies and scales: from a direction to the vectors that are added, and where."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

from audio_lens.analysis.directions import Direction
from audio_lens.errors import InputError
from audio_lens.lens.intervention import Coefficient, Intervention, add
from audio_lens.lens.intervention import window as window_of
from audio_lens.lens.run import Branch

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

Strategy = Literal["one_to_one", "one_to_all", "all_to_all"]
Scale = Literal["raw", "unit", "residual"]


def place(
    direction: Direction,
    *,
    strategy: Strategy = "one_to_one",
    source_layer: int | None = None,
    scale: Scale = "raw",
    n_layers: int,
) -> Direction:
    """The direction as it is added: which layer gets which vector, at which length.

    Args:
        direction: Where the vectors come from.
        strategy: `one_to_one` adds the source layer's vector at that layer; `one_to_all` adds
            it at every layer, as arXiv 2504.04479 does; `all_to_all` adds each layer's own.
        source_layer: The layer whose vector is used; needed unless the direction has but one.
        scale: Length of a vector at coefficient 1: as it came (`raw`), 1 (`unit`), or the
            typical length of the activations where it is added (`residual`).
        n_layers: Layers of the model.
    """
    if strategy not in ("one_to_one", "one_to_all", "all_to_all"):
        raise InputError(
            f'strategy must be "one_to_one", "one_to_all" or "all_to_all", got {strategy!r}.'
        )
    placed = direction
    if strategy != "all_to_all":
        placed = direction.only(_source(direction, strategy, source_layer))
    elif source_layer is not None:
        raise InputError('source_layer has no meaning with strategy="all_to_all".')
    if strategy == "one_to_all":
        vectors = {(s, i): v for (s, _), v in placed.vectors.items() for i in range(n_layers)}
        placed = Direction(
            vectors, typical_norms=direction.typical_norms, provenance=direction.provenance
        )
    return _scaled(placed, scale)


def _source(direction: Direction, strategy: str, source_layer: int | None) -> int:
    if source_layer is not None:
        return source_layer
    if len(direction.layers) > 1:
        raise InputError(
            f"strategy={strategy!r} takes one layer's vector: say source_layer=, one of "
            f"{list(direction.layers)}."
        )
    return direction.layers[0]


def _scaled(direction: Direction, scale: str) -> Direction:
    if scale == "raw":
        return direction
    if scale not in ("unit", "residual"):
        raise InputError(f'scale must be "raw", "unit" or "residual", got {scale!r}.')
    unit = direction.unit()
    if scale == "unit":
        return unit
    missing = [key for key in unit.vectors if key not in direction.typical_norms]
    if missing:
        raise InputError(
            f'scale="residual" needs the typical norm at {missing[0][0]}, layer {missing[0][1]}, '
            f"which this direction does not carry: use another scale."
        )
    vectors = {key: v * direction.typical_norms[key] for key, v in unit.vectors.items()}
    return Direction(
        vectors, typical_norms=direction.typical_norms, provenance=direction.provenance
    )


def interventions(
    lens: "AudioLens",
    direction: Direction,
    *,
    coefficient: Coefficient = 1.0,
    strategy: Strategy = "one_to_one",
    source_layer: int | None = None,
    branch: Branch = "both",
    scale: Scale = "raw",
    window: tuple[float, float | None] | None = None,
    rows: Sequence[int] | None = None,
    label: str = "",
) -> list[Intervention]:
    """The interventions that steering by a direction comes down to, one per site."""
    direction.check_fits(lens)
    n_layers = lens.cfg.n_layers
    if source_layer is not None:
        source_layer = lens.sites.layer(source_layer)
    placed = place(
        direction, strategy=strategy, source_layer=source_layer, scale=scale, n_layers=n_layers
    )
    made = []
    for site in placed.sites:
        vectors = {layer: v for (name, layer), v in placed.vectors.items() if name == site}
        layers = sorted(vectors)
        where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}-{layers[-1]}"
        made.append(
            Intervention(
                site,
                add(vectors),
                layers=layers,
                branch=branch,
                when=None if window is None else window_of(*window),
                rows=rows,
                coefficient=coefficient,
                label=label or f"steered at {site} {where}, {branch}, {scale}",
            )
        )
    return made


_OPTIONS = (
    "coefficient", "strategy", "source_layer", "branch", "scale", "window", "rows", "label"
)  # fmt: skip


def steer(
    lens: "AudioLens", direction: Direction, **options: Any
) -> AbstractContextManager["AudioLens"]:
    """Add a direction while the `with` block lasts.

    Args:
        lens: The model.
        direction: What to add.
        options: `coefficient` (a number, one per row, or `fn(hook)`), `strategy`,
            `source_layer`, `branch`, `scale`, `window` in seconds, `rows`, `label`.

    Example:
        >>> import torch
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2, d_model=64)
        >>> up = Direction({("resid_post", 1): torch.ones(64)})
        >>> with lens.steer(up, coefficient=0.5):
        ...     clips = lens.generate("a song", seconds=0.1, progress=False)
    """
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise TypeError(f"steering has no option {unknown[0]!r}: there are {', '.join(_OPTIONS)}.")
    return lens.intervene(*interventions(lens, direction, **options))
