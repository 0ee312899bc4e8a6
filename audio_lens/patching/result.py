"""What a grid of patches found: values with named axes, baselines, intervals, provenance."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

FORMAT = "audio_lens.patching.1"
_CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class PatchingResult:
    """The metric in every cell of a grid, for every example of the batch.

    Example:
        >>> result = PatchingResult(
        ...     per_example=torch.tensor([[0.0, 0.2], [1.0, 0.8]]),
        ...     axes={"layer": ("0", "1")},
        ...     clean=torch.tensor([1.0, 1.0]),
        ...     corrupted=torch.tensor([0.0, 0.0]),
        ... )
        >>> result.values, result.best()
        (tensor([0.1000, 0.9000]), {'layer': '1'})
    """

    per_example: Float[Tensor, "*cell batch"]
    """The metric, NaN in cells that were not run."""
    axes: Mapping[str, tuple[str, ...]]
    """Name of each axis but the last, and the labels along it."""
    clean: Float[Tensor, "batch"]
    """The metric of the clean run."""
    corrupted: Float[Tensor, "batch"]
    """The metric of the corrupted run."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Model, sites, direction of the patch, metric, how it was run, versions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", MappingProxyType(dict(self.axes)))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))
        shape = tuple(map(len, self.axes.values()))
        if self.per_example.shape[:-1] != shape:
            raise InputError(
                f"values {tuple(self.per_example.shape)} do not have the axes {shape} and a batch."
            )

    @property
    def values(self) -> Float[Tensor, "*cell"]:
        """The metric, averaged over the examples that have one."""
        return self.per_example.nanmean(-1)

    @property
    def recovery(self) -> Float[Tensor, "*cell"]:
        """How far a patch brings the corrupted run to the clean one: 0 not at all, 1 all the way.

        `(patched - corrupted) / (clean - corrupted)`, of means over the examples that have all
        three. NaN in cells whose own examples do not differ.

        Raises:
            InputError: clean and corrupted do not differ, so there is nothing to recover.
        """
        clean, corrupted = float(self.clean.nanmean()), float(self.corrupted.nanmean())
        if not self.differs:
            raise InputError(
                f"clean and corrupted have the same metric ({clean:.6g}, {corrupted:.6g}), so "
                f"there is nothing to recover. Take prompts or codes that differ in what the "
                f"metric sees, or read `.effect`."
            )
        there = ~(self.per_example + self.clean + self.corrupted).isnan()
        patched, low, high = (
            torch.where(there, values, float("nan")).nanmean(-1)
            for values in (self.per_example, self.corrupted, self.clean)
        )
        return (patched - low) / (high - low)

    @property
    def differs(self) -> bool:
        """Whether clean and corrupted differ at all."""
        clean, corrupted = float(self.clean.nanmean()), float(self.corrupted.nanmean())
        return abs(clean - corrupted) >= 1e-5 * max(abs(clean), abs(corrupted), 1e-6)

    @property
    def effect(self) -> Float[Tensor, "*cell batch"]:
        """How much each patch changes the metric of the run that it is put into."""
        base = self.clean if self.provenance.get("into") == "clean" else self.corrupted
        return self.per_example - base

    def interval(
        self, *, draws: int = 1000, seed: int = 0
    ) -> tuple[Float[Tensor, "*cell"], Float[Tensor, "*cell"]]:
        """95 % bootstrap interval of the mean effect over the batch (TransformerLens's).

        Of the examples that have a value; NaN where fewer than two have one, since a single
        example says nothing of others.
        """
        from transformer_lens.utilities.statistics import bootstrap_ci, derive_generator

        def ends(effects: Tensor) -> Tensor:
            generator = derive_generator(seed, "interval")
            return torch.stack(
                bootstrap_ci(
                    effects, confidence=_CONFIDENCE, n_resamples=draws, generator=generator
                )
            )

        low, high = self._cell_by_cell(ends, 2).unbind(-1)
        return low, high

    def p_values(self, *, draws: int = 1000, seed: int = 0) -> Float[Tensor, "*cell"]:
        """Chance of so large a mean effect if its sign were arbitrary in every example.

        A sign-flip permutation test (TransformerLens's), not corrected for the number of cells. Of
        the examples that have a value; NaN where fewer than two have one.
        """
        from transformer_lens.utilities.statistics import (
            derive_generator,
            sign_flip_permutation_pvalue,
        )

        def chance(effects: Tensor) -> Tensor:
            generator = derive_generator(seed, "p")
            return sign_flip_permutation_pvalue(effects, n_permutations=draws, generator=generator)

        return self._cell_by_cell(chance, 1)[..., 0]

    def _cell_by_cell(
        self, statistic: Callable[[Tensor], Tensor], n: int
    ) -> Float[Tensor, "*cell n"]:
        """A statistic of `n` numbers over the examples of each cell that have a value."""
        cells = self.effect.flatten(0, -2) if self.axes else self.effect[None]
        found = torch.full((len(cells), n), float("nan"))
        for place, effects in enumerate(cells):
            there = effects[~effects.isnan()]
            if len(there) > 1:
                found[place] = statistic(there)
        return found.view(*self.effect.shape[:-1], n)

    def best(self) -> dict[str, str]:
        """Labels of the cell with the largest effect in size."""
        size = self.effect.nanmean(-1).abs().nan_to_num(nan=-1.0)
        place = torch.unravel_index(size.argmax(), size.shape)
        return {
            name: labels[int(n)] for (name, labels), n in zip(self.axes.items(), place, strict=True)
        }

    def select(self, **labels: Any) -> "PatchingResult":
        """The part of the grid with these labels: `result.select(site="attn_out", layer=3)`."""
        per_example, axes, made = self.per_example, dict(self.axes), dict(self.provenance)
        for name, label in labels.items():
            if name not in axes:
                raise InputError(f"no axis {name!r}: there are {', '.join(axes)}.")
            if str(label) not in axes[name]:
                raise InputError(f"no {name} {label!r}: there are {', '.join(axes[name])}.")
            dim = list(axes).index(name)
            per_example = per_example.select(dim, axes[name].index(str(label)))
            del axes[name]
            if name == "site":
                made["site"] = [str(label)]
        return replace(self, per_example=per_example, axes=axes, provenance=made)

    def to_dataframe(self) -> "DataFrame":
        """One row per cell and example: the axes' labels, the example, value and effect."""
        import pandas

        index = pandas.MultiIndex.from_product(
            [*self.axes.values(), range(self.per_example.shape[-1])], names=[*self.axes, "example"]
        )
        table = {"value": self.per_example.flatten(), "effect": self.effect.flatten()}
        columns = {name: tensor.numpy() for name, tensor in table.items()}
        return pandas.DataFrame(columns, index=index).reset_index()

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file; axes and provenance are JSON in its header."""
        from safetensors.torch import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {
            "format": FORMAT,
            "axes": json.dumps(dict(self.axes)),
            "provenance": json.dumps(dict(self.provenance)),
        }
        names = ("per_example", "clean", "corrupted")
        save_file({n: getattr(self, n).contiguous() for n in names}, path, metadata=metadata)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "PatchingResult":
        """Read a file that `save` wrote.

        Raises:
            InputError: the file is something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, FileNotFoundError) as error:
            raise InputError(f"{path} is no patching result: {error}.") from error
        if metadata.get("format") != FORMAT:
            raise InputError(
                f"{path} is no patching result of this version: its format is "
                f"{metadata.get('format')!r}, expected {FORMAT!r}."
            )
        axes = {name: tuple(labels) for name, labels in json.loads(metadata["axes"]).items()}
        return cls(axes=axes, provenance=json.loads(metadata["provenance"]), **tensors)

    def plot(self, *, what: str | None = None) -> "Figure":
        """A heatmap of `"recovery"`, `"values"` or `"effect"`: one panel per site.

        Recovery if there is anything to recover, else the effect.
        """
        from audio_lens.plots.heatmap import patching_map

        return patching_map(self, what or ("recovery" if self.differs else "effect"))

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} {len(labels)}" for name, labels in self.axes.items())
        done = int((~self.values.isnan()).sum())
        return (
            f"PatchingResult({axes}; {done} of {self.values.numel()} cells, batch of "
            f"{self.per_example.shape[-1]}; clean {float(self.clean.nanmean()):.4g}, corrupted "
            f"{float(self.corrupted.nanmean()):.4g}, {self.provenance.get('metric', 'metric')})"
        )
