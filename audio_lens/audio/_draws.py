"""Independent draws of labels, splits and factors, each from a stream of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int

from .splits import SPLITS

#: Splits of every five: of clips of a class, of bands of a graded label (so that what tests lies
#: between what trains), and of pairs along a row.
_FIVE = (0, 1, 0, 2, 0)
#: Share of a band that is left out at each of its ends.
_MARGIN = 0.125


@dataclass(frozen=True)
class Draws:
    """The source of all randomness of a set of clips; `deal` comes first, then the factors.

    Every draw is named, and its stream depends on the seed, the task and that name alone, so that
    a factor more or less leaves the others as they are.
    """

    n: int
    seed: int
    task: str

    def rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, crc32(self.task.encode()), crc32(name.encode())])

    def deal(self, n_classes: int) -> tuple[Int[np.ndarray, " clip"], Int[np.ndarray, " clip"]]:
        """Class and split of every clip, as indices, in random order.

        Classes come equally often: to one clip in all, to two in each split, and exactly where
        `n` is a multiple of five times the number of classes.
        """
        rng, turn = self.rng("deal"), np.arange(self.n)
        classes, rounds = turn % n_classes, turn // n_classes
        splits = np.array(_FIVE)[(rounds + classes) % len(_FIVE)]
        order = rng.permutation(self.n)
        return rng.permutation(n_classes)[classes][order], splits[order]

    def choice(self, name: str, values: Sequence[Any]) -> np.ndarray:
        """One of the values for each clip."""
        return np.array(values)[self.rng(name).integers(len(values), size=self.n)]

    def uniform(self, name: str, low: float, high: float) -> Float[np.ndarray, " clip"]:
        return self.rng(name).uniform(low, high, self.n)

    def log_uniform(self, name: str, low: float, high: float) -> Float[np.ndarray, " clip"]:
        return np.exp(self.uniform(name, float(np.log(low)), float(np.log(high))))

    def pooled(
        self, name: str, splits: Int[np.ndarray, " clip"], pools: Mapping[str, Sequence[Any]]
    ) -> list[Any]:
        """One value for each clip, out of its own split's pool."""
        share = self.uniform(name, 0, 1)
        own = [pools[SPLITS[split]] for split in splits]
        return [pool[int(u * len(pool))] for pool, u in zip(own, share, strict=True)]

    def graded(
        self, splits: Int[np.ndarray, " clip"], low: float, high: float, bands: int
    ) -> Float[np.ndarray, " clip"]:
        """Labels spread evenly over the bands of each clip's split, in random order."""
        rng, labels = self.rng("label"), np.empty(self.n)
        for split in range(len(SPLITS)):
            (clips,) = np.nonzero(splits == split)
            place = (np.arange(len(clips)) + rng.uniform(size=len(clips))) / max(len(clips), 1)
            edges = np.array(band_edges(split, low, high, bands))
            band, share = np.divmod(place * len(edges), 1)
            start, stop = edges[band.astype(int)].T
            labels[rng.permutation(clips)] = start + share * (stop - start)
        return labels


def band_edges(split: int, low: float, high: float, bands: int) -> list[tuple[float, float]]:
    """Where the bands of a split start and stop.

    >>> band_edges(2, 0.0, 10.0, 10)
    [(3.125, 3.875), (8.125, 8.875)]
    """
    width = (high - low) / bands
    return [
        (low + (band + _MARGIN) * width, low + (band + 1 - _MARGIN) * width)
        for band in range(bands)
        if _FIVE[band % len(_FIVE)] == split
    ]


def cells(rows: Sequence[Any], columns: Sequence[Any]) -> dict[str, list[tuple[Any, Any]]]:
    """Pairs by split: each pair in one, and each row and column, met five times, in all three.

    >>> cells("ab", [1, 2, 3, 4, 5])["test"]
    [('a', 4), ('b', 3)]
    """
    pools: dict[str, list[tuple[Any, Any]]] = {split: [] for split in SPLITS}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            pools[SPLITS[_FIVE[(i + j) % len(_FIVE)]]].append((row, column))
    return pools
