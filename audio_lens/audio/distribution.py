"""Distances between two sets of clips, over any embedding of them.

Report the embedding's name and both numbers of clips with each of them. The Frechet distance is
biased upward for few clips; prefer the kernel distance for tens of clips. Neither compares with
published numbers unless embedding and reference set are the same.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from audio_lens.errors import InputError


def _checked(
    embeddings: Any, others: Any
) -> tuple[Float[np.ndarray, "clip feature"], Float[np.ndarray, "other feature"]]:
    sets = []
    for name, given in (("embeddings", embeddings), ("others", others)):
        table = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given, dtype=float)
        if table.ndim != 2 or len(table) < 2 or not table.shape[1]:
            raise InputError(
                f"{name} have shape {table.shape}: expected [clip feature] of at least two clips"
            )
        if not np.isfinite(table).all():
            raise InputError(f"{name} hold NaN or infinity: leave those clips out, and say so")
        sets.append(table)
    if sets[0].shape[1] != sets[1].shape[1]:
        raise InputError(
            f"{sets[0].shape[1]} features against {sets[1].shape[1]}: embed both sets alike"
        )
    return sets[0], sets[1]


def _root(matrix: Float[np.ndarray, "feature feature"]) -> Float[np.ndarray, "feature feature"]:
    """Square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def frechet_distance(embeddings: Any, others: Any) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets, at least 0.

    embeddings, others: [clip feature], in the embedding's own unit (squared). As in the Frechet
    Audio Distance (Kilgour et al., 2019): distance of the means plus what covariances differ by.
    Raises InputError for malformed sets.

    >>> points = np.array([[-1.0], [1.0]])
    >>> round(frechet_distance(points, points + 3), 9)
    9.0
    """
    a, b = _checked(embeddings, others)
    covariances = [np.atleast_2d(np.cov(table, rowvar=False)) for table in (a, b)]
    root = _root(covariances[0])
    crossed = _root(root @ covariances[1] @ root)
    means = a.mean(axis=0) - b.mean(axis=0)
    spread = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(crossed)
    return max(float(means @ means + spread), 0.0)


def kernel_distance(
    embeddings: Any,
    others: Any,
    *,
    kernel: Literal["gaussian", "polynomial"] = "gaussian",
    bandwidth: float | None = None,
) -> float:
    """Squared maximum mean discrepancy between two sets, without bias: around 0 for equal sets.

    embeddings, others: [clip feature]. "gaussian" is exp(-d^2 / (2 bandwidth^2)), the bandwidth in
    the embedding's unit, or else the median distance within `others`, the reference (the Kernel
    Audio Distance, Chung et al., 2025); "polynomial" is (x.y / features + 1)^3, the KID of
    Binkowski et al. (2018). Estimator of Gretton et al. (2012); it may fall below 0. Raises
    InputError for malformed sets, another kernel, or a bandwidth that is not above zero.

    >>> rng = np.random.default_rng(0)
    >>> a, b, c = rng.normal(size=(3, 200, 4))
    >>> kernel_distance(a, b) < 0.01 < kernel_distance(a, c + 1)
    True
    """
    a, b = _checked(embeddings, others)
    if kernel == "polynomial":
        if bandwidth is not None:
            raise InputError("bandwidth belongs to the gaussian kernel: leave it out")
        within, between, own = (_polynomial(x, y) for x, y in ((a, a), (a, b), (b, b)))
    elif kernel == "gaussian":
        squares = [_squares(x, y) for x, y in ((a, a), (a, b), (b, b))]
        width = _bandwidth(squares[2], bandwidth)
        within, between, own = (np.exp(-square / (2 * width**2)) for square in squares)
    else:
        raise InputError(f"no kernel {kernel!r}: expected 'gaussian' or 'polynomial'")
    return float(_off_diagonal(within) + _off_diagonal(own) - 2 * between.mean())


def _polynomial(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "clip other"]:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def _squares(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "clip other"]:
    square = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T
    return np.maximum(square, 0)


def _bandwidth(own: Float[np.ndarray, "other other"], given: float | None) -> float:
    if given is None:
        given = float(np.sqrt(np.median(own[np.triu_indices(len(own), k=1)])))
        if not given > 0:
            raise InputError("more than half of the others are the same: give a bandwidth")
    if not given > 0:
        raise InputError(f"bandwidth={given}: expected a number above zero")
    return given


def _off_diagonal(gram: Float[np.ndarray, "clip clip"]) -> float:
    """Mean over pairs of different clips: leaving out each clip with itself takes the bias out."""
    n = len(gram)
    return float((gram.sum() - np.trace(gram)) / (n * (n - 1)))
