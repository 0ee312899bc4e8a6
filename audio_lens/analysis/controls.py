"""Controls of a direction: what any vector of its length would do.

Each has the direction's length at every layer, so that nothing but the direction is different:
short controls make any direction look good.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from audio_lens.analysis.collect import Key
from audio_lens.analysis.directions import Direction
from audio_lens.analysis.poles import Poles
from audio_lens.analysis.yardsticks import measured
from audio_lens.errors import InputError

Kind = Literal["isotropic", "matched", "flipped"]
KINDS: tuple[Kind, ...] = ("isotropic", "matched", "flipped")


def controls(
    direction: Direction,
    *,
    n: int = 20,
    kinds: Sequence[Kind] = KINDS,
    poles: Poles | None = None,
    others: Mapping[str, Direction] | None = None,
    seed: int = 0,
) -> Mapping[str, list[Direction]]:
    """Directions to hold a direction against, by kind, each as long as it is at every layer.

    Args:
        direction: The real one.
        n: Draws of each random kind.
        kinds: `"isotropic"` (any direction of space), `"matched"` (drawn with the covariance of
            the activations, so as large where they are), `"flipped"` (the labels exchanged in
            half of the pairs, drawn at random: what the method makes of no concept).
        poles: The activations it was made from, for `matched` and `flipped`.
        others: Directions of other concepts, by name.
        seed: Of the draws.

    Returns:
        For each kind its draws, and for each other concept one.

    Raises:
        InputError: kinds that need poles without them, fewer than six pairs, or another concept
            that lacks a site or layer of the direction.

    Example:
        >>> faster = Direction({("resid_post", 0): torch.tensor([3.0, 4.0])})
        >>> made = controls(faster, n=2, kinds=["isotropic"])
        >>> [round(d.norms["resid_post", 0], 4) for d in made["isotropic"]]
        [5.0, 5.0]
    """
    if n < 1:
        raise InputError(f"n={n}: at least one draw.")
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"no kind {kind!r}: there are {', '.join(KINDS)}.")
        if kind != "isotropic" and poles is None:
            raise InputError(f"{kind!r} controls are drawn from activations: give poles=.")
    for name in others or {}:
        if name in KINDS:
            raise InputError(f"{name!r} is a kind of its own: call the other concept by its name.")
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, list[Direction]] = {}
    for kind in kinds:
        vectors = _DRAWN[kind](direction, poles, n, generator)
        made[kind] = [_as_long(direction, drawn, kind) for drawn in vectors]
        if poles is not None:
            made[kind] = [measured(drawn, poles.positive, poles.negative) for drawn in made[kind]]
    for name, other in (others or {}).items():
        if missing := set(direction) - set(other):
            raise InputError(
                f"{name!r} has no vector at {sorted(missing)[0]}, where the direction has one: "
                f"take it at the same sites and layers."
            )
        made[name] = [
            other._with({key: other.vectors[key] for key in direction}).scaled_to(direction)
        ]
    return MappingProxyType(made)


Vectors = dict[Key, Tensor]
_FEWEST_PAIRS = 6


def _isotropic(
    direction: Direction, poles: Any, n: int, generator: torch.Generator
) -> Iterator[Vectors]:
    for _ in range(n):
        yield {k: torch.randn(v.shape, generator=generator) for k, v in direction.vectors.items()}


def _matched(
    direction: Direction, poles: Poles, n: int, generator: torch.Generator
) -> Iterator[Vectors]:
    """Random sums of the activations' own deviations have their covariance exactly."""
    centred = {key: _deviations(poles, key) for key in direction}
    for _ in range(n):
        yield {
            key: torch.einsum("n,n...->...", torch.randn(len(rows), generator=generator), rows)
            for key, rows in centred.items()
        }


def _deviations(poles: Poles, key: Key) -> Tensor:
    """Activations about their pole's mean, so that the concept itself is not drawn."""
    return torch.cat([side - side.mean(0) for side in poles.rows(key)])


def _flipped(
    direction: Direction, poles: Poles, n: int, generator: torch.Generator
) -> Iterator[Vectors]:
    found = poles.pairs
    pairs = {key: found[key] for key in direction}
    n_pairs = len(next(iter(pairs.values())))
    if n_pairs < _FEWEST_PAIRS:
        raise InputError(
            f"flipped controls need at least {_FEWEST_PAIRS} pairs, got {n_pairs}: of fewer, too "
            f"many flips are the direction itself."
        )
    made_by = _method(direction.provenance)
    if made_by != "difference_in_means":
        raise InputError(
            f"flipped controls are differences in means, this direction is a {made_by}: compare "
            f"it with the other kinds."
        )
    # As many flipped as not (of an odd number one is left out, drawn too): what all pairs share
    # cancels, and is not left over only to be enlarged to the direction's length.
    halves = torch.arange(n_pairs) % 2 * 2.0 - 1
    halves[n_pairs - n_pairs % 2 :] = 0
    for _ in range(n):
        # One flip for all layers: a control is one experiment.
        signs = halves[torch.randperm(n_pairs, generator=generator)]
        yield {key: torch.einsum("n,n...->...", signs, p) / n_pairs for key, p in pairs.items()}


def _method(made: Mapping[str, Any]) -> str:
    """How a direction was made; turned round, it is still what it was."""
    while made.get("method") == "negated":
        made = made["of"][0]
    return made.get("method", "difference_in_means")


_DRAWN: Mapping[str, Any] = {"isotropic": _isotropic, "matched": _matched, "flipped": _flipped}


def _as_long(direction: Direction, vectors: Vectors, kind: str) -> Direction:
    made = {"method": f"control ({kind})", "model": direction.provenance.get("model")}
    raw = Direction(vectors, typical_norms=direction.typical_norms, provenance=made)
    return raw.scaled_to(direction)
