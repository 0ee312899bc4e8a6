"""What a patch is scored by: functions of the logits (and of later sites), one number per row.

A metric is any `fn(logits) -> [batch]` over `[batch codebook frame vocab]`, logits aligned to
codes. One that also reads activations is `fn(logits, cache)` and says which sites it needs:
`reads(fn, sites)`. The ones here are such functions; those of the logits differentiate, so that
attribution can use them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.errors import InputError

Logits = Float[Tensor, "batch codebook frame vocab"]
Codes = Int[Tensor, "#batch codebook frame"]
PerRow = Float[Tensor, "batch"]


@dataclass(frozen=True, eq=False)
class Metric:
    """A scoring function and what it needs.

    Example:
        >>> import torch
        >>> double = Metric(lambda logits: 2 * logits.mean((1, 2, 3)), "twice the mean logit")
        >>> double(torch.ones(2, 4, 3, 5))
        tensor([2., 2.])
    """

    function: Callable[..., Tensor]
    name: str
    unit: str = ""
    sites: Any = ()
    """Sites it reads beside the logits: names, globs, as `lens.sites.resolve` takes them."""
    reads_logits: bool = True
    """Whether the logits matter to it at all."""

    def __call__(self, logits: Logits, cache: Any = None) -> PerRow:
        """Score every row."""
        return self.function(logits, cache) if self.reads_sites else self.function(logits)

    @property
    def reads_sites(self) -> bool:
        """Whether it is given a cache."""
        return bool(self.sites)


def as_metric(metric: Any) -> Metric:
    """A metric as it is, or a user's own function of the logits."""
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise InputError(
            f"metric must be a function of logits such as metrics.logprob(codes), got "
            f"{type(metric).__name__}."
        )
    name = getattr(metric, "__name__", "metric")
    if _n_needed(metric) == 2:
        raise InputError(
            f"{name} also takes activations: say which sites it reads, as "
            f"metrics.reads({name}, 'blocks.*.hook_resid_post')."
        )
    return Metric(metric, name)


def _n_needed(function: Callable[..., Any]) -> int:
    """How many arguments a function cannot do without; 1 where it does not tell."""
    try:
        told = signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    places = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in places and p.default is Parameter.empty for p in told)


def reads(function: Callable[[Tensor, Any], Tensor], sites: Any, name: str = "") -> Metric:
    """A metric of your own that also reads activations: `fn(logits, cache) -> [batch]`.

    Args:
        function: Gets the logits and an `ActivationCache` of `sites`.
        sites: Names, shorthands or globs.
        name: For pictures and reports.
    """
    return Metric(function, name or getattr(function, "__name__", "metric"), sites=sites)


def _chosen(
    values: Float[Tensor, "batch codebook frame"],
    codebooks: int | Iterable[int] | None,
    frames: tuple[int, int | None] | None,
) -> PerRow:
    """Mean over the codebooks and frames that are asked for."""
    _, n_books, n_frames = values.shape
    if codebooks is not None:
        wanted = list(codebooks) if isinstance(codebooks, Iterable) else [int(codebooks)]
        if not wanted or not all(-n_books <= book < n_books for book in wanted):
            raise InputError(f"codebooks={codebooks!r}: there are codebooks 0 to {n_books - 1}.")
        values = values[:, wanted]
    if frames is not None:
        start, stop = frames[0], n_frames if frames[1] is None else frames[1]
        if not 0 <= start < stop <= n_frames:
            raise InputError(f"frames={frames!r}: expected (start, stop) within 0 to {n_frames}.")
        values = values[:, :, start:stop]
    return values.mean((1, 2))


def _fitting(codes: Any, logits: Tensor, name: str = "codes") -> Tensor:
    if not isinstance(codes, Tensor) or codes.ndim != 3 or codes.is_floating_point():
        raise InputError(f"{name} must be an integer tensor [batch codebook frame].")
    if codes.shape[1:] != logits.shape[1:3] or len(codes) not in (1, len(logits)):
        raise InputError(
            f"{name} {tuple(codes.shape)} do not belong to logits {tuple(logits.shape)} "
            f"[batch codebook frame vocab]: give codes of the same length, one row or one per row."
        )
    return codes.to(logits.device).expand(len(logits), -1, -1)


