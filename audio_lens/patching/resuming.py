"""Going on after an interrupt: what was done is kept, for the same experiment alone."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.errors import InputError
from audio_lens.patching.result import PatchingResult


def taken_over(
    ours: PatchingResult, resume: PatchingResult | None
) -> Float[Tensor, "cell example"]:
    """The values that an earlier result holds, one row per cell; NaN where there are none.

    ours: this experiment's result before any cell was run, with what it says of itself.

    Raises:
        InputError: `resume` is the result of something else.
    """
    n_examples = ours.per_example.shape[-1]
    if resume is None:
        return torch.full_like(ours.per_example, float("nan")).reshape(-1, n_examples)
    if dict(resume.axes) != dict(ours.axes) or resume.per_example.shape != ours.per_example.shape:
        raise InputError("resume= is the result of another grid: its axes or batch differ.")
    for key, value in ours.provenance.items():
        if resume.provenance.get(key) != value:
            raise InputError(
                f"resume= is the result of another experiment: its {key} is "
                f"{resume.provenance.get(key)!r}, here it is {value!r}."
            )
    for side in ("clean", "corrupted"):
        close = torch.allclose(
            getattr(resume, side), getattr(ours, side), rtol=1e-4, atol=1e-5, equal_nan=True
        )
        if not close:
            raise InputError(f"resume= is the result of another {side} run: its metric differs.")
    return resume.per_example.reshape(-1, n_examples).clone()


def missing(values: Float[Tensor, "cell example"]) -> list[int]:
    """Cells that were not run yet."""
    return [place for place, value in enumerate(values) if value.isnan().all()]


def warn_interrupted(values: Float[Tensor, "cell example"]) -> None:
    """Say how far it came and how to go on, at the user's line."""
    done = len(values) - len(missing(values))
    warnings.warn(
        f"interrupted: {done} of {len(values)} cells are done. Go on by giving this result as "
        f"resume=.",
        stacklevel=3,
    )
