"""What is put in: the other run's activations, a mean, another example's, zeros, or a tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from audio_lens.errors import InputError
from audio_lens.lens.forward import as_tokens
from audio_lens.lens.recording import Recording
from audio_lens.lens.sites import Site

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

Values = Mapping[str, Mapping[str, Tensor]]
"""By branch, then by site name: `[example ...]`, one example for all or one each."""


@dataclass(frozen=True, eq=False)
class Donor:
    """Activations to put in, by branch and site."""

    name: str
    values: Values

    def row(self, site: Site, branch: str, example: int) -> Tensor:
        """What an example gets at a site."""
        tensor = self.values[branch][site.name]
        return tensor[example if len(tensor) > 1 else 0]


@dataclass(frozen=True, eq=False)
class MeanOf:
    """A donor: the mean over rows of runs of its own."""

    prompts: Any
    codes: Tensor


def mean_of(prompts: Any, codes: Tensor) -> MeanOf:
    """A donor that is the mean activation over prompts and codes, position by position.

    Args:
        prompts: One per row of codes, or one for all.
        codes: As long as those of the patched run, [batch codebook frame].
    """
    return MeanOf(prompts, codes)


def donor_values(
    lens: "AudioLens",
    donor: Any,
    others: Values,
    tokens: Tensor,
    sites: Sequence[Site],
    guidance_scale: float,
) -> Donor:
    """The donor that is meant, as activations.

    others, tokens: activations and delayed tokens of the run that is not patched.

    Raises:
        InputError: no such donor, one example to resample from, or tensors that do not fit.
    """
    if isinstance(donor, MeanOf):
        theirs = as_tokens(lens, donor.codes)
        if theirs.shape[-1] != tokens.shape[-1]:
            raise InputError(
                f"mean_of() has codes of {donor.codes.shape[-1]} frames, the patched run "
                f"{tokens.shape[-1] - max(lens.cfg.delays)}: give codes as long."
            )
        values, _ = recorded(lens, donor.prompts, theirs, sites, guidance_scale)
        return Donor("mean of other prompts", _each(values, lambda t: t.mean(0, keepdim=True)))
    if donor is None:
        return Donor("the other run", others)
    if isinstance(donor, str):
        _check_attendable(donor, sites)
        return _named(donor, others, len(tokens))
    return Donor("given", _given(donor, others, sites))


def recorded(
    lens: "AudioLens", prompts: Any, tokens: Tensor, sites: Sequence[Site], guidance_scale: float
) -> tuple[Values, Tensor]:
    """Activations of a run at some sites, and its logits."""
    recording = Recording(tuple(sites), None)
    with torch.no_grad(), lens._engine.registered(recording.registrations()):
        logits = lens(prompts, tokens=tokens, guidance_scale=guidance_scale)
    return recording.cache(lens)._branches, logits


def _each(values: Values, change: Any) -> Values:
    return {
        branch: {name: change(tensor) for name, tensor in tensors.items()}
        for branch, tensors in values.items()
    }


def _check_attendable(donor: str, sites: Sequence[Site]) -> None:
    """Refuse scores and patterns by which queries would attend to nothing, or to the future."""
    unfit = [site.shorthand for site in sites if site.shorthand.endswith(("scores", "pattern"))]
    if unfit and donor in ("zero", "mean"):
        raise InputError(
            f"{unfit[0]} has no {donor} that a query may attend by: knock out attn.z, or give "
            f"donor='resample' or a tensor (which brings a mask of its own)."
        )


def _named(donor: str, values: Values, n_examples: int) -> Donor:
    if donor == "zero":
        return Donor("zeros", _each(values, torch.zeros_like))
    if donor == "mean":
        return Donor("mean of the other run", _each(values, lambda t: t.mean(0, keepdim=True)))
    if donor == "resample":
        if n_examples < 2:
            raise InputError('donor="resample" takes another example\'s: give at least two.')
        return Donor("another example of the other run", _each(values, lambda t: t.roll(1, 0)))
    raise InputError(
        f'no donor {donor!r}: expected "zero", "mean", "resample", mean_of(prompts, codes), a '
        f"tensor, or None for the other run."
    )


def _given(donor: Any, values: Values, sites: Sequence[Site]) -> Values:
    """Tensors of the caller's, by site and perhaps branch, stretched over what they leave out."""
    tensors = donor if isinstance(donor, Mapping) else {site.name: donor for site in sites}
    missing = [site.name for site in sites if site.name not in tensors]
    if missing:
        raise InputError(f"donor has no tensor for {missing[0]}: it has {sorted(tensors)}.")
    given: dict[str, dict[str, Tensor]] = {}
    for branch, known in values.items():
        given[branch] = {}
        for name, like in known.items():
            one = tensors[name]
            if isinstance(one, Mapping) and branch not in one:
                raise InputError(f"donor for {name} has no {branch!r} half: it has {sorted(one)}.")
            tensor = torch.as_tensor(one[branch] if isinstance(one, Mapping) else one)
            try:
                given[branch][name] = tensor.to(like).expand_as(like)
            except RuntimeError:
                raise InputError(
                    f"donor for {name} has shape {tuple(tensor.shape)}, which does not stretch "
                    f"to {tuple(like.shape)}."
                ) from None
    return given