def logprob(
    codes: Codes,
    *,
    codebooks: int | Iterable[int] | None = None,
    frames: tuple[int, int | None] | None = None,
) -> Metric:
    """Mean log-probability of codes, in nats, over codebooks and frames.

    Args:
        codes: Undelayed, one row for all or one per row.
        codebooks: Only these.
        frames: Only from `start` to `stop` (None: to the end).

    Example:
        >>> import torch
        >>> metric = logprob(torch.zeros(1, 4, 6, dtype=torch.long), codebooks=0)
        >>> round(float(metric(torch.zeros(1, 4, 6, 8)).exp()), 4)
        0.125
    """

    def score(logits: Tensor) -> Tensor:
        wanted = _fitting(codes, logits)[..., None]
        return _chosen(logits.log_softmax(-1).gather(-1, wanted)[..., 0], codebooks, frames)

    return Metric(score, "log-probability", "nats")


def kl(
    reference: Logits,
    *,
    codebooks: int | Iterable[int] | None = None,
    frames: tuple[int, int | None] | None = None,
) -> Metric:
    """Mean Kullback-Leibler divergence of a run from a reference run, in nats per code.

    Args:
        reference: Logits of the run that is measured from, such as the clean one.
        codebooks: Only these.
        frames: Only from `start` to `stop`.
    """
    target = reference.detach().log_softmax(-1)

    def score(logits: Tensor) -> Tensor:
        if target.shape[1:] != logits.shape[1:] or len(target) not in (1, len(logits)):
            raise InputError(
                f"the reference logits {tuple(target.shape)} do not belong to logits "
                f"{tuple(logits.shape)}: run both on codes of the same length."
            )
        gap = target - logits.log_softmax(-1)
        return _chosen((target.exp() * gap).sum(-1), codebooks, frames)

    return Metric(score, "KL from the reference", "nats")


def logit_difference(
    codes: Codes,
    other: Codes,
    *,
    codebooks: int | Iterable[int] | None = None,
    frames: tuple[int, int | None] | None = None,
) -> Metric:
    """Mean logit of `codes` minus that of `other`; where both agree it is zero.

    Args:
        codes: Undelayed, one row for all or one per row.
        other: What they are compared with.
        codebooks: Only these.
        frames: Only from `start` to `stop`.
    """

    def score(logits: Tensor) -> Tensor:
        pair = [_fitting(c, logits, n) for c, n in ((codes, "codes"), (other, "other"))]
        gap = logits.gather(-1, pair[0][..., None]) - logits.gather(-1, pair[1][..., None])
        return _chosen(gap[..., 0], codebooks, frames)

    return Metric(score, "logit difference", "logits")


def probability(
    entries: Iterable[int],
    *,
    codebooks: int | Iterable[int] | None = None,
    frames: tuple[int, int | None] | None = None,
) -> Metric:
    """Mean probability that a code is one of some entries of its codebook.

    Args:
        entries: Entries, from 0.
        codebooks: Only these; entries of different codebooks mean different sounds.
        frames: Only from `start` to `stop`.
    """
    wanted = sorted(set(entries))
    if not wanted:
        raise InputError("entries are empty: give at least one entry of the codebook.")

    def score(logits: Tensor) -> Tensor:
        if not 0 <= wanted[0] <= wanted[-1] < logits.shape[-1]:
            raise InputError(f"entries {wanted} must lie in 0..{logits.shape[-1] - 1}.")
        return _chosen(logits.softmax(-1)[..., wanted].sum(-1), codebooks, frames)

    return Metric(score, "probability")


def read_out(direction: Any, *, layer: int, site: str = "resid_post") -> Metric:
    """Mean projection of a site's activations onto a direction: what a later layer has read.

    The projection is onto the unit vector, in the units of the activations, averaged over the
    music's positions, in the conditional half.

    Args:
        direction: A `Direction` with a vector there (a probe's direction too), or a vector.
        layer: Where it is read, from 0.
        site: A shorthand with a `pos` axis.
    """
    if layer < 0:
        raise InputError(f"layer={layer}: count layers from 0.")
    vector = direction.layer(layer, site=site) if hasattr(direction, "layer") else direction
    if not isinstance(vector, Tensor):
        raise InputError(f"direction must be a Direction or a vector, got {type(vector).__name__}.")
    unit = vector / vector.norm()
    inside, _, last = site.rpartition(".")
    name = f"blocks.{layer}.{inside}{'.' if inside else ''}hook_{last.removeprefix('hook_')}"

    def score(logits: Tensor, cache: Any) -> Tensor:
        values = cache[name][:, cache.layout.audio]
        if values.shape[-unit.ndim :] != unit.shape:
            raise InputError(
                f"the direction has shape {tuple(unit.shape)}; {name} is {tuple(values.shape[2:])} "
                f"at each position."
            )
        return (values * unit.to(values)).sum(-1).flatten(1).mean(1)

    return Metric(score, f"read-out at {site} of layer {layer}", sites=(name,), reads_logits=False)
